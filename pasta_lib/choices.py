"""Choice observations by person: the one data structure that everything else speaks.

A *choice observation* is `L` alternatives, each a set of up to `M` items (one product, four images
of a column), with a target over the alternatives: whom a *person* chose, or how they would share
one vote. Items are rows of a table of features or embeddings, so that an image that appears in a
thousand observations is stored once.

Observations may have fewer than `L` alternatives and alternatives fewer than `M` items: item -1 is
padding. A person's observations are contiguous and keep their order; people keep the order in
which they first appear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor


class BadData(ValueError):
    """The data cannot be used as they are; the message says where, and how to mend them."""


@dataclass(frozen=True)
class ChoiceData:
    """N choice observations made by U people.

    `items`      long [N, L, M], rows of `table`; -1 pads.
    `table`      float [V, D], the features of each item.
    `target`     float64 [N, L], each row sums to 1; 0 on padded alternatives.
    `weight`     float64 [N], how many times an observation counts; >= 0.
    `person`     long [N], 0 … U-1, non-decreasing.
    `person_ids` array [U], the people's own names, in the order of `person`.

    Where they are not None:
    `context`       long [N], row of `context_table`: the prompt under which items are judged;
    `context_table` float [C, D'];
    `tie`           float64 [N], the share of the vote for "all the same", an alternative beside the
                    L; target and tie sum to 1;
    `rating`        float64 [N], a rating of the one alternative that there is (L = 1), no choice.

    Memory: 8 (N L M + V D + N L) bytes and a little. Build one with `from_arrays` or `from_long`,
    which check their input; the constructor itself checks nothing.
    """

    items: Tensor
    table: Tensor
    target: Tensor
    weight: Tensor
    person: Tensor
    person_ids: np.ndarray
    context: Tensor | None = None
    context_table: Tensor | None = None
    tie: Tensor | None = None
    rating: Tensor | None = None

    @classmethod
    def from_arrays(
        cls,
        features: Tensor | np.ndarray | None = None,
        *,
        person: Sequence | np.ndarray | Tensor,
        target: Tensor | np.ndarray | None = None,
        items: Tensor | np.ndarray | None = None,
        table: Tensor | np.ndarray | None = None,
        weight: Tensor | np.ndarray | None = None,
        people: Sequence | None = None,
        context: Tensor | np.ndarray | None = None,
        context_table: Tensor | np.ndarray | None = None,
        tie: Tensor | np.ndarray | None = None,
        rating: Tensor | np.ndarray | None = None,
    ) -> ChoiceData:
        """From padded arrays.

        Give either `features` [N, L, D] or [N, L, M, D], where an item whose features are all NaN
        is padding, or `items` [N, L] or [N, L, M] with -1 for padding, and their `table` [V, D].
        `target` is the chosen alternative [N] (whole numbers) or a share for each [N, L];
        `person` [N] is any label; `people`, if given, lists everybody who should be there.
        `context` [N] are rows of `context_table` [C, D']; `tie` [N] is what is left of the vote;
        with `rating` [N] there is one alternative and no target.

        Raises `BadData`, naming the first observation at fault, for: shapes that do not fit, NaN or
        infinite features, an id outside the table, fewer than two alternatives (of a rating: other
        than one), a target that is negative, does not sum to 1 or lies on padding, a negative
        weight, a rating that is not finite, a person of `people` without an observation.
        """
        if (features is None) == (items is None) or (items is None) != (table is None):
            raise BadData("Give either `features`, or `items` with the `table` that they index.")
        if features is not None:
            items, table = _items_of_features(_tensor(features))
        items, table = _as_tensor(items), _tensor(table)
        if items.is_floating_point() or items.dtype == torch.bool:
            raise BadData(f"`items` must be whole numbers (rows of `table`), not {items.dtype}.")
        if items.ndim == 2:
            items = items[..., None]
        if items.ndim != 3 or table.ndim != 2:
            raise BadData(
                f"`items` must be [N, L] or [N, L, M] and `table` [V, D]; "
                f"got {list(items.shape)} and {list(table.shape)}."
            )
        n, width = items.shape[:2]
        person = np.asarray(person)
        if len(person) != n:
            raise BadData(f"{n} observations, but `person` has {len(person)} entries.")
        if n == 0:
            raise BadData("There is no observation at all.")
        if pd.isna(person).any():
            raise BadData(
                f"Observation {int(pd.isna(person).argmax())} has no person: `person` is missing."
            )
        number, person_ids = pd.factorize(person)  # numbered in order of appearance
        if people is not None:
            absent = pd.Index(people).difference(person_ids, sort=False)
            if len(absent):
                raise BadData(
                    f"Person '{absent[0]}' has no observation ({len(absent)} such people): "
                    "leave them out of `people`, or add what they chose."
                )
        if (rating is None) == (target is None):
            raise BadData("Give either `target` or `rating`.")
        if rating is None:
            target = _target(_as_tensor(target), n, width).double()
        else:
            target = torch.ones(n, width, dtype=torch.float64)
        if (context is None) != (context_table is None):
            raise BadData("Give `context` together with the `context_table` that it indexes.")
        further = {"context": context, "tie": tie, "rating": rating}
        further = {k: _as_tensor(v) for k, v in further.items() if v is not None}
        for name, values in further.items():
            if values.shape != (n,):
                raise BadData(f"`{name}` must be [{n}], one for each observation.")
        weight = torch.ones(n) if weight is None else _tensor(weight)
        if weight.shape != (n,):
            raise BadData(f"`weight` must be [{n}], one for each observation.")
        order = torch.as_tensor(np.argsort(number, kind="stable"))
        data = cls(
            items=items.long()[order],
            table=table,
            target=target[order],
            weight=weight.double()[order],
            person=torch.as_tensor(number)[order],
            person_ids=np.asarray(person_ids),
            context_table=None if context_table is None else _tensor(context_table),
            **{k: (v if k == "context" else v.double())[order] for k, v in further.items()},
        )
        _check(data, order)
        return data

    @classmethod
    def from_long(
        cls,
        frame: pd.DataFrame,
        *,
        person: str,
        observation: str,
        chosen: str,
        features: Sequence[str],
        weight: str | None = None,
        source: str = "the table",
        first_row: int = 0,
    ) -> ChoiceData:
        """From a table with one row for each alternative, an observation's rows in any place.

        `person`, `observation`, `chosen`, `features` and `weight` name columns; `chosen` is true in
        exactly one row of an observation. In errors a row is called by its position in `frame` plus
        `first_row`, in `source` (a file's name and 2 for its first line after the header, say).

        Raises `BadData`, naming row and column, for: a missing column, a value that is not a
        finite number, an observation with one alternative, with no or two chosen, or by two people.
        """
        wanted = [person, observation, chosen, *features, *([weight] if weight else [])]
        if missing := [name for name in wanted if name not in frame.columns]:
            raise BadData(
                f"{source} has no column {missing[0]!r}: expected {wanted}, "
                f"found {list(frame.columns)}. Rename or add the column."
            )

        if not len(frame):
            raise BadData(f"{source} has no rows: expected one for each alternative.")

        def refuse(bad: np.ndarray, column: str, what: str):
            if bad.any():
                row = int(bad.argmax())
                raise BadData(
                    f"{source}, row {row + first_row}, column {column!r}: {what} "
                    f"Found {frame[column].iloc[row]!r}; {int(bad.sum())} such rows. "
                    "Mend or remove them."
                )

        numbers = {}
        for name in [*features, *([weight] if weight else [])]:
            numbers[name] = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
            refuse(~np.isfinite(numbers[name]), name, "expected a finite number.")
        for name in (person, observation):
            refuse(frame[name].isna().to_numpy(), name, "expected a name or number.")
        picked = frame[chosen].map(_TRUTH).to_numpy(float)
        refuse(np.isnan(picked), chosen, "expected true or false (or 1 or 0).")

        number, _ = pd.factorize(frame[observation])
        first = np.unique(number, return_index=True)[1]  # an observation's first row
        people = frame[person].to_numpy()
        refuse(people != people[first][number], person, "an observation made by two people.")
        if weight:
            differs = numbers[weight] != numbers[weight][first][number]
            refuse(differs, weight, "one observation with two weights.")
        alternatives = np.bincount(number)
        refuse((alternatives < 2)[number], observation, "an observation with one alternative only.")
        for count, what in ((0, "no"), (2, "more than one")):
            taken = np.bincount(number, weights=picked)
            wrong = taken == 0 if count == 0 else taken >= 2
            refuse(wrong[number], chosen, f"an observation with {what} chosen alternative.")

        order = np.argsort(number, kind="stable")
        start = np.concatenate([[0], np.cumsum(alternatives)[:-1]])
        place = np.empty(len(frame), dtype=int)  # of a row among its observation's rows
        place[order] = np.arange(len(frame)) - np.repeat(start, alternatives)
        items = np.full((len(alternatives), alternatives.max()), -1)
        items[number, place] = np.arange(len(frame))
        target = np.zeros(items.shape)
        target[number, place] = picked
        return cls.from_arrays(
            items=items,
            table=np.stack([numbers[name] for name in features], axis=1),
            target=target,
            person=people[first],
            weight=None if weight is None else numbers[weight][first],
        )

    @property
    def mask(self) -> Tensor:
        """bool [N, L, M]: which items are there."""
        return self.items >= 0

    @property
    def parts(self) -> tuple[ChoiceData, ...]:
        """Itself alone, as a `Panel` has several."""
        return (self,)

    @property
    def n_observations(self) -> int:
        return len(self.items)

    @property
    def n_people(self) -> int:
        return len(self.person_ids)

    @property
    def first(self) -> Tensor:
        """long [U + 1]: person u's observations are `first[u]` up to `first[u + 1]`."""
        counts = torch.bincount(self.person, minlength=self.n_people)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def features(self) -> Tensor:
        """float [N, L, M, D]: the items' rows of the table; padding gets row 0's."""
        return self.table[self.items.clamp(min=0)]

    def pooled(self) -> ChoiceData:
        """The same observations with each alternative's items replaced by their mean (M = 1).

        A utility that is linear in the features cannot tell the difference. In float64.
        """
        there = self.mask.double()
        total = (self.features().double() * there[..., None]).sum(2)
        mean = total / there.sum(2).clamp(min=1)[..., None]
        n, width, d = mean.shape
        items = torch.arange(n * width).reshape(n, width, 1)
        items = torch.where(self.mask.any(2, keepdim=True), items, -1)
        return replace(self, items=items, table=mean.reshape(n * width, d))

    def select(self, observations: Tensor | np.ndarray) -> ChoiceData:
        """Only some observations: a boolean mask [N] or positions in increasing order.

        People who have none left are left out.
        """
        keep = torch.as_tensor(observations)
        if (self.person[keep].diff() < 0).any():
            raise BadData("Positions must increase: a person's observations stay together.")
        number, left = np.unique(self.person[keep].numpy(), return_inverse=True)
        return replace(
            self,
            items=self.items[keep],
            target=self.target[keep],
            weight=self.weight[keep],
            person=torch.as_tensor(left),
            person_ids=self.person_ids[number],
            **{
                name: getattr(self, name)[keep]
                for name in ("context", "tie", "rating")
                if getattr(self, name) is not None
            },
        )

    def select_people(self, people: Tensor | np.ndarray) -> ChoiceData:
        """Only some people, by a boolean mask [U] or by their numbers, with all they chose."""
        member = torch.zeros(self.n_people, dtype=torch.bool)
        member[torch.as_tensor(people)] = True
        return self.select(member[self.person])

    def blocks(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Cut into runs of whole people with about `size` observations each.

        Yields (observations, people) as slices; a person with more than `size` is a run alone.
        """
        first = self.first
        for people in runs(first, size):
            yield slice(int(first[people.start]), int(first[people.stop])), people


def runs(first: Tensor, size: int) -> Iterator[slice]:
    """Runs of people with about `size` observations, from how many came before each, [U + 1]."""
    u, n_people = 0, len(first) - 1
    while u < n_people:
        end = int(torch.searchsorted(first, first[u] + size, right=True)) - 1
        end = min(max(end, u + 1), n_people)
        yield slice(u, end)
        u = end


_TRUTH = {True: 1, False: 0} | {  # 1 and 1.0 hash like True
    word: value
    for value, words in ((1, "1 1.0 true True TRUE"), (0, "0 0.0 false False FALSE"))
    for word in words.split()
}


def _as_tensor(values) -> Tensor:
    return values if isinstance(values, Tensor) else torch.as_tensor(np.require(values, None, "W"))


def _tensor(values) -> Tensor:
    values = _as_tensor(values)
    return values if values.is_floating_point() else values.double()


def _items_of_features(features: Tensor) -> tuple[Tensor, Tensor]:
    """Every item of [N, L, (M,) D] becomes a row of a table; all-NaN items become padding."""
    if features.ndim not in (3, 4):
        raise BadData(f"`features` must be [N, L, D] or [N, L, M, D], got {list(features.shape)}.")
    if features.ndim == 3:
        features = features[:, :, None]
    there = ~features.isnan().all(-1)
    bad = ~features.isfinite().all(-1) & there
    if bad.any():
        n, alternative, item = (int(i) for i in bad.nonzero()[0])
        raise BadData(
            f"Observation {n}, alternative {alternative}, item {item} has NaN or infinite features "
            f"({int(bad.sum())} such items). An item that is not there is NaN in all of them."
        )
    items = torch.where(there, torch.arange(there.numel()).reshape(there.shape), -1)
    return items, features.reshape(there.numel(), -1).nan_to_num(0.0)


def _target(target: Tensor, n: int, width: int) -> Tensor:
    if target.shape == (n,) and not target.is_floating_point():
        outside = (target < 0) | (target >= width)
        if outside.any():
            at = int(outside.nonzero()[0])
            raise BadData(
                f"Observation {at}: alternative {int(target[at])} was chosen, "
                f"but alternatives are numbered 0 to {width - 1}."
            )
        return torch.nn.functional.one_hot(target.long(), width)
    if target.shape != (n, width):
        raise BadData(
            f"`target` must be whole numbers [{n}] or shares [{n}, {width}]; "
            f"got {target.dtype} {list(target.shape)}."
        )
    return target


def _check(data: ChoiceData, order: Tensor) -> None:
    """Refuse what no model could use; `order` gives back the caller's numbering."""

    def refuse(bad: Tensor, what: str, mend: str):
        if bad.any():
            n = int(bad.nonzero()[0, 0])
            raise BadData(
                f"Observation {int(order[n])} (person '{data.person_ids[data.person[n]]}'): {what} "
                f"({int(bad.sum())} such observations). {mend}"
            )

    there = data.mask.any(2)
    outside = (data.items < -1) | (data.items >= len(data.table))
    refuse(outside.any(2).any(1), "an item id outside the table.", "Use rows of it, or -1.")
    bad_rows = ~data.table.isfinite().all(1)
    refuse(
        (bad_rows[data.items.clamp(min=0)] & data.mask).any(2).any(1),
        "NaN or infinite features.",
        "Mend the item's row, or mark it as padding (-1).",
    )
    if data.rating is None:
        refuse(there.sum(1) < 2, "fewer than two alternatives.", "Leave such observations out.")
    else:
        refuse(there.sum(1) != 1, "a rating of other than one alternative.", "Rate one at a time.")
        refuse(~data.rating.isfinite(), "a rating that is no number.", "Leave it out.")
    if data.context is not None:
        off = (data.context < 0) | (data.context >= len(data.context_table))
        refuse(off, "a context outside its table.", "Use rows of `context_table`.")
    target = data.target
    shares = target if data.tie is None else torch.cat([target, data.tie[:, None]], 1)
    refuse(
        ~shares.isfinite().all(1) | (shares < 0).any(1),
        "a negative or missing target.",
        "Shares are between 0 and 1.",
    )
    refuse(
        (shares.sum(1) - 1).abs() > 1e-6,
        "its target does not sum to 1.",
        "Divide by the sum, and carry the total in `weight`.",
    )
    refuse(
        (target * ~there).any(1),
        "its target lies on an alternative that is not there.",
        "Check the padding.",
    )
    refuse(
        ~data.weight.isfinite() | (data.weight < 0),
        "a weight that is negative or not finite.",
        "Weights count observations: 0 or more.",
    )
