"""The miniature's study of user types: what a model learns from, and what it is measured on.

Pictures are judged by frozen CLIP with `Concepts` beside it. A utility on them is linear in what a
column's pictures show, so their mean is taken once, here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pasta_lib.choices import ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.concepts import load_concepts
from pasta_lib.datasets.pasta import Sat, Turns, read_sat
from pasta_lib.datasets.rows import to_choices
from pasta_lib.encoders import ClipEncoder
from pasta_lib.four_metrics import Held, as_one_observation_each
from pasta_lib.panel import Panel
from pasta_lib.world.bank import load_bank
from pasta_lib.world.rater_files import (
    read_pairs,
    read_rankings,
    read_ratings,
    read_turns,
    turns_of,
    vectors,
)
from pasta_lib.world.weights import WORLD_DIR

USER_MODEL_DIR = WORLD_DIR.parent / "user_model"


@dataclass(frozen=True)
class Study:
    """`learn`: picks, judgements, pairs (with ties) and ratings of the training people; `held`:
    what models are measured on; `words`: the concepts' names; `utility`: untrained, K = 1."""

    learn: Panel
    held: Held
    words: list[str]
    utility: ClipUtility


def load_study(folder: Path = USER_MODEL_DIR) -> Study:
    """Population 0's files, read by the readers. Some 30 seconds and 2 GB."""
    (image, words), (text, _) = (
        load_concepts(folder / f"concepts_{side}.safetensors") for side in ("image", "text")
    )
    encoder = ClipEncoder()
    to_vectors = vectors(load_bank(), encoder, image, text)
    turns = read_turns()
    sat = {split: _sat(turns, split, to_vectors) for split in ("train", "validation", "test")}
    pairs = {name: to_choices(read_pairs(name), *to_vectors)
             for name in ("train", "validation_unique", "test")}  # fmt: skip
    rankings = read_rankings()
    learn = Panel.of(
        sat["train"].picks,
        sat["train"].judgements,
        with_ties(pairs["train"]),
        to_choices(read_ratings("train"), *to_vectors),
    )
    held = Held(
        sat=sat["test"],
        pairs=pairs["test"],
        validation=pairs["validation_unique"],
        before=sat["validation"],
        rankings=rankings,
        ranked=as_one_observation_each(rankings, *to_vectors),
    )
    width, n_together = len(image.mean), image.together.shape[1]
    utility = ClipUtility(width, len(words), n_together, 1, encoder.logit_scale())
    return Study(learn, held, words, utility)


def with_ties(pairs: ChoiceData) -> ChoiceData:
    """Pairs whose .5 and .5 is a tie of its own (Davidson's), and not half a win each."""
    tie = (pairs.target == 0.5).all(1)
    return replace(pairs, target=pairs.target.masked_fill(tie[:, None], 0.0), tie=tie.double())


def _sat(turns: Turns, split: str, to_vectors) -> Sat:
    sat = read_sat(turns_of(turns, split), *to_vectors)
    return Sat(_means(sat.picks), _means(sat.judgements), sat.when)


def _means(data: ChoiceData) -> ChoiceData:
    pooled = data.pooled()
    return replace(pooled, table=pooled.table.to(torch.float32))
