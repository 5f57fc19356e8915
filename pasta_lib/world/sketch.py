"""What the words alone say of a picture: the sketches that the denoiser starts from.

Four steps, each learnt by plain regression in minutes (`data/makers/make_sketch.py`), where a
denoiser that has to find everything out through noise needs days on a CPU:

1. *meanings*: an abstract prompt ("happiness") may stand for several things, a concrete one stands
   for itself;
2. *drawing*: what is meant, plain, in one style and in one place;
3. *styling*: a local operation on the drawing, and the ground behind it; and how sure it is of
   each. Of the words it reads only style and background, so it carries over to unseen pairs;
4. *places*: the drawing moved by whole cells.

Ours. Widths are of text states; pictures are latents `[B, C, H, W]`.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

LOG_VARIANCE = (-7.0, 2.0)  # no sketch is surer, or less sure, than this


class Sketch(nn.Module):
    """Sketches of every meaning in every place, with their logarithmic weights."""

    def __init__(
        self, text_width: int, side: int, channels: int, readings: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.meanings = Meanings(text_width)
        self.draw = drawing_network(text_width, side, channels)
        self.style = Styling(text_width, side, channels, readings)

    def forward(self, words: Tensor, sample: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        """`words` `[B, text_width]`, the noisy pictures `sample` `[B, C, H, W]` and their
        `timestep` `[B]` → `rows` `[N]`, the prompt that each of N ≥ B sketched meanings belongs to,
        their `log_weight` `[N]`, and the sketches in four places: each the `mean` and the
        `log_variance` of a Gaussian, `[N, 4, C, H, W]`. The variances are those of pictures around
        the sketch with the right meaning and place.
        """
        rows, meant, log_weight = self.meanings(words)
        styled = self.style(self.draw(meant), words[rows], sample[rows], timestep[rows])
        (ground, ground_variance), (subjects, subjects_variance) = styled
        log_variance = (ground_variance[:, None] + moved(subjects_variance)).clamp(*LOG_VARIANCE)
        return rows, log_weight, ground[:, None] + moved(subjects), log_variance


class Meanings(nn.Module):
    """What a prompt may stand for: itself (0), or one of `size` typical things.

    A softmax over text states of captions, of which the likeliest are kept.
    """

    def __init__(self, text_width: int, size: int = 192, least: float = 0.02) -> None:
        super().__init__()
        self.register_buffer("things", torch.zeros(size, text_width))
        self.logits = nn.Linear(text_width, 1 + size)
        self.least = math.log(least)  # smaller weights are not drawn

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, text_width]` → rows `[N]`, meanings `[N, text_width]`, log weights `[N]`."""
        log_weight = self.logits(words).log_softmax(1)
        least = log_weight.amax(1, keepdim=True).clamp(max=self.least)
        rows, which = (log_weight >= least).nonzero().unbind(1)
        things = self.things[(which - 1).clamp(min=0)]
        meant = torch.where(which[:, None] == 0, words[rows], things)
        return rows, meant, log_weight[rows, which]


def drawing_network(text_width: int, side: int, channels: int, width: int = 512) -> nn.Sequential:
    """Text `[B, text_width]` → the plain drawing `[B, channels, side, side]`.

    Cheap to compute, since it is done once a picture and not once a cell, and much to remember
    with: what things look like is known here.
    """
    return nn.Sequential(
        nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
        nn.Linear(width, channels * side**2), nn.Unflatten(1, (channels, side, side)),
    )  # fmt: skip


class Styling(nn.Module):
    """A plain drawing in the style and on the ground that the words ask for.

    Of the words only the text encoder's own probabilities of each style and background, or of none,
    are used (`readings`: how many classes each has). What they leave open is guessed from the noisy
    picture.
    """

    def __init__(
        self, text_width: int, side: int, channels: int, readings: tuple[int, ...], width: int = 512
    ) -> None:
        super().__init__()
        self.readings, code = readings, sum(readings)
        self.read = nn.Linear(text_width, code)
        self.frequencies = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.glance = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.Flatten())
        self.guess = nn.Sequential(
            nn.Linear(8 * side**2 + 64 + code, 64), nn.SiLU(), nn.Linear(64, code)
        )
        self.modulate = nn.Sequential(nn.Linear(code, 64), nn.SiLU(), nn.Linear(64, 4 * width))
        self.around = nn.Conv2d(channels, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, 2 * channels, 1)
        self.compress = nn.Sequential(nn.Linear(code, 64), nn.SiLU(), nn.Linear(64, 48), nn.SiLU())
        self.ground = nn.Linear(48, channels * side**2)
        self.by_channel = nn.Linear(48, channels)  # log variance of the ground: a sum of two
        self.by_cell = nn.Linear(48, side**2)

    def forward(
        self, drawing: Tensor, words: Tensor, sample: Tensor, timestep: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The ground, and what the subjects change of it; each a mean and a logarithmic variance
        `[N, C, H, W]`, as `drawing`.
        `words` `[N, text_width]`, noisy pictures `sample` `[N, C, H, W]`, `timestep` `[N]`."""
        parts = self.read(words).split(self.readings, 1)
        said = torch.cat([part.softmax(1) for part in parts], 1)
        time = self.frequencies(timestep).to(said.dtype)
        code = said + self.guess(torch.cat([self.glance(sample), time, said], 1))
        scale, shift, scale_2, shift_2 = self.modulate(code)[:, :, None, None].chunk(4, 1)
        x = F.silu(self.around(drawing) * (1 + scale) + shift)
        x = F.silu(self.mix(x) * (1 + scale_2) + shift_2)
        code = self.compress(code)
        log_variance = self.by_channel(code)[:, :, None] + self.by_cell(code)[:, None]
        ground = self.ground(code).view_as(drawing), log_variance.view_as(drawing)
        return ground, self.out(x).chunk(2, 1)


def moved(x: Tensor) -> Tensor:
    """`x` `[N, C, H, W]` in four places: as it is, a cell right, a cell down, both.
    `[N, 4, C, H, W]`; the row `right + 2 · down` is the place `(right, down)`."""
    height, width = x.shape[2:]
    x = F.pad(x, (1, 0, 1, 0))
    here, left = slice(1, None), slice(0, width)
    above = slice(0, height)
    return torch.stack(
        [x[:, :, here, here], x[:, :, here, left], x[:, :, above, here], x[:, :, above, left]], 1
    )
