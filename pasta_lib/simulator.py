"""Simulated users: the fitted user model plays people, thousands of sessions at once.

A simulated user is one of the K types: they pick a column by the type's choice probabilities
(PASTA), and say better, same or worse by its two-alternative choice with a tie (ours). They may
deviate from their type in what they like to see (`deviating`; ours), as people do (`deviations`).
What a person sees in a column beyond their type stays when it comes back, so the column that was
picked last is worth a little more (`loyalty`; ours; it is fitted to types alone, so that of users
who deviate it counts a little twice). They always pick: "none of these" is no choice observation,
so the model knows nothing of it. Pictures are the image bank's, so that the worth of every column
can be worked out beforehand (`ColumnWorth`), and a session costs a few look-ups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from tqdm.auto import tqdm

from pasta_lib.choices import BadData
from pasta_lib.deviations import Spread
from pasta_lib.seeds import gumbels, normals, uniforms
from pasta_lib.sessions import UNJUDGED, Sessions
from pasta_lib.user_model import (
    choice_log_probabilities,
    column_utility,
    posterior,
    share_of_items,
    sum_by_person,
)
from pasta_lib.user_types import UserTypes


@dataclass(frozen=True)
class ColumnWorth:
    """R_k of the column that the bank holds for every member, under each of P initial prompts.

    `table` float32 `[P, members, K]`; `row` int64 `[members]`, each initial prompt's place in it,
    -1 for a member that is none; `log_prior` `[K]`; `log_tie`, of judgements; `loyalty`, what is
    added to the column that was picked last, when it comes again, in a pick.
    """

    table: Tensor
    row: np.ndarray
    log_prior: Tensor
    log_tie: Tensor
    loyalty: float = 0.0

    @property
    def n_types(self) -> int:
        return self.table.shape[2]

    def of(self, initial: np.ndarray, member: np.ndarray) -> Tensor:
        """R_k of columns of members `[S, ...]` under `initial` `[S]`: `[S, ..., K]`. Raises
        `BadData` for a prompt that no session was foreseen to begin with."""
        row = self.row[initial]
        if (row < 0).any():
            raise BadData(
                f"Session {int((row < 0).argmax())} begins with member "
                f"{initial[(row < 0).argmax()]}, for which no column's worth was worked out: give "
                "its prompt to column_worth()."
            )
        row = torch.as_tensor(row).reshape(-1, *[1] * (member.ndim - 1))
        return self.table[row, torch.as_tensor(member)]


def column_worth(
    types: UserTypes,
    pictures: Tensor,
    prompts: Tensor,
    initial: np.ndarray,
    *,
    at_once: int = 16,
    progress: bool = True,
) -> ColumnWorth:
    """What every member's column is worth to every type: of `pictures` `[members, M, D]` under
    `prompts` `[P, D']`, which are the members `initial` `[P]`.

    Time and memory: P · members · M scores, `at_once` prompts at a time; the result is P · members
    · K numbers (115 MB for 400 prompts, 9,016 members and 8 types).
    """
    members, out = len(pictures), []
    for begin in tqdm(range(0, len(prompts), at_once), disable=not progress, unit="batch"):
        out.append(utilities_of_columns(types, pictures, prompts[begin : begin + at_once]))
    row = np.full(members, -1)
    row[initial] = np.arange(len(initial))
    return ColumnWorth(torch.cat(out), row, types.log_prior, types.utility.log_tie.detach())


@torch.no_grad()
def utilities_of_columns(types: UserTypes, pictures: Tensor, prompts: Tensor) -> Tensor:
    """R_k `[P, N, K]` of columns of pictures `[N, M, D]` under prompts `[P, D']`."""
    n, images, _ = pictures.shape
    items, mask = pictures.flatten(0, 1)[None], torch.ones(n, 1, images, dtype=torch.bool)
    share = getattr(types.utility, "tenth_log_share", None)
    if share is not None:
        share = share_of_items(share)
    scores = types.utility(items, prompts[:, None])[..., types.order]
    scores = scores.unflatten(1, (n, 1, images)).permute(2, 1, 3, 0, 4)
    utility = column_utility(scores, mask.transpose(0, 1), share)[0]
    return utility.transpose(0, 1).contiguous()


def fit_to_sessions(worth: ColumnWorth, sessions: Sessions) -> ColumnWorth:
    """The same, with the tie threshold and the loyalty under which these sessions are likeliest.

    The user model learns one threshold from all its data; people say "same" of two picks of a
    session more readily than of a pair of pictures. Two numbers, by Nelder and Mead's method.
    """

    def loss(numbers: np.ndarray) -> float:
        tried = replace(worth, log_tie=torch.tensor(numbers[0]).float(), loyalty=float(numbers[1]))
        return -float(posterior_of_people(tried, sessions)[1].mean())

    start = np.array([float(worth.log_tie), worth.loyalty])
    simplex = start + np.array([[0, 0], [0.3, 0], [0, 0.3]])
    options = {"xatol": 2e-3, "fatol": 1e-7, "initial_simplex": simplex}
    log_tie, loyalty = minimize(loss, start, method="Nelder-Mead", options=options).x
    return replace(worth, log_tie=torch.tensor(log_tie).float(), loyalty=float(loyalty))


def expected_utility(worth: ColumnWorth, sessions: Sessions) -> np.ndarray:
    """Of every slate `[S, T]`, the mean of its columns: its utility to who sat there, as the
    posterior from all of the person's sessions sees them. The reward of agents."""
    gamma = posterior_of_people(worth, sessions)[0].float()
    columns = worth.of(sessions.initial, sessions.member)
    return torch.einsum("stlk,sk->stl", columns, gamma).mean(2).numpy()


def posterior_of_people(worth: ColumnWorth, sessions: Sessions) -> tuple[Tensor, Tensor]:
    """γ of each session's person `[S, K]`, from everything they did; people's evidence `[U]`."""
    each = log_likelihoods(worth, sessions).sum(1)
    ids, person = np.unique(sessions.person, return_inverse=True)
    person = torch.as_tensor(person)
    gamma, evidence = posterior(worth.log_prior, sum_by_person(each, person, len(ids)))
    return gamma[person], evidence


def beliefs(worth: ColumnWorth, sessions: Sessions) -> Tensor:
    """γ before each turn and now, float32 `[S, T + 1, K]`: the posterior over types, from the picks
    and judgements of each session so far. PASTA's E-step; a person begins as the prior."""
    total = log_likelihoods(worth, sessions).cumsum(1)
    return posterior(worth.log_prior, nn.functional.pad(total, (0, 0, 1, 0)))[0].float()


def pick_utilities(worth: ColumnWorth, sessions: Sessions) -> Tensor:
    """What columns are worth when one is picked, loyalty included: float64 `[S, T, L, K]`."""
    again = torch.as_tensor(sessions.member == sessions.standing()[:, :-1, None])
    utility = worth.of(sessions.initial, sessions.member).double()
    return utility + worth.loyalty * again[..., None]


def log_likelihoods(worth: ColumnWorth, sessions: Sessions) -> Tensor:
    """log P(pick and judgement | k) of each turn, float64 `[S, T, K]`."""
    chosen, stood = torch.as_tensor(sessions.chosen), sessions.standing()
    index = chosen.clamp(min=0)[..., None, None].expand(-1, -1, 1, worth.n_types)
    seen = pick_utilities(worth, sessions).permute(2, 0, 1, 3)
    picks = choice_log_probabilities(seen).permute(1, 2, 0, 3)
    pick = picks.gather(2, index)[:, :, 0].masked_fill((chosen < 0)[..., None], 0.0)
    value = worth.of(sessions.initial, stood.clip(0)).double()  # of the last pick, [S, T + 1, K]
    both = torch.stack([value[:, 1:], value[:, :-1]])
    judgements = choice_log_probabilities(both, worth.log_tie.double())  # better, worse, same
    versus = torch.as_tensor(sessions.versus_last)
    which = torch.where(versus == 1, 0, torch.where(versus == -1, 1, 2))
    judgement = judgements.gather(0, which[None, ..., None].expand(1, -1, -1, worth.n_types))[0]
    before = torch.as_tensor(stood[:, :-1] >= 0)  # without a pick, now or before: nothing is judged
    judged = (versus != UNJUDGED) & (chosen >= 0) & before
    return pick + judgement.masked_fill(~judged[..., None], 0.0)


@dataclass(frozen=True)
class SimulatedUsers:
    """People of a user model, who sit in sessions (see `sessions.play`).

    `kind` int `[people]`: each one's type. Of users who deviate from it, `own` float32
    `[people, C]`: what they like besides, of what columns show, `shown` float32 `[members, C]`.
    """

    worth: ColumnWorth
    kind: np.ndarray
    seed: int
    own: Tensor | None = None
    shown: Tensor | None = None

    def values(self, sessions: Sessions, member: np.ndarray) -> np.ndarray:
        """R of each column of slates `[S, L]` for the one who sits there, `[S, L]`."""
        kind = torch.as_tensor(self.kind[sessions.person])[:, None, None]
        utility = self.worth.of(sessions.initial, member)
        utility = utility.gather(2, kind.expand(*member.shape, 1))[..., 0]
        if self.own is not None:
            shown = self.shown[torch.as_tensor(member)]
            utility = utility + torch.einsum("slc,sc->sl", shown, self.own[sessions.person])
        return utility.numpy()

    def choose(self, sessions: Sessions, member: np.ndarray, values: np.ndarray) -> np.ndarray:
        """A column for each session, `[S]`; never NONE."""
        again = member == sessions.standing()[:, -1:]
        noise = self._noise("pick", sessions, values.shape[1])
        return (values + self.worth.loyalty * again + noise).argmax(1)

    def judge(self, sessions: Sessions, value: np.ndarray, last: np.ndarray) -> np.ndarray:
        """1 better, 0 same, -1 worse, `[S]`: the new pick's value against the last one's."""
        same = (value + last) / 2 + float(self.worth.log_tie)
        logits = np.stack([last, same, value], 1) + self._noise("judgement", sessions, 3)
        return logits.argmax(1) - 1

    def _noise(self, purpose: str, sessions: Sessions, n: int) -> np.ndarray:
        return gumbels(self.seed, f"simulated {purpose}", sessions.occasion, n)


def draw_users(worth: ColumnWorth, n: int, seed: int) -> SimulatedUsers:
    """`n` people, their types drawn from the model's prior; the first do not hang on how many."""
    chance = uniforms(seed, "simulated type", [np.arange(n)], 1)[:, 0]
    kind = np.searchsorted(worth.log_prior.exp().cumsum(0).numpy(), chance)
    return SimulatedUsers(worth, kind.clip(max=worth.n_types - 1), seed)


def deviating(users: SimulatedUsers, pictures: Tensor, spread: Spread) -> SimulatedUsers:
    """The same, each with deviations from their type in what they like to see, drawn from `spread`:
    in the mean of what a column's `pictures` `[members, M, D]` show. (In how much it matters that
    pictures are what was asked for they are as their type: that would take another table.)"""
    drawn = normals(users.seed, "simulated deviation", [np.arange(len(users.kind))],
                    len(spread.tastes))  # fmt: skip
    own = torch.as_tensor(drawn, dtype=torch.float32) * spread.tastes.float()
    return replace(users, own=own, shown=pictures[..., spread.concepts].mean(1))
