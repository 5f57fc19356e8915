"""Sessions as a learning agent reads them: tensors of what was said, picked and judged.

Pictures that were drawn speak through the user model alone (what their columns are worth to each
type); pictures not yet drawn do not speak at all, only their texts do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from pasta_lib.candidates import wordings
from pasta_lib.sessions import NONE, SLATE, TURNS, Sessions, begin
from pasta_lib.simulator import ColumnWorth
from pasta_lib.text_worth import TextWorth


@dataclass(frozen=True)
class History:
    """What is known in B sessions before each turn and after the last, T + 1 moments.

    `prompt` `[B, F]`, features of the initial prompt; `past` `[B, T + 1, W]`, what the turn before
    brought: features of the pick and mean ones of what was passed over, better, same, worse, none
    of these, and a one (all zero before the first turn; W = 2 F + 5), or a language model's
    embedding of all that was said so far; `left` `[B, T + 1, 1]`, the share of turns to come;
    `belief` `[B, T + 1, K]`, the posterior over types; `follows` `[B, T + 1]`, how much more than
    usual it expects of the slates to come, by what followed such prompts in logs (`prospects`).
    """

    prompt: Tensor
    past: Tensor
    left: Tensor
    belief: Tensor
    follows: Tensor | float = 0.0


@dataclass(frozen=True)
class Slates:
    """Texts' features `[B, T, C, F]`, what they may be worth to each type `[B, T, C, K]`, and how
    much more than usual follows, to each type, if they are picked (`prospects`)."""

    text: Tensor
    worth: Tensor
    follows: Tensor | float = 0.0


@dataclass(frozen=True)
class Reader:
    """How sessions are read.

    `features` `[members, wordings, F]`, what texts call for; `text_worth`, what each type would
    think of a text; `column_worth`, of columns that were drawn. With `embed`, histories are read by
    a language model (`language_reader`), from `transcripts`.
    """

    features: Tensor
    text_worth: TextWorth
    column_worth: ColumnWorth
    embed: Callable[[list[str]], Tensor] | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of features, of what is told of a turn, and of types: F, W, K."""
        zero = np.zeros(1, np.int64)
        told = self.history(begin(zero, zero, zero), torch.zeros(1, 1, 1)).past
        return self.features.shape[-1], told.shape[-1], self.column_worth.n_types

    def history(self, sessions: Sessions, belief: Tensor) -> History:
        """Of S sessions, and their `simulator.beliefs`."""
        turns = sessions.turns
        if self.embed:
            past = self.embed(transcripts(sessions)).unflatten(0, (-1, turns + 1))
        else:
            past = self._past(sessions)
        left = 1 - torch.arange(turns + 1) / TURNS
        return History(self._prompt(sessions), past, left.expand(len(past), -1)[..., None], belief)

    def _past(self, sessions: Sessions) -> Tensor:
        chosen = torch.as_tensor(sessions.chosen)
        versus = torch.as_tensor(sessions.versus_last)
        shown = self.texts(sessions.member, sessions.wording)  # [S, T, L, F]
        picked = nn.functional.one_hot(chosen.clamp(min=0), SLATE) * (chosen != NONE)[..., None]
        sides = [
            torch.einsum("stl,stlf->stf", s / s.sum(2, keepdim=True).clamp(min=1), shown)
            for s in (picked, 1 - picked)
        ]
        flags = torch.stack([versus == 1, versus == 0, versus == -1, chosen == NONE,
                             torch.ones_like(chosen, dtype=torch.bool)], 2)  # fmt: skip
        return nn.functional.pad(torch.cat([*sides, flags.float()], 2), (0, 0, 1, 0))

    def slates(self, sessions: Sessions, member: np.ndarray, wording: np.ndarray) -> Slates:
        """Of texts `[S, T, C]` in these sessions."""
        text = self.texts(member, wording)
        return Slates(text, self.text_worth(self._prompt(sessions)[:, None, None], text))

    def texts(self, member: np.ndarray, wording: np.ndarray) -> Tensor:
        """Features `[..., F]` of wordings of members `[...]`."""
        return self.features[torch.as_tensor(member), torch.as_tensor(wording)]

    def _prompt(self, sessions: Sessions) -> Tensor:
        return self.features[torch.as_tensor(sessions.initial), 0]


def transcripts(sessions: Sessions) -> list[str]:
    """All that was said before each turn and after the last, S · (T + 1) texts, session by session.

    For language models; the form is ours.
    """
    said = {1: " Better.", 0: " The same.", -1: " Worse."}
    out, shown = [], sessions.texts()
    for s, prompt in enumerate(wordings()[sessions.initial, 0]):
        out.append(f"Asked for: {prompt}.")
        for t in range(sessions.turns):
            picked = sessions.chosen[s, t]
            pick = "none of them" if picked == NONE else shown[s, t, picked]
            verdict = said.get(int(sessions.versus_last[s, t]), "")
            line = f"Shown: {'; '.join(shown[s, t])}. Picked: {pick}.{verdict}"
            out.append(f"{out[-1]}\n{line}")
    return out


def language_reader(
    model: str, revision: str | None = None, *, batch_size: int = 64, device: str = "cpu"
) -> Callable[[list[str]], Tensor]:
    """A frozen language model of the hub by id and revision, or of a folder, that reads texts.

    Returns a function from N texts to the last layer's state at each one's last token, float32
    `[N, W]`. PASTA's critic is such a model, trained whole; here what it reads is learnt from. Only
    weights in safetensors are loaded.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    network = AutoModel.from_pretrained(model, revision=revision, use_safetensors=True)
    network = network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Tensor:
        out = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(
                texts[start : start + batch_size], padding=True, return_tensors="pt"
            ).to(device)
            states = network(**batch).last_hidden_state
            last = batch["attention_mask"].sum(1) - 1
            out.append(states[torch.arange(len(last), device=device), last].float().cpu())
        return torch.cat(out)

    return embed
