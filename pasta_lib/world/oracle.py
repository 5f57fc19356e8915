"""Bounds that no agent can know: who chooses for synthetic people by their own true taste. Ours.

`peeking_oracle` also looks at the pictures before they are drawn. `oracle` reads texts alone: what
pictures of a text show, on average, it has from a regression of the eye's readings on what texts
call for. It knows no one picture, and not which two of four will be best.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from pasta_lib.baselines import best_slate
from pasta_lib.candidates import Candidates
from pasta_lib.sessions import Agent, Sessions
from pasta_lib.world.people import Population, asked, category_and_setting, each_subject
from pasta_lib.world.raters import Crowd
from pasta_lib.world.reachable import reachable


def peeking_oracle(crowd: Crowd) -> Agent:
    """The four columns, at most one of a category, that the person would value most."""

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        return best_slate(crowd.values(sessions, candidates.member))

    return agent


def oracle(people: Population, shows: np.ndarray) -> Agent:
    """The texts whose pictures a person would value most, on average.

    `shows` `[members, wordings, 200]`: `expected_readings`.
    """

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        who, seen = sessions.person, shows[candidates.member, candidates.wording]
        faithful = people.faithfulness[who, None] * asked(reachable()[sessions.initial])
        taste = each_subject(people.taste[who]) + faithful
        taste = np.concatenate([taste, people.together[who].reshape(len(who), -1)], 1)
        return best_slate(np.einsum("scd,sd->sc", seen, taste))

    return agent


def expected_readings(features: Tensor, x: np.ndarray, seed: int = 0) -> np.ndarray:
    """What the eye will read off pictures of every wording, float32 `[members, wordings, 200]`.

    `features` `[members, wordings, F]` of texts; `x` `[members, 4, 88]`, `perceived` of the bank.
    A regression on the mean of four pictures. Ten seconds.
    """
    read = readings_and_products(x).mean(1).repeat(features.shape[1], 0)
    net = MLPRegressor(
        hidden_layer_sizes=(256, 256), batch_size=1024, max_iter=15, random_state=seed
    )
    inputs = features.flatten(0, 1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fifteen epochs are meant
        return net.fit(inputs, read).predict(inputs).reshape(*features.shape[:2], -1)


def readings_and_products(x: np.ndarray) -> np.ndarray:
    """x `[..., 88]`, and the products of each category of subjects with each style or background
    (see `people`), `[..., 200]`."""
    category, setting = category_and_setting(x)
    both = category[..., :, None] * setting[..., None, :]
    return np.concatenate([x, both.reshape(*x.shape[:-1], -1)], -1)
