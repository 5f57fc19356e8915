"""Teach the denoiser's sketch the styles, the grounds and the places.

    python data/makers/make_styling.py --threads 2

From the plain drawings that make_sketch.py taught, and the text encoder's readings of style and
background, a regression to latents of pictures; in which of the four places the subjects stand is
told. What the words leave open is to be guessed from the noisy picture. Twenty minutes on two
CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import TrainConfig, add_noise, configure, fit, save_tensors
from make_sketch import Lessons, SketchConfig, lessons
from make_text_encoder import READER, VALUES
from safetensors.torch import load_file
from torch import Tensor

from pasta_lib.world.scenes import BACKGROUND, STYLE
from pasta_lib.world.sketch import LOG_VARIANCE, Sketch, Styling, moved
from pasta_lib.world.weights import WORLD_DIR

READ = (STYLE, BACKGROUND)  # what the styling reads of the words


@dataclass(frozen=True)
class StylingConfig(TrainConfig):
    """Training of the styling."""

    steps: int = 10_000
    decay: float = 0.5
    drop_caption: float = 0.05  # share of empty captions
    reader: str = READER
    sketch: str = SketchConfig.folder  # of make_sketch.py
    folder: str = "/tmp/pasta-train/styling"
    curve: str = str(WORLD_DIR / "logs" / "styling.csv")


def build(lessons: Lessons, drawing: dict[str, Tensor], heads: dict[str, Tensor]) -> Sketch:
    """A sketch with the drawing and the meanings that are taught, and the text encoder's heads of
    style and background; what is left to learn asks for gradients."""
    width, channels, side = lessons.said.shape[-1], *lessons.plain.shape[1:3]
    sketch = Sketch(width, side, channels, tuple(VALUES[column] + 1 for column in READ))
    for name in ("draw", "meanings"):
        part = {k.split(".", 1)[1]: v for k, v in drawing.items() if k.startswith(name)}
        getattr(sketch, name).load_state_dict(part)
    sketch.requires_grad_(False)
    copy_readings(sketch.style, heads)
    sketch.style.requires_grad_(True).read.requires_grad_(False)
    return sketch


@torch.no_grad()
def copy_readings(style: Styling, heads: dict[str, Tensor]) -> None:
    """Take over the rows of the text encoder's heads that read style and background."""
    for name, weight in style.read.named_parameters():
        parts = heads[name].split([n + 1 for n in VALUES])
        weight.copy_(torch.cat([parts[column] for column in READ]))


def errors(
    sketch: Sketch, lessons: Lessons, config: StylingConfig, rng: np.random.Generator, generator
) -> tuple[Tensor, Tensor]:
    """What sketches in the right place differ from pictures of a batch, and the logarithm of the
    variance that they expect of it; each `[B, C, H, W]`."""
    device = sketch.style.read.weight.device
    rows = rng.integers(len(lessons.shown), size=config.batch_size)
    said, meant = (w.to(device) for w in lessons.words(rows, rng, config.drop_caption))
    clean = torch.from_numpy(lessons.shown[rows]).to(device).float()
    noisy, timesteps = add_noise(clean, generator)
    ground, subjects = sketch.style(sketch.draw(meant), said, noisy, timesteps)
    here = torch.arange(len(rows)), lessons.places[rows]
    mean, log_variance = (g + moved(s)[here] for g, s in zip(ground, subjects, strict=True))
    return mean - clean, log_variance.clamp(*LOG_VARIANCE)


def main() -> None:
    config = configure(StylingConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    taught = lessons(SketchConfig(reader=config.reader, folder=config.sketch, seed=config.seed))
    inputs = [
        Path(config.sketch) / "drawing.safetensors",
        Path(config.reader).parent / "heads.safetensors",
    ]
    sketch = build(taught, *map(load_file, inputs))

    def loss_function(model, rng, generator):
        error, log_variance = errors(model, taught, config, rng, generator)
        squares = error.square()
        # The Gaussian likelihood teaches the variances alone: it would neglect what is uncertain.
        surprise = (squares.detach() * (-log_variance).exp() + log_variance).mean() / 2
        return squares.mean() + surprise, {"squares": squares.mean(), "surprise": surprise}

    sketch = fit(sketch, loss_function, config, inputs)
    if sketch is not None:
        save_tensors(sketch.state_dict(), Path(config.folder) / "sketch.safetensors")


if __name__ == "__main__":
    main()
