"""Several kinds of observation made by the same people: picks, judgements, ratings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pasta_lib.choices import ChoiceData, runs


@dataclass(frozen=True)
class Panel:
    """`parts` number their U people alike; a person need not be in all of them.

    It answers what EM and `UserTypes` ask of a `ChoiceData`, so either can stand for "the data".
    """

    parts: tuple[ChoiceData, ...]

    @classmethod
    def of(cls, *parts: ChoiceData) -> Panel:
        """Number the people of all parts together, in order of appearance."""
        everybody = pd.unique(np.concatenate([part.person_ids for part in parts]))
        return cls(tuple(_renumbered(part, everybody) for part in parts))

    @property
    def person_ids(self) -> np.ndarray:
        return self.parts[0].person_ids

    @property
    def n_people(self) -> int:
        return len(self.person_ids)

    @property
    def n_observations(self) -> int:
        return sum(part.n_observations for part in self.parts)

    def blocks(self, size: int) -> Iterator[tuple[tuple[slice, ...], slice]]:
        """Runs of people with about `size` observations in all: (each part's rows, people)."""
        first = torch.stack([part.first for part in self.parts])
        for people in runs(first.sum(0), size):
            bounds = first[:, [people.start, people.stop]].tolist()
            yield tuple(slice(*rows) for rows in bounds), people

    def select_people(self, people: Tensor | np.ndarray) -> Panel:
        """Only some people, by a boolean mask [U] or by their numbers, with all they did."""
        member = torch.zeros(self.n_people, dtype=torch.bool)
        member[torch.as_tensor(people)] = True
        left = tuple(part.select(member[part.person]) for part in self.parts)
        return Panel(tuple(_renumbered(part, self.person_ids[member.numpy()]) for part in left))


def _renumbered(part: ChoiceData, everybody: np.ndarray) -> ChoiceData:
    """The same observations, sorted by person in the order of `everybody`."""
    number = torch.as_tensor(pd.Index(everybody).get_indexer(part.person_ids))[part.person]
    order = number.argsort(stable=True)
    rows = ("items", "target", "weight", "context", "tie", "rating")
    moved = {k: getattr(part, k)[order] for k in rows if getattr(part, k) is not None}
    return replace(part, person=number[order], person_ids=everybody, **moved)
