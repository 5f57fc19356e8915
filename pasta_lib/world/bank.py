"""The image bank: what four seeded pictures of every reachable scene look like to CLIP and the eye.

Pictures are not kept: each can be drawn again from its prompt and seed. What is kept is each
picture's CLIP embedding and the eye's reading of it, in one memory-mapped file, so that tens of
thousands of sessions can be simulated without drawing anything.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline

from pasta_lib.generator import GeneratorConfig, generate
from pasta_lib.world import captions
from pasta_lib.world.eye import HEADS, Reading
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import SUBJECT_NAMES, from_array
from pasta_lib.world.scheduler import LAST_NOISE
from pasta_lib.world.weights import WORLD_DIR, WeightsError, read_manifest, require

BANK_FILE = "bank.npy"
BANK_CARD = "bank.json"
PICTURES = 4  # M, pictures a member
WIDTH = 64  # of the miniature CLIP's vectors
MODELS = ("text_to_image/", "clip/", "eye.safetensors")  # what a bank depends on
_SMALL = ("colour", "style", "background", "count")  # kept whole; of the subjects, the best three

RECORD = np.dtype(
    [
        ("embedding", "<f2", (WIDTH,)),
        ("subject", "u1", (3,)),
        ("subject_probability", "u1", (3,)),
        *((name, "u1", (HEADS[name],)) for name in _SMALL),
        ("second", "u1"),
        ("second_probability", "u1"),
    ]
)  # probabilities in 255ths


@cache
def prompts() -> tuple[str, ...]:
    """The wording each member's bank pictures are drawn from, in the order of `reachable()`."""
    return tuple(captions.write(scene) for scene in from_array(reachable()))


def seed_of(member: int, picture: int) -> int:
    """The seed of a bank picture: the same for ever."""
    return member * PICTURES + picture


@cache
def image_ids() -> np.ndarray:
    """The name of every picture, "m01234_2" for member 1234's picture 2; objects `[9016, 4]`."""
    names = [[f"m{m:05}_{k}" for k in range(PICTURES)] for m in range(len(reachable()))]
    return np.array(names, object)


def rows_of(ids: np.ndarray) -> np.ndarray:
    """Places of pictures among the bank's 36,064, int `[V]`, by their names, str `[V]`.

    A folder and an ending (".jpg") do not matter. Raises ValueError for a name that is no
    picture's.
    """
    stems = pd.Series(ids, dtype=object).str.extract(r"(m\d{5}_\d)[^/]*$")[0]
    rows = pd.Index(image_ids().ravel()).get_indexer(stems)
    if (rows < 0).any():
        raise ValueError(
            f"{ids[int((rows < 0).argmax())]!r} is no picture of the bank; they are called "
            f"{image_ids()[0, 0]} … {image_ids()[-1, -1]}"
        )
    return rows


def draw_again(
    ids: np.ndarray, pipeline: DiffusionPipeline, *, progress: bool = True
) -> np.ndarray:
    """Bank pictures by their names, str `[V]`, drawn as they were: uint8 `[V, 64, 64, 3]`."""
    rows = rows_of(ids)
    words = [prompts()[row // PICTURES] for row in rows]
    return generate(pipeline, words, rows.tolist(), GeneratorConfig(), progress=progress)


def models_fingerprint(world_dir: Path = WORLD_DIR) -> dict[str, str]:
    """sha256 of every file that decides what the bank holds."""
    return {k: v for k, v in read_manifest(world_dir).items() if k.startswith(MODELS)}


def bank_card(world_dir: Path = WORLD_DIR) -> dict:
    """All that decides what a bank holds: how pictures are drawn, of which prompts, by which files.

    Not the device, nor the batch size: a picture is the same on any.
    """
    drawing = GeneratorConfig()
    return {
        "steps": drawing.steps,
        "guidance": drawing.guidance,
        "last_noise": LAST_NOISE,
        "prompts": hashlib.sha256("\n".join(prompts()).encode()).hexdigest(),
        "models": models_fingerprint(world_dir),
    }


def pack(embeddings: np.ndarray, reading: Reading) -> np.ndarray:
    """Records `[B]` of embeddings float `[B, 64]` and the eye's readings."""
    records = np.zeros(len(embeddings), RECORD)
    records["embedding"] = embeddings
    best = reading.subject.topk(3, 1)
    records["subject"], records["subject_probability"] = best.indices, _bytes(best.values)
    for name in _SMALL:
        records[name] = _bytes(getattr(reading, name))
    second = reading.second.max(1)
    records["second"], records["second_probability"] = second.indices, _bytes(second.values)
    return records


def _bytes(probability: torch.Tensor) -> np.ndarray:
    return (probability * 255).round().cpu().numpy().astype(np.uint8)


@dataclass(frozen=True)
class Bank:
    """A whole bank. `records`: memory-mapped `[members, 4]` of `RECORD`."""

    records: np.ndarray

    def embeddings(self, members: np.ndarray) -> np.ndarray:
        """CLIP embeddings, float32 `[..., 4, 64]`, of members `[...]` (rows of `reachable()`)."""
        return self.records["embedding"][members].astype(np.float32)

    @cached_property
    def subject(self) -> np.ndarray:
        """Probability of every subject, float32 `[members, 4, 64]`; beyond the best three, even."""
        top, p = self.records["subject"].astype(np.int64), self.records["subject_probability"] / 255
        rest = np.clip(1 - p.sum(-1, keepdims=True), 0, None) / (len(SUBJECT_NAMES) - 3)
        out = np.broadcast_to(rest, (*p.shape[:-1], len(SUBJECT_NAMES))).astype(np.float32)
        np.put_along_axis(out, top, p.astype(np.float32), -1)
        return out

    def probability(self, attribute: str) -> np.ndarray:
        """Of colour, style, background or count, as the eye sees: `[members, 4, values]`."""
        return self.records[attribute].astype(np.float32) / 255


def load_bank(world_dir: Path = WORLD_DIR) -> Bank:
    """Open the bank. Raises WeightsError when it is not whole, or was drawn with other weights,
    other prompts or other settings than those of today."""
    path = require(BANK_FILE, world_dir)
    card, now = json.loads(require(BANK_CARD, world_dir).read_text()), bank_card(world_dir)
    mend = "Mend: run data/makers/make_bank.py again."
    if card["models"] != now["models"]:
        files = sorted(card["models"].keys() | now["models"].keys())
        changed = [k for k in files if card["models"].get(k) != now["models"].get(k)]
        raise WeightsError(
            f"{path} was built with other weights than those beside it (changed: "
            f"{', '.join(changed)}). {mend}"
        )
    for key in ("steps", "guidance", "last_noise"):
        if card.get(key) != now[key]:
            raise WeightsError(
                f"{path} was drawn with {key} = {card.get(key)}, pictures now are with {now[key]}. "
                f"{mend}"
            )
    if card["prompts"] != now["prompts"]:
        raise WeightsError(f"{path} was drawn from other prompts than today's. {mend}")
    records = np.load(path, mmap_mode="r")
    expected = (len(reachable()), PICTURES)
    if records.shape != expected or records.dtype != RECORD:
        raise WeightsError(f"{path} has shape {records.shape}, expected {expected}. {mend}")
    return Bank(records)
