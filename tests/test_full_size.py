"""Real sizes by configuration: Pick-a-Pic's schema, vectors as wide as CLIP-H's, user types."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from pasta_lib.clip_utility import TYPES, ClipUtility, fit_clip_types, fit_common
from pasta_lib.concepts import fit_concepts, mentions, vocabulary
from pasta_lib.datasets.pickapic import read_pickapic
from pasta_lib.datasets.rows import Account, to_choices

WIDTH = 1024
WORDS = ["cat", "dog", "neon", "sepia"]


def vectors(texts, directions, rng, noise):
    """Unit vectors that hold what texts say, each word along a direction of its own."""
    said = mentions(texts, WORDS) @ directions + noise * rng.normal(size=(len(texts), WIDTH))
    return (said / np.linalg.norm(said, axis=1, keepdims=True)).astype(np.float32)


def test_words_of_captions_and_types_at_the_width_of_clip_h(tmp_path):
    """Half of the users take cats, half dogs; the concepts are the captions' own words."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, WIDTH)) / WIDTH**0.5
    n, users = 3000, 100
    captions = [f"a {a} in {b}" for a in ("cat", "dog") for b in ("neon", "sepia")]
    shown = rng.integers(4, size=(n, 2))
    user = np.arange(n) % users
    wants_cat = user < users // 2
    worth = 3.0 * ((shown < 2) == wants_cat[:, None]) + rng.gumbel(size=(n, 2))
    second = worth[:, 1] > worth[:, 0]
    frame = pd.DataFrame({
        "caption": "a pet", "has_label": True, "ranking_id": np.arange(n), "user_id": user,
        "image_0_uid": [f"{i} {captions[s]}" for i, s in enumerate(shown[:, 0])],
        "image_1_uid": [f"{i} {captions[s]}" for i, s in enumerate(shown[:, 1])],
        "label_0": 1.0 - second, "label_1": second.astype(float), "num_example_per_prompt": 1,
    })  # fmt: skip
    frame.to_parquet(tmp_path / "train.parquet")
    (rows,) = read_pickapic([tmp_path / "train.parquet"], Account(), training=True)

    assert set(WORDS) <= set(vocabulary(captions, 2))
    many = captions * 100
    concepts = fit_concepts(
        vectors(many, directions, rng, 0.01),
        mentions(many, WORDS),
        seed=0,
        epochs=8,
        progress=False,
    )

    def pictured(references):
        names = [str(r) for r in references]
        return concepts(torch.as_tensor(vectors(names, directions, rng, 0.01)))

    data = to_choices(rows, pictured, lambda texts: concepts(torch.zeros(len(texts), WIDTH)))
    assert data.table.shape[1] == WIDTH + len(WORDS)
    utility = ClipUtility(WIDTH, concepts.usual, concepts.usual, 1, 100.0)
    config = replace(TYPES, max_passes=6)
    common = fit_common(data, utility, seed=0, progress=False)
    types = fit_clip_types(data, common, 2, seed=0, config=config, progress=False)
    found = types.posterior(data).argmax(1).numpy() == wants_cat[:users]
    assert max(found.mean(), 1 - found.mean()) > 0.97
