"""What people of K types see in a picture, beyond what CLIP sees: residual heads on its two towers.

    s_k(p, I) = τ i·t  +  a_k·c + b_k·g(B c + β₀)  +  c·(m_k ∘ q + E F q)

i, t are CLIP's unit vectors of image and prompt; c what the picture shows and q what the prompt
calls for (`concepts`), in units that are set below. On the image side a_k is what type k likes to
see, whatever was asked for, and b_k what it likes to see together; on the text side m_k is how much
it wants to see what was asked for, and E F, of low rank, what else prompts call for. PASTA puts
type-specific heads on CLIP; their form is ours. a, b, m and E start at zero and τ at CLIP's own
factor: untrained, for any K, this is zero-shot CLIP.

    c = P(shown) / 3 deviations        q = max(0, log(P(asked) / usual)) / 3

A prompt that says nothing of a concept leaves it as likely as usual, and q is zero (positive
pointwise mutual information; Church and Hanks 1990).
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from pasta_lib.choices import ChoiceData
from pasta_lib.concepts import called_for
from pasta_lib.em import EMConfig, fit_user_types
from pasta_lib.em_steps import cut
from pasta_lib.panel import Panel
from pasta_lib.user_types import UserTypes


class ClipUtility(nn.Module):
    """Scores [..., K] from images [..., M, D + V] and prompts [..., 1, D + V] (`Concepts`).

    Also holds what columns, ties and ratings need (see `user_model`).
    """

    def __init__(
        self,
        width: int,
        usual: Tensor,
        n_types: int,
        logit_scale: float,
        rank: int = 8,
        n_together: int = 64,
    ) -> None:
        """`width` is D; `usual` [V] how often concepts are there (`Concepts.usual`); `logit_scale`
        CLIP's factor on cosines (`ClipEncoder.logit_scale()`)."""
        super().__init__()
        n_concepts, generator = len(usual), torch.Generator().manual_seed(rank)
        self.width = width
        self.register_buffer("usual", usual.clone())
        # Temperatures have far to go, and Adam takes steps of one size: a tenth of their logs.
        self.tenth_log_scale = nn.Parameter(torch.tensor(math.log(logit_scale) / 10))  # of τ
        self.tenth_log_sharpness = nn.Parameter(torch.tensor(math.log(1e-3) / 10))  # of β
        self.likes = nn.Parameter(torch.zeros(n_types, n_concepts))  # a
        self.likes_together = nn.Parameter(torch.zeros(n_types, n_together))  # b
        self.insists = nn.Parameter(torch.zeros(n_types, n_concepts))  # m
        both = 0.3 * torch.randn(n_concepts, n_together, generator=generator)
        self.together = nn.Parameter(both)  # B
        self.together_bias = nn.Parameter(torch.zeros(n_together))  # β₀
        called = 0.1 * torch.randn(n_concepts, rank, generator=generator)
        self.called = nn.Parameter(called)  # F
        self.calls_for = nn.Parameter(torch.zeros(rank, n_concepts))  # E
        self.log_tie = nn.Parameter(torch.tensor(0.0))
        self.rating_terms = nn.Parameter(torch.zeros(3))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        i, shown = image.tensor_split([self.width], -1)
        t, asked = text.tensor_split([self.width], -1)
        c = shown / self.unit()
        q = called_for(asked, self.usual)
        both = nn.functional.gelu(c @ self.together + self.together_bias)
        common = (i * (self.scale() * t)).sum(-1) + (c * (q @ self.called @ self.calls_for)).sum(-1)
        own = c @ self.likes.T + both @ self.likes_together.T + (c * q) @ self.insists.T
        return common[..., None] + own

    def repeated(self, n_types: int) -> ClipUtility:
        """K types that begin as the one of this utility, K = 1."""
        rank, n_together = len(self.calls_for), len(self.together_bias)
        new = ClipUtility(self.width, self.usual, n_types, 1.0, rank, n_together)
        own = {"likes", "likes_together", "insists"}
        state = {k: v.repeat(n_types, 1) if k in own else v for k, v in self.state_dict().items()}
        new.load_state_dict(state)
        return new

    def scale(self) -> Tensor:
        """τ."""
        return (10 * self.tenth_log_scale).exp()

    def unit(self) -> Tensor:
        """Three standard deviations of whether a concept is there, [V]: the unit of c."""
        return 3 * (self.usual * (1 - self.usual)).sqrt()


COMMON = EMConfig(max_passes=8, ridge=60.0, learning_rate=1e-2, batch=2048)
TYPES = EMConfig(
    max_passes=24, ridge=10.0, learning_rate=5e-3, batch=2048,
    wave=1, min_waves=1, max_waves=1, confirmations=1,
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

    `utility`: one of K = 1, where it all begins. EM starts from k-means on what people `revealed`:
    from random divisions it needs many restarts, from there one. Few passes: the ridge and an early
    end both keep the heads from learning people by heart, so an end before EM came to rest is no
    warning here. `config` and `checkpoint` are the second stage's. All constants are ours. Raises
    `BadData` as `fit_user_types`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EM used all")  # an early end is meant
        common = fit_user_types(data, utility, 1, seed=seed, config=COMMON, progress=progress)
        groups = KMeans(min(n_types, data.n_people), n_init=10, random_state=seed)
        member = torch.as_tensor(groups.fit_predict(revealed(data, utility))).long()
        return fit_user_types(
            data, common.utility.repeated(n_types), n_types, seed=seed, config=config,
            start=nn.functional.one_hot(member, n_types), checkpoint=checkpoint, progress=progress,
        )  # fmt: skip


def revealed(data: ChoiceData | Panel, utility: ClipUtility) -> Tensor:
    """What people picked less what they were offered, in concepts: [U, V].

        Σ_n Σ_c (y_nc - 1/L) c(I_nc)

    It is the gradient of the likelihood in a_k before anything is known. Ratings are left out.
    """
    panel = Panel.of(*data.parts)
    total = torch.zeros(panel.n_people, len(utility.usual))
    for part in panel.parts:
        for rows, people in part.blocks(2**14) if part.rating is None else ():
            block = cut(part, rows, people)
            mask = block.mask[..., None]
            shown = (block.features[..., utility.width :] * mask).sum(2) / mask.sum(2).clamp(min=1)
            there = block.mask.any(2)
            vote = block.share[: len(there)]  # less what went to a tie
            more = vote - there * (vote.sum(0) / there.sum(0))
            gradient = torch.einsum("lb,lbv->bv", more.float(), shown.float())
            total[people] += block.by_person(gradient)
    return total / utility.unit()
