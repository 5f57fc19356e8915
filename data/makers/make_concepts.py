"""Teach what CLIP's vectors of pictures show, and those of prompts call for (`pasta_lib.concepts`).

    python data/makers/make_concepts.py

A concept is a value of the world: a subject, colour, style, background or number; of pictures also
a category of subjects. Renders are
labelled with all that they show; the image bank's pictures, of prompts that are not held out, with
what their prompts say. A prompt is labelled with what its render shows, or with what these probes
read off its four pictures in the bank. Writes concepts_image.safetensors and
concepts_text.safetensors in data/user_model/. Two minutes on two cores.
"""

from dataclasses import dataclass

import numpy as np
import torch
from common import PoolConfig, configure, load_pool
from evaluate_world import worded

from pasta_lib.concepts import fit_concepts, save_concepts
from pasta_lib.encoders import ClipEncoder
from pasta_lib.world.bank import load_bank
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.people import CATEGORY_OF, PART, WIDTH
from pasta_lib.world.raters import held_out_prompts
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import SECOND, STYLE, VALUES, shows_colour
from pasta_lib.world.vocabulary import CATEGORIES
from pasta_lib.world.weights import WORLD_DIR

FOLDER = WORLD_DIR.parent / "user_model"
SPOKEN = {"count": "{} of them", "background": "{} background"}  # a "white" may be either
NAMES = [SPOKEN.get(a, "{}").format(v) for a, (_, values) in VALUES.items() for v in values]


@dataclass(frozen=True)
class ConceptsConfig:
    """How long each side learns, and with how much noise."""

    image_epochs: int = 24
    image_noise: float = 0.2
    image_rate: float = 2e-3
    text_epochs: int = 24
    text_noise: float = 0.05
    seed: int = 0
    threads: int = 2


def labels(scenes: np.ndarray) -> np.ndarray:
    """What is there, float32 `[N, 96]`, of scenes `[N, 7]`; NaN for all of what is not said."""
    out = np.full((len(scenes), WIDTH), np.nan, np.float32)
    for attribute, (column, _) in VALUES.items():
        rows = np.flatnonzero(scenes[:, column] >= 0)
        out[rows, PART[attribute]] = 0
        codes = scenes[rows, column] - (attribute == "count")
        out[rows, PART[attribute].start + codes] = 1
    two = np.flatnonzero(scenes[:, SECOND] >= 0)
    out[two, scenes[two, SECOND]] = 1
    hidden = (scenes[:, STYLE] >= 0) & ~shows_colour(scenes)
    out[hidden, PART["colour"]] = 0
    kinds = out[:, PART["subject"]] @ np.eye(len(CATEGORIES), dtype=np.float32)[CATEGORY_OF]
    return np.concatenate([out, kinds.clip(max=1)], 1)  # two of a kind are one kind


def main() -> None:
    config = configure(ConceptsConfig(), __doc__)
    torch.set_num_threads(config.threads)
    FOLDER.mkdir(exist_ok=True)
    encoder, bank, pool = ClipEncoder(), load_bank(), load_pool(PoolConfig())
    known = np.flatnonzero(~held_out_prompts(0))
    rendered = [encoder.encode_images(some) for some in np.array_split(pool.images, 40)]
    drawn = bank.embeddings(known).reshape(-1, 64)
    image = fit_concepts(
        np.concatenate([*rendered, drawn]),
        np.concatenate([labels(pool.shown), labels(np.repeat(reachable()[known], 4, 0))]),
        seed=config.seed, epochs=config.image_epochs, noise=config.image_noise,
        learning_rate=config.image_rate,
    )  # fmt: skip
    texts = [*worded(pool.said, config.seed), *(bank_prompts()[m] for m in known)]
    seem = image.probability(torch.as_tensor(drawn)).reshape(len(known), 4, -1).mean(1)
    text = fit_concepts(
        encoder.encode_texts(texts), np.concatenate([labels(pool.shown), seem])[:, :WIDTH],
        seed=config.seed, epochs=config.text_epochs, noise=config.text_noise,
    )  # fmt: skip
    save_concepts(image, [*NAMES, *CATEGORIES], FOLDER / "concepts_image.safetensors")
    save_concepts(text, NAMES, FOLDER / "concepts_text.safetensors")


if __name__ == "__main__":
    main()
