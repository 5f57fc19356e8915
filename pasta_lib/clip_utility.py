"""What people of K types see in a picture, beyond what CLIP sees: residual heads on its two towers.

    s_k(p, I) = τ i·t  +  a_k·f(I)  +  c(I)·(m_k ∘ c(p) + E F c(p))

i, t are CLIP's unit vectors of image and prompt, c the concepts read off them and f the concepts
with what several of them make together (`concepts`). On the image side a_k is what type k likes to
see, whatever was asked for; on the text side m_k is how much it wants to see each word that was
asked for, and E F, of low rank, what else words call for. PASTA puts type-specific heads on CLIP;
their form is ours. a, m and E start at zero and τ at CLIP's own factor: untrained, for any K, this
is zero-shot CLIP. It is linear in what an image shows, so a column's mean can be taken first.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from pasta_lib.choices import ChoiceData
from pasta_lib.em import EMConfig, fit_user_types
from pasta_lib.panel import Panel
from pasta_lib.user_types import UserTypes


class ClipUtility(nn.Module):
    """Scores [..., K] from images [..., M, D + C + H] and prompts [..., 1, D + C] (`Concepts`).

    Also holds what ties and ratings need (see `user_model`).
    """

    def __init__(
        self,
        width: int,
        n_concepts: int,
        n_together: int,
        n_types: int,
        logit_scale: float,
        rank: int = 8,
    ) -> None:
        """`width` is D; `logit_scale` CLIP's factor on cosines (`ClipEncoder.logit_scale()`)."""
        super().__init__()
        self.split = [width, width + n_concepts]
        # The temperature has far to go, and Adam takes steps of one size: a tenth of log τ.
        self.tenth_log_scale = nn.Parameter(torch.tensor(math.log(logit_scale) / 10))
        self.likes = nn.Parameter(torch.zeros(n_types, n_concepts + n_together))  # a
        self.insists = nn.Parameter(torch.zeros(n_types, n_concepts))  # m
        generator = torch.Generator().manual_seed(rank)
        words = 0.1 * torch.randn(n_concepts, rank, generator=generator)
        self.words = nn.Parameter(words)  # F
        self.calls_for = nn.Parameter(torch.zeros(rank, n_concepts))  # E
        self.log_tie = nn.Parameter(torch.tensor(0.0))
        self.rating_terms = nn.Parameter(torch.zeros(3))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        shown = image[..., self.split[0] : self.split[1]]
        t, asked = text.tensor_split(self.split[:1], -1)
        common = torch.cat([self.scale() * t, asked @ self.words @ self.calls_for], -1)
        score = (image[..., : self.split[1]] * common).sum(-1, keepdim=True)
        score = score + image[..., self.split[0] :] @ self.likes.T
        return score + (shown * asked) @ self.insists.T

    def repeated(self, n_types: int) -> ClipUtility:
        """K types that begin as the one of this utility, K = 1."""
        n_concepts = self.split[1] - self.split[0]
        n_together, rank = self.likes.shape[1] - n_concepts, len(self.calls_for)
        new = ClipUtility(self.split[0], n_concepts, n_together, n_types, 1.0, rank)
        own = {"likes", "insists"}
        state = {k: v.repeat(n_types, 1) if k in own else v for k, v in self.state_dict().items()}
        new.load_state_dict(state)
        return new

    def scale(self) -> Tensor:
        """τ."""
        return (10 * self.tenth_log_scale).exp()


COMMON = EMConfig(max_passes=8, ridge=60.0, learning_rate=1e-2, batch=2048)
TYPES = EMConfig(
    max_passes=16, ridge=60.0, learning_rate=3e-3, batch=2048,
    wave=2, min_waves=2, max_waves=2, confirmations=1,
)  # fmt: skip


def fit_clip_types(
    data: ChoiceData | Panel,
    utility: ClipUtility,
    n_types: int,
    *,
    seed: int,
    config: EMConfig = TYPES,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> UserTypes:
    """Types of people by EM: what all have in common first (K = 1), then K types from there.

    `utility`: one of K = 1, where it all begins. Few passes: the ridge and an early end both keep
    the heads from learning people by heart. All constants are ours.
    """
    common = fit_user_types(data, utility, 1, seed=seed, config=COMMON, progress=progress)
    if n_types == 1:
        return common
    return fit_user_types(
        data, common.utility.repeated(n_types), n_types,
        seed=seed, config=config, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
