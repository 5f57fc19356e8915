"""PASTA-like sessions: slates of columns of pictures, the pick, and better / same / worse.

The columns that PASTA's own release has on Kaggle are not known to us, so a file is read through a
declared `mapping`, from our names (`COLUMNS`) to its own; a missing column is named, never guessed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pasta_lib.candidates import CATEGORIES, wordings
from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.datasets.rows import Account, Rows, Vectors, open_parquet, to_choices
from pasta_lib.sessions import NONE, SLATE, TURNS, UNJUDGED, Sessions
from pasta_lib.world.bank import PICTURES, image_ids, rows_of

COLUMNS = (
    "session_id", "person_id", "source", "agent", "initial_prompt", "turn", "slate", "category",
    "images", "chosen", "versus_last", "created_at", "model",
)  # fmt: skip
JUDGEMENTS = {"better": 1, "same": 0, "worse": -1}


@dataclass(frozen=True)
class Turns:
    """N turns of the file `source`, those of a session together and in order.

    `frame`: one row a turn: row (its place in the file), session_id, person_id, initial_prompt,
    turn, chosen (-1: none of these), versus (1, 0, -1, NaN), created_at, complete (whether its
    session reached the last turn that any has). `slate`, `category` str objects `[N, L]`, `images`
    references `[N, L, M]`; None pads.
    """

    source: str
    frame: pd.DataFrame
    slate: np.ndarray
    images: np.ndarray
    category: np.ndarray

    def select(self, mine: np.ndarray) -> Turns:
        """Only some turns, by a mask bool `[N]`; of a session all or none, or it has a gap."""
        frame = self.frame[mine].reset_index(drop=True)
        return Turns(self.source, frame, self.slate[mine], self.images[mine], self.category[mine])


def read_sessions(
    path: str | Path, account: Account, mapping: Mapping[str, str] | None = None
) -> Turns:
    """A parquet file of sessions, a row a turn, or the table or view `sessions` of an SQLite file
    (as visitors leave it), where lists are JSON. Memory: some 500 bytes a turn.

    `mapping`: our name → the file's, where they differ. A session with a fault is refused whole,
    since what its person saw is not known: a gap in its turns, a `chosen` that is no column, a
    judgement that is none of better / same / worse, a slate and pictures of different lengths, an
    empty prompt. Rows refused are counted in `account`.

    Raises `BadData`, naming the file, for a column or a table that is not there.
    """
    path = Path(path)
    table = _table(path, {c: c for c in COLUMNS} | dict(mapping or {}))
    frame = table.drop_columns(["slate", "category", "images"]).to_pandas()
    slate, images = padded(table["slate"]), padded(table["images"])
    width = (slate != None).sum(1)  # noqa: E711 - elementwise
    chosen = pd.to_numeric(frame["chosen"], errors="coerce")
    versus = frame["versus_last"].map(JUDGEMENTS)
    faults = {
        "a turn is missing or comes twice": _gaps(frame),
        "chosen is no column of the slate": chosen.notna() & ~chosen.between(0, width - 1),
        "versus_last is none of better, same, worse":
            versus.isna() & frame["versus_last"].notna(),
        "slate and images have different lengths":
            (images != None).any(2).sum(1) != width,  # noqa: E711
        "the initial prompt is empty": frame["initial_prompt"].fillna("").str.strip() == "",
        "person_id is missing": frame["person_id"].isna(),
    }  # fmt: skip
    session = pd.factorize(frame["session_id"])[0]
    whole = {}
    for reason, bad in faults.items():  # the whole session
        whole[reason] = np.bincount(session, np.asarray(bad, bool))[session] > 0
    good = account.sift(whole, path.name, np.arange(len(frame)))
    frame = frame.assign(
        row=np.arange(len(frame)), chosen=chosen.fillna(-1).astype(int), versus=versus
    )
    order = np.lexsort((frame["turn"], session))
    order = order[good[order]]
    frame = frame.iloc[order].reset_index(drop=True)
    last = frame.groupby("session_id")["turn"].transform("max")
    frame = frame.assign(complete=last == last.max())
    category = padded(table["category"])[order]
    return Turns(path.name, frame, slate[order], images[order], category)


def session_table(
    sessions: Sessions, *, source: str, agent: str, population: str, model: str, began: str
) -> pa.Table:
    """Sessions as a table in this schema, a row a turn; the inverse of `read_sessions`.

    `population` begins the names of sessions; `began`: when the first took place (made
    up where nobody was there; each begins an hour after the one before).
    """
    n, turns = sessions.chosen.shape
    name = {0: "same", 1: "better", -1: "worse", UNJUDGED: None}
    hours = np.repeat(np.arange(n), turns) * 60 + np.tile(np.arange(turns), n)
    words = wordings()

    def nested(values: np.ndarray, *sizes: int) -> pa.Array:
        """Text `[N, L]` or `[N, L, M]` as lists, each different text once."""
        out = pa.array(values.ravel()).dictionary_encode()
        for size in reversed(sizes):
            out = pa.ListArray.from_arrays(np.arange(0, len(out) + 1, size, dtype=np.int32), out)
        return out

    columns = {
        "session_id": np.repeat([f"{population}-{s}" for s in sessions.session], turns),
        "person_id": np.repeat([str(p) for p in sessions.person], turns),
        "source": [source] * (n * turns),
        "agent": [agent] * (n * turns),
        "initial_prompt": np.repeat(words[sessions.initial, 0], turns),
        "turn": np.tile(np.arange(1, turns + 1), n),
        "slate": nested(words[sessions.member, sessions.wording], SLATE),
        "category": nested(np.array(CATEGORIES, object)[sessions.category], SLATE),
        "images": nested(image_ids()[sessions.member], SLATE, PICTURES),
        "chosen": pa.array(sessions.chosen.ravel(), mask=sessions.chosen.ravel() == NONE),
        "versus_last": [name[v] for v in sessions.versus_last.ravel().tolist()],
        "created_at": pd.Timestamp(began, tz="UTC") + pd.to_timedelta(hours, "min"),
        "model": [model] * (n * turns),
    }
    return pa.table(columns)


def bank_sessions(turns: Turns) -> tuple[Sessions, int]:
    """Sessions over the image bank, as arrays again; and how many were left out, since they ended
    before `TURNS` turns.

    The inverse of `session_table`; people are numbered in the order of `np.unique(person_id)`.
    Raises `BadData`, naming the row, for a file from another bank: a picture or a text that this
    one does not know.
    """
    frame = turns.frame
    whole = (frame.groupby("session_id")["turn"].transform("max") == TURNS).to_numpy()
    left_out = int(frame["session_id"][~whole].nunique())
    turns = turns.select(whole)
    frame, words = turns.frame, wordings()
    try:
        pictures = rows_of(turns.images.ravel()).reshape(turns.images.shape)
    except ValueError as error:
        raise BadData(f"{turns.source} is from another bank than today's: {error}") from error
    member = pictures[:, :, 0] // PICTURES
    strange = (pictures != member[..., None] * PICTURES + np.arange(pictures.shape[2])).any(2)
    kind = pd.Index(CATEGORIES).get_indexer(turns.category.ravel()).reshape(member.shape)
    strange |= (pictures.shape[2] != PICTURES) | (kind < 0)
    if strange.any():
        row, column = np.argwhere(strange)[0]
        raise BadData(
            f"{turns.source}, row {frame['row'].iloc[row]}, column {column}: expected the "
            f"{PICTURES} pictures of one scene and a category of {CATEGORIES}, found "
            f"{turns.images[row, column].tolist()} and {turns.category[row, column]!r}."
        )
    said = words[member] == turns.slate[..., None]  # [N, L, 6]
    if (strange := ~said.any(2)).any():
        row, column = np.argwhere(strange)[0]
        raise BadData(
            f"{turns.source}, row {frame['row'].iloc[row]}, column {column}: "
            f"{turns.slate[row, column]!r} is no wording of the scene that its picture "
            f"{turns.images[row, column, 0]!r} shows; the file is from another bank than today's."
        )
    initial = pd.Index(words[:, 0]).get_indexer(frame["initial_prompt"])
    if (initial < 0).any():
        row = int((initial < 0).argmax())
        raise BadData(
            f"{turns.source}, row {frame['row'].iloc[row]}: {frame['initial_prompt'].iloc[row]!r} "
            "is no initial prompt of today's bank."
        )
    n = len(frame) // TURNS

    def by_turn(values: np.ndarray) -> np.ndarray:
        return np.array(values.reshape(n, TURNS, *values.shape[1:]))

    versus = frame["versus"].fillna(UNJUDGED).to_numpy(int)
    return Sessions(
        session=np.arange(n),
        person=by_turn(np.unique(frame["person_id"], return_inverse=True)[1])[:, 0],
        initial=by_turn(initial)[:, 0],
        member=by_turn(member),
        wording=by_turn(said.argmax(2)),
        category=by_turn(kind),
        chosen=by_turn(frame["chosen"].to_numpy()),
        versus_last=by_turn(versus),
    ), left_out  # fmt: skip


def picks(turns: Turns) -> tuple[Rows, np.ndarray]:
    """Which column was picked: L columns of M pictures under the initial prompt. "None of these" is
    no observation. Also the rows of `turns` that they come from."""
    rows = np.flatnonzero(turns.frame["chosen"] >= 0)
    chosen = turns.frame["chosen"].to_numpy()[rows]
    target = (np.arange(turns.slate.shape[1]) == chosen[:, None]).astype(float)
    return _observed(turns, rows, turns.images[rows], target), rows


def judgements(turns: Turns) -> tuple[Rows, np.ndarray]:
    """Better, same or worse: the picked column (alternative 0) against the last picked one of the
    session (1), with a tie. Also the rows of `turns` that they come from."""
    frame = turns.frame
    picked = np.where(frame["chosen"] >= 0, np.arange(len(frame)), -1)
    session = pd.factorize(frame["session_id"])[0]
    before = pd.Series(picked).where(picked >= 0).groupby(session).ffill()
    before = before.groupby(session).shift()
    rows = np.flatnonzero((picked >= 0) & frame["versus"].notna() & before.notna())
    last = before.to_numpy()[rows].astype(int)
    chosen = frame["chosen"].to_numpy()
    both = np.stack([turns.images[rows, chosen[rows]], turns.images[last, chosen[last]]], 1)
    versus = frame["versus"].to_numpy()[rows]
    target = np.stack([versus == 1, versus == -1], 1).astype(float)
    observed = _observed(turns, rows, both, target)
    return Rows(**vars(observed) | {"tie": (versus == 0).astype(float)}), rows


@dataclass(frozen=True)
class Sat:
    """What people did in sessions. `when`: of picks and of judgements, the order in which each
    person made them, int `[N]` each; a pick comes before its judgement."""

    picks: ChoiceData
    judgements: ChoiceData
    when: tuple[np.ndarray, np.ndarray]


def read_sat(turns: Turns, image_vectors: Vectors, text_vectors: Vectors) -> Sat:
    """Picks and judgements of turns, with the vectors of what was seen."""
    both, when = [], []
    for later, (rows, where) in enumerate((picks(turns), judgements(turns))):
        both.append(to_choices(rows, image_vectors, text_vectors))
        order = np.argsort(pd.factorize(rows.person)[0], kind="stable")  # as `ChoiceData` does
        when.append((2 * where + later)[order])
    return Sat(*both, tuple(when))


def padded(lists: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Lists, or lists of lists, of text as objects `[N, L]` or `[N, L, M]`; None pads."""
    array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    length = array.value_lengths().fill_null(0).to_numpy()
    inner = array.flatten()
    nested = pa.types.is_list(inner.type)
    values = padded(inner) if nested else inner.to_numpy(zero_copy_only=False)
    out = np.full((len(array), length.max(initial=0), *values.shape[1:]), None, object)
    out[np.arange(out.shape[1]) < length[:, None]] = values
    return out


def _observed(turns: Turns, rows: np.ndarray, images: np.ndarray, target: np.ndarray) -> Rows:
    frame = turns.frame.iloc[rows]
    return Rows(
        source=turns.source,
        row=frame["row"].to_numpy(),
        person=frame["person_id"].to_numpy(object),
        prompt=frame["initial_prompt"].to_numpy(object),
        images=images,
        target=target,
    )


def _table(path: Path, names: Mapping[str, str]) -> pa.Table:
    table = _of_sqlite(path) if path.suffix == ".sqlite" else open_parquet(path).read()
    for ours, theirs in names.items():
        if theirs not in table.column_names:
            raise BadData(
                f"{path.name} has no column {theirs!r} (for {ours!r}); found {table.column_names}. "
                f"Declare how it is called there: mapping={{{ours!r}: '…'}}."
            )
    return table.select(list(names.values())).rename_columns(list(names))


def _of_sqlite(path: Path) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            rows = database.execute("select * from sessions")
            names, rows = [column[0] for column in rows.description], rows.fetchall()
        except sqlite3.DatabaseError as error:
            raise BadData(f"{path.name}: {error}; expected a table or view sessions.") from error
    kinds = {"slate": pa.list_(pa.string()), "category": pa.list_(pa.string()),
             "images": pa.list_(pa.list_(pa.string()))}  # fmt: skip
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    for name in columns.keys() & kinds:
        columns[name] = [json.loads(text) for text in columns[name]]
    return pa.table({name: pa.array(v, kinds.get(name)) for name, v in columns.items()})


def _gaps(frame: pd.DataFrame) -> np.ndarray:
    """Whether a row's session does not have the turns 1, 2, … once each; bool `[N]`."""
    turn = pd.to_numeric(frame["turn"], errors="coerce")
    by = turn.groupby(frame["session_id"])
    size, distinct, last = (by.transform(f) for f in ("size", "nunique", "max"))
    return ~((turn >= 1) & (size == distinct) & (last == size)).to_numpy(bool)
