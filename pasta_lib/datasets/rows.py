"""What every reader of a data set gives: rows of observations, and an account of what it refused.

A picture is named by its *reference*: the bytes of its file, or a name that says where it is to be
found. `to_choices` turns rows into `ChoiceData` once references and prompts have vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pasta_lib.choices import BadData, ChoiceData


@dataclass
class Account:
    """How many rows were read and used, and why the others were not."""

    read: int = 0
    used: int = 0
    reasons: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # reason → file and row of its first case

    def sift(self, faults: dict[str, np.ndarray], source: str, row: np.ndarray) -> np.ndarray:
        """Which of a batch's rows are good, bool `[N]`; the others are counted under their first
        fault. `faults`: reason → bool `[N]`; `row` `[N]`: their places in the file `source`."""
        good = ~np.zeros_like(next(iter(faults.values())))
        for reason, bad in faults.items():
            bad = bad & good
            if bad.any():
                self.reasons[reason] += int(bad.sum())
                self.first.setdefault(reason, f"{source}, row {row[bad.argmax()]}")
            good &= ~bad
        self.read += len(good)
        self.used += int(good.sum())
        return good

    def take_back(self, n: int) -> None:
        """Forget `n` good rows, to sift them once more."""
        self.read -= n
        self.used -= n

    def __str__(self) -> str:
        lines = [f"{self.used:,} of {self.read:,} rows used"]
        lines += [f"{n:,} refused: {why} (first: {self.first[why]})"
                  for why, n in self.reasons.most_common()]  # fmt: skip
        return "\n".join(lines)


@dataclass(frozen=True)
class Rows:
    """N observations of one kind.

    `source`: the file, `row` `[N]`: their places in it; `person`, `prompt` str objects `[N]`;
    `images` references, objects `[N, L, M]`; `target` float
    `[N, L]`, or `rating` float `[N]`; `tie` float `[N]` as in `ChoiceData`; `weight` `[N]`.
    """

    source: str
    row: np.ndarray
    person: np.ndarray
    prompt: np.ndarray
    images: np.ndarray
    target: np.ndarray | None = None
    rating: np.ndarray | None = None
    tie: np.ndarray | None = None
    weight: np.ndarray | None = None


def open_parquet(path: Path) -> pq.ParquetFile:
    """Raises `BadData` for a file that is none, or is cut short."""
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise BadData(
            f"{path.name} is no whole parquet file ({error}): restore or download it again."
        ) from error


def whole_jpeg(content: object) -> bool:
    """Whether bytes begin and end as a JPEG file does; what lies between is decoded later."""
    return (
        isinstance(content, bytes)
        and content[:3] == b"\xff\xd8\xff"
        and content[-2:] == b"\xff\xd9"
    )


Vectors = Callable[[np.ndarray], np.ndarray]
"""Different references or texts `[V]` → their vectors `[V, D]`."""


def to_choices(rows: Rows, image_vectors: Vectors, text_vectors: Vectors) -> ChoiceData:
    """Rows as `ChoiceData`, every different picture and prompt a row of a table."""
    image, references = pd.factorize(rows.images.ravel())
    prompt, texts = pd.factorize(rows.prompt)
    return ChoiceData.from_arrays(
        items=image.reshape(rows.images.shape),
        table=image_vectors(references),
        context=prompt,
        context_table=text_vectors(texts),
        person=rows.person,
        target=rows.target,
        rating=rows.rating,
        tie=rows.tie,
        weight=rows.weight,
    )
