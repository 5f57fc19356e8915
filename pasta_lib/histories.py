"""Sessions as a learning agent reads them: tensors of what was said, picked and judged.

Pictures that were drawn speak through the user model alone (what their columns are worth to each
type); pictures not yet drawn do not speak at all, only their texts do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pasta_lib.sessions import NONE, SLATE, TURNS, Sessions
from pasta_lib.simulator import ColumnWorth, log_likelihoods
from pasta_lib.text_worth import TextWorth
from pasta_lib.user_model import posterior


@dataclass(frozen=True)
class History:
    """What is known in B sessions before each turn and after the last, T + 1 moments.

    `prompt` `[B, F]`, features of the initial prompt; `past` `[B, T + 1, 2 F + 5]`, what the turn
    before brought: features of the pick and mean ones of what was passed over, better, same, worse,
    none of these, and a one (all zero before the first turn); `left` `[B, T + 1, 1]`, the share of
    turns to come; `belief` `[B, T + 1, K]`, the posterior over types.
    """

    prompt: Tensor
    past: Tensor
    left: Tensor
    belief: Tensor


@dataclass(frozen=True)
class Slates:
    """Texts' features `[B, T, C, F]`, and what they may be worth to each type `[B, T, C, K]`."""

    text: Tensor
    worth: Tensor


@dataclass(frozen=True)
class Reader:
    """How sessions are read.

    `features` `[members, wordings, F]`, what texts call for; `text_worth`, what each type would
    think of a text; `column_worth`, of columns that were drawn.
    """

    features: Tensor
    text_worth: TextWorth
    column_worth: ColumnWorth

    def beliefs(self, sessions: Sessions) -> Tensor:
        """γ before each turn and after the last, float32 `[S, T + 1, K]`."""
        each = log_likelihoods(self.column_worth, sessions)
        total = nn.functional.pad(each.cumsum(1), (0, 0, 1, 0))
        return posterior(self.column_worth.log_prior, total)[0].float()

    def history(self, sessions: Sessions, belief: Tensor) -> History:
        """Of S sessions whose `beliefs` were worked out."""
        chosen = torch.as_tensor(sessions.chosen)
        versus = torch.as_tensor(sessions.versus_last)
        shown = self.texts(sessions.member, sessions.wording)  # [S, T, L, F]
        picked = nn.functional.one_hot(chosen.clamp(min=0), SLATE) * (chosen != NONE)[..., None]
        sides = [
            torch.einsum("stl,stlf->stf", s / s.sum(2, keepdim=True).clamp(min=1), shown)
            for s in (picked, 1 - picked)
        ]
        flags = torch.stack([versus == 1, versus == 0, versus == -1, chosen == NONE,
                             torch.ones_like(chosen, dtype=torch.bool)], 2)  # fmt: skip
        past = nn.functional.pad(torch.cat([*sides, flags.float()], 2), (0, 0, 1, 0))
        left = 1 - torch.arange(chosen.shape[1] + 1) / TURNS
        return History(self._prompt(sessions), past, left.expand(len(past), -1)[..., None], belief)

    def slates(self, sessions: Sessions, member: np.ndarray, wording: np.ndarray) -> Slates:
        """Of texts `[S, T, C]` in these sessions."""
        text = self.texts(member, wording)
        return Slates(text, self.text_worth(self._prompt(sessions)[:, None, None], text))

    def texts(self, member: np.ndarray, wording: np.ndarray) -> Tensor:
        """Features `[..., F]` of wordings of members `[...]`."""
        return self.features[torch.as_tensor(member), torch.as_tensor(wording)]

    def _prompt(self, sessions: Sessions) -> Tensor:
        return self.features[torch.as_tensor(sessions.initial), 0]
