"""Implicit Q-learning over slates: what a slate is worth for the rest of a session, from logs.

    Q(h, P)  = mean_{p in P} f(h, p)                               additive; PASTA
    Q(h, P)  = mean_{p in P} f(h, p) + g(h, what P may reveal)     slate-level; ours
    L_V      = E |α - 1(u < 0)| u²,  u = min Q̂(h, P) - V(h)        Kostrikov et al. 2022; PASTA
    L_Q      = E (r + V(h') - Q(h, P))²,  V = 0 after the last turn

There is no policy to extract: an agent shows the slate of the largest Q. A recurrent network reads
the history h: prompts, picks and judgements. With `belief`, the posterior over types and what each
type would think of a text are inputs as well (ours).
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
from pasta_lib.sessions import Sessions
from pasta_lib.simulator import beliefs


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
        return self.head(self.encoder(history))[..., 0]


class Critic(nn.Module):
    """Q(h, P) `[B, T]` of the slates of T turns.

    With `belief` it begins as what the posterior expects of the slate now, and learns the rest.
    """

    def __init__(self, n_features: int, n_past: int, n_types: int, config: IQLConfig) -> None:
        """Raises ValueError for a slate-level critic without `belief`: nothing to reveal."""
        if config.slate_level and not config.belief:
            raise ValueError("A slate-level critic needs belief=True.")
        super().__init__()
        self.encoder, self.n_types = HistoryEncoder(n_features, n_past, n_types, config), n_types
        width = self.encoder.width + n_features + config.belief * (n_types + 1)
        self.head = _head(width, config.hidden)
        self.revealing = _head(len(STATISTICS) + 2, config.hidden) if config.slate_level else None
        for head in (self.head, self.revealing):
            if head is not None:
                nn.init.zeros_(head[-1].weight)
                nn.init.zeros_(head[-1].bias)
        self.register_buffer("usual", torch.zeros(len(STATISTICS)))  # of statistics: mean, spread
        self.register_buffer("spread", torch.ones(len(STATISTICS)))

    def forward(self, history: History, slates: Slates) -> Tensor:
        h = self.encoder(history)[:, : slates.text.shape[1]]
        q = self.items(h, slates).mean(2)
        return q if self.revealing is None else q + self.reveals(h, slates.worth)

    def items(self, h: Tensor, slates: Slates) -> Tensor:
        """f(h, p) `[B, T, C]` of texts, from h `[B, T, H]`."""
        parts = [h[:, :, None].expand(-1, -1, slates.text.shape[2], -1), slates.text]
        if not self.encoder.belief:
            return self.head(torch.cat(parts, -1))[..., 0]
        expected = (slates.worth * h[:, :, None, -self.n_types :]).sum(-1, keepdim=True)
        return (expected + self.head(torch.cat([*parts, slates.worth, expected], -1)))[..., 0]

    def reveals(self, h: Tensor, worth: Tensor) -> Tensor:
        """g `[B, T, ...]` of slates, from `Slates.worth` of their texts `[B, T, ..., L, K]`."""
        h = h.reshape(*h.shape[:2], *[1] * (worth.ndim - 4), -1)
        belief, left = h[..., -self.n_types :], h[..., -self.n_types - 1, None]
        statistics = (slate_statistics(belief, worth) - self.usual) / self.spread
        more = [v.expand(*statistics.shape[:-1], 1) for v in (left, belief.amax(-1, keepdim=True))]
        return self.revealing(torch.cat([statistics, *more], -1))[..., 0]


def _head(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))


STATISTICS = ("expected utility", "expected utility of the pick", "information in the pick")


def slate_statistics(belief: Tensor, worth: Tensor) -> Tensor:
    """STATISTICS `[..., 3]` of slates, by γ `[..., K]` and f_k `[..., L, K]`.

    The last is the information between pick and type, H(pick) - Σ_k γ_k H(pick | k), in nats.
    """
    log_p = worth.log_softmax(-2)
    p, gamma = log_p.exp(), belief[..., None, :]
    mixed = (p * gamma).sum(-1)
    surprise = -(mixed * mixed.clamp(min=1e-12).log()).sum(-1)
    expected = -(p * log_p * gamma).sum((-2, -1))
    mean = (worth * gamma).sum(-1).mean(-1)
    picked = (p * worth * gamma).sum((-2, -1))
    return torch.stack([mean, picked, surprise - expected], -1)


@dataclass(frozen=True)
class Trained:
    """Twin critics, V, and the log: a row every hundred steps."""

    critics: nn.ModuleList
    value: nn.Module
    log: list[dict[str, float]]


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
    belief = beliefs(reader.column_worth, sessions)
    value, critics = new_networks(*reader.sizes, config, seed)
    reward = torch.as_tensor(reward, dtype=torch.float32)
    reward = reward - reward.mean()
    worth = _worth_of_texts(reader, sessions)
    _standardise(critics, belief[:, :-1], worth)

    def batch(rows: Tensor) -> tuple[History, Slates, Tensor]:
        some = sessions.select(rows.numpy())
        slates = Slates(reader.texts(some.member, some.wording), worth[rows])
        return reader.history(some, belief[rows]), slates, reward[rows]

    digest = hashlib.sha256()
    for part in (reward, belief, worth):
        digest.update(part.contiguous().numpy())
    return learn(
        value, critics, batch, len(reward), seed=seed, config=config, checkpoint=checkpoint,
        of=digest.hexdigest(), progress=progress,
    )  # fmt: skip


def _worth_of_texts(reader: Reader, sessions: Sessions, at_once: int = 2048) -> Tensor:
    """What the texts of all slates may be worth to each type `[S, T, L, K]`, read once."""
    parts = [
        sessions.select(np.arange(begin, min(begin + at_once, len(sessions.session))))
        for begin in range(0, len(sessions.session), at_once)
    ]
    return torch.cat([reader.slates(part, part.member, part.wording).worth for part in parts])


def _standardise(critics: nn.ModuleList, belief: Tensor, worth: Tensor) -> None:
    """Statistics of slates in units of their spread, from some thousand sessions."""
    some = slice(0, None, 1 + len(belief) // 4096)
    found = slate_statistics(belief[some], worth[some]).flatten(0, 1)
    for critic in critics:
        critic.usual, critic.spread = found.mean(0), found.std(0).nan_to_num(1.0).clamp(min=1e-3)


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
    learnt = [*value.parameters(), *critics.parameters()]
    adam = torch.optim.AdamW(learnt, config.learning_rate, weight_decay=config.weight_decay)
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
    part = Path(path).with_suffix(".part")
    tensors = {k: v.half().contiguous() for k, v in networks.state_dict().items()}
    save_file(tensors, part, {"log": json.dumps(trained.log)})
    part.replace(path)


def load_trained(
    path: str | Path, n_features: int, n_past: int, n_types: int, config: IQLConfig
) -> Trained:
    """As `save_trained` wrote it, by the same `config`. Raises RuntimeError for another one's."""
    value, critics = new_networks(n_features, n_past, n_types, config)
    with safe_open(path, "pt") as file:
        log = json.loads(file.metadata()["log"])
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    nn.ModuleDict({"value": value, "critics": critics}).load_state_dict(tensors)
    return Trained(critics.requires_grad_(False).eval(), value.requires_grad_(False).eval(), log)
