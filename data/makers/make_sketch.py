"""Teach the denoiser's sketch what captions mean and what things look like.

    python data/makers/make_sketch.py --threads 2

From the text encoder's last position:
- the *drawing*, a regression to latents of renders in a plain style, on a plain background and in
  one place. It holds for styles that a subject was never seen in: a drawing has no style. Six
  minutes on two CPU cores, at a hundredth of the denoiser's cost a picture;
- the *meanings*: text states of the most typical things that the abstract prompts of the training
  set stood for (k-means), and a logistic regression that says how likely a prompt means which.
make_styling.py then teaches the rest of the sketch.
"""

import hashlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import TrainConfig, batches, configure, fit, latents_digest, save_tensors, to_latents
from make_text_encoder import READER, token_ids
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from pasta_lib.world import captions
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.renderer import render
from pasta_lib.world.scenes import (
    BACKGROUND,
    BACKGROUND_NAMES,
    IDEA,
    STYLE,
    UNSAID,
    from_array,
    is_held_out,
    sample_prompts,
)
from pasta_lib.world.sketch import Meanings, drawing_network
from pasta_lib.world.vocabulary import STYLES
from pasta_lib.world.weights import WORLD_DIR, require

LOOK = [STYLE, BACKGROUND]
# On teal a subject shows in every colour; on white, three fifths of a white one would vanish.
# A scene's two subjects have at most two held-out backgrounds, so one of three is free.
PLAIN = ("teal", "pink", "yellow")


@dataclass(frozen=True)
class SketchConfig(TrainConfig):
    """Training of the drawing."""

    steps: int = 12_000
    batch_size: int = 256
    lr: float = 2e-3
    decay: float = 0.7
    weight_decay: float = 0.05
    scenes: int = 60_000  # prompts, each with two renders and some wordings
    second: float = 0.3  # share with a second subject: pairs are many
    wordings: int = 2
    drop_caption: float = 0.05  # share of empty captions: the mean of all pictures
    reader: str = READER
    folder: str = "/tmp/pasta-train/sketch"
    curve: str = str(WORLD_DIR / "logs" / "sketch.csv")


@dataclass(frozen=True)
class Lessons:
    """What the sketch is taught with; `N` prompts. Latents are float16 and memory-mapped."""

    abstract: Tensor  # bool `[N]`: the prompt is an idea
    said: Tensor  # the prompt's text states in some wordings, `[W, N, width]`
    meant: Tensor  # text states of what the picture shows, plainly said, `[N, width]`
    silence: Tensor  # of the empty prompt, `[1, width]`
    plain: np.ndarray  # latents of what is meant, plain and in one place, `[N, C, h, w]`
    shown: np.ndarray  # latents of the picture
    places: Tensor  # where its subjects stand: right + 2 · down, `[N]`
    looks: Tensor  # which style and which background it has, `[N, 2]`
    open: Tensor  # bool `[N, 2]`: the prompt does not say which

    def words(self, rows: np.ndarray, rng: np.random.Generator, drop: float) -> tuple:
        """Text states of what is said and of what is meant, some of them empty. `[B, width]` each.

        A concrete prompt means what it says.
        """
        said = self.said[rng.integers(len(self.said))][rows]
        meant = torch.where(self.abstract[rows, None], self.meant[rows], said)
        empty = torch.from_numpy(rng.random(len(rows)) < drop)[:, None]
        return torch.where(empty, self.silence, said), torch.where(empty, self.silence, meant)


def plain(scenes: np.ndarray) -> np.ndarray:
    """The same subjects in the first style and on the first background of `PLAIN` that training may
    show them in: flat and teal for four in five. int64 `[N, 7]`, from resolved scenes `[N, 7]`."""
    out = scenes.copy()
    out[:, IDEA] = UNSAID
    todo = np.arange(len(scenes))
    for style, background in product(range(len(STYLES)), map(BACKGROUND_NAMES.index, PLAIN)):
        out[todo, STYLE], out[todo, BACKGROUND] = style, background
        todo = todo[is_held_out(out[todo])]
    return out


def lessons(config: SketchConfig) -> Lessons:
    """Rendered at the first call (three minutes), then read from `config.folder`; captions are read
    by the text encoder at each (a minute)."""
    rng = np.random.default_rng([config.seed, 1])
    prompts, scenes = sample_prompts(config.scenes, rng, config.second)
    moves = torch.from_numpy(rng.integers(2, size=(len(scenes), 2)))
    vae = PatchAutoencoder.from_pretrained(require("text_to_image/vae"), dtype=torch.float32)
    shows = hashlib.sha256(np.stack([scenes, plain(scenes)]).tobytes()).hexdigest()[:8]
    folder = Path(config.folder) / f"lessons-{shows}-{config.seed}-{latents_digest(vae)}"
    folder.mkdir(parents=True, exist_ok=True)
    still = torch.zeros_like(moves)
    latents = {
        "plain": _latents(plain(scenes), still, vae, config.seed, folder / "plain.npy"),
        "shown": _latents(scenes, moves, vae, config.seed, folder / "shown.npy"),
    }
    tokenizer = CLIPTokenizer.from_pretrained(WORLD_DIR / "text_to_image" / "tokenizer")
    reader = CLIPTextModel.from_pretrained(config.reader, dtype=torch.float32).eval()
    read = lambda texts: reader(token_ids(tokenizer, texts)).last_hidden_state[:, -1]  # noqa: E731
    with torch.no_grad():
        return Lessons(
            abstract=torch.from_numpy(prompts[:, IDEA] != UNSAID),
            said=torch.stack([_states(prompts, read, rng) for _ in range(config.wordings)]),
            meant=_states(plain(scenes), read, rng),
            silence=read([""]),
            places=moves[:, 0] + 2 * moves[:, 1],
            looks=torch.from_numpy(scenes[:, LOOK]),
            open=torch.from_numpy(prompts[:, LOOK] == UNSAID),
            **latents,
        )


def _states(scenes: np.ndarray, read, rng: np.random.Generator) -> Tensor:
    """Text states of one caption of each scene, float `[N, width]`."""
    return torch.cat(
        [
            read([captions.write(scene, rng) for scene in from_array(scenes[rows])])
            for rows in tqdm(list(batches(len(scenes), 500)), desc="captions")
        ]
    )


def _latents(scenes: np.ndarray, moves: Tensor, vae, seed: int, path: Path) -> np.ndarray:
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        out = [
            to_latents(render(scenes[rows], generator, moves=moves[rows]), vae).numpy()
            for rows in tqdm(list(batches(len(scenes), 500)), desc="renders")
        ]
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.concatenate(out))
        temporary.replace(path)
    return np.load(path, mmap_mode="r")


def learn_meanings(meanings: Meanings, lessons: Lessons, seed: int) -> None:
    """Fill in what the abstract prompts stood for, and how likely."""
    abstract = lessons.abstract
    stood_for = lessons.meant[abstract]
    size = min(len(meanings.things), len(stood_for))
    kmeans = KMeans(size, n_init=2, random_state=seed).fit(stood_for.numpy())
    # The state of a real caption near each centre: a mean of several would be drawn as their blur.
    centres = torch.from_numpy(kmeans.cluster_centers_)
    meanings.things[:size] = stood_for[torch.cdist(centres, stood_for).argmin(1)]
    states = [part[abstract] for part in lessons.said]
    kinds = [1 + kmeans.labels_] * len(states)
    states += [lessons.said[0][~abstract], lessons.silence.expand(100, -1)]
    kinds += [np.zeros(int((~abstract).sum()) + 100, np.int64)]  # it stands for itself
    regression = LogisticRegression(max_iter=200, tol=1e-3)
    regression.fit(torch.cat(states).numpy(), np.concatenate(kinds))
    meanings.logits.weight.zero_()
    meanings.logits.bias.fill_(-30.0)
    meanings.logits.weight[regression.classes_] = torch.from_numpy(regression.coef_).float()
    meanings.logits.bias[regression.classes_] = torch.from_numpy(regression.intercept_).float()


def main() -> None:
    config = configure(SketchConfig(), __doc__)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    taught = lessons(config)

    def loss_function(model, rng, generator):
        rows = rng.integers(len(taught.plain), size=config.batch_size)
        _, meant = taught.words(rows, rng, config.drop_caption)
        target = torch.from_numpy(taught.plain[rows])
        device = next(model.parameters()).device
        return F.mse_loss(model(meant.to(device)), target.to(device).float()), {}

    width, channels, side = taught.said.shape[-1], *taught.plain.shape[1:3]
    draw = drawing_network(width, side, channels)
    draw = fit(draw, loss_function, config, [Path(config.reader) / "model.safetensors"])
    if draw is not None:
        meanings = Meanings(width)
        with torch.no_grad():
            learn_meanings(meanings, taught, config.seed)
        tensors = {f"meanings.{k}": v for k, v in meanings.state_dict().items()}
        tensors |= {f"draw.{k}": v for k, v in draw.state_dict().items()}
        save_tensors(tensors, Path(config.folder) / "drawing.safetensors")


if __name__ == "__main__":
    main()
