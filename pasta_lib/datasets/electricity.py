"""The electricity panel: 361 households, 4,308 choices among four supply plans.

Huber and Train (2001); see data/README.md for where the file comes from and its licence.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pandas as pd

from pasta_lib.choices import BadData, ChoiceData

ATTRIBUTES = {
    "pf": "price, cents per kWh",
    "cl": "contract length, years",
    "loc": "local company",
    "wk": "well-known company",
    "tod": "time-of-day rates",
    "seas": "seasonal rates",
}

DAMAGE = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    UnicodeDecodeError,
    pd.errors.EmptyDataError,
    pd.errors.ParserError,
)


def read_electricity(path: str | Path) -> ChoiceData:
    """Read the panel, one row for each alternative: `choice, id, alt, pf … seas, chid`.

    Returns 4,308 observations [L = 4, M = 1, D = 6] of 361 people, features in the order of
    `ATTRIBUTES`, in float64. Raises `FileNotFoundError`; `BadData`, naming file, row and column,
    for a damaged archive or for rows that are no choice.
    """
    path = Path(path)
    try:
        frame = pd.read_csv(path)
    except DAMAGE as error:
        raise BadData(
            f"{path.name} cannot be read to its end ({error}): the file is damaged or cut short. "
            "Restore it with `git checkout -- data/electricity.csv.gz`."
        ) from error
    data = ChoiceData.from_long(
        frame,
        person="id",
        observation="chid",
        chosen="choice",
        features=list(ATTRIBUTES),
        source=path.name,
        first_row=2,
    )
    short = (~data.mask).any(2).any(1)
    if data.items.shape[1] != 4 or short.any():
        raise BadData(
            f"{path.name}: every choice is among four plans, but here are {int(short.sum())} among "
            "fewer, or some among more: the file is damaged or cut short."
        )
    return data
