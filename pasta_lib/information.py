"""Standard errors of user types, from the observed information of the mixture.

Taking each type's logit alone, as if people's types were known, gives intervals that are too short:
part of what the data say is spent on who belongs where. The information used here is minus the
second derivative of the whole log-likelihood Σ_u log Σ_k π_k Π_i P(x_i | k) at its maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.em_steps import cut
from pasta_lib.user_model import posterior, stacked
from pasta_lib.user_types import UserTypes


@dataclass(frozen=True)
class StandardErrors:
    part_worths: Tensor  # [K, D]
    prior: Tensor  # [K], of the shares, by the delta method
    covariance: Tensor  # [K D + K - 1]², of the part-worths and of log π_k / π_K


def standard_errors(types: UserTypes, data: ChoiceData) -> StandardErrors:
    """Of the part-worths and shares of a `LinearUtility`'s types, fitted to `data`.

    The Hessian is exact (differentiated twice by torch), summed over blocks of people.
    Raises `BadData` where the data leave some of them undetermined: the information is not
    positive definite, or nearly not.
    """
    information = -mixture_hessian(types, data)
    diagonal = information.diagonal()
    scale = diagonal.clamp(min=1e-300).rsqrt()
    # Where a feature does not vary, what is left on the diagonal is rounding of its squares.
    squares = data.table.double().square().mean(0).repeat(types.n_types) * data.n_observations
    empty = diagonal[: len(squares)] < 1e-12 * squares
    weakest = torch.linalg.eigvalsh(information * torch.outer(scale, scale)).min()
    if empty.any() or weakest < 1e-10:
        raise BadData(
            "No standard errors: the data do not determine every part-worth (a type with hardly a "
            "member, a feature that does not vary, or a separable type). Use fewer types."
        )
    covariance = torch.linalg.inv(information)
    k, d = types.n_types, types.part_worths.shape[1]
    variance = covariance.diagonal()
    prior = types.prior
    # ∂π_i / ∂η_j = π_i (δ_ij - π_j), for η_j = log π_j / π_K, j < K
    jacobian = (torch.diag(prior) - torch.outer(prior, prior))[:, : k - 1]
    of_prior = jacobian @ covariance[k * d :, k * d :] @ jacobian.T
    return StandardErrors(
        part_worths=variance[: k * d].sqrt().reshape(k, d),
        prior=of_prior.diagonal().clamp(min=0).sqrt(),
        covariance=covariance,
    )


def mixture_hessian(types: UserTypes, data: ChoiceData, size: int = 1024) -> Tensor:
    """Second derivatives of the log-likelihood [K D + K - 1]², by part-worths and log π_k / π_K."""
    k, score = types.n_types, stacked(types.utility)
    theta = torch.cat([types.part_worths.flatten(), types.log_prior[:-1] - types.log_prior[-1]])

    def log_likelihood(theta: Tensor, block) -> Tensor:
        weight, eta = theta[: 1 - k or None], theta[len(theta) + 1 - k :]
        log_prior = torch.cat([eta, eta.new_zeros(1)]).log_softmax(0)
        utility = block.utility(partial(score, weight[None]), {"weight": weight})
        by_type = block.by_person(block.each_log_likelihood(utility, {}))
        return posterior(log_prior, by_type)[1].sum()

    hessian = torch.func.jacrev(torch.func.grad(log_likelihood))
    pooled = data.pooled()
    return sum(hessian(theta, cut(pooled, *run)) for run in pooled.blocks(size))
