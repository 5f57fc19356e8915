"""The synthetic raters' files, read by the readers of the public schemas, with vectors of the bank.

Pictures in the files are names of the image bank's, so nothing has to be drawn or embedded: this is
the one place where the miniature takes a short cut. Everything else is what the real files go
through.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pasta_lib.datasets.hpd import Rankings, read_hpd_pairs, read_hpd_rankings
from pasta_lib.datasets.pasta import Turns, read_sessions
from pasta_lib.datasets.pickapic import read_pickapic
from pasta_lib.datasets.rows import Account, Rows, Vectors
from pasta_lib.datasets.sac import read_sac
from pasta_lib.encoders import ClipEncoder
from pasta_lib.world.bank import Bank, rows_of
from pasta_lib.world.raters import split_of
from pasta_lib.world.weights import WORLD_DIR

RATERS_DIR = WORLD_DIR.parent / "raters"


def turns_of(turns: Turns, split: str) -> Turns:
    """The turns of the people of one split: train, validation or test."""
    mine = split_of(turns.frame["person_id"].astype(int).to_numpy()) == split
    frame = turns.frame[mine].reset_index(drop=True)
    return Turns(turns.source, frame, turns.slate[mine], turns.images[mine])


def vectors(
    bank: Bank, encoder: ClipEncoder, image: nn.Module, text: nn.Module
) -> tuple[Vectors, Vectors]:
    """What `to_choices` asks for: `image` (`Concepts`, say) of the bank's vectors of pictures, by
    their names, and `text` of CLIP's vectors of prompts. Memory: 36,064 wide vectors."""
    embeddings = torch.as_tensor(bank.records["embedding"].reshape(-1, 64).astype(np.float32))
    with torch.no_grad():
        pictured = image(embeddings)

    def of_prompts(prompts: np.ndarray) -> Tensor:
        with torch.no_grad():
            return text(torch.as_tensor(encoder.encode_texts(list(prompts))))

    return lambda names: pictured[torch.as_tensor(rows_of(names))], of_prompts


def read_turns(population: int = 0, folder: Path = RATERS_DIR) -> Turns:
    return read_sessions(folder / f"sessions_{population}.parquet", Account())


def read_pairs(split: str, folder: Path = RATERS_DIR) -> Rows:
    """Pick-a-Pic's pairs of a split: train, validation, test, or one of these and "_unique"."""
    path = folder / "pickapic" / f"{split}.parquet"
    return together(list(read_pickapic([path], Account(), training=False)))


def read_anonymous(folder: Path = RATERS_DIR) -> Rows:
    return read_hpd_pairs(folder / "hpd" / "train.json", Account())


def read_rankings(folder: Path = RATERS_DIR) -> Rankings:
    return read_hpd_rankings(folder / "hpd" / "test.json", Account())


def read_ratings(split: str, folder: Path = RATERS_DIR) -> Rows:
    """Star ratings of the people of one split."""
    rows = together(list(read_sac(folder / "sac_public_2022_06_29.sqlite", Account())))
    mine = split_of(rows.person.astype(int)) == split
    kept = {k: v[mine] for k, v in vars(rows).items() if isinstance(v, np.ndarray)}
    return Rows(source=rows.source, **kept)


def together(batches: list[Rows]) -> Rows:
    """Batches of one file as one."""
    first = vars(batches[0])
    arrays = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name, values in first.items()
        if isinstance(values, np.ndarray)
    }
    return Rows(source=batches[0].source, **arrays)
