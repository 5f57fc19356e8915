"""What people of K types like, and what they therefore choose.

    score      s_k(I)     = utility module: an item's features → one number per type
    utility    R_k(c)     = mean over the column's items of s_k(I_m)       PASTA; the mean: ours
    choice     P(c | k)   = softmax over the alternatives of R_k(c)        PASTA

A utility is any `torch.nn.Module` that maps features [..., D] to scores [..., K]; a temperature, if
it wants one, is a parameter of its own. To fit several restarts at once, the parameters of R copies
of a module travel together as one matrix [R, P], a row each.
"""

from __future__ import annotations

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


def stacked(utility: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A module as a function of its parameters: (rows [R, P], features [..., D]) → [..., R, K]."""
    shapes = {name: p.shape for name, p in utility.named_parameters()}

    def score(row: Tensor, features: Tensor) -> Tensor:
        parts = row.split([shape.numel() for shape in shapes.values()])
        named = {k: part.reshape(shapes[k]) for k, part in zip(shapes, parts, strict=True)}
        return torch.func.functional_call(utility, named, (features,))

    return torch.func.vmap(score, in_dims=(0, None), out_dims=-2)


def choice_log_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """log P(c | k) of every alternative.

    Alternatives come first here: a softmax over the leading dimension is several times faster.
    `scores` [L, B, M, ..., K] of the items, `mask` bool [L, B, M]. Returns [L, B, ..., K]; -inf on
    alternatives that are not there.
    """

    def beside(per_alternative: Tensor) -> Tensor:
        return per_alternative.reshape(per_alternative.shape + (1,) * (scores.ndim - 3))

    if mask.shape[2] == 1:
        utility = scores.squeeze(2)
    else:
        utility = (scores * beside(mask)).sum(2) / beside(mask.sum(2).clamp(min=1))
    there = mask.any(2)
    if not there.all():
        utility = utility.masked_fill(~beside(there), -torch.inf)
    return utility.log_softmax(0)


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
