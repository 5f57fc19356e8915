"""The miniature's study of agents: the fitted user models, over the image bank.

What agents may read (`Reader`) of a population: the user model that was fitted to its raters, what
it says of every column that the bank holds, and what texts call for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pasta_lib.clip_utility import ClipUtility
from pasta_lib.concepts import Concepts, load_concepts
from pasta_lib.encoders import ClipEncoder
from pasta_lib.histories import Reader
from pasta_lib.iql import IQLConfig, Trained, load_trained
from pasta_lib.simulator import ColumnWorth, column_worth
from pasta_lib.text_worth import features_of_wordings, load_text_worth
from pasta_lib.user_types import UserTypes, load_types
from pasta_lib.world import raters
from pasta_lib.world.bank import load_bank, prompts
from pasta_lib.world.study import USER_MODEL_DIR, what_and_how
from pasta_lib.world.weights import WORLD_DIR

AGENTS_DIR = WORLD_DIR.parent / "agents"


@dataclass(frozen=True)
class Sight:
    """What is seen and read: `pictures` `[members, 4, D]` of the bank, `features`
    `[members, 6, F]`, what wordings call for; `encoder`, and `image` and `text`, for others;
    `names`, the concepts'."""

    pictures: Tensor
    features: Tensor
    encoder: ClipEncoder
    image: Concepts
    text: Concepts
    names: list[str]


@cache
def load_sight() -> Sight:
    """Half a minute: 54,096 wordings are read."""
    (image, names), (text, _) = (
        load_concepts(USER_MODEL_DIR / f"concepts_{side}.safetensors") for side in ("image", "text")
    )
    encoder, embeddings = ClipEncoder(), torch.as_tensor(load_bank().embeddings(slice(None)))
    with torch.no_grad():
        pictures = image(embeddings)
    return Sight(pictures, features_of_wordings(encoder, text), encoder, image, text, names)


def types_path(population: int = 0, n_types: int = 8) -> Path:
    """Where a population's shipped types lie."""
    ending = "" if population == 0 else f"_population_{population}"
    return USER_MODEL_DIR / f"types_{n_types}{ending}.safetensors"


def load_user_model(sight: Sight, population: int = 0, n_types: int = 8) -> UserTypes:
    """The shipped types of a population."""
    pairs = what_and_how(sight.names)
    usual = sight.image.usual, sight.text.usual
    utility = ClipUtility(sight.encoder.width, *usual, n_types, 1.0, pairs)
    return load_types(types_path(population, n_types), utility)


def spread_found(population: int = 0) -> dict[str, float]:
    """How far people of a population deviate from its eight types: the numbers of
    `what_and_how_far`, as `fit_user_models.py` found them from validation people."""
    results = json.loads((USER_MODEL_DIR / "four_metrics.json").read_text())
    return results["types/8/0" if population == 0 else f"populations/{population}/0"]["spread"]


def worth_of_columns(
    sight: Sight, types: UserTypes, initial: np.ndarray | None = None, progress: bool = True
) -> ColumnWorth:
    """Of all columns under the prompts `initial`, members `[P]`; by default those from which
    population 0's sessions begin: 400, ten seconds, 115 MB."""
    if initial is None:
        initial = raters.initial_prompts(0)
    with torch.no_grad():
        asked = sight.text(
            torch.as_tensor(sight.encoder.encode_texts([prompts()[i] for i in initial]))
        )
    return column_worth(types, sight.pictures, asked, initial, progress=progress)


def training_prompts(n: int, population: int) -> np.ndarray:
    """Members `[n]` from which simulated sessions begin: prompts that are not held out, half of
    them ideas. The first do not hang on how many."""
    pool = raters.initial_prompts(population)
    return raters.prompts_for(np.zeros(n, bool), pool, population, "simulated prompt")


def load_reader(
    sight: Sight, types: UserTypes, initial: np.ndarray | None = None, progress: bool = False
) -> Reader:
    """What population 0's agents read with: columns under the prompts `initial` as
    `worth_of_columns` has them, with the two numbers that `fit_to_sessions` found for raters'."""
    numbers = json.loads((AGENTS_DIR / "answering.json").read_text())[str(types.n_types)]
    log_tie, loyalty = torch.tensor(numbers["log_tie"]), numbers["loyalty"]
    worth = worth_of_columns(sight, types, initial, progress)
    worth = replace(worth, log_tie=log_tie, loyalty=loyalty)
    text_worth = load_text_worth(AGENTS_DIR / "text_worth" / f"{types.n_types}_types.safetensors")
    return Reader(sight.features, text_worth, worth)


def load_pasta(reader: Reader) -> Trained:
    """The agent that is shipped: seed 0, population 0, raters' and simulated sessions."""
    config = IQLConfig(slate_level=True)
    return load_trained(AGENTS_DIR / "both-slate-0.safetensors", *reader.sizes, config)
