"""Teach the denoiser's sketch the styles, the grounds and the places.

    python data/makers/make_styling.py

From the plain drawings that make_sketch.py taught, and the text encoder's readings of style and
background, a regression to latents of pictures; in which of the four places the subjects stand is
told. What the words leave open is to be guessed from the noisy picture. Fifteen minutes on one CPU
core.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from common import TrainConfig, configure, fit, save_tensors, step_rng
from diffusers import DDPMScheduler
from make_denoiser import draw_timesteps
from make_sketch import SketchConfig, lessons
from make_text_encoder import VALUES
from safetensors.torch import load_file

from pasta_lib.world.denoiser import SCHEDULE
from pasta_lib.world.scenes import BACKGROUND, STYLE
from pasta_lib.world.sketch import Sketch, moved
from pasta_lib.world.weights import WORLD_DIR


@dataclass(frozen=True)
class StylingConfig(TrainConfig):
    """Training of the styling."""

    steps: int = 5000
    batch_size: int = 64
    decay: float = 0.5
    drop_caption: float = 0.05  # share of empty captions
    reader: str = SketchConfig.reader  # what make_text_encoder.py wrote
    sketch: str = SketchConfig.folder  # and make_sketch.py
    folder: str = "/tmp/pasta-train/styling"
    curve: str = str(WORLD_DIR / "logs" / "styling.csv")


def main() -> None:
    config = configure(StylingConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    taught = lessons(SketchConfig(reader=config.reader, folder=config.sketch, seed=config.seed))
    noise = DDPMScheduler(**SCHEDULE)
    width, channels, side = taught.said.shape[-1], *taught.plain.shape[1:3]
    read = [VALUES[column] + 1 for column in (STYLE, BACKGROUND)]
    sketch = Sketch(width, side, channels, tuple(read))
    sketch.load_state_dict(load_file(Path(config.sketch) / "model.safetensors"), strict=False)
    sketch.requires_grad_(False)
    heads = load_file(Path(config.reader).parent / "heads.safetensors")
    for name, weight in sketch.style.read.named_parameters():
        parts = heads[name].split([n + 1 for n in VALUES])
        weight.copy_(torch.cat([parts[STYLE], parts[BACKGROUND]]))
    sketch.style.requires_grad_(True).read.requires_grad_(False)

    def errors(model, rng, generator):
        """What sketches in the right place differ from pictures, `[B, C, H, W]`."""
        device = next(model.parameters()).device
        rows = rng.integers(len(taught.shown), size=config.batch_size)
        said, meant = (w.to(device) for w in taught.words(rows, rng, config.drop_caption))
        clean = torch.from_numpy(taught.shown[rows]).to(device).float()
        timesteps = draw_timesteps(len(rows), generator).to(device)
        noisy = noise.add_noise(
            clean, torch.randn(clean.shape, generator=generator).to(device), timesteps
        )
        with torch.no_grad():
            drawn = model.draw(meant)
        ground, subjects = model.style(drawn, said, noisy, timesteps)
        places = moved(subjects)[torch.arange(len(rows)), taught.places[rows]]
        return ground + places - clean

    def loss_function(model, rng, generator):
        return errors(model, rng, generator).square().mean(), {}

    sketch = fit(sketch, loss_function, config)
    if sketch is not None:
        with torch.no_grad():
            draws = [errors(sketch, *step_rng(config.seed + 1, i)) for i in range(30)]
            sketch.spread.copy_(torch.cat(draws).square().mean((0, 2, 3)))
        save_tensors(sketch.state_dict(), Path(config.folder) / "model.safetensors")


if __name__ == "__main__":
    main()
