"""The rater's eye: a classifier that reads a picture's attributes off its pixels.

It stands for human sight. It judges; no model that is studied here ever sees it. It is not CLIP,
and shares nothing with it. Probabilities are calibrated by one temperature an attribute.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pasta_lib.world.scenes import COLUMNS, COUNT, SECOND, SUBJECT_NAMES, VALUES, shows_colour
from pasta_lib.world.weights import WORLD_DIR, WeightsError, require

EYE_FILE = "eye.safetensors"
HEADS = {name: len(values) for name, (_, values) in VALUES.items()}  # classes by attribute
HEADS["second"] = len(SUBJECT_NAMES) + 1  # the last class is "no second subject"
COLUMN = {name: column for name, (column, _) in VALUES.items()} | {"second": SECOND}
FEATURES = 160


@dataclass(frozen=True)
class Reading:
    """Probabilities of every value of every attribute; float `[B, values]` each, rows sum to 1.

    On the CPU, wherever the eye is.
    """

    subject: Tensor
    colour: Tensor  # means nothing where the style is one of STYLES_WITHOUT_COLOUR
    style: Tensor
    background: Tensor
    count: Tensor  # classes are counts 1, 2, 3, 4
    second: Tensor  # last class: none

    def labels(self) -> np.ndarray:
        """The most probable scene of each picture, int64 `[B, 7]` as in `scenes`."""
        out = np.full((len(self.subject), len(COLUMNS)), -1, np.int64)
        for field in fields(self):
            out[:, COLUMN[field.name]] = getattr(self, field.name).argmax(1).numpy()
        out[:, COUNT] += 1
        out[out[:, SECOND] == len(SUBJECT_NAMES), SECOND] = -1
        return out


class Eye(nn.Module):
    """A small residual network with one linear head an attribute. 0.8 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(
            _Block(32, 48, 2), _Block(48, 80, 2), _Block(80, 112, 1), _Block(112, FEATURES, 2)
        )
        # Where things are matters for counting: keep a 2 × 2 grid beside the mean.
        self.squeeze = nn.Sequential(nn.Conv2d(FEATURES, 48, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.heads = nn.Linear(FEATURES + 4 * 48, sum(HEADS.values()))
        self.register_buffer("temperature", torch.ones(len(HEADS)))

    def features(self, images: Tensor) -> Tensor:
        """float `[B, 3, 64, 64]` in 0..1 → float `[B, 352]`, for Fréchet distances."""
        x = self.body(self.stem(images * 2 - 1))
        return torch.cat([x.mean((2, 3)), self.squeeze(x).flatten(1)], 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by attribute, before the temperature."""
        logits = self.heads(self.features(images)).split(list(HEADS.values()), 1)
        return dict(zip(HEADS, logits, strict=True))

    @torch.no_grad()
    def read(self, images: Tensor | np.ndarray, batch_size: int = 256) -> Reading:
        """Calibrated probabilities for pictures in either of two forms.

        `images`: uint8 `[B, 64, 64, 3]`, as `generate` returns them, or float `[B, 3, 64, 64]` in
        0..1, as `render` does; tensors or arrays. Raises ValueError for anything else.
        """
        images = images if isinstance(images, Tensor) else torch.tensor(images)
        of_bytes = images.dtype == torch.uint8 and images.shape[1:] == (64, 64, 3)
        if not of_bytes and not (images.is_floating_point() and images.shape[1:] == (3, 64, 64)):
            raise ValueError(
                "the eye reads float pictures [B, 3, 64, 64] in 0..1 or uint8 [B, 64, 64, 3], got "
                f"{images.dtype} {tuple(images.shape)}"
            )
        device = self.temperature.device
        parts: dict[str, list[Tensor]] = {name: [] for name in HEADS}
        for chunk in images.split(batch_size):
            pixels = chunk.to(device).float()
            if of_bytes:
                pixels = pixels.movedim(-1, 1) / 255
            for i, (name, logits) in enumerate(self(pixels).items()):
                parts[name].append((logits / self.temperature[i]).softmax(1).cpu())
        return Reading(**{name: torch.cat(p) for name, p in parts.items()})


class _Block(nn.Module):
    """Two 3 × 3 convolutions with a shortcut; the first may halve the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        pool = [nn.AvgPool2d(stride)] if stride > 1 else []
        self.shortcut = nn.Sequential(*pool, nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


@cache
def load_eye(device: str = "cpu", world_dir: Path = WORLD_DIR) -> Eye:
    """The shipped eye, ready to judge.

    Raises WeightsError where its file is not whole, or holds other layers than the eye has. Only
    batch norm's step counters, which reading does not use, may be missing.
    """
    path = require(EYE_FILE, world_dir)
    eye = Eye()
    weights = {name: weight.float() for name, weight in load_file(path).items()}
    keys = eye.load_state_dict(weights, strict=False)
    missing = [k for k in keys.missing_keys if not k.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        raise WeightsError(
            f"{path} is not this eye: it lacks {missing} and has unknown {keys.unexpected_keys}. "
            "Mend: run data/makers/make_eye.py again."
        )
    return eye.eval().requires_grad_(False).to(device)


def right(labels: np.ndarray, scenes: np.ndarray) -> dict[str, np.ndarray]:
    """Whether each attribute was read as the (resolved) scenes say; bool `[B]` by attribute.

    Attributes that a scene leaves open, and colour in a style that hides it, are left out: their
    arrays are shorter.
    """
    out = {}
    for name, column in COLUMN.items():
        asked = np.ones(len(scenes), bool) if name == "second" else scenes[:, column] >= 0
        if name == "colour":
            asked &= shows_colour(scenes)
        out[name] = labels[asked, column] == scenes[asked, column]
    return out
