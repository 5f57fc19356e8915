"""Simulacra Aesthetic Captions (Pressman et al. 2022, CC0): star ratings of single pictures.

One SQLite file (`sac_public_2022_06_29.sqlite`): generations(id, sid, method, prompt, verified),
images(id, gid, idx), paths(iid, path), ratings(sid, iid, rating, verified). `sid` names the rater.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from pasta_lib.choices import BadData
from pasta_lib.datasets.rows import Account, Rows

NEEDED = {
    "generations": ("id", "prompt"), "images": ("id", "gid"), "paths": ("iid", "path"),
    "ratings": ("sid", "iid", "rating"),
}  # fmt: skip
MIDDLE, SPREAD = 5.5, 2.6  # a rating 1 … 10 becomes (rating - middle) / spread


def read_sac(path: str | Path, account: Account, batch_size: int = 16_384) -> Iterator[Rows]:
    """Ratings, batch by batch: L = 1, M = 1; the rating of 1 … 10 centred and scaled (ours).

    Refused and counted: a rating outside 1 … 10 or missing, no rater, an empty or undecodable
    prompt, a picture without a path. Raises `BadData` for a file that is no database, or lacks a
    table or a column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        _check(database, path)
        query = """select r.rowid as row, r.sid, r.rating, g.prompt, p.path from ratings r
                   left join images i on i.id = r.iid left join generations g on g.id = i.gid
                   left join paths p on p.iid = i.id order by r.rowid"""
        for frame in pd.read_sql_query(query, database, chunksize=batch_size):
            faults = _faults(frame)
            good = account.sift(faults, path.name, frame["row"].to_numpy())
            kept = frame[good]
            if len(kept):
                yield Rows(
                    source=path.name,
                    row=kept["row"].to_numpy(),
                    person=kept["sid"].astype(str).to_numpy(object),
                    prompt=kept["prompt"].to_numpy(object),
                    images=kept[["path"]].to_numpy(object)[:, :, None],
                    rating=(kept["rating"].to_numpy(float) - MIDDLE) / SPREAD,
                )


def _check(database: sqlite3.Connection, path: Path) -> None:
    try:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
    except sqlite3.DatabaseError as error:
        raise BadData(f"{path.name} is no SQLite database ({error}): download it again.") from error
    for table, columns in NEEDED.items():
        if table not in tables:
            raise BadData(
                f"{path.name} has no table {table!r}: expected {list(NEEDED)}, found "
                f"{sorted(tables)}. Is it sac_public_2022_06_29.sqlite?"
            )
        found = [row[1] for row in database.execute(f"pragma table_info({table})")]
        if missing := [c for c in columns if c not in found]:
            raise BadData(
                f"{path.name}, table {table!r} has no column {missing[0]!r}: found {found}."
            )


def _faults(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    rating = pd.to_numeric(frame["rating"], errors="coerce")
    prompt = frame["prompt"].fillna("")
    faults = {
        "the rating is not 1 … 10": ~rating.between(1, 10),
        "no rater": frame["sid"].isna(),
        "the prompt is empty": prompt.str.strip() == "",
        "the prompt is not UTF-8": prompt.str.contains("\ufffd"),
        "the picture has no path": frame["path"].isna(),
    }
    return {reason: bad.to_numpy(bool) for reason, bad in faults.items()}
