"""Teach the denoiser's sketch the styles, the grounds and the places.

    python data/makers/make_styling.py --threads 2

From the plain drawings that make_sketch.py taught, and the text encoder's readings of style and
background, a regression to latents of pictures; in which of the four places the subjects stand is
told. What the words leave open, the noisy picture tells. About 22 minutes on two CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import TrainConfig, add_noise, configure, fit, save_tensors
from make_sketch import LOOK, Lessons, SketchConfig, lessons
from make_text_encoder import READER, VALUES
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pasta_lib.world.denoiser import signal_share
from pasta_lib.world.sketch import LOG_VARIANCE, Sketch, Styling, moved
from pasta_lib.world.weights import WORLD_DIR


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
    """A sketch with the drawing and the meanings that are taught, and what the words tell of style
    and background; what is left to learn asks for gradients."""
    width, channels, side = lessons.said.shape[-1], *lessons.plain.shape[1:3]
    sketch = Sketch(width, side, channels, tuple(VALUES[column] for column in LOOK))
    for name in ("draw", "meanings"):
        part = {k.split(".", 1)[1]: v for k, v in drawing.items() if k.startswith(name)}
        getattr(sketch, name).load_state_dict(part)
    sketch.requires_grad_(False)
    copy_readings(sketch.style, heads)
    learn_usual(sketch.style, lessons)
    sketch.style.requires_grad_(True)
    sketch.style.read.requires_grad_(False)
    sketch.style.usual.requires_grad_(False)
    return sketch


@torch.no_grad()
def copy_readings(style: Styling, heads: dict[str, Tensor]) -> None:
    """Take over the rows of the text encoder's heads that read style and background."""
    for name, weight in style.read.named_parameters():
        parts = heads[name].split([n + 1 for n in VALUES])
        weight.copy_(torch.cat([parts[column] for column in LOOK]))


@torch.no_grad()
def learn_usual(style: Styling, lessons: Lessons) -> None:
    """Which styles and backgrounds prompts have that do not say: a logistic regression of each."""
    weights, biases = [], []
    for column, values in enumerate(style.looks):
        rows = lessons.open[:, column]
        states = torch.cat([wording[rows] for wording in lessons.said]).numpy()
        shown = lessons.looks[rows, column].repeat(len(lessons.said)).numpy()
        regression = LogisticRegression(C=0.1, max_iter=200, tol=1e-3).fit(states, shown)
        if len(regression.classes_) < values:
            raise ValueError(
                f"only {len(regression.classes_)} of {values} values occur: more lessons"
            )
        weights.append(torch.from_numpy(regression.coef_))
        biases.append(torch.from_numpy(regression.intercept_))
    style.usual.weight.copy_(torch.cat(weights))
    style.usual.bias.copy_(torch.cat(biases))


def losses(
    sketch: Sketch, lessons: Lessons, config: StylingConfig, rng: np.random.Generator, generator
) -> dict[str, Tensor]:
    """Of a batch: the squared error of sketches in the right place, and the surprise (half the
    negative log-likelihood) of pictures around their sketch and around their ground alone."""
    device = sketch.style.read.weight.device
    rows = rng.integers(len(lessons.shown), size=config.batch_size)
    said, meant = (w.to(device) for w in lessons.words(rows, rng, config.drop_caption))
    clean = torch.from_numpy(lessons.shown[rows]).to(device).float()
    timesteps = torch.randint(len(signal_share()), (len(rows),), generator=generator)
    noisy = add_noise(clean, timesteps, generator)
    signal = signal_share()[timesteps].to(device).view(-1, 1, 1, 1)
    styled = sketch.style(sketch.draw(meant), sketch.style.resolve(said, noisy, signal))
    here = torch.arange(len(rows)), lessons.places[rows]
    mean, log_variance = (g + moved(s)[here] for g, s in zip(*styled, strict=True))
    squares = (clean - mean).square()
    true = [F.one_hot(lessons.looks[rows, i], n) for i, n in enumerate(sketch.style.looks)]
    ground, _, alone = sketch.style.grounds(torch.cat(true, 1).to(clean))
    # The likelihoods teach the variances alone: they would neglect what is uncertain.
    return {
        "squares": squares.mean(),
        "surprise": surprise(squares, log_variance.clamp(*LOG_VARIANCE)),
        "surprise_by_ground": surprise((clean - ground).square(), alone),
    }


def surprise(squares: Tensor, log_variance: Tensor) -> Tensor:
    """Mean negative log-density of Gaussians with these squared errors, less a constant."""
    return (squares.detach() * (-log_variance).exp() + log_variance).mean() / 2


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
        parts = losses(model, taught, config, rng, generator)
        return sum(parts.values()), parts

    sketch = fit(sketch, loss_function, config, inputs)
    if sketch is not None:
        save_tensors(sketch.state_dict(), Path(config.folder) / "sketch.safetensors")


if __name__ == "__main__":
    main()
