"""Bounds that no agent can know: who chooses for synthetic people by their own true taste. Ours.

`peeking_oracle` also looks at the pictures before they are drawn. `oracle` reads texts alone: what
pictures of a text show, on average, it has from a regression of the eye's readings on what texts
call for. It knows no one picture, and not which two of four will be best.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pasta_lib.baselines import best_slate
from pasta_lib.candidates import Candidates
from pasta_lib.sessions import Agent, Sessions
from pasta_lib.world.people import (
    CATEGORY_OF,
    PART,
    Population,
    asked,
    each_subject,
)
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
    A regression on the mean of four pictures. Half a minute.
    """
    read = torch.as_tensor(readings_and_products(x).mean(1))
    read = read.repeat_interleave(features.shape[1], 0)
    inputs = features.flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(inputs.shape[1], 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(),
            nn.Linear(256, read.shape[1]),
        )  # fmt: skip
    steps = 1500
    adam = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (2048,), generator=generator)
        loss = (net(inputs[rows]) - read[rows]).square().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        return net(features).numpy()


def readings_and_products(x: np.ndarray) -> np.ndarray:
    """x `[..., 88]`, and the products of each category of subjects with each style or background
    (see `people`), `[..., 200]`."""
    category = x[..., PART["subject"]] @ np.eye(8, dtype=np.float32)[CATEGORY_OF]
    setting = np.concatenate([x[..., PART["style"]], x[..., PART["background"]]], -1)
    both = category[..., :, None] * setting[..., None, :]
    return np.concatenate([x, both.reshape(*x.shape[:-1], -1)], -1)
