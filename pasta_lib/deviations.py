"""What a known person likes beyond their type, learnt as they answer. Ours.

    s_u(p, I) = s_k(p, I) + δ_u·x_k(p, I)        δ_u ~ N(0, diag σ²)

In PASTA a person is their type, and nothing else. People of one type differ, though, and a few
answers say how: here each deviates in what they like to see (in x, the probabilities of some
concepts) and in how much it matters that pictures are what was asked for (in x, that part of s_k).
For every person and type the posterior of δ is kept as a Gaussian N(m, C). Let R be what the
alternatives are worth at its mean, each by its best pictures in the eyes of s_k + m·x, and F the
mean x of those pictures, less the alternatives' mean. An answer y is expected with

    p = softmax(R / √(1 + π v / 8))        v: the mean of diag(F C F')

which is also what it says of the type. (The root stands for an average over δ. It is MacKay's of
1992 for the logistic function; to put this v into it, where utilities are several, is ours, and
tests hold it against sampling.) Then one Newton step of Laplace's method takes the answer in, an
extended Kalman filter:

    q = softmax(R)        W = diag(q) - q q'
    C ← C - C F' W (1 + F C F' W)⁻¹ F C        m ← m + C F' (y - q)

With σ = 0 all this is EM's posterior over types. Types are a `ClipUtility`'s; answers are choices
and judgements, not ratings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import Tensor

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.em_steps import cut
from pasta_lib.user_model import choice_log_probabilities, item_weights, share_of_items
from pasta_lib.user_types import UserTypes


@dataclass(frozen=True)
class Spread:
    """How far people deviate: by the standard deviations `tastes` [C], in nats, for each of the
    concepts in the columns `concepts` [C] of items' features, and by the part `faithfulness` of
    what their type makes of pictures that are what was asked for."""

    concepts: Tensor
    tastes: Tensor
    faithfulness: float

    @property
    def deviation(self) -> Tensor:
        """σ, [C + 1]."""
        return torch.cat([self.tastes, torch.tensor([self.faithfulness])]).float()


@dataclass(frozen=True)
class Persons:
    """U people, of whom `follow` keeps what it learns here: `log_joint` [U, K], log of prior times
    evidence; `mean` m [U, K, C + 1]; `covariance` C [U, K, C + 1, C + 1], which is most of the
    memory: 4 U K (C + 1)² bytes."""

    types: UserTypes
    concepts: Tensor
    ids: pd.Index
    log_joint: Tensor
    mean: Tensor
    covariance: Tensor

    @property
    def gamma(self) -> Tensor:
        """How much each person belongs to each type, [U, K]."""
        return self.log_joint.softmax(1)

    def rows(self, ids: Sequence) -> Tensor:
        """Where people are, [N]. Raises `BadData` for one who is not here."""
        rows = self.ids.get_indexer(ids)
        if (rows < 0).any():
            absent = np.asarray(ids)[rows < 0]
            raise BadData(
                f"Person {str(absent[0])!r} is not among these people ({len(absent)} such): give "
                "`strangers` all ids that will be asked about."
            )
        return torch.as_tensor(rows)

    @torch.no_grad()
    def predict(self, data: ChoiceData, at_once: int = 2048) -> Tensor:
        """P(c) of every alternative [N, L] (and of a tie, the last), by all that is known of each
        observation's person."""
        person, out = self.rows(data.person_ids)[data.person], []
        for rows in torch.arange(data.n_observations).split(at_once):
            who = person[rows]
            p = answers_to(self, who, data, rows).log_probabilities().exp()
            out.append((self.gamma[who, :, None] * p).sum(1))
        return torch.cat(out)

    @torch.no_grad()
    def expected_utility(self, data: ChoiceData, rows: Tensor, ids: Sequence) -> Tensor:
        """R of every alternative of the observations `rows` [N] to the people `ids` [N], each by
        all that is known of them: [N, L]; up to a constant in each row."""
        who = self.rows(ids)
        return (self.gamma[who][..., None] * answers_to(self, who, data, rows).utility).sum(1)


def strangers(types: UserTypes, spread: Spread, ids: Sequence) -> Persons:
    """People of whom nothing is known: the prior."""
    u, k, deviation = len(ids), types.n_types, spread.deviation
    covariance = deviation.square().diag().repeat(u, k, 1, 1)
    log_prior = types.log_prior.double().repeat(u, 1)
    mean = torch.zeros(u, k, len(deviation))
    return Persons(types, spread.concepts, pd.Index(ids), log_prior, mean, covariance)


@torch.no_grad()
def follow(
    persons: Persons, parts: Sequence[ChoiceData], when: Sequence[np.ndarray]
) -> list[Tensor]:
    """Predict each observation from the same person's earlier ones, then learn from it.

    `when`: as in `UserTypes.posterior_before`; at one time, the parts in their order. Returns P(c)
    of every alternative [N, L] (and of a tie, the last) for each part; `persons` then know it all.
    One step for the first observations of all people, one for the second ones, and so on.
    """
    whose = [persons.rows(part.person_ids)[part.person] for part in parts]
    part_of = np.repeat(np.arange(len(parts)), [part.n_observations for part in parts])
    row_of = np.concatenate([np.arange(part.n_observations) for part in parts])
    person = torch.cat(whose).numpy()
    order = np.lexsort((part_of, np.concatenate(when), person))
    person, part_of, row_of = person[order], part_of[order], row_of[order]
    nth = np.arange(len(person)) - np.searchsorted(person, person)
    out = [
        torch.zeros(part.n_observations, part.items.shape[1] + (part.tie is not None))
        for part in parts
    ]
    for step in range(nth.max() + 1):
        for p, part in enumerate(parts):
            here = torch.as_tensor(row_of[(nth == step) & (part_of == p)])
            if len(here):
                who = whose[p][here]
                answers = answers_to(persons, who, part, here)
                p_k = answers.log_probabilities().exp()
                out[p][here] = (persons.gamma[who, :, None] * p_k).sum(1).float()
                learn(persons, who, answers)
    return out


@dataclass(frozen=True)
class Answers:
    """B observations of persons, as each type: `utility` R [B, K, L], `shown` F [B, K, L, C + 1],
    `covariance` C [B, K, C + 1, C + 1], `share` [B, L], weight times target. With ties L counts
    "all the same" too, the mean of the others."""

    utility: Tensor
    shown: Tensor
    covariance: Tensor
    share: Tensor

    @property
    def there(self) -> Tensor:
        return ~self.utility.isneginf()

    def log_probabilities(self) -> Tensor:
        """log p of every alternative [B, K, L], in float64."""
        spread = (self.shown @ self.covariance * self.shown).sum(-1)
        spread = spread.where(self.there, 0.0).sum(-1, keepdim=True) / self.there.sum(-1, True)
        return (self.utility / (1 + math.pi / 8 * spread).sqrt()).log_softmax(-1)


def answers_to(persons: Persons, who: Tensor, data: ChoiceData, rows: Tensor) -> Answers:
    """The observations `rows` [B] as the persons `who` [B] see them."""
    block, utility = cut(data, rows, slice(0, data.n_people)), persons.types.utility
    m = persons.mean[who]
    features, context = block.features.to(m.dtype), block.context.to(m.dtype)
    met = utility.meets(features, context)[..., persons.types.order]  # [L, B, M, K]
    scores = utility.pleases(features)[..., persons.types.order]
    scores = scores + met * (1 + m[:, None, :, -1])
    features = features[..., persons.concepts]
    scores = scores + torch.einsum("lbmc,bkc->lbmk", features, m[..., :-1])
    weight = item_weights(scores, block.mask, share_of_items(utility.tenth_log_share))
    value = (weight * scores).sum(2).masked_fill(~block.mask.any(2)[..., None], -torch.inf)
    log_p = choice_log_probabilities(value, utility.log_tie if block.has_ties else None)
    shown = torch.einsum("lbmk,lbmc->bklc", weight, features)
    shown = torch.cat([shown, (weight * met).sum(2).permute(1, 2, 0)[..., None]], -1)
    there = block.mask.any(2).T[:, None, :, None]  # [B, 1, L, 1]
    middle = (shown * there).sum(2, keepdim=True) / there.sum(2, keepdim=True)
    shown = (shown - middle) * there
    if block.has_ties:
        shown = torch.cat([shown, torch.zeros_like(middle)], 2)
    share = block.share.T.to(value.dtype)
    return Answers(log_p.permute(1, 2, 0).double(), shown, persons.covariance[who], share)


def learn(persons: Persons, who: Tensor, answers: Answers) -> None:
    """What answers say of types and deviations; no person twice in `who` [B]."""
    f, share = answers.shown, answers.share[:, None]
    log_p = answers.log_probabilities().where(answers.there, 0.0)
    persons.log_joint[who] += (share * log_p).sum(-1)
    weight = share.sum(-1, keepdim=True)
    q = answers.utility.softmax(-1).float()
    curvature = weight[..., None] * (q.diag_embed() - q[..., None] * q[..., None, :])
    seen = f @ answers.covariance  # F C, [B, K, L, C + 1]
    inner = torch.eye(q.shape[-1]) + curvature @ (seen @ f.mT)
    known = answers.covariance - seen.mT @ torch.linalg.solve(inner, curvature @ seen)
    slope = ((share - weight * q).float()[..., None] * f).sum(2)
    persons.covariance[who] = known
    persons.mean[who] += (known @ slope[..., None])[..., 0]


def fit_spread(types: UserTypes, parts: Sequence[ChoiceData], when: Sequence[np.ndarray]) -> Spread:
    """The spread under which what these people did is likeliest, of those that `what_and_how_far`
    makes of numbers up to 4, to some .04; by COBYQA (Ragonneau, 2022). Raises RuntimeError if that
    did not converge."""
    ids = pd.unique(np.concatenate([part.person_ids for part in parts]))

    def loss(numbers: np.ndarray) -> float:
        persons = strangers(types, what_and_how_far(types, *numbers.tolist()), ids)
        follow(persons, parts, when)
        return -float(persons.log_joint.logsumexp(1).mean())

    options = {"initial_tr_radius": 0.25, "final_tr_radius": 0.04}
    best = minimize(loss, np.full(3, 0.5), method="COBYQA", bounds=[(0, 4)] * 3, options=options)
    if not best.success:
        raise RuntimeError(f"The search for people's spread did not converge: {best.message}")
    return what_and_how_far(types, *best.x.tolist())


def what_and_how_far(types: UserTypes, what: float, how: float, met: float) -> Spread:
    """A spread in all concepts that types may like together: with one standard deviation for those
    that come first in their pairs, `what`, and one for those that come second, `how` (none may do
    both); `met` for faithfulness."""
    first, second = (types.utility.width + some.unique() for some in types.utility.pairs)
    tastes = torch.tensor([what] * len(first) + [how] * len(second))
    return Spread(torch.cat([first, second]), tastes, met)
