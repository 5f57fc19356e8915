"""What a text will be worth before it is drawn, learnt from texts whose pictures were seen. Ours.

    f_k(p_0, p) ≈ R_k(pictures of p | p_0)

An agent chooses among texts. Of their pictures it knows only what earlier texts led to: the user
model's R_k of columns that were drawn, regressed on what the text and the initial prompt call for
(`Concepts` of CLIP's vectors of texts).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pasta_lib.candidates import wordings
from pasta_lib.concepts import Concepts
from pasta_lib.encoders import ClipEncoder


@dataclass(frozen=True)
class TextWorthConfig:
    """How the regression is trained. Ours."""

    hidden: int = 256
    steps: int = 500  # twelve epochs of all raters' columns; fewer columns need as many steps
    batch: int = 4096
    learning_rate: float = 4e-3  # at its height, of a one-cycle schedule


class TextWorth(nn.Module):
    """f_k `[..., K]` of texts `[..., F]` under initial prompts `[..., F]`."""

    def __init__(self, n_features: int, n_types: int, hidden: int = 256) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3 * n_features, hidden), nn.GELU(),
            nn.Linear(hidden, hidden // 2), nn.GELU(),
            nn.Linear(hidden // 2, n_types),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(n_types))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, prompt: Tensor, text: Tensor) -> Tensor:
        prompt = prompt.expand_as(text)
        return self.net(torch.cat([text, prompt, text * prompt], -1)) * self.deviation + self.mean


def fit_text_worth(
    prompt: Tensor,
    text: Tensor,
    features: Tensor,
    worth: Tensor,
    *,
    seed: int,
    weight: Tensor | None = None,
    config: TextWorthConfig = TextWorthConfig(),
    progress: bool = True,
    said: str = "worth of texts",
) -> TextWorth:
    """Least squares on N columns that were drawn.

    `prompt`, `text` long `[N]`, rows of `features` `[V, F]`; `worth` `[N, K]`, R_k of the pictures,
    which count by `weight` `[N, K]`. Memory: a batch at a time.
    """
    weight = torch.ones_like(worth) if weight is None else weight
    count = weight.sum(0).clamp(min=1e-9)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TextWorth(features.shape[1], worth.shape[1], config.hidden)
    model.mean = (weight * worth).sum(0) / count
    variance = (weight * (worth - model.mean).square()).sum() / weight.sum()
    model.deviation = variance.sqrt().clamp(min=1e-6)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps
    )
    for _ in tqdm(range(config.steps), disable=not progress, unit="step", desc=said):
        rows = torch.randint(len(text), (config.batch,), generator=generator)
        error = (
            model(features[prompt[rows]], features[text[rows]]) - worth[rows]
        ) / model.deviation
        optimiser.zero_grad()
        (weight[rows] * error.square()).mean().backward()
        optimiser.step()
        schedule.step()
    return model.requires_grad_(False)


def text_features(encoder: ClipEncoder, concepts: Concepts, texts: list[str]) -> Tensor:
    """By how much more than usual texts call for concepts, `[N, V]`: max(0, log(P / usual)) / 3.

    Pointwise mutual information (Church and Hanks 1990), clipped at zero, and divided by 3 to be of
    order one. Not the user model's `called_for`, which says how much of a call is *due* to the text
    and so is near one for all that is asked for at all: a regression wants to know how much."""
    with torch.no_grad():
        vectors = torch.as_tensor(encoder.encode_texts(texts))
        asked = concepts(vectors)[..., vectors.shape[1] :]
        return (asked / concepts.usual).clamp(min=1).log() / 3


def features_of_wordings(encoder: ClipEncoder, concepts: Concepts) -> Tensor:
    """Of every wording of every member, `[members, 6, V]`. Some fifteen seconds, 20 MB."""
    words = wordings()
    return text_features(encoder, concepts, list(words.ravel())).reshape(*words.shape, -1)


def save_text_worth(model: TextWorth, path: str | Path) -> None:
    """Parameters in half precision, as safetensors."""
    part = Path(path).with_suffix(f".{os.getpid()}.part")  # several processes may be at it
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, part)
    part.replace(path)


def load_text_worth(path: str | Path) -> TextWorth:
    """As `save_text_worth` wrote it."""
    return filled({k: v.float() for k, v in load_file(path).items()})


def filled(state: dict[str, Tensor]) -> TextWorth:
    """One of these parameters."""
    hidden, inputs = state["net.0.weight"].shape
    model = TextWorth(inputs // 3, len(state["mean"]), hidden)
    model.load_state_dict(state)
    return model.requires_grad_(False)
