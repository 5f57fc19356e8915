"""Agents that learnt from others: they know the user model, or a critic that was trained on it.

All choose from texts: `peeking` alone looks at what the bank will draw, and is a bound, no agent.
The two agents that learn from nobody are in `baselines`, those that know the truth in
`world.oracle`.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import numpy as np
import torch
from torch import Tensor

from pasta_lib.baselines import best_slate
from pasta_lib.candidates import CATEGORIES, EACH, Candidates
from pasta_lib.histories import Reader, Slates
from pasta_lib.iql import Trained
from pasta_lib.seeds import gumbels
from pasta_lib.sessions import SLATE, Agent, Sessions
from pasta_lib.simulator import ColumnWorth, belief

SEARCHED = 3  # best candidates of each category that a slate-level critic compares in all slates
AT_ONCE = 500  # sessions: 405 slates of each take 100 MB


def greedy(reader: Reader, noise: float = 0.0, seed: int = 0) -> Agent:
    """The slate whose texts are worth most to the posterior over types, now.

    With a user model of K = 1 it is greedy on what all people like. `noise`: scale of Gumbel noise
    on the candidates' utilities, for sessions that explore.
    """

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        score = (_texts(reader, sessions, candidates).worth[:, 0]
                 * belief(reader.column_worth, sessions)[:, None]).sum(-1).numpy()  # fmt: skip
        keys = [sessions.session, np.full(len(score), sessions.turns)]
        return best_slate(score + noise * gumbels(seed, "explore", keys, score.shape[1]))

    return agent


def peeking(worth: ColumnWorth) -> Agent:
    """A bound: greedy on the posterior, by the pictures themselves before they are drawn."""

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        columns = worth.of(sessions.initial, candidates.member)
        return best_slate((columns * belief(worth, sessions)[:, None]).sum(-1).numpy())

    return agent


def iql_agent(trained: Trained, reader: Reader) -> Agent:
    """The slate of the largest Q, the mean of the twin critics.

    An additive critic's is exact (`best_slate`); for a slate-level one, all admissible slates of
    the best `SEARCHED` candidates of each category, by f, are compared: 405 slates.
    """

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        parts = range(0, len(sessions.session), AT_ONCE)
        return np.concatenate([some(sessions, candidates, slice(b, b + AT_ONCE)) for b in parts])

    @torch.no_grad()
    def some(sessions: Sessions, candidates: Candidates, rows: slice) -> np.ndarray:
        sessions = sessions.select(rows)
        candidates = Candidates(candidates.member[rows], candidates.wording[rows])
        history = reader.history(sessions, reader.beliefs(sessions))
        texts = _texts(reader, sessions, candidates)
        states = [critic.encoder(history)[:, -1:] for critic in trained.critics]
        both = list(zip(trained.critics, states, strict=True))
        score = torch.stack([critic.items(h, texts)[:, 0] for critic, h in both]).mean(0)
        if trained.critics[0].revealing is None:
            return best_slate(score.numpy())
        slates = promising_slates(score)  # [S, N, L]
        row = torch.arange(len(score))[:, None, None]
        worth = texts.worth[:, 0][row, slates][:, None]
        q = score[row, slates].mean(2)
        q = q + torch.stack([critic.reveals(h, worth)[:, 0] for critic, h in both]).mean(0)
        return slates[torch.arange(len(q)), q.argmax(1)].numpy()

    return agent


def _texts(reader: Reader, sessions: Sessions, candidates: Candidates) -> Slates:
    """Candidates as one turn of `Slates`."""
    return reader.slates(sessions, candidates.member[:, None], candidates.wording[:, None])


def promising_slates(score: Tensor, searched: int = SEARCHED) -> Tensor:
    """All admissible slates of the best `searched` candidates of each category, by `score`
    `[S, 25]`: positions `[S, N, 4]`."""
    by_category = score.reshape(len(score), len(CATEGORIES), EACH)
    best = by_category.argsort(dim=2, descending=True, stable=True)
    category, rank = _combinations(searched)
    return category * EACH + best[:, category, rank]


@cache
def _combinations(searched: int) -> tuple[Tensor, Tensor]:
    """Which categories `[N, 4]`, and which of each one's best `[N, 4]`."""
    both = [
        (categories, ranks)
        for categories in combinations(range(len(CATEGORIES)), SLATE)
        for ranks in product(range(searched), repeat=SLATE)
    ]
    return tuple(torch.tensor(part) for part in zip(*both, strict=True))
