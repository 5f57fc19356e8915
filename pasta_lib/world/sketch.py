"""What the words say of a picture: the sketches that the denoiser starts from.

Four steps. What is learnt of them is learnt by regression in minutes (`data/makers/make_sketch.py`,
`make_styling.py`); a denoiser that had to find it out through noise had no subjects after 48,000
pictures:

1. *meanings*: an abstract prompt ("happiness") may stand for several things, a concrete one stands
   for itself;
2. *drawing*: what is meant, plain, in one style and in one place;
3. *styling*: a local operation on the drawing, and the ground behind it; and how sure it is of
   each. Of the words it reads only style and background, so it carries over to unseen pairs; what
   they leave open, the noisy picture tells;
4. *places*: the drawing moved by whole cells.

Ours. Widths are of text states; pictures are latents `[B, C, H, W]`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_VARIANCE = (-7.0, 2.0)  # no sketch is surer, or less sure, than this
LEAST = math.log(0.02)  # meanings of less weight are not drawn
SURE = 0.99  # a look this likely is not asked of the noisy picture


class Sketch(nn.Module):
    """Sketches of every meaning in every place, with their logarithmic weights."""

    def __init__(self, text_width: int, side: int, channels: int, looks: tuple[int, int]) -> None:
        super().__init__()
        self.meanings = Meanings(text_width)
        self.draw = drawing_network(text_width, side, channels)
        self.style = Styling(text_width, side, channels, looks)

    def forward(self, words: Tensor, sample: Tensor, signal: Tensor) -> tuple[Tensor, ...]:
        """`words` `[B, text_width]`, the noisy pictures `sample` `[B, C, H, W]` and the share of
        `signal` in their variance `[B, 1, 1, 1]` → `rows` `[N]`, the prompt that each of N ≥ B
        sketched meanings belongs to, their `log_weight` `[N]`, and the sketches in four places:
        each the `mean` and the `log_variance` of a Gaussian, `[N, 4, C, H, W]`. The variances are
        those of pictures around the sketch with the right meaning and place.
        """
        rows, meant, log_weight = self.meanings(words)
        look = self.style.resolve(words, sample, signal)
        styled = self.style(self.draw(meant), look[rows])
        (ground, ground_variance), (subjects, subjects_variance) = styled
        log_variance = (ground_variance[:, None] + moved(subjects_variance)).clamp(*LOG_VARIANCE)
        return rows, log_weight, ground[:, None] + moved(subjects), log_variance


class Meanings(nn.Module):
    """What a prompt may stand for: itself (0), or one of `size` typical things.

    A softmax over text states of captions, of which the likeliest are kept.
    """

    def __init__(self, text_width: int, size: int = 192) -> None:
        super().__init__()
        self.register_buffer("things", torch.zeros(size, text_width))
        self.logits = nn.Linear(text_width, 1 + size)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, text_width]` → rows `[N]`, meanings `[N, text_width]`, log weights `[N]`."""
        log_weight = self.logits(words).log_softmax(1)
        least = log_weight.amax(1, keepdim=True).clamp(max=LEAST)
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
    """A plain drawing in a style and on a ground.

    A *look* `[N, styles + backgrounds]` holds the probabilities of each. Of the words only those
    are read, by the text encoder's own heads; what they leave open is read off the noisy picture.
    """

    def __init__(
        self, text_width: int, side: int, channels: int, looks: tuple[int, int], width: int = 512
    ) -> None:
        super().__init__()
        self.looks, look = looks, sum(looks)
        self.read = nn.Linear(text_width, look + 2)  # of each first: how likely it is not said
        self.usual = nn.Linear(text_width, look)  # what is likely where it is not
        self.modulate = nn.Sequential(nn.Linear(look, 64), nn.SiLU(), nn.Linear(64, 4 * width))
        self.around = nn.Conv2d(channels, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, 2 * channels, 1)
        self.compress = nn.Sequential(nn.Linear(look, 64), nn.SiLU(), nn.Linear(64, 48), nn.SiLU())
        self.ground = nn.Linear(48, channels * side**2)
        # Logarithmic variances are sums of one by channel and one by cell: of pictures around their
        # sketch where no subject stands, and of pictures around their ground alone.
        self.by_channel = nn.Linear(48, 2 * channels)
        self.by_cell = nn.Linear(48, 2 * side**2)

    def forward(
        self, drawing: Tensor, look: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The ground, and what the subjects change of it; each a mean and a logarithmic variance
        `[N, C, H, W]`, as `drawing`."""
        scale, shift, scale_2, shift_2 = self.modulate(look)[:, :, None, None].chunk(4, 1)
        x = F.silu(self.around(drawing) * (1 + scale) + shift)
        x = F.silu(self.mix(x) * (1 + scale_2) + shift_2)
        ground, log_variance, _ = self.grounds(look)
        return (ground, log_variance), self.out(x).chunk(2, 1)

    def grounds(self, look: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, and logarithmic variances of pictures around their sketch where no subject stands,
        and around the ground alone; each `[N, C, H, W]`."""
        code = self.compress(look)
        channel, cell = self.by_channel(code).chunk(2, 1), self.by_cell(code).chunk(2, 1)
        side = round(cell[0].shape[1] ** 0.5)
        means = self.ground(code).unflatten(1, (-1, side, side))
        sums = (a[:, :, None] + b[:, None] for a, b in zip(channel, cell, strict=True))
        return means, *(x.clamp(*LOG_VARIANCE).view_as(means) for x in sums)

    @torch.no_grad()
    def resolve(self, words: Tensor, sample: Tensor, signal: Tensor) -> Tensor:
        """The look of each picture, as far as words and the noisy picture tell.

        Bayes' rule among all pairs of style and background, whose pictures are Gaussians around
        their grounds; where the words say both, nothing is left to tell. Arguments as `Sketch`'s.
        """
        readings = self.read(words).float().split([n + 1 for n in self.looks], 1)
        usual = self.usual(words).float().split(self.looks, 1)
        style, background = (
            said[:, 1:] + said[:, :1] * open_.softmax(1)
            for said, open_ in zip((r.softmax(1) for r in readings), usual, strict=True)
        )
        belief = style[:, :, None] * background[:, None]
        unsure = (belief.amax((1, 2)) < SURE).nonzero()[:, 0]
        grounds, _, log_variance = (x.float() for x in self.grounds(self._pairs().to(words)))
        signal = signal[unsure, None].float()
        variance = (1 - signal) + signal * log_variance.exp()
        gap = sample[unsure, None].float() - signal.sqrt() * grounds
        fit = belief[unsure].flatten(1).log() + log_density(gap, variance)
        belief[unsure] = fit.softmax(1).unflatten(1, self.looks)
        return torch.cat([belief.sum(2), belief.sum(1)], 1).to(words)

    def _pairs(self) -> Tensor:
        """The look of every pair of style and background, `[styles · backgrounds, both]`."""
        style, background = (torch.eye(n) for n in self.looks)
        n, m = self.looks
        return torch.cat([style.repeat_interleave(m, 0), background.repeat(n, 1)], 1)


def log_density(gap: Tensor, variance: Tensor) -> Tensor:
    """Logarithm, less a constant, of the density of independent Gaussians: `[N, K]` of deviations
    from their means `gap` and variances, `[N, K, C, H, W]` or what spreads to it."""
    return -(gap.square() / variance + variance.log()).sum((2, 3, 4)) / 2


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
