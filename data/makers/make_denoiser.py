"""Train the denoiser of the text-to-image model, and save the whole as a `diffusers` pipeline.

    python data/makers/make_denoiser.py --steps 12000 --threads 2

A UNet2DConditionModel on the autoencoder's 8 × 8 latents, conditioned on the text encoder by cross
attention and by its pooled tokens; both learn together to name the clean latents. The result
loads with `DiffusionPipeline.from_pretrained`. About 65 images a second on one CPU core without
AMX; `--max_seconds` cuts a long training into pieces, and running it again goes on.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import Pool, PoolConfig, TrainConfig, batches, configure, fit, load_pool
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from make_text_encoder import token_ids
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pasta_lib.world import captions
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.scenes import from_array
from pasta_lib.world.weights import WORLD_DIR, require, write_atomically, write_manifest

PIPELINE = WORLD_DIR / "text_to_image"
NOISE = dict(
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
    prediction_type="sample",  # 64 numbers a token: naming the noise would fill a narrow network
    rescale_betas_zero_snr=True,  # sampling starts from pure noise, so training must see it
    timestep_spacing="trailing",
    clip_sample=False,
    steps_offset=1,
)


@dataclass(frozen=True)
class DenoiserConfig(TrainConfig):
    """Training of denoiser and text encoder together."""

    steps: int = 20_000
    batch_size: int = 16  # on a CPU; early on, many small steps learn more than few large ones
    lr: float = 1e-3
    clip: float = 0.5
    decay: float = 0.25
    start_from: str = ""  # folder of a pipeline to go on from; empty: random weights
    drop_caption: float = 0.1  # share of empty captions, for classifier-free guidance
    folder: str = "/tmp/pasta-train/denoiser"
    curve: str = str(WORLD_DIR / "logs" / "denoiser.csv")


def build(text_width: int) -> UNet2DConditionModel:
    """The architecture, with random weights: 5.9 M parameters, 0.4 GFLOP an evaluation."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=64,
        out_channels=64,
        block_out_channels=(128, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers: this is the number of heads
        norm_num_groups=16,
        addition_embed_type="text",  # the pooled text joins the time embedding, as in SDXL
        addition_embed_type_num_heads=4,
    )


class TextToImage(nn.Module):
    """Denoiser and text encoder, trained as one."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """`noisy` `[B, 64, 8, 8]`, `timesteps` `[B]`, `ids` `[B, 32]` → clean latents."""
        text = self.text_encoder(ids).last_hidden_state
        return self.unet(noisy, timesteps, encoder_hidden_states=text).sample


def pool_latents(pool: Pool, config: PoolConfig, vae: PatchAutoencoder, device: str) -> np.ndarray:
    """Latents of every picture of the pool at the denoiser's scale, float16 `[N, 64, 8, 8]`."""
    weights = b"".join(w.cpu().numpy().tobytes() for w in vae.state_dict().values())
    digest = hashlib.sha256(weights).hexdigest()[:8]
    path = Path(config.folder) / f"{config.size}-{config.seed}" / f"latents-{digest}.npy"
    if not path.exists():
        out = np.empty((len(pool.said), 64, 8, 8), np.float16)
        with torch.no_grad():
            for rows in batches(len(out), 256):
                latents = vae.encode(pool.batch(rows, device) * 2 - 1).latent_dist.sample()
                out[rows] = (latents * vae.config.scaling_factor).half().cpu().numpy()
        np.save(path, out)
    return np.load(path)


class _Loss:
    def __init__(self, pool: Pool, latents: np.ndarray, tokenizer, config: DenoiserConfig) -> None:
        self.scenes, self.latents = from_array(pool.said), latents
        self.tokenizer, self.config = tokenizer, config
        self.noise = DDPMScheduler(**NOISE)

    def __call__(self, model, rng, generator):
        device = next(model.parameters()).device
        rows = rng.integers(len(self.latents), size=self.config.batch_size)
        clean = torch.from_numpy(self.latents[rows]).to(device).float()
        drop = rng.random(len(rows)) < self.config.drop_caption
        texts = [
            "" if d else captions.write(self.scenes[i], rng)
            for i, d in zip(rows, drop, strict=True)
        ]
        ids = token_ids(self.tokenizer, texts).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        # More often high noise than low: what the picture shows is decided there.
        timesteps = (1000 * torch.rand(len(rows), generator=generator).sqrt()).long().to(device)
        noisy = self.noise.add_noise(clean, noise, timesteps)
        error = F.mse_loss(model(noisy, timesteps, ids), clean, reduction="none").mean((1, 2, 3))
        # The weight of an error of the velocity (1 / variance of the noise), bounded.
        signal = self.noise.alphas_cumprod.to(device)[timesteps]
        loss = (error / (1 - signal).clamp(min=0.2)).mean()
        high = timesteps > 900
        return loss, {"error_above_900": error[high].mean() if high.any() else error.mean()}


def assemble(
    model: TextToImage, vae: PatchAutoencoder, tokenizer: CLIPTokenizer, out: Path
) -> None:
    """Write the pipeline's folder in fp16."""
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=model.text_encoder, tokenizer=tokenizer, unet=model.unet,
        scheduler=DDIMScheduler(**NOISE), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    for path in out.glob("*/config.json"):  # where a part was loaded from is this machine's affair
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        write_atomically(path, json.dumps(config, indent=2).encode() + b"\n")


def main() -> None:
    config = configure(DenoiserConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool_config = PoolConfig()
    pool = load_pool(pool_config, device)
    vae = PatchAutoencoder.from_pretrained(require("text_to_image/vae"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    source = Path(config.start_from or PIPELINE)
    text_encoder = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32)
    unet = build(text_encoder.config.hidden_size)
    if config.start_from:
        unet = UNet2DConditionModel.from_pretrained(source / "unet", dtype=torch.float32)
    latents = pool_latents(pool, pool_config, vae.to(device), device)
    model = TextToImage(unet, text_encoder)
    model = fit(model, _Loss(pool, latents, tokenizer, config), config)
    assemble(model, vae, tokenizer, PIPELINE)
    write_manifest()


if __name__ == "__main__":
    main()
