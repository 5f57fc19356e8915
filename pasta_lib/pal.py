"""A baseline without types: every person mixes prototypes in a way of their own.

    R_u(c) = Σ_k w_uk R_k(c)        w_u on the simplex

After PAL (Chen et al. 2024, "PAL: Pluralistic alignment framework"), model A. EM's types mix
*likelihoods*, one type a person; here *utilities* are mixed, so people may lie between prototypes.
Prototypes and the weights of the people to learn from are trained together by gradient; a new
person is placed among the prototypes from what they did. Optimiser and priors are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.em_steps import cut, utilities
from pasta_lib.panel import Panel
from pasta_lib.user_model import choice_log_probabilities, observation_log_likelihood


@dataclass(frozen=True)
class PALConfig:
    """How prototypes are trained and people placed. Ours."""

    epochs: int = 20
    batch: int = 2048  # observations
    learning_rate: float = 1e-2  # falls to zero along a cosine
    weights_learning_rate: float = 1e-1
    spread: float = 2.0  # standard deviation of the logits of w_u under their Gaussian prior
    ridge: float = 10.0  # precision of a prior around the prototypes' start
    steps: int = 60  # of Adam, to place a person
    chunk: int = 4000  # occasions that are placed at a time


@dataclass(frozen=True)
class Prototypes:
    """K prototypes. Answers what `four_metrics.measure` asks of `UserTypes`; w stands for γ."""

    utility: nn.Module
    n_types: int
    config: PALConfig

    @property
    def prior(self) -> Tensor:
        """w of somebody of whom nothing is known, [K]."""
        return torch.full((self.n_types,), 1 / self.n_types, dtype=torch.float64)

    def column_utilities(self, data: ChoiceData) -> Tensor:
        """R_k(c) of every alternative [N, L, K]."""
        return torch.cat([u for _, u in utilities(self.utility, data)], 1).transpose(0, 1)

    def predict_each(self, data: ChoiceData, weight: Tensor) -> Tensor:
        """P(c) of every alternative [N, L] (and of a tie), with weights [N, K]."""
        mixed = _mixed(self.column_utilities(data).transpose(0, 1), weight.float())
        log_tie = None if data.tie is None else self.utility.log_tie
        return choice_log_probabilities(mixed, log_tie).T.exp().double()

    def predict(self, data: ChoiceData, weight: Tensor | None = None) -> Tensor:
        """As `UserTypes.predict`, with weights [U, K] of the people of `data`."""
        weight = self.prior.expand(data.n_people, -1) if weight is None else weight
        return self.predict_each(data, weight[data.person])

    def posterior(self, data: ChoiceData | Panel) -> Tensor:
        """w [U, K] of people, from all that they did."""
        first = [part.first for part in data.parts]
        return self._place(data.parts, [f[:-1] for f in first], [f[1:] for f in first])

    def posterior_before(
        self, parts: Sequence[ChoiceData], when: Sequence[np.ndarray]
    ) -> list[Tensor]:
        """w before each observation, from what the same person did earlier: [N, K] for each part,
        as `UserTypes.posterior_before`. Raises `BadData` where a person's are not in that order."""
        panel = Panel.of(*parts)
        moment = np.unique(np.concatenate(when), return_inverse=True)[1]  # 0, 1, …: over all parts
        moments = np.split(moment, np.cumsum([len(w) for w in when])[:-1])
        number = pd.Index(panel.person_ids)
        who = [number.get_indexer(part.person_ids[part.person.numpy()]) for part in parts]
        keys = [w * (moment.max() + 1) + m for w, m in zip(who, moments, strict=True)]
        for w, m in zip(who, moments, strict=True):
            if ((np.diff(w) == 0) & (np.diff(m) < 0)).any():
                raise BadData(
                    "Each person's observations must be in the order of `when`: sort them."
                )
        in_order = [np.sort(key) for key in keys]
        out = []
        for w, key in zip(who, keys, strict=True):
            until = [torch.as_tensor(np.searchsorted(k, key)) for k in in_order]
            out.append(self._place(panel.parts, [part.first[w] for part in panel.parts], until))
        return out

    def _place(
        self, parts: Sequence[ChoiceData], first: list[Tensor], until: list[Tensor]
    ) -> Tensor:
        """w [N, K] for N occasions, each from rows `first` up to `until` [N] of each part."""
        kept = [
            (*self._known(part), f, u)
            for part, f, u in zip(parts, first, until, strict=True)
            if part.n_observations
        ]
        out = []
        for rows in torch.arange(len(first[0])).split(self.config.chunk):
            seen = [_gathered(r, vote, f[rows], u[rows]) for r, vote, f, u in kept]
            out.append(self._solve(seen, len(rows)))
        return torch.cat(out).double()

    def _solve(self, seen: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
        logits = torch.zeros(n, self.n_types, requires_grad=True)
        adam = torch.optim.Adam([logits], lr=0.3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.config.steps)
        for _ in range(self.config.steps):
            weight = logits.softmax(1)
            gain = -logits.square().sum() / (2 * self.config.spread**2)
            for utility, vote in seen:  # [L, N, T, K], [L or L + 1, N, T]
                mixed = _mixed(utility, weight[:, None])
                gain = gain + _gain(self.utility, mixed.flatten(1), vote.flatten(1)).sum()
            adam.zero_grad()
            (-gain).backward()
            adam.step()
            schedule.step()
        return logits.detach().softmax(1)

    def _known(self, part: ChoiceData) -> tuple[Tensor, Tensor]:
        blocks = list(utilities(self.utility, part))
        vote = torch.cat([block.share for block, _ in blocks], 1).float()
        return torch.cat([u for _, u in blocks], 1), vote


def fit_pal(
    data: ChoiceData | Panel,
    utility: nn.Module,
    n_types: int,
    *,
    seed: int,
    config: PALConfig = PALConfig(),
    progress: bool = True,
) -> Prototypes:
    """Prototypes from people's picks, judgements and pairs; ratings are left out.

    `utility`: features → `n_types` scores, where the prototypes begin; it is not changed. They are
    told apart at first by people's random weights.
    """
    panel, utility = Panel.of(*(p for p in data.parts if p.rating is None)), copy.deepcopy(utility)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(panel.n_people, n_types, generator=generator).requires_grad_()
    parameters = list(utility.parameters())
    start = [p.detach().clone() for p in parameters]
    adam = torch.optim.Adam(
        [{"params": parameters}, {"params": [logits], "lr": config.weights_learning_rate}],
        lr=config.learning_rate,
    )
    batches = list(panel.blocks(config.batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.epochs * len(batches))
    for _ in tqdm(range(config.epochs), disable=not progress, desc="PAL", unit="epoch"):
        for i in torch.randperm(len(batches), generator=generator).tolist():
            rows, people = batches[i]
            n = sum(part.stop - part.start for part in rows)
            gain = _log_likelihood(utility, panel, rows, people, logits[people].softmax(1))
            gain = gain - logits[people].square().sum() / (2 * config.spread**2)
            moved = sum((p - s).square().sum() for p, s in zip(parameters, start, strict=True))
            penalty = config.ridge / 2 * moved * n / panel.n_observations
            adam.zero_grad()
            (-(gain - penalty) / n).backward()
            adam.step()
            schedule.step()
    return Prototypes(utility.requires_grad_(False), n_types, config)


def _log_likelihood(utility, panel: Panel, rows, people: slice, weight: Tensor) -> Tensor:
    """Of a run of people with weights `[U_b, K]`."""
    terms, total = dict(utility.named_parameters()), weight.new_zeros(())
    for part, here in zip(panel.parts, rows, strict=True):
        if here.stop > here.start:
            block = cut(part, here, people)
            mixed = _mixed(block.utility(utility, terms), weight[block.person])
            total = total + _gain(utility, mixed, block.share).sum()
    return total


def _mixed(utility: Tensor, weight: Tensor) -> Tensor:
    """Σ_k w_k R_k, [L, ...] from [L, ..., K] and [..., K]; -inf on alternatives not there."""
    there = ~utility[..., 0].isneginf()
    total = (utility.masked_fill(~there[..., None], 0.0) * weight).sum(-1)
    return total if there.all() else total.masked_fill(~there, -torch.inf)


def _gain(utility: nn.Module, mixed: Tensor, vote: Tensor) -> Tensor:
    """log P of observations [B], from utilities [L, B] and votes [L, B] or, with ties, one more."""
    log_p = choice_log_probabilities(mixed, utility.log_tie if len(vote) > len(mixed) else None)
    return observation_log_likelihood(log_p[..., None], vote)[..., 0]


def _gathered(utility: Tensor, vote: Tensor, first: Tensor, until: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `first` up to `until` [N] of `utility` [L, O, K] and `vote` [L', O], padded to T."""
    steps = torch.arange(max(int((until - first).max()), 1))
    row = first[:, None] + steps
    there = row < until[:, None]
    row = row.clamp(max=utility.shape[1] - 1)
    return utility[:, row], vote[:, row] * there
