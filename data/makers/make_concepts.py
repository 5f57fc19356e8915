"""Teach what CLIP's vectors of pictures, and of prompts, would be called (`pasta_lib.concepts`).

    python data/makers/make_concepts.py

From captioned renders, as CLIP itself was taught, and from the image bank's pictures of prompts
that are not held out. Writes concepts_image.safetensors and concepts_text.safetensors in
data/user_model/. Four minutes on a CPU core.
"""

from dataclasses import dataclass

import numpy as np
import torch
from common import configure
from evaluate_world import renders
from tqdm.auto import tqdm

from pasta_lib.concepts import fit_concepts, save_concepts, vocabulary
from pasta_lib.encoders import ClipEncoder
from pasta_lib.world import captions
from pasta_lib.world.bank import load_bank
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.raters import held_out_prompts
from pasta_lib.world.scenes import from_array, sample_scenes
from pasta_lib.world.weights import WORLD_DIR

FOLDER = WORLD_DIR.parent / "user_model"


@dataclass(frozen=True)
class ConceptsConfig:
    """How much is shown."""

    scenes: int = 40_000  # captioned renders
    at_least: int = 150  # captions that a word must occur in
    image_epochs: int = 16
    text_epochs: int = 8
    seed: int = 0
    threads: int = 2


def main() -> None:
    config = configure(ConceptsConfig(), __doc__)
    torch.set_num_threads(config.threads)
    FOLDER.mkdir(exist_ok=True)
    encoder, bank = ClipEncoder(), load_bank()
    known = np.flatnonzero(~held_out_prompts(0))
    prompts = [bank_prompts()[m] for m in known]
    rng = np.random.default_rng([config.seed, 7])
    scenes = sample_scenes(config.scenes, rng)
    written = [captions.write(scene, rng) for scene in from_array(scenes)]
    rendered = [
        encoder.encode_images(renders(some, 7 * 10**6 + 1000 * i))
        for i, some in enumerate(tqdm(np.array_split(scenes, config.scenes // 500), desc="renders"))
    ]
    pictures = np.concatenate([bank.embeddings(known).reshape(-1, 64), *rendered])
    shown = [prompt for prompt in prompts for _ in range(4)] + written
    words = vocabulary(shown, config.at_least)
    texts = np.concatenate([encoder.encode_texts(prompts), encoder.encode_texts(written)])
    image = fit_concepts(pictures, shown, words, seed=config.seed, epochs=config.image_epochs)
    text = fit_concepts(
        texts, prompts + written, words, seed=config.seed, n_together=0, epochs=config.text_epochs
    )
    save_concepts(image, words, FOLDER / "concepts_image.safetensors")
    save_concepts(text, words, FOLDER / "concepts_text.safetensors")


if __name__ == "__main__":
    main()
