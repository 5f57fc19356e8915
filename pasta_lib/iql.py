"""Implicit Q-learning over slates: what a slate is worth for the rest of a session, from logs.

    Q(h, P)  = b(h) + mean_{p in P} f(h, p)                      additive; PASTA
    Q(h, P)  = b(h) + mean_{p in P} f(h, p) + g(h, P)            slate-level; ours
    L_V      = E |α - 1(u < 0)| u²,  u = min Q̂(h, P) - V(h)        Kostrikov et al. 2022; PASTA
    L_Q      = E (r + V(h') - Q(h, P))²,  V = 0 after the last turn

There is no policy to extract: an agent shows the slate of the largest Q. A recurrent network reads
the history h: prompts, picks and judgements. With `belief`, the posterior over types and what each
type would think of a text are inputs as well (ours). Then f begins as what the posterior expects of
a text, now and in what followed such picks in the logs, and V as what followed from the prompt that
stands (`prospects`). b is for how well a session goes whatever is shown (dueling; Wang et al.
2016). What an additive critic can't say, g does: who picks what, and so what follows (`picked`).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pasta_lib.choices import BadData
from pasta_lib.histories import History, Reader, Slates
from pasta_lib.prospects import fit_prospects, from_here, slates_of
from pasta_lib.sessions import Sessions
from pasta_lib.simulator import beliefs
from pasta_lib.text_worth import TextWorth, filled


@dataclass(frozen=True)
class IQLConfig:
    """Every constant of IQL. "Theirs": a default of the IQL authors' code; the others are ours."""

    expectile: float = 0.7  # α; theirs .7 to .9
    polyak: float = 0.03  # of the target critics, a step; theirs .005, of a million steps
    learning_rate: float = 2e-3  # at first; falls to zero as a cosine
    weight_decay: float = 1e-2
    steps: int = 2500
    batch: int = 256  # sessions, with all their turns
    hidden: int = 64
    belief: bool = True  # the posterior over types is an input; without, text alone as in PASTA
    slate_level: bool = False


class HistoryEncoder(nn.Module):
    """h `[B, T + 1, H]` of a `History`; the posterior over types stands last."""

    def __init__(self, n_features: int, n_past: int, n_types: int, config: IQLConfig) -> None:
        super().__init__()
        self.belief = config.belief
        self.first = nn.Linear(n_features, config.hidden)
        self.recurrent = nn.GRU(n_past, config.hidden, batch_first=True)
        self.width = config.hidden + 1 + config.belief * n_types

    def forward(self, history: History) -> Tensor:
        start = self.first(history.prompt).tanh()[None]
        h = self.recurrent(history.past, start)[0]
        return torch.cat([h, history.left, history.belief] if self.belief else [h, history.left], 2)


class Value(nn.Module):
    """V(h) `[B, T + 1]`."""

    def __init__(self, n_features: int, n_past: int, n_types: int, config: IQLConfig) -> None:
        super().__init__()
        self.encoder = HistoryEncoder(n_features, n_past, n_types, config)
        self.head = _head(self.encoder.width, config.hidden)

    def forward(self, history: History) -> Tensor:
        return history.follows + self.head(self.encoder(history))[..., 0]


class Critic(nn.Module):
    """Q(h, P) `[B, T]` of the slates of T turns.

    With `belief` it begins as what the posterior expects of the slate, now and in what follows, and
    learns the rest.
    """

    def __init__(self, n_features: int, n_past: int, n_types: int, config: IQLConfig) -> None:
        """Raises ValueError for a slate-level critic without `belief`: who would pick what?"""
        if config.slate_level and not config.belief:
            raise ValueError("A slate-level critic needs belief=True.")
        super().__init__()
        self.encoder, self.n_types = HistoryEncoder(n_features, n_past, n_types, config), n_types
        width = self.encoder.width + n_features + config.belief * (n_types + 1)
        self.state = _head(self.encoder.width, config.hidden)
        self.head = _head(width, config.hidden)
        self.slate_level = config.slate_level
        for head in (self.state, self.head):
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)

    def forward(self, history: History, slates: Slates) -> Tensor:
        turns = slates.text.shape[1]
        h = self.encoder(history)[:, :turns]
        q = self.state(h)[..., 0] + self.items(h, slates).mean(2)
        if not self.slate_level:
            return q
        return q + picked(history.belief[:, :turns], slates.worth, slates.follows)

    def items(self, h: Tensor, slates: Slates) -> Tensor:
        """f(h, p) `[B, T, C]` of texts, from h `[B, T, H]`."""
        if not self.encoder.belief:
            return self._read(h, slates.text)
        belief = h[:, :, None, -self.n_types :]
        now = (slates.worth * belief).sum(-1, keepdim=True)
        later = (slates.follows * belief).sum(-1)
        read = self._read(h, torch.cat([slates.text, slates.worth, now], -1))
        return later + now[..., 0] + read

    def _read(self, h: Tensor, texts: Tensor) -> Tensor:
        """The head, of h and each text; its first layer takes h once for all C of them."""
        first, *rest = self.head
        of_h, of_texts = first.weight.tensor_split([h.shape[-1]], 1)
        both = (h @ of_h.T + first.bias)[:, :, None] + texts @ of_texts.T
        return nn.Sequential(*rest)(both)[..., 0]


def picked(belief: Tensor, worth: Tensor, follows: Tensor) -> Tensor:
    """g `[...]` of slates, by what texts are `worth` and what `follows` them `[..., L, K]`: by how
    much more follows if types pick what they like than if picks are even, as in f.

    g = Σ_k γ_k Σ_p (P(p | k, P) - 1/L) U_k(p). With f's even part that is what the posterior γ'
    after the pick will expect, for P(p | P) γ'_k = γ_k P(p | k, P).
    """
    shares = worth.softmax(-2) - 1 / worth.shape[-2]
    return (shares * follows * belief[..., None, :]).sum((-2, -1))


def _head(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))


@dataclass(frozen=True)
class Trained:
    """Twin critics, V, the log (a row every hundred steps), and what critics of beliefs begin
    with (`prospects`)."""

    critics: nn.ModuleList
    value: nn.Module
    log: list[dict[str, float]]
    prospects: TextWorth | None = None


def train_iql(
    sessions: Sessions,
    reward: np.ndarray,
    reader: Reader,
    *,
    seed: int,
    config: IQLConfig = IQLConfig(),
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Trained:
    """Critics of slates, from S sessions of `TURNS` turns and the `reward` `[S, TURNS]` of each.

    The reward is the slate's utility as the user model sees it, from which the mean is taken: that
    leaves the best slates the same. See `learn` for `checkpoint`.
    """
    prospects = None
    if config.belief:
        prospects = fit_prospects(sessions, reader, seed=seed, progress=progress)
    belief = beliefs(reader.column_worth, sessions)
    value, critics = new_networks(*reader.sizes, config, seed)
    reward = torch.as_tensor(reward, dtype=torch.float32)
    reward = reward - reward.mean()
    worth, follows, stands = _read(reader, prospects, sessions, belief)

    def batch(rows: Tensor) -> tuple[History, Slates, Tensor]:
        some = sessions.select(rows.numpy())
        slates = Slates(reader.texts(some.member, some.wording), worth[rows], follows[rows])
        history = dataclasses.replace(reader.history(some, belief[rows]), follows=stands[rows])
        return history, slates, reward[rows]

    digest = hashlib.sha256()
    few = reader.history(sessions.select(np.arange(min(64, len(reward)))), belief[:64]).past
    for part in (reward, belief, worth, follows, stands, few):
        digest.update(part.contiguous().numpy())
    trained = learn(
        value, critics, batch, len(reward), seed=seed, config=config, checkpoint=checkpoint,
        of=digest.hexdigest(), progress=progress,
    )  # fmt: skip
    return dataclasses.replace(trained, prospects=prospects)


def _read(
    reader: Reader, prospects: TextWorth | None, sessions: Sessions, belief: Tensor, at_once=2048
) -> tuple[Tensor, Tensor, Tensor]:
    """`Slates.worth` and `.follows` of all slates, and `History.follows`, some at a time."""
    out = []
    for rows in torch.arange(len(belief)).split(at_once):
        part = sessions.select(rows.numpy())
        left = list(range(part.turns))[::-1]
        slates = slates_of(reader, prospects, part, part.member, part.wording, left)
        stands = torch.zeros(belief[rows].shape[:2])
        if prospects is not None:
            stands = from_here(reader, prospects, part, belief[rows])
        out.append((slates.worth, slates.follows, stands))
    return tuple(torch.cat(parts) for parts in zip(*out, strict=True))


def new_networks(
    n_features: int, n_past: int, n_types: int, config: IQLConfig, seed: int = 0
) -> tuple[Value, nn.ModuleList]:
    """V and twin critics before training; `n_past` is W of `History`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critics = [Critic(n_features, n_past, n_types, config) for _ in range(2)]
        return Value(n_features, n_past, n_types, config), nn.ModuleList(critics)


def learn(
    value: nn.Module,
    critics: nn.ModuleList,
    batch: Callable[[Tensor], tuple],
    n: int,
    *,
    seed: int,
    config: IQLConfig,
    checkpoint: str | Path | None = None,
    of: str = "",
    progress: bool = True,
) -> Trained:
    """Implicit Q-learning with any networks.

    `batch` takes numbers of sessions, long `[B]` below `n`, and gives their history, slates and
    rewards `[B, T]`; `value(history)` is `[B, T + 1]`, of which the last does not count, and a
    critic's `(history, slates)` `[B, T]`. With `checkpoint`, training is written there every
    hundred steps, and a call with the same arguments goes on from it to the same result; `BadData`
    is raised for one of another config, seed or n, or of other sessions, as `of` names them.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = copy.deepcopy(critics).requires_grad_(False)
    networks = nn.ModuleDict({"value": value, "critics": critics, "targets": targets})
    adam = torch.optim.AdamW(
        [*value.parameters(), *critics.parameters()],
        config.learning_rate,
        weight_decay=config.weight_decay,
    )
    run = json.dumps([dataclasses.asdict(config), seed, n, of])
    done, log = _resume(checkpoint, networks, adam, generator, run)
    for step in tqdm(range(done, config.steps), disable=not progress, unit="step", desc="IQL"):
        falling = (1 + math.cos(math.pi * step / config.steps)) / 2
        adam.param_groups[0]["lr"] = config.learning_rate * falling
        history, slates, reward = batch(torch.randint(n, (config.batch,), generator=generator))
        v = value(history)
        with torch.no_grad():
            known = torch.minimum(*(target(history, slates) for target in targets))
            following = torch.cat([v[:, 1:-1], torch.zeros_like(v[:, :1])], 1)
        q = [critic(history, slates) for critic in critics]
        v_loss = expectile_loss(known - v[:, :-1], config.expectile)
        q_loss = sum((reward + following - one).square().mean() for one in q)
        adam.zero_grad()
        (v_loss + q_loss).backward()
        adam.step()
        with torch.no_grad():
            for old, new in zip(targets.parameters(), critics.parameters(), strict=True):
                old.lerp_(new, config.polyak)
        if step % 100 == 99:
            now = {"v_loss": v_loss, "q_loss": q_loss / 2, "v": v[:, 0], "q": known[:, 0]}
            log.append({"step": step + 1} | {k: float(x.detach().mean()) for k, x in now.items()})
            _save(checkpoint, networks, adam, generator, log, run)
    return Trained(critics.requires_grad_(False).eval(), value.requires_grad_(False).eval(), log)


def expectile_loss(gap: Tensor, expectile: float) -> Tensor:
    """L_V: |α - 1(u < 0)| u², averaged. At α = ½ the mean, towards 1 the largest."""
    return (torch.where(gap < 0, 1 - expectile, expectile) * gap.square()).mean()


def _save(path, networks: nn.Module, adam, generator, log: list[dict], run: str) -> None:
    if path is None:
        return
    tensors = {f"net.{k}": v for k, v in networks.state_dict().items()}
    for i, moments in adam.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
    tensors["generator"] = generator.get_state()
    part = Path(path).with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, {
        "log": json.dumps(log), "run": run})  # fmt: skip
    part.replace(path)


def _resume(path, networks: nn.Module, adam, generator, run: str) -> tuple[int, list[dict]]:
    """Fill everything from a checkpoint, if there is one; steps done, and the log."""
    if path is None or not Path(path).exists():
        return 0, []
    with safe_open(path, "pt") as file:
        if file.metadata()["run"] != run:
            raise BadData(f"{path} is of another training (config, seed, sessions): move it away.")
        log = json.loads(file.metadata()["log"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    networks.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    state = adam.state_dict()
    for name in (k for k in tensors if k.startswith("adam.")):
        _, i, moment = name.split(".")
        state["state"].setdefault(int(i), {})[moment] = tensors[name]
    adam.load_state_dict(state)
    generator.set_state(tensors["generator"])
    return log[-1]["step"], log


def save_trained(trained: Trained, path: str | Path) -> None:
    """The networks' parameters, as safetensors in half precision."""
    networks = nn.ModuleDict({"value": trained.value, "critics": trained.critics})
    if trained.prospects is not None:
        networks["prospects"] = trained.prospects
    part = Path(path).with_suffix(".part")
    tensors = {k: v.half().contiguous() for k, v in networks.state_dict().items()}
    level = trained.critics[0].slate_level
    save_file(tensors, part, {"log": json.dumps(trained.log), "slate_level": json.dumps(level)})
    part.replace(path)


def load_trained(
    path: str | Path, n_features: int, n_past: int, n_types: int, config: IQLConfig
) -> Trained:
    """As `save_trained` wrote it, by the same `config`. Raises `BadData` or RuntimeError for
    another one's."""
    value, critics = new_networks(n_features, n_past, n_types, config)
    with safe_open(path, "pt") as file:
        log = json.loads(file.metadata()["log"])
        if json.loads(file.metadata()["slate_level"]) != config.slate_level:
            raise BadData(f"{path} is not of slate_level={config.slate_level}, but of the other.")
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    begins = "prospects."
    found = {k.removeprefix(begins): tensors.pop(k) for k in list(tensors) if k.startswith(begins)}
    nn.ModuleDict({"value": value, "critics": critics}).load_state_dict(tensors)
    critics, value = critics.requires_grad_(False).eval(), value.requires_grad_(False).eval()
    return Trained(critics, value, log, filled(found) if found else None)
