"""HPD v2 (Wu et al. 2023): rankings of several pictures of a prompt, and pairs for training.

`test.json`: [{prompt, image_path: [..], rank: [averaged], raw_annotations: [{rank: [..],
user_hash}]}]; `train.json`: [{prompt, file_path: [2], human_preference: [0|1, 0|1]}], without the
rater. Rank 1 is best. Both are read whole: some 300 bytes of memory a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pasta_lib.choices import BadData
from pasta_lib.datasets.rows import Account, Rows


@dataclass(frozen=True)
class Rankings:
    """P prompts with I pictures, ranked by A people, padded where a prompt has fewer.

    `prompt` str objects `[P]`; `images` references, objects `[P, I]`, None pads; `rank` float
    `[P, I]`, averaged, NaN pads; `person` str objects `[P, A]`, None pads; `ranks` float
    `[P, A, I]`, each person's own. `source`: the file, `row` `[P]`: their places in it.
    """

    source: str
    row: np.ndarray
    prompt: np.ndarray
    images: np.ndarray
    rank: np.ndarray
    person: np.ndarray
    ranks: np.ndarray


def read_hpd_rankings(path: str | Path, account: Account, folder: str | Path | None = None):
    """`test.json` as `Rankings`.

    With `folder`, pictures are read from there: a missing file refuses its prompt. Refused and
    counted besides: an empty prompt, fewer than two pictures, a rank or an annotation whose length
    is not the number of pictures or that holds no finite numbers, no annotation at all.

    Raises `BadData` for a file that is no JSON list of objects, or lacks a key.
    """
    path = Path(path)
    entries = _entries(path, ("prompt", "image_path", "rank", "raw_annotations"))
    faults = {
        "the prompt is empty": [not _is_text(e["prompt"]) for e in entries],
        "fewer than two pictures": [len(e["image_path"]) < 2 for e in entries],
        "rank is not one number for each picture": [
            not _is_rank(e["rank"], len(e["image_path"])) for e in entries
        ],
        "an annotation is not one rank for each picture": [
            not e["raw_annotations"]
            or not all(_is_rank(a["rank"], len(e["image_path"])) for a in e["raw_annotations"])
            for e in entries
        ],
    }
    if folder is not None:
        there = {p.name for p in Path(folder).iterdir()}
        faults["a picture's file is missing"] = [
            not all(Path(p).name in there for p in e["image_path"]) for e in entries
        ]
    good = account.sift(
        {k: np.array(v, bool) for k, v in faults.items()}, path.name, np.arange(len(entries))
    )
    kept = [e for e, fine in zip(entries, good, strict=True) if fine]
    width = max((len(e["image_path"]) for e in kept), default=0)
    raters = max((len(e["raw_annotations"]) for e in kept), default=0)
    out = Rankings(
        source=path.name,
        row=np.flatnonzero(good),
        prompt=np.array([e["prompt"] for e in kept], object),
        images=np.full((len(kept), width), None, object),
        rank=np.full((len(kept), width), np.nan),
        person=np.full((len(kept), raters), None, object),
        ranks=np.full((len(kept), raters, width), np.nan),
    )
    for i, e in enumerate(kept):
        n = len(e["image_path"])
        out.images[i, :n] = e["image_path"]
        out.rank[i, :n] = e["rank"]
        for j, annotation in enumerate(e["raw_annotations"]):
            out.person[i, j] = str(annotation["user_hash"])
            out.ranks[i, j, :n] = annotation["rank"]
    return out


def as_choices(rankings: Rankings) -> Rows:
    """Each person's ranking as a product of choices (Plackett and Luce): the best of all, then the
    best of the rest, and so on. Pictures of equal rank share the vote. `images` None pads."""
    rows = [(i, j) for i, j in np.argwhere(rankings.person != None)]  # noqa: E711 - elementwise
    p, a = np.array(rows).T
    ranks, images = rankings.ranks[p, a], rankings.images[p]
    order = np.argsort(ranks, 1, kind="stable")  # NaN last
    ranks = np.take_along_axis(ranks, order, 1)
    images = np.take_along_axis(images, order, 1)
    width = ranks.shape[1]
    step = np.arange(width - 1)[:, None] <= np.arange(width)  # the s-th choice is among s, s + 1 …
    ranks = np.where(step, ranks[:, None], np.nan)  # [n, steps, I]
    best = ranks == np.nanmin(np.where(np.isnan(ranks), np.inf, ranks), 2, keepdims=True)
    choice = (~np.isnan(ranks)).sum(2) >= 2
    person = np.broadcast_to(rankings.person[p, a][:, None], choice.shape)
    prompt = np.broadcast_to(rankings.prompt[p][:, None], choice.shape)
    images = np.where(step & ~np.isnan(ranks), images[:, None], None)
    target = best / best.sum(2, keepdims=True)
    row = np.broadcast_to(rankings.row[p][:, None], choice.shape)
    return Rows(
        source=rankings.source,
        row=row[choice],
        person=person[choice],
        prompt=prompt[choice],
        images=images[choice][:, :, None],
        target=target[choice],
    )


def read_hpd_pairs(path: str | Path, account: Account) -> Rows:
    """`train.json` as pairs. Who compared is not told, so each pair is its own person's.

    Refused and counted: an empty prompt, other than two pictures, a preference that is not [1, 0]
    or [0, 1]. Raises `BadData` as `read_hpd_rankings`.
    """
    path = Path(path)
    entries = _entries(path, ("prompt", "file_path", "human_preference"))
    faults = {
        "the prompt is empty": [not _is_text(e["prompt"]) for e in entries],
        "other than two pictures": [len(e["file_path"]) != 2 for e in entries],
        "human_preference is not [1, 0] or [0, 1]": [
            e["human_preference"] not in ([1, 0], [0, 1]) for e in entries
        ],
    }
    good = account.sift(
        {k: np.array(v, bool) for k, v in faults.items()}, path.name, np.arange(len(entries))
    )
    kept = [e for e, fine in zip(entries, good, strict=True) if fine]
    images = np.array([e["file_path"] for e in kept], object).reshape(-1, 2, 1)
    return Rows(
        source=path.name,
        row=np.flatnonzero(good),
        person=np.array([f"{path.name} {i}" for i in np.flatnonzero(good)], object),
        prompt=np.array([e["prompt"] for e in kept], object),
        images=images,
        target=np.array([e["human_preference"] for e in kept], float).reshape(-1, 2),
    )


def _entries(path: Path, keys: tuple[str, ...]) -> list[dict]:
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no UTF-8
        raise BadData(f"{path.name} is no whole JSON file ({error}): download it again.") from error
    if not isinstance(entries, list):
        raise BadData(f"{path.name} holds a {type(entries).__name__}, expected a list of objects.")
    for row, entry in enumerate(entries):
        missing = [k for k in keys if not isinstance(entry, dict) or k not in entry]
        if missing:
            raise BadData(
                f"{path.name}, row {row} has no {missing[0]!r}: expected an object with "
                f"{list(keys)}. Is it a file of HPD v2?"
            )
    return entries


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_rank(values: object, n: int) -> bool:
    try:
        array = np.array(values, float)
    except (TypeError, ValueError):
        return False
    return array.shape == (n,) and bool(np.isfinite(array).all())
