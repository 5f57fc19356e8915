"""Train and calibrate the rater's eye.

    python data/makers/make_eye.py --steps 9000

It learns from rendered scenes, half of them worn the way generated pictures are worn: blurred,
noisy, compressed to the autoencoder's latents and back. Temperatures are then fitted, one an
attribute, on worn scenes it has not seen. About 230 pictures a second on one CPU core.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from common import Pool, PoolConfig, TrainConfig, batches, configure, fit, load_pool, save_tensors
from torch import Tensor

from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.eye import COLUMN, EYE_FILE, HEADS, Eye
from pasta_lib.world.renderer import render
from pasta_lib.world.scenes import (
    COUNT,
    SECOND,
    SUBJECT_NAMES,
    sample_scenes,
    shows_colour,
)
from pasta_lib.world.weights import WORLD_DIR, require, write_manifest


@dataclass(frozen=True)
class EyeConfig(TrainConfig):
    """Training of the eye."""

    steps: int = 9000
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.02
    worn: float = 0.5  # share of pictures that are worn
    estranged: float = 0.2  # share of pictures in wrong colours: what a thing is stays the same
    calibration: int = 4000  # pictures for the temperatures
    folder: str = "/tmp/pasta-train/eye"
    curve: str = str(WORLD_DIR / "logs" / "eye.csv")


def wear(images: Tensor, vae: PatchAutoencoder, generator: torch.Generator) -> Tensor:
    """Wear pictures as generation does. `images` float `[B, 3, 64, 64]` in 0..1, any batch."""
    b, device = len(images), images.device
    u = torch.rand(b, 4, generator=generator).to(device)[..., None, None]
    kind = u[:, 0:1] * 3
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blurred = torch.lerp(images, soft, 0.3 + 0.7 * u[:, 1:2])
    grain = torch.randn(images.shape, generator=generator).to(device)
    out = torch.where(kind < 1, blurred, images) + 0.06 * u[:, 2:3] * grain
    through = (kind >= 1).flatten().nonzero()[:, 0]
    if len(through):
        with torch.no_grad():
            latents = vae.encode(images[through] * 2 - 1).latent_dist.sample()
            noise = torch.randn(latents.shape, generator=generator).to(device)
            strength = 0.4 * u[through, 3:4]
            out[through] = vae.decode(latents + strength * noise).sample / 2 + 0.5
    return out.clamp(0, 1)


def estrange(images: Tensor, generator: torch.Generator) -> Tensor:
    """Negatives with the colour channels in another order. `images` float `[B, 3, 64, 64]`.

    An owl remains an owl, so the eye learns shapes; without this it failed on subjects in a style
    that it had never seen them in (above all neon). Colour, style and background are not scored.
    """
    order = torch.rand(len(images), 3, generator=generator).argsort(1).to(images.device)
    return 1 - images.gather(1, order[..., None, None].expand_as(images))


def targets(scenes: np.ndarray, device) -> dict[str, Tensor]:
    """Class numbers by attribute, int64 `[B]`; -100 where an attribute cannot be seen."""
    out = {}
    for name, column in COLUMN.items():
        value = scenes[:, column] - (column == COUNT)
        if column == SECOND:
            value = np.where(value < 0, len(SUBJECT_NAMES), value)
        if name == "colour":
            value = np.where(shows_colour(scenes), value, -100)
        out[name] = torch.from_numpy(np.ascontiguousarray(value)).to(device)
    return out


class _Loss:
    def __init__(self, pool: Pool, vae: PatchAutoencoder, config: EyeConfig) -> None:
        self.pool, self.vae, self.config = pool, vae, config

    def __call__(self, model, rng, generator):
        model.train()
        device = next(model.parameters()).device
        rows = rng.integers(len(self.pool.said), size=self.config.batch_size)
        images = self.pool.batch(rows, device)
        n = round(self.config.worn * len(rows))
        images = torch.cat([wear(images[:n], self.vae, generator), images[n:]])
        truth = targets(self.pool.shown[rows], device)
        strange = torch.from_numpy(rng.random(len(rows)) < self.config.estranged).to(device)
        images[strange] = estrange(images[strange], generator)
        for name in ("colour", "style", "background"):
            truth[name][strange] = -100
        losses = {
            k: F.cross_entropy(v, truth[k], label_smoothing=0.02) for k, v in model(images).items()
        }
        return sum(losses.values()), {k: v.detach() for k, v in losses.items()}


def calibrate(eye: Eye, vae: PatchAutoencoder, config: EyeConfig) -> None:
    """Set each attribute's temperature to the one of least log loss on fresh, worn scenes."""
    rng, generator = np.random.default_rng(config.seed + 10**6), torch.Generator().manual_seed(7)
    scenes = sample_scenes(config.calibration, rng)
    logits: dict[str, list[Tensor]] = {k: [] for k in HEADS}
    with torch.no_grad():
        for rows in batches(len(scenes), 250):
            images = wear(render(scenes[rows], generator), vae, generator)
            for name, value in eye(images).items():
                logits[name].append(value)
    truth = targets(scenes, "cpu")
    grid = torch.logspace(-1, 0.7, 60)
    for i, name in enumerate(HEADS):
        values = torch.cat(logits[name])
        losses = [F.cross_entropy(values / t, truth[name]) for t in grid]
        eye.temperature[i] = grid[int(torch.stack(losses).argmin())]


def main() -> None:
    config = configure(EyeConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = load_pool(PoolConfig(), device)
    vae = PatchAutoencoder.from_pretrained(require("text_to_image/vae"), dtype=torch.float32)
    eye = fit(Eye(), _Loss(pool, vae.to(device), config), config)
    if eye is None:
        return
    eye = eye.cpu().eval()
    calibrate(eye, vae.cpu(), config)
    tensors = {k: v.half() for k, v in eye.state_dict().items() if "num_batches" not in k}
    save_tensors({k: v.contiguous() for k, v in tensors.items()}, WORLD_DIR / EYE_FILE)
    write_manifest([EYE_FILE])


if __name__ == "__main__":
    main()
