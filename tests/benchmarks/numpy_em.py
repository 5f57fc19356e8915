"""The yardstick: a well-vectorised NumPy EM whose random starts run one after another.

All types in one matrix product, people summed by `np.add.reduceat`, the outer products of attribute
differences made once. The M-step is the textbook's, Newton's method to the maximum of each type's
logit (`newton_steps` = 10 at most, two or three in practice), or, with `newton_steps` = 1, a single
step, which is this project's own short cut. No batching of starts, no race, no acceleration.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np


class NumpyEM:
    def __init__(self, features: np.ndarray, target: np.ndarray, person: np.ndarray):
        """`features` [N, L, D], `target` [N, L], `person` [N], non-decreasing."""
        n, width, d = features.shape
        self.shape, self.y = (n, width, d), target
        self.x = features.reshape(n * width, d)
        self.start = np.concatenate([[0], np.flatnonzero(np.diff(person)) + 1])
        self.person, self.n_people = np.cumsum(np.diff(person, prepend=person[0]) > 0), 0
        self.n_people = len(self.start)
        self.pairs = np.array(list(combinations(range(width), 2))).T
        self.upper = np.triu_indices(d)
        apart = (features[:, self.pairs[0]] - features[:, self.pairs[1]]).reshape(-1, d)
        self.outer = apart[:, self.upper[0]] * apart[:, self.upper[1]]

    def em_pass(self, weight, log_prior, gamma=None):
        """Log-likelihood, next weight [K, D] and log_prior [K], posteriors γ [U, K]."""
        n, width, d = self.shape
        k = len(weight)
        utility = (self.x @ weight.T).reshape(n, width, k)
        utility -= utility.max(1, keepdims=True)
        p = np.exp(utility)
        total = p.sum(1, keepdims=True)
        p /= total
        each = np.einsum("nl,nlk->nk", self.y, utility) - np.log(total[:, 0])
        joint = np.add.reduceat(each, self.start) + log_prior
        top = joint.max(1, keepdims=True)
        evidence = top + np.log(np.exp(joint - top).sum(1, keepdims=True))
        if gamma is None:
            gamma = np.exp(joint - evidence)
        g = gamma[self.person][:, None]
        expected = g * p
        gradient = (self.y[..., None] * g - expected).reshape(-1, k).T @ self.x
        both = (expected[:, self.pairs[0]] * p[:, self.pairs[1]]).reshape(-1, k)
        hessian = np.zeros((k, d, d))
        hessian[:, self.upper[0], self.upper[1]] = both.T @ self.outer
        hessian[:, self.upper[1], self.upper[0]] = hessian[:, self.upper[0], self.upper[1]]
        step = np.linalg.solve(hessian + 1e-8 * np.eye(d), gradient[..., None])[..., 0]
        share = np.maximum(gamma.mean(0), 1e-10)
        return float(evidence.sum()), weight + step, np.log(share), gamma

    def run(self, n_types: int, rng: np.random.Generator, goal: float, newton_steps: int):
        """One random start, until it arrives or passes `goal`: (log-likelihood, passes)."""
        gamma = np.eye(n_types)[rng.integers(n_types, size=self.n_people)]
        weight, log_prior = np.zeros((n_types, self.shape[2])), np.zeros(n_types)
        _, weight, log_prior, _ = self.em_pass(weight, log_prior, gamma)
        last, quiet, passes = -np.inf, 0, 1
        while quiet < 2:
            before = weight
            at, weight, log_prior, gamma = self.em_pass(weight, log_prior)
            passes += 1
            if at >= goal:
                break
            for _ in range(newton_steps - 1):
                if np.abs(weight - before).max() < 1e-3:
                    break
                before = weight
                _, weight, _, _ = self.em_pass(weight, log_prior, gamma)
                passes += 1
            quiet = quiet + 1 if at - last < 1e-9 * self.shape[0] else 0
            last = at
        return at, passes
