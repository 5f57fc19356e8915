"""How well hidden types are found again, where the truth is known: for synthetic people."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import adjusted_rand_score

from pasta_lib.datasets.pasta import Sat
from pasta_lib.panel import Panel
from pasta_lib.user_types import UserTypes

SEEN = (1, 2, 3, 5, 7, 10, 15, 20, 25)  # choices after which types are compared
MANY = 10  # choices from which on a person counts in the index over all


def recovery(types: UserTypes, sat: Sat, truth: dict[str, int]) -> dict:
    """The adjusted Rand index (Hubert and Arabie 1985) of people's likeliest type and true one.

    `adjusted_rand_index`: from all that they did, of people with at least `MANY` choices;
    `adjusted_rand_index_after`: from what they did until the choice after the n-th, of people with
    at least n, by n in `SEEN`. 1 is perfect, 0 what chance gives. Of fewer than two such people
    nothing can be said: NaN, or no entry. `truth`: by person id.
    """
    picks = sat.picks
    before, _ = types.posterior_before([picks, sat.judgements], sat.when)
    panel = Panel.of(picks, sat.judgements)
    in_the_end = types.posterior(panel).argmax(1).numpy()
    true = np.array([truth[person] for person in panel.person_ids])
    first = picks.first.numpy()
    choices = np.zeros(len(true), int)
    choices[: picks.n_people] = np.diff(first)  # a panel begins with the people of its first part
    likeliest = before.argmax(1).numpy()
    after = {}
    for n in SEEN:
        found = in_the_end.copy()
        goes_on = np.flatnonzero(choices > n)
        found[goes_on] = likeliest[first[goes_on] + n]
        enough = choices >= n
        if enough.sum() > 1:
            after[n] = adjusted_rand_score(true[enough], found[enough])
    many = choices >= MANY
    index = adjusted_rand_score(true[many], in_the_end[many]) if many.sum() > 1 else float("nan")
    return {
        "adjusted_rand_index": index,
        "adjusted_rand_index_after": after,
        "people": int(many.sum()),
    }
