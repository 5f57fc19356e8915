"""A data set in the project's own form: observations, and the vectors of what they show.

A folder with `images.npy` and `prompts.npy` (float16, memory-mapped), `choices.safetensors`, and
`account.txt`, which says what was refused. Rows stream through: memory holds one batch, and some
100 bytes for every different picture. Vectors come from an encoder with an on-disk cache, so a
conversion that was interrupted, started again, computes nothing twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.datasets.rows import Account, Rows
from pasta_lib.encoders import ClipEncoder

LOST = -2  # a picture that is not to be had
PARTS = ("images.npy", "prompts.npy", "choices.safetensors", "people.json", "account.txt")


def prepare(
    batches: Iterable[Rows],
    folder: str | Path,
    account: Account,
    encoder: ClipEncoder,
    content: Callable[[object], bytes],
) -> ChoiceData:
    """Write the folder and open it. `batches` come from a reader, `account` is the one it counts
    in.

    `content` gives a reference's file, as bytes (see `file_content`). A row with a picture that is
    missing or cannot be decoded is refused, and counted. Raises `BadData` where no row is left.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        _Table(folder / "images.npy", lambda new: _encode(encoder, content, new)) as images,
        _Table(
            folder / "prompts.npy", lambda new: (encoder.encode_texts(list(new)), None)
        ) as prompts,
    ):
        kept = [
            part for rows in batches if (part := _kept(rows, images, prompts, account)) is not None
        ]
    if not kept:
        raise BadData(f"No row is left.\n{account}")
    people, tensors = _together(kept)
    _replace(folder / "choices.safetensors", lambda path: save_file(tensors, path))
    _replace(folder / "people.json", lambda path: path.write_text(json.dumps(people)))
    _replace(folder / "account.txt", lambda path: path.write_text(f"{account}\n"))
    return load_prepared(folder)


def _kept(rows: Rows, images: _Table, prompts: _Table, account: Account) -> dict | None:
    """The arrays of the rows whose pictures are all to be had."""
    items = images.rows(rows.images)
    lost = (items == LOST).any((1, 2))
    if lost.any():
        account.take_back(len(lost))  # the reader has counted them once
        account.sift({"a picture is missing or cannot be decoded": lost}, rows.source, rows.row)
    if lost.all():
        return None
    arrays = {k: v for k, v in vars(rows).items() if isinstance(v, np.ndarray) and k != "row"}
    arrays = {name: values[~lost] for name, values in (arrays | {"images": items}).items()}
    return arrays | {"prompt": prompts.rows(arrays["prompt"])}


def file_content(folder: str | Path | None) -> Callable[[object], bytes]:
    """A reference's bytes: its own, or those of the file of that name in `folder`."""

    def content(reference: object) -> bytes:
        if isinstance(reference, bytes):
            return reference
        if folder is None:
            raise BadData(
                f"Picture {reference!r} is named, not held, by the data: say in which folder the "
                "files are (--images)."
            )
        return (Path(folder) / str(reference)).read_bytes()

    return content


def load_prepared(folder: str | Path) -> ChoiceData:
    """Open a folder that `prepare` wrote. Raises `BadData` where a part of it is missing."""
    folder = Path(folder)
    if missing := [name for name in PARTS if not (folder / name).is_file()]:
        raise BadData(f"{folder} lacks {', '.join(missing)}: run the conversion to its end.")
    tensors = load_file(folder / "choices.safetensors")
    people = np.array(json.loads((folder / "people.json").read_text()), object)
    tables = [np.load(folder / name, mmap_mode="c") for name in ("images.npy", "prompts.npy")]
    person = tensors.pop("person").numpy()
    return ChoiceData.from_arrays(
        items=tensors.pop("images"),
        context=tensors.pop("prompt"),
        table=torch.from_numpy(tables[0]),
        context_table=torch.from_numpy(tables[1]),
        person=people[person],
        **tensors,
    )


class _Table:
    """Vectors appended to a file as they come, each different reference once.

    `vectors` gives those of new references `[V]`, and which of them are to be had, bool `[V]` or
    None for all.
    """

    def __init__(self, path: Path, vectors: Callable) -> None:
        self.path, self.vectors = path, vectors
        self.known: dict[bytes, int] = {}
        self.length, self.width = 0, 0
        self.part = open(path.with_suffix(".raw"), "wb")  # noqa: SIM115 - closed on exit

    def rows(self, references: np.ndarray) -> np.ndarray:
        """The rows of the table of references of any shape; -1 for None, LOST for what is lost."""
        flat = references.ravel()
        keys = [None if r is None else _key(r) for r in flat]
        new = {key: i for i, key in enumerate(keys) if key is not None and key not in self.known}
        if new:
            found, there = self.vectors(flat[list(new.values())])
            there = np.ones(len(new), bool) if there is None else there
            number = np.where(there, self.length + there.cumsum() - 1, LOST)
            self.known |= dict(zip(new, number.tolist(), strict=True))
            self.length += len(found)
            self.width = found.shape[1]
            self.part.write(found.astype(np.float16).tobytes())
        rows = [-1 if key is None else self.known[key] for key in keys]
        return np.array(rows, np.int64).reshape(references.shape)

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        """Turn what was written into a `.npy` file, unless something went wrong."""
        self.part.close()
        if error is None and self.length:
            raw = np.memmap(self.part.name, np.float16, "r", shape=(self.length, self.width))
            _replace(self.path, lambda path: _write_array(path, raw))
        os.unlink(self.part.name)


def _write_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array)


def _key(reference: object) -> bytes:
    content = reference if isinstance(reference, bytes) else str(reference).encode()
    return hashlib.sha256(content).digest()[:16]


def _encode(encoder: ClipEncoder, content: Callable, references: np.ndarray):
    """Vectors of the pictures that can be opened, and which those are, bool `[V]`."""
    files = [_opened(content, reference) for reference in references]
    there = np.array([file is not None for file in files])
    return encoder.encode_images([file for file in files if file is not None]), there


def _opened(content: Callable, reference: object) -> bytes | None:
    try:
        file = content(reference)
        Image.open(io.BytesIO(file)).load()
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        return None
    return file


def _together(kept: list[dict[str, np.ndarray]]) -> tuple[list[str], dict[str, torch.Tensor]]:
    """All batches' arrays in one; people as numbers, and their names."""
    person = np.concatenate([arrays.pop("person") for arrays in kept])
    names, number = np.unique(person.astype(str), return_inverse=True)
    width = np.max([arrays["images"].shape[1:] for arrays in kept], 0)
    out = {"person": torch.as_tensor(number)}
    for name in kept[0]:
        parts = [arrays[name] for arrays in kept]
        if name == "images":
            pad = [((0, 0), *((0, w - s) for w, s in zip(width, p.shape[1:], strict=True)))
                   for p in parts]  # fmt: skip
            parts = [np.pad(p, by, constant_values=-1) for p, by in zip(parts, pad, strict=True)]
        if name == "target":
            parts = [np.pad(p, ((0, 0), (0, width[0] - p.shape[1]))) for p in parts]
        out[name] = torch.as_tensor(np.concatenate(parts))
    return names.tolist(), out


def _replace(path: Path, write) -> None:
    part = path.with_suffix(".part")
    write(part)
    os.replace(part, path)
