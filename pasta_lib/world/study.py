"""The miniature's study of user types: what a model learns from, and what it is measured on.

Pictures are judged by frozen CLIP with `Concepts` beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from pasta_lib.choices import ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.concepts import load_concepts
from pasta_lib.datasets.pasta import read_sat
from pasta_lib.datasets.rows import to_choices
from pasta_lib.encoders import ClipEncoder
from pasta_lib.four_metrics import Held, as_one_observation_each
from pasta_lib.panel import Panel
from pasta_lib.world.bank import load_bank
from pasta_lib.world.rater_files import (
    RATERS_DIR,
    read_pairs,
    read_rankings,
    read_ratings,
    read_turns,
    turns_of,
    vectors,
)
from pasta_lib.world.scenes import SUBJECT_NAMES
from pasta_lib.world.vocabulary import CATEGORIES
from pasta_lib.world.weights import WORLD_DIR

USER_MODEL_DIR = WORLD_DIR.parent / "user_model"


@dataclass(frozen=True)
class Study:
    """`learn`: picks, judgements, pairs (with ties) and ratings of the training people; `held`:
    what models are measured on; `names`: the concepts'; `utility`: untrained, K = 1."""

    learn: Panel
    held: Held
    names: list[str]
    utility: ClipUtility


def load_study(population: int = 0, folder: Path = RATERS_DIR) -> Study:
    """A population's files in `folder`, read by the readers. Some 15 seconds and 1 GB."""
    (image, names), (text, _) = (
        load_concepts(USER_MODEL_DIR / f"concepts_{side}.safetensors") for side in ("image", "text")
    )
    encoder = ClipEncoder()
    to_vectors = vectors(load_bank(), encoder, image, text)
    turns = read_turns(population, folder)
    sat = {
        split: read_sat(turns_of(turns, split), *to_vectors)
        for split in ("train", "validation", "test")
    }
    pairs = {name: to_choices(read_pairs(name, folder), *to_vectors)
             for name in ("train", "validation_unique", "test")}  # fmt: skip
    rankings = read_rankings(folder)
    learn = Panel.of(
        sat["train"].picks,
        sat["train"].judgements,
        with_ties(pairs["train"]),
        to_choices(read_ratings("train", folder), *to_vectors),
    )
    held = Held(
        sat=sat["test"],
        pairs=pairs["test"],
        validation=pairs["validation_unique"],
        before=sat["validation"],
        rankings=rankings,
        ranked=as_one_observation_each(rankings, *to_vectors),
    )
    utility = ClipUtility(
        encoder.width, image.usual, text.usual, 1, encoder.logit_scale(), what_and_how(names)
    )
    return Study(learn, held, names, utility)


def what_and_how(names: list[str]) -> Tensor:
    """Pairs of concepts that may please together, long `[2, 192]`: a category of subjects with a
    colour, style, background or number. `names`: the concepts', which begin with subjects and end
    with categories."""
    what = torch.tensor([names.index(category) for category in CATEGORIES])
    how = torch.arange(len(SUBJECT_NAMES), int(what.min()))
    return torch.cartesian_prod(what, how).T


def with_ties(pairs: ChoiceData) -> ChoiceData:
    """Pairs whose .5 and .5 is a tie of its own (Davidson's), and not half a win each."""
    tie = (pairs.target == 0.5).all(1)
    return replace(pairs, target=pairs.target.masked_fill(tie[:, None], 0.0), tie=tie.double())


def true_types(population: int = 0, folder: Path = RATERS_DIR) -> dict[str, int]:
    """Every person's hidden type: the truth, which only evaluation may read."""
    table = pq.read_table(folder / f"truth_{population}.parquet", columns=["person_id", "type"])
    return dict(zip(*table.to_pydict().values(), strict=True))
