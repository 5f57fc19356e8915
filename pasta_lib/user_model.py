"""What people of K types like, and what they therefore choose.

    score      s_k(I)     = utility module: an item's features → one number per type
    utility    R_k(c)     = (1/β) log mean_m exp(β s_k(I_m))               PASTA; this mean: ours
    choice     P(c | k)   = softmax over the alternatives of R_k(c)        PASTA

At sharpness β = 0 a column is worth the mean of its items; as β grows, its best one. Utilities
without a parameter `tenth_log_sharpness` [] take the mean.

A utility is any `torch.nn.Module` that maps features [..., D], and the prompt's [..., D'] where the
data have prompts, to scores [..., K]; a temperature, if it wants one, is a parameter of its own.
For data with ties it needs a parameter `log_tie` [], for ratings `rating_terms` [3]. To fit several
restarts at once, the parameters of R copies of a module travel together as one matrix [R, P], a row
each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class LinearUtility(nn.Module):
    """Scores linear in the features: `weight` [K, D] holds each type's part-worths.

    Starts at zero, where every alternative is as good as another. EM recognises this class and
    climbs by Newton's method, since its choice log-likelihood is concave.
    """

    def __init__(self, n_features: int, n_types: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_types, n_features, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


def parameter_vector(utility: nn.Module) -> Tensor:
    """All of a module's parameters in one row [P], in the order of `named_parameters`."""
    return nn.utils.parameters_to_vector(utility.parameters()).detach().clone()


def stacked(utility: nn.Module) -> Callable[..., Tensor]:
    """A module as a function of its parameters: (rows [R, P], inputs [..., D]) → [..., R, K]."""

    def score(row: Tensor, *inputs: Tensor) -> Tensor:
        return torch.func.functional_call(utility, named(utility, row), inputs)

    def of_rows(rows: Tensor, *inputs: Tensor) -> Tensor:
        if len(rows) == 1:  # faster, and not every kernel can be batched over weights
            return score(rows[0], *inputs)[..., None, :]
        in_dims = (0, *[None] * len(inputs))
        return torch.func.vmap(score, in_dims=in_dims, out_dims=-2)(rows, *inputs)

    return of_rows


def named(utility: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    """Parameters by name, [..., *shape] each, from rows [..., P]: undoes `parameter_vector`."""
    shapes = {name: p.shape for name, p in utility.named_parameters()}
    parts = rows.split([shape.numel() for shape in shapes.values()], -1)
    both = zip(shapes.items(), parts, strict=True)
    return {name: part.reshape((*rows.shape[:-1], *shape)) for (name, shape), part in both}


def column_utility(scores: Tensor, mask: Tensor, sharpness: Tensor | None = None) -> Tensor:
    """R_k(c) of every alternative: the mean of its items, or the soft one at `sharpness` β > 0.

    Alternatives come first here: a softmax over the leading dimension is several times faster.
    `scores` [L, B, M, ..., K] of the items, `mask` bool [L, B, M]; β a number, or [..., 1]. Returns
    [L, B, ..., K]; -inf on alternatives that are not there.
    """

    def beside(per_alternative: Tensor) -> Tensor:
        return per_alternative.reshape(per_alternative.shape + (1,) * (scores.ndim - 3))

    there = mask.any(2)
    if mask.shape[2] == 1:
        utility = scores.squeeze(2)
    elif sharpness is None:
        utility = (scores * beside(mask)).sum(2) / beside(mask.sum(2).clamp(min=1))
    else:
        # Down from the best item, lest digits be lost where β is small or scores are large.
        best = scores.detach().masked_fill(~beside(mask), -torch.inf).amax(2, keepdim=True)
        fall = sharpness * (scores - best.where(best.isfinite(), 0.0))
        fall = fall.masked_fill(~beside(mask), 0.0).expm1()
        mean = fall.sum(2) / beside(mask.sum(2).clamp(min=1))
        utility = best.squeeze(2) + mean.log1p() / sharpness
    if not there.all():
        utility = utility.masked_fill(~beside(there), -torch.inf)
    return utility


def choice_log_probabilities(utility: Tensor, log_tie: Tensor | None = None) -> Tensor:
    """log P(c | k) of every alternative, [L, B, ..., K] as `utility` is.

    With `log_tie` (a number, or [..., 1]) there is one more alternative, the last: "all the same",
    worth the mean of the others plus log_tie. That is Davidson's (1970) model of ties.
    """
    if log_tie is not None:
        there = ~utility.isneginf()
        mean = utility.where(there, 0.0).sum(0) / there.sum(0)
        utility = torch.cat([utility, (mean + log_tie)[None]])
    return utility.log_softmax(0)


def rating_log_likelihood(utility: Tensor, rating: Tensor, terms: Tensor) -> Tensor:
    """log N(rating; a + b R_k, σ²), [B, ..., K], in float64; ours.

    `utility` [1, B, ..., K] of the rated alternative; `rating` [B]; `terms` [..., 3]: a, log b and
    log σ.
    """
    a, log_b, log_sigma = terms.unsqueeze(-2).unbind(-1)  # [..., 1] each, to meet K
    there = rating.reshape(-1, *[1] * (utility.ndim - 2)).to(utility.dtype)
    gap = (there - a - log_b.exp() * utility[0]) / log_sigma.exp()
    return (-0.5 * gap.square() - log_sigma - 0.5 * math.log(2 * math.pi)).double()


def observation_log_likelihood(log_p: Tensor, share: Tensor) -> Tensor:
    """Σ_c w y_c log P(c | k) of each observation, in float64.

    `log_p` [L, B, ..., K]; `share` [L, B], weight times target. Returns [B, ..., K].
    """
    padding = log_p.flatten(2)[..., 0].isneginf()
    if padding.any():  # 0 log 0 = 0
        log_p = log_p.masked_fill(padding.reshape(padding.shape + (1,) * (log_p.ndim - 2)), 0.0)
    return torch.einsum("lb,lb...->b...", share.to(log_p.dtype), log_p).double()


def sum_by_person(values: Tensor, person: Tensor, n_people: int) -> Tensor:
    """Observations' [B, ...] summed within people: [U, ...]; one pass, no loop."""
    return values.new_zeros(n_people, *values.shape[1:]).index_add_(0, person, values)


def posterior(log_prior: Tensor, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """Bayes' rule over types, in log space: γ_u(k) ∝ π_k P_k(all that u chose).

    `log_prior` [..., K], `log_likelihood` [U, ..., K]. Returns γ [U, ..., K] and each person's
    log Σ_k π_k P_k [U, ...].
    """
    joint = log_prior + log_likelihood
    evidence = joint.logsumexp(-1)
    return (joint - evidence[..., None]).exp(), evidence


def hard_posterior(log_prior: Tensor, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """As `posterior`, but everybody belongs wholly to their likeliest type: γ is 0 or 1, and beside
    it max_k log π_k P_k. The E-step of classification EM (Celeux and Govaert 1992)."""
    best, kind = (log_prior + log_likelihood).max(-1)
    return nn.functional.one_hot(kind, log_likelihood.shape[-1]).to(best.dtype), best
