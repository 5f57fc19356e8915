"""Trainable towers: a utility that is fitted together with what reads its pictures and prompts.

With frozen CLIP, data hold vectors and `ClipUtility` takes them as they are. Here data hold what
the towers take: vectors for `Concepts`, or pixels and tokens for CLIP itself.
"""

from __future__ import annotations

from torch import Tensor, nn


class Towers(nn.Module):
    """A utility with its own towers: `heads(image_tower(image), text_tower(text))`, all trainable.

    Towers are any modules: `Concepts` on vectors that are given, or CLIP's own on pixels and tokens
    (`PixelTower`, `TokenTower`; a copy of the model for each).
    """

    def __init__(self, image: nn.Module, text: nn.Module, heads: nn.Module) -> None:
        super().__init__()
        self.image, self.text, self.heads = image, text, heads

    @property
    def log_tie(self) -> Tensor:
        return self.heads.log_tie

    @property
    def tenth_log_share(self) -> Tensor | None:
        return getattr(self.heads, "tenth_log_share", None)

    @property
    def rating_terms(self) -> Tensor:
        return self.heads.rating_terms

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.heads(self.image(image), self.text(text))


class PixelTower(nn.Module):
    """An open_clip model's image tower: flat pixels [..., 3 S S], as its preprocessing leaves them,
    → unit vectors [..., D]. The model is to be in `eval()`: batch statistics stay as they are."""

    def __init__(self, clip: nn.Module, size: int) -> None:
        super().__init__()
        self.clip, self.size = clip, size

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.reshape(-1, 3, self.size, self.size)
        return self.clip.encode_image(flat, normalize=True).unflatten(0, pixels.shape[:-1])


class TokenTower(nn.Module):
    """An open_clip model's text tower: token numbers [..., context length], as floats, → unit
    vectors [..., D]."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: Tensor) -> Tensor:
        flat = tokens.reshape(-1, tokens.shape[-1]).long()
        return self.clip.encode_text(flat, normalize=True).unflatten(0, tokens.shape[:-1])
