"""Teach the denoiser's sketch: from a caption, a plain drawing of its subjects.

    python data/makers/make_sketch.py

A regression from the text encoder's last position to latents, of renders in one plain style on one
plain background, whose subjects stand in one place. What things look like is learnt here, at a
hundredth of the denoiser's cost a picture, and holds for styles that a subject was never seen in:
a sketch does not know the style. The denoiser has then to move, style and vary what it is shown.
Twelve minutes on one CPU core.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import TrainConfig, batches, configure, fit, save_tensors, to_latents
from make_text_encoder import token_ids
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from pasta_lib.world import captions
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.denoiser import Sketch
from pasta_lib.world.renderer import render
from pasta_lib.world.scenes import (
    BACKGROUND,
    STYLE,
    from_array,
    is_held_out,
    sample_prompts,
)
from pasta_lib.world.vocabulary import BACKGROUNDS, STYLES
from pasta_lib.world.weights import WORLD_DIR, require


@dataclass(frozen=True)
class SketchConfig(TrainConfig):
    """Training of the sketch."""

    steps: int = 9000
    batch_size: int = 256
    lr: float = 2e-3
    decay: float = 0.7
    weight_decay: float = 0.05
    scenes: int = 80_000  # prompts, each with one render and some wordings
    wordings: int = 2
    drop_caption: float = 0.05  # share of empty captions: the mean of all pictures
    reader: str = "/tmp/pasta-train/text_encoder/model"  # what make_text_encoder.py wrote
    folder: str = "/tmp/pasta-train/sketch"
    curve: str = str(WORLD_DIR / "logs" / "sketch.csv")


@torch.no_grad()
def words(scenes: np.ndarray, reader: CLIPTextModel, tokenizer, rng) -> Tensor:
    """What the denoiser reads of one caption of each scene, float `[N, width]`."""
    parts = []
    for rows in tqdm(list(batches(len(scenes), 500)), desc="captions"):
        texts = [captions.write(scene, rng) for scene in from_array(scenes[rows])]
        parts.append(reader(token_ids(tokenizer, texts)).last_hidden_state[:, -1])
    return torch.cat(parts)


def latents_in_place(scenes: np.ndarray, vae: PatchAutoencoder, seed: int) -> Tensor:
    """Latents of renders whose subjects stand in one place, float16 `[N, C, h, w]`."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for rows in tqdm(list(batches(len(scenes), 500)), desc="renders"):
        parts.append(to_latents(render(scenes[rows], generator, in_place=True), vae))
    return torch.cat(parts)


def plain(scenes: np.ndarray) -> np.ndarray:
    """The same subjects in the first style and on the first background that training may show them
    in: flat and white for nearly all. int64 `[N, 7]`, from resolved scenes `[N, 7]`."""
    out = scenes.copy()
    todo = np.arange(len(scenes))
    for style, background in product(range(len(STYLES)), range(len(BACKGROUNDS))):
        out[todo, STYLE], out[todo, BACKGROUND] = style, background
        todo = todo[is_held_out(out[todo])]
    return out


def main() -> None:
    config = configure(SketchConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 1])
    prompts, scenes = sample_prompts(config.scenes, rng)
    vae = PatchAutoencoder.from_pretrained(require("text_to_image/vae"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(WORLD_DIR / "text_to_image" / "tokenizer")
    reader = CLIPTextModel.from_pretrained(config.reader, dtype=torch.float32).eval()
    with torch.no_grad():
        silence = reader(token_ids(tokenizer, [""])).last_hidden_state[:, -1]
    said = [words(prompts, reader, tokenizer, rng) for _ in range(config.wordings)]
    shown = latents_in_place(plain(scenes), vae, config.seed)

    def loss_function(model, rng, generator):
        rows = rng.integers(len(shown), size=config.batch_size)
        text = said[rng.integers(config.wordings)][rows]
        text[rng.random(len(rows)) < config.drop_caption] = silence
        device = next(model.parameters()).device
        loss = F.mse_loss(model(text.to(device)), shown[rows].to(device).float())
        return loss, {}

    sketch = Sketch(reader.config.hidden_size, side=shown.shape[2], channels=shown.shape[1])
    sketch = fit(sketch, loss_function, config)
    if sketch is not None:
        save_tensors(sketch.state_dict(), Path(config.folder) / "model.safetensors")


if __name__ == "__main__":
    main()
