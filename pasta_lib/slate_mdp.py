"""Slates in a world small enough to be solved exactly, to hold IQL against. Ours.

N prompts; a slate shows two of them, the person picks one, and what was picked is the next state.

    V*_t(s) = max_P  mean_{p in P} u(s, p) + Σ_{p in P} P(pick p | s, P) V*_{t+1}(p),   V*_{T+1} = 0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SlateMDP:
    """`utility` `[N, N]`, u(s, p) of prompt p after s was picked; `turns`; `sharpness` of picks,
    softmax(sharpness · u): at 0 they are even."""

    utility: Tensor
    turns: int
    sharpness: float = 0.0

    @property
    def pairs(self) -> Tensor:
        """The slates, `[P, 2]`."""
        return torch.tensor(list(combinations(range(len(self.utility)), 2)))

    def slates(self) -> tuple[Tensor, Tensor]:
        """After each pick, of each slate: utility `[N, P]`, and probabilities `[N, P, 2]`."""
        shown = self.utility[:, self.pairs]
        return shown.mean(2), (self.sharpness * shown).softmax(2)

    def values(self) -> tuple[Tensor, Tensor]:
        """V* `[T + 1, N]` and Q* `[T, N, P]`, by dynamic programming."""
        reward, pick = self.slates()
        value, q = [torch.zeros(len(self.utility))], []
        for _ in range(self.turns):
            q.insert(0, reward + (pick * value[0][self.pairs]).sum(2))
            value.insert(0, q[0].max(1).values)
        return torch.stack(value), torch.stack(q)

    def logs(self, n: int, seed: int) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
        """`n` sessions of slates at random, from random states, as `iql.learn` takes them: numbers
        of sessions → states `[B, T + 1]`, slates `[B, T]`, rewards `[B, T]`."""
        rng = np.random.default_rng(seed)
        reward, pick = self.slates()
        slates = rng.integers(len(self.pairs), size=(n, self.turns))
        states = np.zeros((n, self.turns + 1), int)
        states[:, 0] = rng.integers(len(self.utility), size=n)
        for turn in range(self.turns):
            p = pick[states[:, turn], slates[:, turn]].numpy()
            second = (rng.random(n) > p[:, 0]).astype(int)
            states[:, turn + 1] = self.pairs.numpy()[slates[:, turn], second]
        states, slates = torch.as_tensor(states), torch.as_tensor(slates)
        rewards = reward[states[:, :-1], slates]
        return lambda rows: (states[rows], slates[rows], rewards[rows])


class TableValue(nn.Module):
    """V of a turn and a state, `[B, T + 1]` of states `[B, T + 1]`."""

    def __init__(self, mdp: SlateMDP) -> None:
        super().__init__()
        self.turns = torch.arange(mdp.turns + 1)
        self.table = nn.Parameter(torch.zeros(mdp.turns + 1, len(mdp.utility)))

    def forward(self, states: Tensor) -> Tensor:
        return self.table[self.turns, states]


class AdditiveTable(nn.Module):
    """Q = mean of f(turn, state, prompt) over the slate: PASTA's form, as a table."""

    def __init__(self, mdp: SlateMDP) -> None:
        super().__init__()
        self.pairs, self.turns = mdp.pairs, torch.arange(mdp.turns)
        n = len(mdp.utility)
        self.table = nn.Parameter(torch.zeros(mdp.turns, n, n))

    def forward(self, states: Tensor, slates: Tensor) -> Tensor:
        prompts = self.pairs[slates]
        return self.table[self.turns[:, None], states[:, :-1, None], prompts].mean(2)


class SlateTable(nn.Module):
    """Q of every slate on its own."""

    def __init__(self, mdp: SlateMDP) -> None:
        super().__init__()
        self.turns = torch.arange(mdp.turns)
        self.table = nn.Parameter(torch.zeros(mdp.turns, len(mdp.utility), len(mdp.pairs)))

    def forward(self, states: Tensor, slates: Tensor) -> Tensor:
        return self.table[self.turns, states[:, :-1], slates]
