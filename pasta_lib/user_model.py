"""What people of K types like, and what they therefore choose.

    score      s_k(I)     = utility module: an item's features → one number per type
    utility    R_k(c)     = mean of s_k(I_m), of the best item and a       ours
                            share h of the others, best first
    choice     P(c | k)   = softmax over the alternatives of R_k(c)        PASTA

At h = 1 a column is worth the mean of its items, at h = 1/3 that of the two best of four, and as h
falls to 0 its best one (a superquantile, Rockafellar and Uryasev 2000). Utilities without a
parameter `tenth_log_share` [], log(h)/10, take the mean.

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


def column_utility(scores: Tensor, mask: Tensor, share: Tensor | None = None) -> Tensor:
    """R_k(c) of every alternative: its items' scores, by `item_weights`.

    Alternatives come first here: a softmax over the leading dimension is several times faster.
    `scores` [L, B, M, ..., K] of the items, `mask` bool [L, B, M]; `share` h, 0 … 1, a number or
    [..., 1]. Returns [L, B, ..., K]; -inf on alternatives that are not there.
    """
    there = mask.any(2)
    if mask.shape[2] == 1:
        utility = scores.squeeze(2)
    else:
        known = scores.where(_beside(mask, scores), 0.0)
        utility = (item_weights(scores, mask, share) * known).sum(2)
    if not there.all():
        utility = utility.masked_fill(~_beside(there, utility), -torch.inf)
    return utility


def item_weights(scores: Tensor, mask: Tensor, share: Tensor | None = None) -> Tensor:
    """How much each item counts in its alternative, [L, B, M, ..., K]: all alike, or the best
    1 + h (n - 1) of n.

        w_r = min(1, max(0, 1 + h (n - 1) - r)) / (1 + h (n - 1))        r = 0 … n - 1

    is the weight of the r-th best: the last one that counts may count in part.
    """
    n = _beside(mask.sum(2, keepdim=True).clamp(min=1), scores).to(scores.dtype)
    there = _beside(mask, scores)
    if share is None or mask.shape[2] == 1:
        return (there.to(scores.dtype) / n).expand_as(scores)
    count = 1 + share * (n - 1)
    return (count - ranks(scores.masked_fill(~there, -torch.inf))).clamp(0, 1) / count


def _beside(mask: Tensor, scores: Tensor) -> Tensor:
    """With as many dimensions as `scores`, to meet them."""
    return mask.reshape(mask.shape + (1,) * (scores.ndim - mask.ndim))


def share_of_items(tenth_log_share: Tensor) -> Tensor:
    """h, 0 … 1, of its parameter. Above 0, where h is 1, nothing but a ridge moves it back."""
    return (10 * tenth_log_share).exp().clamp(max=1)


def ranks(items: Tensor) -> Tensor:
    """How many items of their alternative stand before each one: the better ones, and of equals the
    earlier. By pairs: columns are short, and this is faster than sorting. [L, B, M, ...]."""
    each = items.detach().unbind(2)
    out = []
    for m, item in enumerate(each):
        before = [other >= item for other in each[:m]] + [other > item for other in each[m + 1 :]]
        out.append(sum(b.to(items.dtype) for b in before))
    return torch.stack(out, 2)


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
