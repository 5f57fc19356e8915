"""What a picture shows, and what a prompt calls for: concepts read off CLIP's vectors.

CLIP's vectors hold more than a linear head can read: in the miniature 64 numbers stand for 64
subjects, 6 styles, 8 backgrounds and more, packed one over another. Two hidden layers unpack them.
They are probes: of a picture's vector they learn what is in the picture, of a prompt's what is in
pictures of it. So every number that a user type weighs has a name. Ours.
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

LEAST = 0.3  # of what a prompt calls for in all, lest next to nothing become a wish


def vocabulary(texts: Sequence[str], at_least: int) -> list[str]:
    """Words that occur in as many of the texts, in alphabetical order."""
    counts = Counter(word for text in texts for word in set(_words(text)))
    return sorted(word for word, n in counts.items() if n >= at_least)


def mentions(texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """Which text has which word, float32 [N, V]: labels where there are none but captions."""
    number = {word: i for i, word in enumerate(words)}
    labels = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        labels[row, [number[w] for w in _words(text) if w in number]] = 1
    return labels


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Concepts(nn.Module):
    """CLIP's unit vectors [..., D] → the same and V probabilities beside them, [..., D + V].

    `usual` [V]: how often each concept is there, over all.
    """

    def __init__(self, width: int, n_concepts: int, hidden: tuple[int, int] = (512, 256)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.eye(width))
        self.register_buffer("usual", torch.full((n_concepts,), 0.5))
        self.read = nn.Sequential(
            nn.Linear(width, hidden[0]), nn.GELU(), nn.Linear(hidden[0], hidden[1]), nn.GELU(),
            nn.Linear(hidden[1], n_concepts),
        )  # fmt: skip

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.cat([vectors, self.probability(vectors)], -1)

    def probability(self, vectors: Tensor) -> Tensor:
        """Of each concept, [..., V]."""
        return self.read((vectors - self.mean) @ self.whiten).sigmoid()


def fit_concepts(
    vectors: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    seed: int,
    epochs: int = 12,
    batch: int = 256,
    learning_rate: float = 3e-3,
    noise: float = 0.2,
    progress: bool = True,
) -> Concepts:
    """Learn to read `labels` [N, V], 0 … 1 or NaN where unknown, off CLIP vectors [N, D].

    Whitened vectors get Gaussian noise of deviation `noise`, so that likes are not learnt by heart.
    Memory: 12 N (D + V) bytes. Raises `BadData` for labels out of range, or a concept that is
    in no row or in all.
    """
    vectors = torch.as_tensor(np.asarray(vectors), dtype=torch.float32)
    labels = torch.as_tensor(np.asarray(labels), dtype=torch.float32)
    _check(vectors, labels)
    known, usual = (~labels.isnan()).float(), labels.nanmean(0)
    labels = labels.nan_to_num(0.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        concepts = Concepts(vectors.shape[1], labels.shape[1])
    concepts.mean, concepts.whiten, concepts.usual = vectors.mean(0), _whitening(vectors), usual
    adam = torch.optim.Adam(concepts.read.parameters(), lr=learning_rate)
    steps = epochs * -(-len(vectors) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps)
    white = (vectors - concepts.mean) @ concepts.whiten
    for _ in tqdm(range(epochs), disable=not progress, desc="concepts", unit="epoch"):
        for rows in torch.randperm(len(vectors), generator=generator).split(batch):
            shaken = white[rows] + noise * torch.randn(white[rows].shape, generator=generator)
            loss = nn.functional.binary_cross_entropy_with_logits(
                concepts.read(shaken), labels[rows], weight=known[rows]
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    return concepts.requires_grad_(False)


def called_for(asked: Tensor, usual: Tensor) -> Tensor:
    """What prompts call for, q [..., V] ≥ 0, from how likely each concept is in their pictures.

        q_v = max(0, 1 - usual_v / P_v) / Σ_w max(0, P_w - usual_w)

    Above, the share of a concept's presence that is the prompt's doing (the attributable fraction
    of epidemiology): 0 where nothing is said of it, nearly 1 for what is named and rare, and for
    each of the things that an idea may stand for. Below, how much the prompt's doing it is in all,
    so that Σ_v P_v q_v = 1: a picture just like the prompt meets all of it. Where hardly anything
    is called for, not scaled up beyond `1 / LEAST`. Ours.
    """
    more = (asked - usual).clamp(min=0)
    return more / asked.clamp(min=1e-6) / more.sum(-1, keepdim=True).clamp(min=LEAST)


def _check(vectors: Tensor, labels: Tensor) -> None:
    if labels.shape[:-1] != vectors.shape[:-1]:
        raise BadData(f"{len(vectors)} vectors, but labels for {len(labels)}: one row for each.")
    if (bad := (labels < 0) | (labels > 1)).any():
        row, column = bad.nonzero()[0].tolist()
        raise BadData(
            f"labels, row {row}, concept {column}: expected 0 to 1, or NaN where it is unknown; "
            f"found {labels[row, column].item():g}."
        )
    usual = labels.nanmean(0)
    if (bad := ~((usual > 0) & (usual < 1))).any():
        raise BadData(
            f"Concept {int(bad.nonzero()[0])} is in no row, or in all ({int(bad.sum())} such): "
            "nothing tells when it is there. Leave it out."
        )


def save_concepts(concepts: Concepts, names: Sequence[str], path: str | Path) -> None:
    """Write weights in half precision, and the concepts' names, as safetensors."""
    tensors = {name: t.half().contiguous() for name, t in concepts.state_dict().items()}
    part = Path(path).with_suffix(".part")
    save_file(tensors, part, {"names": json.dumps(list(names))})
    part.replace(path)


def load_concepts(path: str | Path) -> tuple[Concepts, list[str]]:
    """Concepts and their names, as `save_concepts` wrote them. `BadData` for another file."""
    try:
        with safe_open(path, "pt") as file:
            names = json.loads((file.metadata() or {})["names"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError) as error:
        raise BadData(f"{path} holds no concepts ({error}): make or fetch it again.") from error
    hidden = (len(state["read.0.bias"]), len(state["read.2.bias"]))
    concepts = Concepts(len(state["mean"]), len(names), hidden)
    concepts.load_state_dict(state)
    return concepts.requires_grad_(False), names


def _whitening(vectors: Tensor, floor: float = 0.01) -> Tensor:
    """[D, D]: to principal components of about unit variance; those below `floor` stay small, and
    those of which N < D vectors show nothing are zero."""
    centred = vectors - vectors.mean(0)
    _, deviation, axes = torch.linalg.svd(centred, full_matrices=False)
    whiten = axes.T / (deviation / len(vectors) ** 0.5 + floor)
    return nn.functional.pad(whiten, (0, vectors.shape[1] - len(axes)))
