"""Train the denoiser of the text-to-image model, and save the whole as a `diffusers` pipeline.

    python data/makers/make_denoiser.py --threads 2

A PatchTransformer on the autoencoder's 8 × 8 latents learns to name the clean latents. The text
encoder (make_text_encoder.py) and the sketch (make_sketch.py, make_styling.py) stay as they are:
trained along, the encoder soon forgot the subjects, which an earlier denoiser came to need last.
The result loads with `DiffusionPipeline.from_pretrained`. About 55 pictures a second on two cores;
`--max_seconds` cuts a long training into pieces, and running it again goes on.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    Pool,
    PoolConfig,
    TrainConfig,
    add_noise,
    batches,
    configure,
    fit,
    latents_digest,
    load_pool,
    to_latents,
)
from diffusers import StableDiffusionPipeline
from make_text_encoder import READER, token_ids
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from pasta_lib.world import captions
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.denoiser import SCHEDULE, PatchTransformer, signal_share
from pasta_lib.world.scenes import from_array
from pasta_lib.world.scheduler import QuietDDIMScheduler
from pasta_lib.world.weights import WORLD_DIR, require, write_atomically, write_manifest

PIPELINE = WORLD_DIR / "text_to_image"
MADE = ("model_index.json", "scheduler", "text_encoder", "unet")  # the rest has its own maker


@dataclass(frozen=True)
class DenoiserConfig(TrainConfig):
    """Training of the denoiser."""

    steps: int = 3000
    batch_size: int = 64
    decay: float = 0.85
    lr: float = 2e-3
    muon: float = 0.02
    warmup: int = 50
    reader: str = READER
    sketch: str = "/tmp/pasta-train/styling/sketch.safetensors"  # what make_styling.py wrote
    drop_caption: float = 0.1  # share of empty captions, for classifier-free guidance
    checkpoint_every: int = 250
    folder: str = "/tmp/pasta-train/denoiser"
    curve: str = str(WORLD_DIR / "logs" / "denoiser.csv")


def pool_latents(pool: Pool, config: PoolConfig, vae: PatchAutoencoder, device: str) -> np.ndarray:
    """Latents of every picture of the pool at the denoiser's scale, float16 `[N, 64, 8, 8]`."""
    name = f"latents-{latents_digest(vae)}.npy"
    path = Path(config.folder) / f"{config.size}-{config.seed}" / name
    if not path.exists():
        out = np.empty((len(pool.said), 64, 8, 8), np.float16)
        for rows in batches(len(out), 256):
            out[rows] = to_latents(pool.batch(rows, device), vae).cpu().numpy()
        np.save(path, out)
    return np.load(path)


class _Loss:
    def __init__(self, pool: Pool, latents: np.ndarray, tokenizer, text_encoder, config) -> None:
        self.scenes, self.latents = from_array(pool.said), latents
        self.tokenizer, self.text_encoder, self.config = tokenizer, text_encoder, config

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
        with torch.no_grad():
            text = self.text_encoder(ids).last_hidden_state
        # Evenly spread over all times, as in Kingma et al. (2021): every batch has of every noise.
        spread = (torch.arange(len(rows)) + torch.rand(1, generator=generator)) / len(rows)
        timesteps = (len(signal_share()) * spread).long()
        noisy = add_noise(clean, timesteps, generator)
        guess = model(noisy, timesteps.to(device), text).sample
        error = F.mse_loss(guess, clean, reduction="none").mean((1, 2, 3))
        # The squared error of the velocity (Salimans & Ho 2022), its weight bounded. With a weight
        # of 5 at most, and little noise drawn seldom, pictures stayed rough.
        noise = 1 - signal_share()[timesteps].to(device)
        velocity_error = error / noise.clamp(min=0.02)
        low, high = timesteps < 300, timesteps > 900
        parts = {"error_below_300": error[low].mean(), "error_above_900": error[high].mean()}
        return velocity_error.mean(), parts


def assemble(
    unet: PatchTransformer, vae: PatchAutoencoder, text_encoder, tokenizer, out: Path
) -> None:
    """Write the pipeline's folder in fp16."""
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=QuietDDIMScheduler(**SCHEDULE), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    kept = {path: path.read_bytes() for path in (out / "tokenizer").glob("*")}
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    for path, content in kept.items():  # the tokenizer stays as its maker wrote it
        write_atomically(path, content)
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
    text_encoder = CLIPTextModel.from_pretrained(config.reader, dtype=torch.float32)
    text_encoder.eval().requires_grad_(False).to(device)
    vae.requires_grad_(False).to(device)
    latents = pool_latents(pool, pool_config, vae, device)
    unet = PatchTransformer(text_width=text_encoder.config.hidden_size)
    unet.sketch.load_state_dict(load_file(config.sketch))
    unet.sketch.requires_grad_(False)
    unet.retouch.to_points.copy_(vae.inverse)
    unet.retouch.to_cells.copy_(vae.projection)
    inputs = [Path(config.reader) / "model.safetensors", Path(config.sketch)]
    unet = fit(unet, _Loss(pool, latents, tokenizer, text_encoder, config), config, inputs)
    if unet is None:
        return
    assemble(unet, vae, text_encoder, tokenizer, PIPELINE)
    write_manifest([f"text_to_image/{name}" for name in MADE])


if __name__ == "__main__":
    main()
