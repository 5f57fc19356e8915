"""Train miniature CLIP: an `open_clip` model on captioned scenes, with open_clip's own loss.

    python data/makers/make_clip.py

Random batches teach style, colour and background alone: those tell most scenes apart, and the loss
rests (subject was still at chance after 200,000 pictures). So half of every batch are groups that
differ in the subject alone, and a quarter are near misses: scenes that differ from another of the
batch in one attribute.
The folder it writes loads with `open_clip.create_model_and_transforms("local-dir:<folder>")`.
"""

import json
import shutil
from dataclasses import dataclass

import numpy as np
import open_clip
import torch
from common import Pool, PoolConfig, TrainConfig, configure, fit, load_pool, save_tensors
from open_clip.loss import ClipLoss

from pasta_lib.world import captions
from pasta_lib.world.renderer import IMAGE_SIZE, render
from pasta_lib.world.scenes import (
    BACKGROUND,
    COLOUR,
    COUNT,
    IDEA,
    SECOND,
    STYLE,
    SUBJECT,
    UNSAID,
    VALUES,
    from_array,
    is_held_out,
    own_colours,
    shows_colour,
)
from pasta_lib.world.weights import WORLD_DIR, write_atomically, write_manifest

FOLDER = WORLD_DIR / "clip"
TOKENIZER = WORLD_DIR / "text_to_image" / "tokenizer"
GROUPED = [STYLE, BACKGROUND, COLOUR, COUNT]
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {  # a list of layers makes it CLIP's ResNet, here twice as fast as a transformer
        "image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32,
    },
    "text_cfg": {
        "context_length": 32, "vocab_size": 0, "width": 96, "heads": 4, "layers": 2,
        "hf_tokenizer_name": "", "pool_type": "argmax",
    },
}  # fmt: skip


@dataclass(frozen=True)
class ClipConfig(TrainConfig):
    """Training of CLIP."""

    steps: int = 12_500
    batch_size: int = 128
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    ema: float = 0.99  # short: batch norm's statistics follow the weights, not their average
    alike: float = 0.5  # share of a batch in groups of about 20 that differ in the subject alone
    unsaid: float = 0.4  # share of those captions that leave out the style; likewise the background
    near: float = 0.25  # share of a batch that is near misses of some of those
    folder: str = "/tmp/pasta-train/clip"
    curve: str = str(WORLD_DIR / "logs" / "clip.csv")


def write_config() -> None:
    """The registered configuration and the tokenizer, where open_clip looks for them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = json.loads(json.dumps(MODEL))
    for file in TOKENIZER.glob("*.json"):
        shutil.copy(file, FOLDER / file.name)
    vocabulary = json.loads((TOKENIZER / "tokenizer.json").read_text())["model"]["vocab"]
    model["text_cfg"] |= {"vocab_size": len(vocabulary), "hf_tokenizer_name": "local"}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    write_atomically(FOLDER / "open_clip_config.json", json.dumps(config, indent=1).encode())


def near_misses(scenes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each scene with one attribute changed, int64 `[B, 7]`: never into a held-out pair or another
    of `scenes`, nor in a colour that the style does not show."""
    known = np.array([row.tobytes() for row in scenes])
    out = scenes.copy()
    todo = np.arange(len(scenes))
    sizes = {column: len(values) for column, values in VALUES.values()}
    columns = np.array([COLOUR, COUNT, COUNT, SUBJECT, SUBJECT, STYLE, BACKGROUND])
    while len(todo):
        column = rng.choice(columns, len(todo))
        column[(column == COUNT) & (scenes[todo, SECOND] >= 0)] = COLOUR
        size = np.array([sizes[c] for c in column])
        out[todo] = scenes[todo]
        out[todo, column] = rng.integers(size) + (column == COUNT)
        bad = np.isin([row.tobytes() for row in out[todo]], known) | is_held_out(out[todo])
        bad |= (column == COLOUR) & ~shows_colour(scenes[todo])
        bad |= own_colours()[out[todo, SUBJECT]] == out[todo, COLOUR]
        bad |= out[todo, SECOND] == out[todo, SUBJECT]
        todo = todo[bad]
    return out


class _Loss:
    """Pictures of the pool, many of them alike, and freshly rendered near misses of those."""

    def __init__(self, pool: Pool, tokenizer, config: ClipConfig) -> None:
        self.pool, self.tokenizer, self.config = pool, tokenizer, config
        self.said = pool.said
        group = np.unique(pool.shown[:, GROUPED], axis=0, return_inverse=True)[1]
        group[pool.shown[:, SECOND] >= 0] = -1
        self.groups = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
        self.clip_loss = ClipLoss()

    def only_subjects_differ(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of the pool, int64 `[n]`: whole groups, in each every subject at most once."""
        rows = np.empty(0, np.int64)
        while len(rows) < n:
            group = rng.permutation(self.groups[rng.integers(len(self.groups))])
            first = np.unique(self.pool.shown[group, SUBJECT], return_index=True)[1]
            rows = np.concatenate([rows, group[first]])
        return rows[:n]

    def __call__(self, model, rng, generator):
        device = next(model.parameters()).device
        size = self.config.batch_size
        n_alike, n_near = round(size * self.config.alike), round(size * self.config.near)
        alike = self.only_subjects_differ(n_alike, rng)
        rows = np.concatenate([alike, rng.integers(len(self.said), size=size - n_alike - n_near)])
        originals = self.pool.shown[alike].copy()  # these are captioned in full
        originals[:, IDEA] = UNSAID
        others = near_misses(originals, rng)[:n_near]
        images = torch.cat([self.pool.batch(rows, device), render(others, generator).to(device)])
        # What a group shares may go unsaid, so that short captions are learnt too; not beside
        # near misses, which a short caption would fit as well.
        unsaid = rng.random((n_alike, 2)) < self.config.unsaid
        unsaid[:n_near] = False
        for column, gone in zip((STYLE, BACKGROUND), unsaid.T, strict=True):
            originals[gone, column] = UNSAID
        scenes = from_array(np.concatenate([originals, self.said[rows[n_alike:]], others]))
        texts = self.tokenizer([captions.write(scene, rng) for scene in scenes]).to(device)
        image, text, scale = model((images - 0.5) / 0.5, texts)
        loss = self.clip_loss(image, text, scale)
        right = (image @ text.T).argmax(1) == torch.arange(len(image), device=device)
        return loss, {"top_1": right.float().mean(), "scale": scale.detach()}


def main() -> None:
    config = configure(ClipConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = load_pool(PoolConfig(), device)
    write_config()
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    model = fit(model, _Loss(pool, tokenizer, config), config)
    if model is None:
        return
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_tensors(tensors, FOLDER / "open_clip_model.safetensors")
    write_manifest(["clip"])


if __name__ == "__main__":
    main()
