"""Agents that learnt from others: they know the user model, or a critic that was trained on it.

All choose from texts, but for `peeking`, which looks at what the bank will draw. That one and
`told`, which knows each person's type, know what no agent can know; both are greedy, so neither
bounds an agent that plans. The two agents that learn from nobody are in `baselines`, those that
know the truth in `world.oracle`.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import numpy as np
import torch
from torch import Tensor

from pasta_lib.baselines import best_slate
from pasta_lib.candidates import CATEGORIES, CATEGORY, EACH, Candidates
from pasta_lib.histories import Reader, Slates
from pasta_lib.iql import Trained, picked
from pasta_lib.prospects import slates_of
from pasta_lib.seeds import gumbels
from pasta_lib.sessions import SLATE, TURNS, Agent, Sessions
from pasta_lib.simulator import ColumnWorth, beliefs

SEARCHED = 3  # best candidates of each category that a slate-level critic compares in all slates
AT_ONCE = 500  # sessions: 405 slates of each take 100 MB


def greedy(reader: Reader, noise: float = 0.0, seed: int = 0) -> Agent:
    """The slate whose texts are worth most to the posterior over types, now.

    With a user model of K = 1 it is greedy on what all people like. `noise`: scale of Gumbel noise
    on the candidates' utilities, for sessions that explore.
    """

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        score = (_texts(reader, sessions, candidates).worth[:, 0]
                 * beliefs(reader.column_worth, sessions)[:, -1:]).sum(-1).numpy()  # fmt: skip
        return best_slate(score + noise * _explore(seed, sessions))

    return agent


def curious(reader: Reader, weight: float = 3.0, noise: float = 0.0, seed: int = 0) -> Agent:
    """As `greedy`, plus `weight` · (share of turns to come) · (information in the pick), in nats.

    What a pick would reveal of the type (`information`), over the slates that `promising_slates`
    gives. Ours: it plans nothing, but asks.
    """

    def some(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        texts = _texts(reader, sessions, candidates)
        gamma = beliefs(reader.column_worth, sessions)[:, -1]
        score = (texts.worth[:, 0] * gamma[:, None]).sum(-1)
        score = score + noise * torch.as_tensor(_explore(seed, sessions)).float()
        slates = promising_slates(score)
        row = torch.arange(len(score))[:, None, None]
        told = information(gamma[:, None], texts.worth[:, 0][row, slates])
        left = 1 - (sessions.turns + 1) / TURNS
        best = (score[row, slates].mean(2) + weight * left * told).argmax(1)
        return slates[torch.arange(len(best)), best].numpy()

    return _in_parts(some)


def information(belief: Tensor, worth: Tensor) -> Tensor:
    """Between the pick from a slate and the type, in nats `[...]`, by γ `[..., K]` and f_k
    `[..., L, K]`: H(pick) - Σ_k γ_k H(pick | k)."""
    log_p = worth.log_softmax(-2)
    p, gamma = log_p.exp(), belief[..., None, :]
    mixed = (p * gamma).sum(-1)
    surprise = -(mixed * mixed.clamp(min=1e-12).log()).sum(-1)
    return surprise + (p * log_p * gamma).sum((-2, -1))


def peeking(worth: ColumnWorth) -> Agent:
    """Greedy on the posterior, by the pictures themselves before they are drawn: what texts cost
    `greedy`. No bound for agents that look ahead."""

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        columns = worth.of(sessions.initial, candidates.member)
        return best_slate((columns * beliefs(worth, sessions)[:, -1:]).sum(-1).numpy())

    return agent


def told(reader: Reader, kind: np.ndarray) -> Agent:
    """Greedy on each person's true type, `kind` `[people]`, which nobody tells an agent: what it
    costs `greedy` to have to find out."""

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        worth = _texts(reader, sessions, candidates).worth[:, 0]
        mine = torch.as_tensor(kind[sessions.person])[:, None, None]
        return best_slate(worth.gather(2, mine.expand(-1, worth.shape[1], 1))[..., 0].numpy())

    return agent


def iql_agent(trained: Trained, reader: Reader) -> Agent:
    """The slate of the largest Q, the mean of the twin critics.

    An additive critic's is exact (`best_slate`); for a slate-level one, all admissible slates of
    the best `SEARCHED` candidates of each category, by f, are compared: 405 slates.
    """

    @torch.no_grad()
    def some(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        gamma = beliefs(reader.column_worth, sessions)
        texts, score = _valued(trained, reader, sessions, candidates, gamma)
        if not trained.critics[0].slate_level:
            return best_slate(score.numpy())
        slates = promising_slates(score)  # [S, N, L]
        row = torch.arange(len(score))[:, None, None]
        each = (part[:, 0][row, slates] for part in (texts.worth, texts.follows))
        q = score[row, slates].mean(2) + picked(gamma[:, -1:], *each)
        return slates[torch.arange(len(q)), q.argmax(1)].numpy()

    return _in_parts(some)


@torch.no_grad()
def candidate_values(
    trained: Trained, reader: Reader, sessions: Sessions, candidates: Candidates
) -> np.ndarray:
    """f of each candidate by itself, the mean of the twin critics, `[S, 25]`: what the slate's
    value is the mean of, but for what a slate-level critic adds."""
    gamma = beliefs(reader.column_worth, sessions)
    return _valued(trained, reader, sessions, candidates, gamma)[1].numpy()


def _valued(
    trained: Trained, reader: Reader, sessions: Sessions, candidates: Candidates, gamma: Tensor
) -> tuple[Slates, Tensor]:
    """Texts, and f `[S, 25]`."""
    history = reader.history(sessions, gamma)
    texts = slates_of(
        reader, trained.prospects, sessions, candidates.member[:, None],
        candidates.wording[:, None], [TURNS - 1 - sessions.turns],
    )  # fmt: skip
    each = [c.items(c.encoder(history)[:, -1:], texts)[:, 0] for c in trained.critics]
    return texts, torch.stack(each).mean(0)


def _in_parts(agent: Agent) -> Agent:
    """Some sessions at a time, for the sake of memory."""

    def in_parts(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        parts = [slice(b, b + AT_ONCE) for b in range(0, len(sessions.session), AT_ONCE)]
        return np.concatenate([
            agent(sessions.select(p), Candidates(candidates.member[p], candidates.wording[p]))
            for p in parts
        ])  # fmt: skip

    return in_parts


def _explore(seed: int, sessions: Sessions) -> np.ndarray:
    """Standard Gumbel noise for each of the 25 candidates, `[S, 25]`."""
    return gumbels(seed, "explore", sessions.occasion, len(CATEGORY))


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
