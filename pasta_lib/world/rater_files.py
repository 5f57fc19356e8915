"""The synthetic raters' files, read by the readers of the public schemas, with vectors of the bank.

Pictures in the files are names of the image bank's, so nothing has to be drawn or embedded: this is
the one place where the miniature takes a short cut. Everything else is what the real files go
through.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pasta_lib.choices import BadData
from pasta_lib.datasets.hpd import Rankings, read_hpd_rankings
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
    return turns.select(mine)


def vectors(
    bank: Bank, encoder: ClipEncoder, image: nn.Module, text: nn.Module
) -> tuple[Vectors, Vectors]:
    """What `to_choices` asks for: `image` (`Concepts`, say) of the bank's vectors of pictures, by
    their names, and `text` of CLIP's vectors of prompts. Memory: 36,064 wide vectors."""
    embeddings = torch.as_tensor(bank.embeddings(slice(None)).reshape(-1, 64))
    with torch.no_grad():
        pictured = image(embeddings)

    def of_prompts(prompts: np.ndarray) -> Tensor:
        with torch.no_grad():
            return text(torch.as_tensor(encoder.encode_texts(list(prompts))))

    return lambda names: pictured[torch.as_tensor(rows_of(names))], of_prompts


def read_turns(population: int = 0, folder: Path = RATERS_DIR) -> Turns:
    return whole(read_sessions, folder / f"sessions_{population}.parquet")


def read_pairs(split: str, folder: Path = RATERS_DIR) -> Rows:
    """Pick-a-Pic's pairs of a split: train, validation, test, or one of these and "_unique"."""
    path = folder / "pickapic" / f"{split}.parquet"
    return whole(lambda p, account: together([*read_pickapic([p], account, training=False)]), path)


def read_rankings(folder: Path = RATERS_DIR) -> Rankings:
    return whole(read_hpd_rankings, folder / "hpd" / "test.json")


def read_ratings(split: str, folder: Path = RATERS_DIR) -> Rows:
    """Star ratings of the people of one split."""
    path = folder / "sac_public_2022_06_29.sqlite"
    rows = whole(lambda p, account: together([*read_sac(p, account)]), path)
    mine = split_of(rows.person.astype(int)) == split
    kept = {k: v[mine] for k, v in vars(rows).items() if isinstance(v, np.ndarray)}
    return Rows(source=rows.source, **kept)


def whole(read: Callable, path: Path):
    """What a reader gives. Raises `BadData` if it refused a row: these files were made without."""
    account = Account()
    found = read(path, account)
    if account.reasons:
        raise BadData(f"{path.name} is not as it was made, restore it: {account}")
    return found


def together(batches: list[Rows]) -> Rows:
    """Batches of one file as one."""
    first = vars(batches[0])
    arrays = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name, values in first.items()
        if isinstance(values, np.ndarray)
    }
    return Rows(source=batches[0].source, **arrays)
