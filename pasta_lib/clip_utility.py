"""What people of K types see in a picture, beyond what CLIP sees: residual heads on its two towers.

    s_k(p, I) = τ i·t  +  a_k·c + Σ_vw b_kvw c_vw  +  m_k·(c ∘ q)

i, t are CLIP's unit vectors of image and prompt; c what the picture shows, in units that are set
below, and q what the prompt calls for (`concepts.called_for`). On the image side a_k is what type k
likes to see, whatever was asked for, and b_k what it likes to see together, for some pairs of
concepts; on the text side m_k is how much it wants to see what was asked for. PASTA puts
type-specific heads on CLIP; their form is ours. a, b and m start at zero, and τ at CLIP's factor:
untrained, for any K, this is zero-shot CLIP.

    c_v = P(v shown) / 3 sd        c_vw = P(v shown) P(w shown) / 3 sd

with the standard deviations of whether it is shown, as if concepts came independently. Second-order
terms like b are those of Lou et al. (2013), "Accurate intelligible models with pairwise
interactions": each has a name, and a type can be read off them.
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

NO_PAIRS = torch.zeros(2, 0, dtype=torch.long)


class ClipUtility(nn.Module):
    """Scores [..., K] from images [..., M, D + V] and prompts [..., 1, D + V'] (`Concepts`).

    Also holds what columns, ties and ratings need (see `user_model`).
    """

    def __init__(
        self,
        width: int,
        shown: Tensor,
        asked: Tensor,
        n_types: int,
        logit_scale: float,
        pairs: Tensor = NO_PAIRS,
    ) -> None:
        """`width` is D; `shown` [V] and `asked` [V'] how often concepts are in pictures, and in
        those of prompts (`Concepts.usual`), the prompts' being the first V' of the pictures';
        `logit_scale` CLIP's factor on cosines (`ClipEncoder.logit_scale()`); `pairs` long [2, P],
        concepts that may please together."""
        super().__init__()
        self.width = width
        self.register_buffer("shown", shown.clone())
        self.register_buffer("asked", asked.clone())
        self.register_buffer("pairs", pairs.clone())
        # These have far to go, and Adam takes steps of one size: a tenth of their logs.
        self.tenth_log_scale = nn.Parameter(torch.tensor(math.log(logit_scale) / 10))  # of τ
        self.tenth_log_share = nn.Parameter(torch.tensor(0.0))  # of h, a column's best items
        self.likes = nn.Parameter(torch.zeros(n_types, len(shown)))  # a
        self.likes_together = nn.Parameter(torch.zeros(n_types, pairs.shape[1]))  # b
        self.insists = nn.Parameter(torch.zeros(n_types, len(asked)))  # m
        self.log_tie = nn.Parameter(torch.tensor(0.0))
        self.rating_terms = nn.Parameter(torch.zeros(3))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.pleases(image) + self.meets(image, text)

    def pleases(self, image: Tensor) -> Tensor:
        """What is liked whatever was asked for: a_k·c + Σ b_kvw c_vw."""
        shown = image[..., self.width :]
        first, second = self.pairs
        # Concepts first: whole rows are gathered several times as fast as columns.
        by_concept = shown.reshape(-1, shown.shape[-1]).T.contiguous()
        both = by_concept[first] * by_concept[second]
        likes = self.likes / unit(self.shown)
        together = self.likes_together / unit(self.shown[first] * self.shown[second])
        each = likes @ by_concept + together @ both
        return each.T.reshape(*shown.shape[:-1], len(likes))

    def meets(self, image: Tensor, text: Tensor) -> Tensor:
        """How much it is what was asked for: τ i·t + m_k·(c ∘ q)."""
        i, shown = image.tensor_split([self.width], -1)
        t, asked = text.tensor_split([self.width], -1)
        q = called_for(asked, self.asked)
        c = shown[..., : len(self.asked)] / unit(self.shown[: len(self.asked)])
        return (i * (self.scale() * t)).sum(-1, keepdim=True) + (c * q) @ self.insists.T

    def repeated(self, n_types: int) -> ClipUtility:
        """K types that begin as the one of this utility, K = 1."""
        new = ClipUtility(self.width, self.shown, self.asked, n_types, 1.0, self.pairs)
        own = {"likes", "likes_together", "insists"}
        state = {k: v.repeat(n_types, 1) if k in own else v for k, v in self.state_dict().items()}
        new.load_state_dict(state)
        return new

    def scale(self) -> Tensor:
        """τ."""
        return (10 * self.tenth_log_scale).exp()


def unit(usual: Tensor) -> Tensor:
    """Three standard deviations of whether something is there that usually is: the unit of c."""
    return 3 * (usual * (1 - usual)).sqrt()


COMMON = EMConfig(max_passes=24, ridge=10.0, learning_rate=3e-2, batch=2048)
TYPES = EMConfig(
    max_passes=24, ridge=10.0, learning_rate=5e-3, batch=2048,
    wave=1, min_waves=1, max_waves=1, confirmations=1,
)  # fmt: skip


def fit_common(
    data: ChoiceData | Panel, utility: ClipUtility, *, seed: int, progress: bool = True
) -> ClipUtility:
    """What all people have in common: `utility`, of K = 1, where types begin. Raises `BadData` as
    `fit_user_types`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EM used all")  # an early end is meant
        return fit_user_types(data, utility, 1, seed=seed, config=COMMON, progress=progress).utility


def fit_clip_types(
    data: ChoiceData | Panel,
    common: ClipUtility,
    n_types: int,
    *,
    seed: int,
    config: EMConfig = TYPES,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> UserTypes:
    """Types of people by EM, from what all have in common (`fit_common`).

    EM starts from k-means on what people `revealed`: from random divisions it needs many restarts,
    from there one. Few passes: the ridge, around what is common, and an early end both keep the
    heads from learning people by heart, so an end before EM came to rest is no warning here. All
    constants are ours. Raises `BadData` as `fit_user_types`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EM used all")
        groups = KMeans(min(n_types, data.n_people), n_init=10, random_state=seed)
        member = torch.as_tensor(groups.fit_predict(revealed(data, common))).long()
        return fit_user_types(
            data, common.repeated(n_types), n_types, seed=seed, config=config,
            start=nn.functional.one_hot(member, n_types), checkpoint=checkpoint, progress=progress,
        )  # fmt: skip


def revealed(data: ChoiceData | Panel, utility: ClipUtility) -> Tensor:
    """What people picked less what they were offered, in concepts: [U, V].

        Σ_n Σ_c (y_nc - 1/L) c(I_nc)

    It is the gradient of the likelihood in a_k before anything is known. Ratings are left out.
    """
    panel = Panel.of(*data.parts)
    total = torch.zeros(panel.n_people, len(utility.shown))
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
    return total / unit(utility.shown)
