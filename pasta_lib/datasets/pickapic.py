"""Pick-a-Pic (Kirstain et al. 2023): pairs of pictures, compared by people who wrote the prompt.

Parquet files with the columns of Hugging Face's `yuvalkirstain/pickapic_v1`, `_v2` and their
`_no_images`. Image URLs are dead, so a picture is its bytes (`jpg_0`, `jpg_1`); where the file has
none it is named by its uid. Rows are read in batches, so memory hardly grows with the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pasta_lib.choices import BadData
from pasta_lib.datasets.rows import Account, Rows, open_parquet, whole_jpeg

NEEDED = (
    "caption", "image_0_uid", "image_1_uid", "label_0", "label_1", "has_label", "user_id",
    "ranking_id", "num_example_per_prompt",
)  # fmt: skip
PICTURES = ("jpg_0", "jpg_1")


def read_pickapic(
    files: Sequence[str | Path], account: Account, *, training: bool, batch_size: int = 16_384
) -> Iterator[Rows]:
    """Pairs, batch by batch: L = 2, M = 1; a tie is the target (.5, .5).

    `training` weighs a pair by 1 / num_example_per_prompt, as PickScore does; in other splits each
    weighs 1. `person` is the user's id, as a string. Refused, and counted in `account`: rows
    without a label, labels other than (1, 0), (0, 1) and (.5, .5), an empty caption, a missing
    user, a ranking_id that came before, a picture that is missing or is no whole JPEG.

    Raises `BadData`, naming the file, where it is no parquet, is cut short or lacks a column.
    """
    seen = np.array([], np.int64)  # ranking ids, sorted: eight bytes a row are all that grows
    for path in map(Path, files):
        file = _open(path)
        columns = [*NEEDED, *(c for c in PICTURES if c in file.schema_arrow.names)]
        first = 0
        for batch in file.iter_batches(batch_size, columns=columns):
            frame = batch.to_pandas()
            frame.index += first
            first += len(frame)
            good = account.sift(_faults(frame, seen), path.name, frame.index)
            seen = np.sort(np.concatenate([seen, frame["ranking_id"]]), kind="stable")
            if good.any():
                yield _rows(frame[good], path.name, training)


def _open(path: Path) -> pq.ParquetFile:
    file = open_parquet(path)
    if missing := [c for c in NEEDED if c not in file.schema_arrow.names]:
        raise BadData(
            f"{path.name} has no column {missing[0]!r}: expected {list(NEEDED)}, found "
            f"{file.schema_arrow.names}. Is it a file of yuvalkirstain/pickapic_v1 or _v2?"
        )
    return file


def _faults(frame: pd.DataFrame, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Reason → which rows it refuses."""
    label_0, label_1 = (pd.to_numeric(frame[c], errors="coerce") for c in ("label_0", "label_1"))
    ranking = frame["ranking_id"]
    place = np.searchsorted(seen, ranking).clip(max=len(seen) - 1)
    again = ranking.duplicated() | (seen[place] == ranking if len(seen) else False)
    faults = {
        "no label (has_label is false)": frame["has_label"] != True,  # noqa: E712 - null is not
        "labels are not (1, 0), (0, 1) or (.5, .5)":
            ~label_1.isin((0, 0.5, 1)) | (label_0 + label_1 != 1),
        "the caption is empty": frame["caption"].fillna("").str.strip() == "",
        "user_id is missing": frame["user_id"].isna(),
        "ranking_id came before": again,
    }  # fmt: skip
    for column in PICTURES:
        if column in frame:
            faults[f"{column} is missing or no whole JPEG"] = ~frame[column].map(whole_jpeg)
    return {reason: bad.to_numpy(bool) for reason, bad in faults.items()}


def _rows(frame: pd.DataFrame, source: str, training: bool) -> Rows:
    names = PICTURES if PICTURES[0] in frame else ("image_0_uid", "image_1_uid")
    weight = 1 / frame["num_example_per_prompt"].to_numpy(float) if training else None
    return Rows(
        source=source,
        row=frame.index.to_numpy(),
        person=frame["user_id"].astype("int64").astype(str).to_numpy(object),
        prompt=frame["caption"].to_numpy(object),
        images=frame[list(names)].to_numpy(object)[:, :, None],
        target=frame[["label_0", "label_1"]].to_numpy(float),
        weight=weight,
    )
