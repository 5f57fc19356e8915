"""One pass of EM over the data, for many restarts at once.

A *state* is a matrix with a row for each of R restarts: K log-priors, the utility's P parameters,
and what the M-step wants to remember. Both classes below map a state to its log-likelihood and to
the next state, EM(state); they differ in the M-step alone:

- `NewtonStep`, for `LinearUtility`: the M-step is K weighted multinomial logits, each concave; one
  Newton step on each nearly always climbs (a generalised EM), and where it overshoots the search
  halves it. Everything that it needs is summed in the same pass as the E-step.
- `GradientStep`, for any other module: an exact E-step over everybody, then one epoch of Adam over
  mini-batches of people with those posteriors.

People are taken in blocks that fit the processor's cache. Time and memory grow linearly with the
data: `NewtonStep` keeps each alternative's mean features and, up to `OUTER_LIMIT`, outer products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pasta_lib.choices import ChoiceData
from pasta_lib.panel import Panel
from pasta_lib.user_model import (
    choice_log_probabilities,
    column_utility,
    named,
    observation_log_likelihood,
    parameter_vector,
    posterior,
    rating_log_likelihood,
    share_of_items,
    stacked,
    sum_by_person,
)

OUTER_LIMIT = 2**28  # numbers: up to 2 GB of outer products are kept; beyond, made in each pass
SMALLEST_SHARE = 1e-10  # of a type; keeps log π finite when a type dies out


@dataclass(frozen=True)
class Block:
    """Some whole people's data as the passes use them, alternatives first (cf. `ChoiceData`)."""

    features: Tensor  # [L, B, M, D]
    mask: Tensor  # [L, B, M]
    share: Tensor  # [L, B], weight times target; [L + 1, B] where a tie is an alternative
    weight: Tensor  # [B]
    person: Tensor  # [B], counted from 0 in this block
    people: slice  # of everybody
    context: Tensor | None  # [B, 1, D'], to meet the features
    rating: Tensor | None  # [B]

    @property
    def n_people(self) -> int:
        return self.people.stop - self.people.start

    @property
    def has_ties(self) -> bool:
        return len(self.share) > len(self.mask)

    def utility(self, score: Callable[..., Tensor], terms: dict[str, Tensor]) -> Tensor:
        """R_k(c) of every alternative [L, B, ..., K], by a function of features and context.

        `terms` here and below: a module's parameters by name, [...] + each one's own shape.
        """
        dtype = next(iter(terms.values())).dtype
        context = [] if self.context is None else [self.context.to(dtype)]
        share = _last_names(terms).get("tenth_log_share")
        if share is not None:
            share = share_of_items(share)[..., None]
        return column_utility(score(self.features.to(dtype), *context), self.mask, share)

    def each_log_likelihood(self, utility: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """log P(observation | k): [B, ..., K]."""
        terms = _last_names(terms)
        if self.rating is not None:
            each = rating_log_likelihood(utility, self.rating, terms["rating_terms"])
            return each * self.weight.reshape(-1, *[1] * (each.ndim - 1))
        log_tie = terms["log_tie"][..., None] if self.has_ties else None
        return observation_log_likelihood(choice_log_probabilities(utility, log_tie), self.share)

    def by_person(self, each: Tensor) -> Tensor:
        """Observations' [B, ...] summed within people: [U_b, ...]."""
        return sum_by_person(each, self.person, self.n_people)


def _last_names(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.split(".")[-1]: values for name, values in terms.items()}


def cut(data: ChoiceData, rows: slice | Tensor, people: slice) -> Block:
    """The observations `rows` of the people `people`."""
    items = data.items[rows].transpose(0, 1).contiguous()
    vote = data.target[rows]
    if data.tie is not None:
        vote = torch.cat([vote, data.tie[rows, None]], 1)
    return Block(
        features=data.table[items.clamp(min=0)],
        mask=items >= 0,
        share=(vote * data.weight[rows, None]).T.contiguous(),
        weight=data.weight[rows],
        person=data.person[rows] - people.start,
        people=people,
        context=None if data.context is None else data.context_table[data.context[rows]][:, None],
        rating=None if data.rating is None else data.rating[rows],
    )


@torch.no_grad()
def utilities(
    utility: nn.Module, data: ChoiceData, size: int = 2**14
) -> Iterator[tuple[Block, Tensor]]:
    """Some `size` observations at a time, with R_k(c) of every alternative [L, B, K]."""
    terms = dict(utility.named_parameters())
    for rows, people in data.blocks(size):
        block = cut(data, rows, people)
        yield block, block.utility(utility, terms)


class NewtonStep:
    """EM for `LinearUtility`, with one Newton step as M-step. The state [R, K + K D] is float64.

    `ridge` is the precision of a Gaussian prior on the part-worths, in units of each feature's
    variance within observations.
    """

    extrapolates = True  # its passes are smooth enough for SQUAREM
    noise = 1e-14  # a fall in log-likelihood that is only rounding, in nats per observation

    def __init__(self, data: ChoiceData, n_types: int, ridge: float, e_step: Callable = posterior):
        self.data, self.e_step = data.pooled(), e_step
        self.n_types, self.n_features = n_types, self.data.table.shape[1]
        self.n_parameters = n_types * self.n_features
        self.prior_precision = ridge * _spread(self.data)
        (n, width, _), d = self.data.items.shape, self.n_features
        small = n * width * (width - 1) // 2 * d * (d + 1) // 2 <= OUTER_LIMIT
        whole = (self.data, slice(None), slice(0, data.n_people))
        self.outer = _outer_differences(cut(*whole)) if small else None

    def start(self, gamma: Tensor) -> Tensor:
        """The M-step alone, from posteriors γ [U, R, K]: one Newton step, from zero."""
        restarts = gamma.shape[1]
        zero = gamma.new_zeros(restarts, self.n_types * (1 + self.n_features), dtype=torch.float64)
        return self._pass(zero, gamma)[1]

    def __call__(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(log-likelihood less the ridge's penalty [R], EM(state)) of a state."""
        return self._pass(state, None)

    def _pass(self, state: Tensor, gamma: Tensor | None) -> tuple[Tensor, Tensor]:
        restarts, k, d = len(state), self.n_types, self.n_features
        log_prior, parameters = state[:, :k], state[:, k:]
        log_likelihood = state.new_zeros(restarts)
        members = state.new_zeros(restarts, k)
        gradient = state.new_zeros(restarts * k, d)
        curvature = state.new_zeros(restarts * k, d * (d + 1) // 2)
        for rows, people in self.data.blocks(self._block_size(restarts)):
            block = cut(self.data, rows, people)
            scores = block.features @ parameters.reshape(restarts * k, d).T  # all types at once
            utility = column_utility(scores.unflatten(-1, (restarts, k)), block.mask)
            log_p = choice_log_probabilities(utility)
            each = observation_log_likelihood(log_p, block.share)
            g, evidence = self.e_step(log_prior, block.by_person(each))
            if gamma is not None:
                g = gamma[people].to(state.dtype)
            log_likelihood += evidence.sum(0)
            members += g.sum(0)
            outer = self.outer[:, :, rows] if self.outer is not None else _outer_differences(block)
            self._add_derivatives(gradient, curvature, block, outer, log_p.exp_(), g)
        first, second = torch.triu_indices(d, d)
        hessian = state.new_zeros(restarts * k, d, d)
        hessian[:, first, second] = hessian[:, second, first] = curvature
        hessian += torch.diag(self.prior_precision)
        weight = parameters.reshape(restarts * k, d)
        step = torch.linalg.solve(hessian, gradient - self.prior_precision * weight)
        climbed = (weight + step).reshape(restarts, -1)
        penalty = (self.prior_precision * weight.square()).reshape(restarts, -1).sum(1) / 2
        return log_likelihood - penalty, torch.cat([_log_share(members), climbed], 1)

    def _add_derivatives(self, gradient, curvature, block: Block, outer, p: Tensor, g: Tensor):
        """Add the block's part of Σ γ w (y - p) x and of the logit's curvature.

        The curvature Σ_n γ w (Σ_c p_c x_c x_c' - x̄ x̄') is written over pairs of alternatives,
        Σ_n γ w Σ_{c<d} p_c p_d (x_c - x_d)(x_c - x_d)': one matrix product for all types.
        """
        x, p = block.features.squeeze(2), p.flatten(2)  # [L, B, D], [L, B, R K]
        g = g.flatten(1).index_select(0, block.person)  # [B, R K]
        expected = p * (g * block.share.sum(0)[:, None])
        chosen = (block.share[..., None] * x).sum(0)
        gradient += g.T @ chosen - expected.flatten(0, 1).T @ x.flatten(0, 1)
        both, begin = expected.new_empty(len(outer), *p.shape[1:]), 0  # [pairs, B, R K]
        for apart in range(1, len(p)):
            end = begin + len(p) - apart
            torch.mul(expected[apart:], p[:-apart], out=both[begin:end])
            begin = end
        curvature += torch.bmm(outer, both).sum(0).T

    def _block_size(self, restarts: int) -> int:
        """Observations whose intermediate results fill about 2 MB, a core's cache."""
        width = self.data.items.shape[1]
        return max(16, 2**18 // (width * (width - 1) // 2 * restarts * self.n_types))


class GradientStep:
    """EM for any module: an exact E-step, then one epoch of Adam over mini-batches of people.

    The state [R, K + 3 P + 1] carries Adam's two moments and its count of steps. The learning rate
    falls as 1 / √(1 + epochs / 10), so that mini-batch noise dies away.
    """

    extrapolates = False
    noise = 1e-3  # of mini-batches; a larger fall is taken back

    def __init__(
        self,
        utility: nn.Module,
        data: ChoiceData | Panel,
        n_types: int,
        learning_rate: float,
        batch: int,
        ridge: float,
        generator: torch.Generator,
        e_step: Callable = posterior,
    ):
        self.e_step = e_step
        self.panel, self.n_types = Panel.of(*data.parts), n_types
        self.batches = list(self.panel.blocks(batch))
        self.utility, self.score = utility, stacked(utility)
        self.initial = parameter_vector(utility)
        self.n_parameters = len(self.initial)
        self.learning_rate, self.ridge, self.generator = learning_rate, ridge, generator

    def start(self, gamma: Tensor) -> Tensor:
        """The M-step alone, from posteriors γ [U, R, K]: every restart from the module as it is."""
        rows = self.initial.expand(gamma.shape[1], -1)
        memory = rows.new_zeros(len(rows), 2 * rows.shape[1] + 1)
        log_prior = _log_share(gamma.sum(0)).to(rows.dtype)
        return self._epoch(torch.cat([log_prior, rows, memory], 1), gamma)

    def __call__(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(log-likelihood less the ridge's penalty [R], next state) of a state."""
        log_prior, parameters, _ = self._parts(state)
        people = []
        with torch.no_grad():
            for rows, run in self.batches:
                people.append(self.e_step(log_prior, self._log_likelihood(rows, run, parameters)))
        gamma = torch.cat([g for g, _ in people])
        log_likelihood = torch.cat([evidence for _, evidence in people]).sum(0)
        return log_likelihood - self._penalty(parameters), self._epoch(state, gamma)

    def _penalty(self, parameters: Tensor) -> Tensor:
        """Of a Gaussian prior around the start, [R]."""
        return self.ridge / 2 * (parameters - self.initial).square().sum(1)

    def _epoch(self, state: Tensor, gamma: Tensor) -> Tensor:
        _, parameters, memory = self._parts(state)
        parameters = parameters.clone().requires_grad_()
        mean, square, steps = memory.split([parameters.shape[1]] * 2 + [1], 1)
        adam = torch.optim.Adam([parameters], lr=self.learning_rate)
        adam.state[parameters] = {
            "step": steps.max(),
            "exp_avg": mean.clone(),
            "exp_avg_sq": square.clone(),
        }
        order = torch.randperm(len(self.batches), generator=self.generator)
        epochs = float(steps.max()) / len(self.batches)
        adam.param_groups[0]["lr"] = self.learning_rate / (1 + epochs / 10) ** 0.5
        for i in order:
            rows, people = self.batches[i]
            complete = self._log_likelihood(rows, people, parameters)
            observations = sum(part.stop - part.start for part in rows)
            share = observations / self.panel.n_observations
            gain = (gamma[people] * complete).sum() - share * self._penalty(parameters).sum()
            loss = -gain / observations
            adam.zero_grad()
            loss.backward()
            adam.step()
        new = adam.state[parameters]
        steps = torch.full_like(steps, float(new["step"]))
        log_prior = _log_share(gamma.sum(0)).to(state.dtype)
        return torch.cat(
            [log_prior, parameters.detach(), new["exp_avg"], new["exp_avg_sq"], steps], 1
        )

    def _log_likelihood(self, rows: tuple[slice, ...], people: slice, parameters) -> Tensor:
        """log P(all that a person chose and rated | k), of a run of people: [U_b, R, K]."""
        terms, total = named(self.utility, parameters), 0
        for part, here in zip(self.panel.parts, rows, strict=True):
            if here.stop > here.start:
                block = cut(part, here, people)
                utility = block.utility(partial(self.score, parameters), terms)
                total = total + block.by_person(block.each_log_likelihood(utility, terms))
        return total

    def _parts(self, state: Tensor) -> tuple[Tensor, ...]:
        p = self.n_parameters
        return state.split([self.n_types, p, 2 * p + 1], 1)


def _outer_differences(block: Block) -> Tensor:
    """(x_c - x_d)(x_c - x_d)' of pairs of alternatives, its upper triangle; M = 1.

    Returns [pairs, D (D + 1) / 2, B]: pairs one apart first, then two apart, and so on.
    """
    x = block.features.squeeze(2).transpose(1, 2).contiguous()  # [L, D, B]
    first, second = torch.triu_indices(x.shape[1], x.shape[1])
    between = torch.cat([x[a:] - x[:-a] for a in range(1, len(x))])
    outer = x.new_empty(len(between), len(first), x.shape[2])
    for pair, apart in enumerate(between):  # one at a time, for the sake of memory
        torch.mul(apart[first], apart[second], out=outer[pair])
    return outer


def _spread(pooled: ChoiceData) -> Tensor:
    """[D], each feature's mean variance within an observation; 1 where it has none."""
    there = pooled.mask.double()  # [N, L, 1]
    x, size = pooled.features().squeeze(2), there.sum(1, keepdim=True)
    centred = (x - (x * there).sum(1, keepdim=True) / size) * there
    variance = (centred.square().sum(1) / size.squeeze(1)).mean(0)
    return torch.where(variance > 0, variance, 1.0)


def _log_share(members: Tensor) -> Tensor:
    """Prior update: [R, K] expected members → log of their shares."""
    share = (members / members.sum(1, keepdim=True)).clamp(min=SMALLEST_SHARE)
    return (share / share.sum(1, keepdim=True)).log()
