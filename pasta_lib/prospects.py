"""What will follow a pick, learnt from what followed in logs. Ours.

    U_kn(p_0, p) ≈ mean utility to type k of the n slates that were shown after p was picked

What is picked becomes the prompt from which the next candidates are made, so a text is also worth
what it leads to. These are Monte-Carlo returns of whoever showed the slates, regressed like
`text_worth` on what texts call for. The critics of `iql` begin with them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pasta_lib.histories import History, Reader, Slates
from pasta_lib.sessions import NONE, TURNS, Sessions
from pasta_lib.simulator import posterior_of_people
from pasta_lib.text_worth import TextWorth, TextWorthConfig, fit_text_worth

TIMES = 8  # that each return is seen


def fit_prospects(
    sessions: Sessions, reader: Reader, *, seed: int, progress: bool = True
) -> TextWorth:
    """U, as a `TextWorth` of (T - 1) K outputs: n = 1 for all types, n = 2, ...

    From S whole sessions of T turns, each observed pick but the last ones. A person's slates count
    for type k by the posterior that all of their sessions give it. Memory: 2 S T² K numbers.
    """
    worth, turns = reader.column_worth, sessions.turns
    gamma = posterior_of_people(worth, sessions)[0].float()
    utility = torch.stack([
        worth.of(sessions.initial, sessions.member[:, t]).mean(1) for t in range(turns)
    ])  # fmt: skip
    count = torch.arange(1, turns)[:, None, None]
    later = utility[1:].flip(0).cumsum(0) / count  # of the last n slates, [T - 1, S, K]
    prompts, texts, follows, weights = [], [], [], []
    shown = sessions.member * reader.features.shape[1] + sessions.wording
    for n in range(1, turns):
        chosen = sessions.chosen[:, -1 - n]
        rows = np.flatnonzero(chosen != NONE)
        prompts.append(sessions.initial[rows] * reader.features.shape[1])
        texts.append(shown[rows, -1 - n, chosen[rows]])
        block = nn.functional.one_hot(torch.tensor(n - 1), turns - 1)[:, None]
        follows.append((block * later[n - 1, rows, None]).flatten(1))
        weights.append((block * gamma[rows, None]).flatten(1))
    prompts, texts = (torch.as_tensor(np.concatenate(part)) for part in (prompts, texts))
    config = TextWorthConfig()  # returns are noisy: each is seen few times, however few there are
    config = replace(config, batch=math.ceil(TIMES * len(texts) / config.steps))
    return fit_text_worth(
        prompts, texts, reader.features.flatten(0, 1), torch.cat(follows),
        weight=torch.cat(weights), seed=seed, config=config, progress=progress,
        said="what follows",
    )  # fmt: skip


@torch.no_grad()
def what_follows(
    prospects: TextWorth, reader: Reader, sessions: Sessions, text: Tensor, left: list[int]
) -> Tensor:
    """The utility to each type `[S, T, C, K]` of the slates that will follow, if a text is picked.

    `text` `[S, T, C, F]`, features of texts in T turns of these sessions, after each of which
    `left` slates follow, in all. Above what usually follows. Raises ValueError where fewer than
    none are left.
    """
    if min(left) < 0:
        raise ValueError(f"After these turns {left} slates follow: sessions are too long.")
    prompt = reader.features[torch.as_tensor(sessions.initial), 0][:, None, None]
    each = (prospects(prompt, text) - prospects.mean).unflatten(
        -1, (-1, reader.column_worth.n_types)
    )
    none = torch.zeros_like(each[:, 0, :, 0])
    return torch.stack([n * each[:, t, :, n - 1] if n else none for t, n in enumerate(left)], 1)


def slates_of(
    reader: Reader,
    prospects: TextWorth | None,
    sessions: Sessions,
    member: np.ndarray,
    wording: np.ndarray,
    left: list[int],
) -> Slates:
    """Texts `[S, T, C]` as a critic reads them; after each turn `left` slates follow."""
    slates = reader.slates(sessions, member, wording)
    if prospects is None:
        return replace(slates, follows=torch.zeros_like(slates.worth))
    follows = what_follows(prospects, reader, sessions, slates.text, left)
    return replace(slates, follows=follows)


def history_of(
    reader: Reader, prospects: TextWorth | None, sessions: Sessions, belief: Tensor
) -> History:
    """Sessions and their `beliefs` as V reads them. Before the first pick nothing is known of what
    will follow."""
    history = reader.history(sessions, belief)
    if prospects is None or not sessions.turns:
        return history
    return replace(history, follows=from_here(reader, prospects, sessions, belief))


def from_here(reader: Reader, prospects: TextWorth, sessions: Sessions, belief: Tensor) -> Tensor:
    """`History.follows` of sessions and their `beliefs`."""
    texts = reader.texts(*(part[:, 1:] for part in sessions.prompts()))[:, :, None]
    left = [TURNS - 1 - t for t in range(sessions.turns)]
    follows = what_follows(prospects, reader, sessions, texts, left)[:, :, 0]
    expected = (follows * belief[:, 1:]).sum(2)
    expected = expected.masked_fill(torch.as_tensor(sessions.last_pick()[:, 1:] < 0), 0.0)
    return nn.functional.pad(expected, (1, 0))
