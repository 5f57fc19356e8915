"""The user types that EM found: what they are, who belongs to them, what people will choose."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.em_steps import Block, utilities
from pasta_lib.panel import Panel
from pasta_lib.user_model import choice_log_probabilities, posterior, sum_by_person


@dataclass(frozen=True)
class Restarts:
    """How the search for the best of many local maxima went."""

    tried: int  # random starts
    finished: int  # of them came to rest; the others had lost the race
    found_best: int  # of those, came within 1e-6 nats per observation of the best
    passes: int  # over the data, summed over waves
    trace: np.ndarray  # the best one's log-likelihood, pair of passes by pair of passes


@dataclass(frozen=True)
class UserTypes:
    """K user types, by falling prior.

    `utility` maps features [..., D] to scores [..., K] in its own order; `order` [K] sorts them.
    """

    utility: nn.Module
    order: Tensor
    log_prior: Tensor  # [K], sorted
    log_likelihood: float  # of the data it was fitted to
    n_people: int
    n_observations: int
    restarts: Restarts | None

    @classmethod
    def of(
        cls,
        utility: nn.Module,
        log_prior: Tensor,
        data: ChoiceData | Panel,
        restarts: Restarts | None,
    ) -> UserTypes:
        """Sort the types and take the log-likelihood of `data`."""
        order = log_prior.argsort(descending=True)
        types = cls(
            utility, order, log_prior[order], math.nan, data.n_people, data.n_observations, restarts
        )
        return replace(types, log_likelihood=float(types.person_log_likelihood(data).sum()))

    @property
    def n_types(self) -> int:
        return len(self.order)

    @property
    def prior(self) -> Tensor:
        """[K], each type's share of people, falling."""
        return self.log_prior.exp()

    @property
    def part_worths(self) -> Tensor:
        """[K, D], what each type wants; of a `LinearUtility` only."""
        return self.utility.weight.detach()[self.order]

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.utility.parameters()) + self.n_types - 1

    @property
    def aic(self) -> float:
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """With the number of people as sample size: they are the independent units."""
        return self.n_parameters * math.log(self.n_people) - 2 * self.log_likelihood

    @torch.no_grad()
    def log_probabilities(self, data: ChoiceData, size: int = 2**14) -> Tensor:
        """log P(c | k) of every alternative [N, L, K], computed `size` observations at a time."""
        log_tie = None if data.tie is None else self.utility.log_tie
        parts = [choice_log_probabilities(u, log_tie) for _, u in self._utilities(data, size)]
        return torch.cat(parts, 1).transpose(0, 1)

    @torch.no_grad()
    def column_utilities(self, data: ChoiceData, size: int = 2**14) -> Tensor:
        """R_k(c) of every alternative [N, L, K]."""
        return torch.cat([u for _, u in self._utilities(data, size)], 1).transpose(0, 1)

    @torch.no_grad()
    def observation_log_likelihood(self, data: ChoiceData, size: int = 2**14) -> Tensor:
        """log P(observation | k) [N, K]."""
        terms = dict(self.utility.named_parameters())
        both = self._utilities(data, size)
        return torch.cat([block.each_log_likelihood(utility, terms) for block, utility in both])

    def _utilities(self, data: ChoiceData, size: int) -> Iterator[tuple[Block, Tensor]]:
        for block, utility in utilities(self.utility, data, size):
            yield block, utility[..., self.order]

    def posterior(self, data: ChoiceData | Panel) -> Tensor:
        """γ [U, K]: how much each person belongs to each type, from all that they chose."""
        return self._bayes(data)[0]

    def person_log_likelihood(self, data: ChoiceData | Panel) -> Tensor:
        """log Σ_k π_k P(all that u chose | k), [U]."""
        return self._bayes(data)[1]

    def predict(self, data: ChoiceData, gamma: Tensor | None = None) -> Tensor:
        """P(c) of every alternative [N, L]: what these people will choose.

        A stranger's types are mixed by the prior; a known person's by `gamma` [U, K], their
        posterior from other observations, row u for `data.person_ids[u]`.
        """
        gamma = self.prior.expand(data.n_people, -1) if gamma is None else gamma
        if gamma.shape != (data.n_people, self.n_types):
            raise BadData(
                f"`gamma` must be [{data.n_people}, {self.n_types}], a row for each person of the "
                f"data, not {list(gamma.shape)}."
            )
        return self.predict_each(data, gamma[data.person])

    def sequential_log_likelihood(self, data: ChoiceData) -> Tensor:
        """log P(observation | the same person's earlier ones), [N]: predict, then update.

        People's observations are taken in the order in which `data` holds them; the first is a
        stranger's (prior mixture). Within people these sum to `person_log_likelihood`, by the
        chain rule.
        """
        each = self.observation_log_likelihood(data)
        before = each.cumsum(0) - each
        before = before - before[data.first[:-1]][data.person]  # of this person only
        gamma, _ = posterior(self.log_prior, before)
        return (gamma.log() + each).logsumexp(-1)

    def posterior_before(
        self, parts: Sequence[ChoiceData], when: Sequence[np.ndarray]
    ) -> list[Tensor]:
        """γ before each observation, from what the same person did earlier: [N, K] for each part.

        `when`: when each observation of each part took place, any numbers [N] that sort a person's
        (at one time, in the order of the parts). People are matched by their ids.
        """
        ids = np.concatenate([part.person_ids[part.person.numpy()] for part in parts])
        person, when = pd.factorize(ids)[0], np.concatenate(when)
        each = torch.cat([self.observation_log_likelihood(part) for part in parts])
        order = torch.as_tensor(np.lexsort((when, person)))
        each, person = each[order], torch.as_tensor(person)[order]
        before = each.cumsum(0) - each
        first = torch.searchsorted(person, person)
        gamma = torch.empty_like(each)
        gamma[order] = posterior(self.log_prior, before - before[first])[0]
        return list(gamma.split([part.n_observations for part in parts]))

    def predict_each(self, data: ChoiceData, gamma: Tensor) -> Tensor:
        """As `predict`, with a posterior for each observation, [N, K]."""
        return (gamma.log()[:, None] + self.log_probabilities(data).double()).logsumexp(-1).exp()

    def _bayes(self, data: ChoiceData | Panel) -> tuple[Tensor, Tensor]:
        total = sum(
            sum_by_person(self.observation_log_likelihood(part), part.person, data.n_people)
            for part in data.parts
        )
        return posterior(self.log_prior, total)


def save_types(types: UserTypes, path: str | Path) -> None:
    """Write the utility's parameters and the prior, as safetensors, in the precision they have."""
    tensors = {f"utility.{k}": v.contiguous() for k, v in types.utility.state_dict().items()}
    tensors |= {"order": types.order, "log_prior": types.log_prior}
    numbers = ("log_likelihood", "n_people", "n_observations")
    part = Path(path).with_suffix(".part")
    save_file(tensors, part, {"fit": json.dumps({k: getattr(types, k) for k in numbers})})
    part.replace(path)


def load_types(path: str | Path, utility: nn.Module) -> UserTypes:
    """Types as `save_types` wrote them, into a utility of their form, which is filled.

    Raises `BadData` for a file that is not whole or of another utility.
    """
    try:
        with safe_open(path, "pt") as file:
            fit = json.loads((file.metadata() or {})["fit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        order, log_prior = tensors.pop("order"), tensors.pop("log_prior")
        utility.load_state_dict({k.removeprefix("utility."): v for k, v in tensors.items()})
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise BadData(f"{path} holds no types of this utility: {error}") from error
    return UserTypes(utility.requires_grad_(False), order, log_prior, **fit, restarts=None)


def match_types(gamma: Tensor, other: Tensor) -> np.ndarray:
    """Which type of another fit is which of this one.

    `gamma`, `other` [U, K]: the posteriors of the same people under the two fits. Returns `match`
    [K] such that the other fit's type `match[k]` is this one's k: the assignment under which most
    people keep their type (Hungarian algorithm). Near-equal priors swap from run to run; this
    does not.
    """
    overlap = (gamma.T @ other).numpy()
    return linear_sum_assignment(overlap, maximize=True)[1]
