"""What a picture, or a prompt, would be called: words read off CLIP's vectors by a small network.

CLIP's vectors hold more than a linear head can read: in the miniature 64 numbers stand for 64
subjects, 6 styles, 8 backgrounds and more, packed one over another. Two hidden layers unpack them.
They learn which words a picture's caption had, from pictures and captions as CLIP itself did; so
every number that a user type weighs has a name. Ours.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pasta_lib.choices import BadData

RARE = 0.03  # a word's deviation, at least, by which its probability is divided


def vocabulary(texts: Sequence[str], at_least: int) -> list[str]:
    """Words that occur in as many of the texts, in alphabetical order."""
    counts = Counter(word for text in texts for word in set(_words(text)))
    return sorted(word for word, n in counts.items() if n >= at_least)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Concepts(nn.Module):
    """CLIP's unit vectors [..., D] → the same with what they show beside them, [..., D + V + H].

    V concepts, each the probability of a word in units of three of its standard deviations; and H
    units that see several of them together, g(B c + b).
    """

    def __init__(
        self, width: int, n_words: int, n_together: int = 64, hidden: tuple[int, int] = (512, 256)
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(n_words)
        both = 0.3 * torch.randn(n_words, n_together, generator=generator)
        self.together = nn.Parameter(both)  # B
        self.together_bias = nn.Parameter(torch.zeros(n_together))  # b
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.eye(width))
        self.register_buffer("scale", torch.ones(n_words))
        self.read = nn.Sequential(
            nn.Linear(width, hidden[0]), nn.GELU(), nn.Linear(hidden[0], hidden[1]), nn.GELU(),
            nn.Linear(hidden[1], n_words),
        )  # fmt: skip

    def forward(self, vectors: Tensor) -> Tensor:
        concepts = self.probability(vectors) / self.scale
        both = nn.functional.gelu(concepts @ self.together + self.together_bias)
        return torch.cat([vectors, concepts, both], -1)

    def probability(self, vectors: Tensor) -> Tensor:
        """Of each word, [..., V]."""
        return self.logits(vectors).sigmoid()

    def logits(self, vectors: Tensor) -> Tensor:
        return self.read((vectors - self.mean) @ self.whiten)


def fit_concepts(
    vectors: Tensor | np.ndarray,
    texts: Sequence[str],
    words: Sequence[str],
    *,
    seed: int,
    n_together: int = 64,
    epochs: int = 12,
    batch: int = 256,
    learning_rate: float = 3e-3,
    noise: float = 0.2,
    progress: bool = True,
) -> Concepts:
    """Learn to read `words` off CLIP vectors [N, D], of pictures captioned `texts` [N] or of these
    texts themselves. Trains the words alone; what several make together is for later.

    Whitened vectors get Gaussian noise of deviation `noise`, so that likes are not learnt by heart.
    Memory: N V bytes.
    """
    vectors = torch.as_tensor(np.asarray(vectors), dtype=torch.float32)
    number = {word: i for i, word in enumerate(words)}
    said = torch.zeros(len(texts), len(words), dtype=torch.uint8)
    for row, text in enumerate(texts):
        said[row, [number[w] for w in _words(text) if w in number]] = 1
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        concepts = Concepts(vectors.shape[1], len(words), n_together)
    concepts.mean, concepts.whiten = vectors.mean(0), _whitening(vectors)
    adam = torch.optim.Adam(concepts.read.parameters(), lr=learning_rate)
    steps = epochs * -(-len(vectors) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps)
    white = (vectors - concepts.mean) @ concepts.whiten
    for _ in tqdm(range(epochs), disable=not progress, desc="concepts", unit="epoch"):
        for rows in torch.randperm(len(vectors), generator=generator).split(batch):
            shaken = white[rows] + noise * torch.randn(white[rows].shape, generator=generator)
            loss = nn.functional.binary_cross_entropy_with_logits(
                concepts.read(shaken), said[rows].float()
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    with torch.no_grad():
        concepts.scale = 3 * concepts.probability(vectors).std(0).clamp(min=RARE)
    return concepts


def save_concepts(concepts: Concepts, words: Sequence[str], path: str | Path) -> None:
    """Write weights in half precision, and the words, as safetensors."""
    tensors = {name: t.half().contiguous() for name, t in concepts.state_dict().items()}
    part = Path(path).with_suffix(".part")
    save_file(tensors, part, {"words": json.dumps(list(words))})
    part.replace(path)


def load_concepts(path: str | Path) -> tuple[Concepts, list[str]]:
    """Concepts and their words, as `save_concepts` wrote them. `BadData` for another file."""
    try:
        with safe_open(path, "pt") as file:
            words = json.loads((file.metadata() or {})["words"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError) as error:
        raise BadData(f"{path} holds no concepts ({error}): make or fetch it again.") from error
    width, n_together = len(state["mean"]), state["together"].shape[1]
    hidden = (len(state["read.0.bias"]), len(state["read.2.bias"]))
    concepts = Concepts(width, len(words), n_together, hidden)
    concepts.load_state_dict(state)
    return concepts.requires_grad_(False), words


def _whitening(vectors: Tensor, floor: float = 0.01) -> Tensor:
    """[D, D]: to principal components of about unit variance; those below `floor` stay small."""
    centred = vectors - vectors.mean(0)
    _, deviation, axes = torch.linalg.svd(centred, full_matrices=False)
    return axes.T / (deviation / len(vectors) ** 0.5 + floor)
