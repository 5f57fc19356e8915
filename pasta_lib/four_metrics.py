"""A user model on the four metrics: for strangers, and for people whose earlier answers are known.

A stranger's types are mixed by the prior. A known person's by the posterior from what they did
before: in sessions, turn by turn (predict, then update); in pairs and rankings, from all their
sessions, which came first. The rules are in `metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pasta_lib import metrics
from pasta_lib.choices import ChoiceData
from pasta_lib.datasets.hpd import Rankings
from pasta_lib.datasets.pasta import Sat
from pasta_lib.datasets.rows import Rows, Vectors, to_choices
from pasta_lib.metrics import Estimate
from pasta_lib.panel import Panel
from pasta_lib.user_types import UserTypes


@dataclass(frozen=True)
class Held:
    """What people did of whom the model has learnt nothing. `before`: what the people of
    `validation` did in sessions; of `pairs` and `ranked`, those of `sat`. `ranked`: an observation
    for each prompt of `rankings`, its pictures the alternatives."""

    sat: Sat
    pairs: ChoiceData
    validation: ChoiceData
    before: Sat
    rankings: Rankings
    ranked: ChoiceData


def as_one_observation_each(rankings: Rankings, image: Vectors, text: Vectors) -> ChoiceData:
    """An observation for each prompt, to score its pictures; nobody chooses."""
    first = np.zeros(rankings.images.shape)
    first[:, 0] = 1
    return to_choices(
        Rows(
            source=rankings.source,
            row=rankings.row,
            person=rankings.row.astype(str).astype(object),
            prompt=rankings.prompt,
            images=rankings.images[:, :, None],
            target=first,
        ),
        image,
        text,
    )


def measure(types: UserTypes, held: Held, *, known: bool) -> dict[str, Estimate | float]:
    """The four metrics; beside them picks after ten others, log-likelihood in nats a pick, and the
    expected calibration error of picks. Standard errors are clustered by person (HPS: by prompt).
    """
    sat = held.sat
    if known:
        pick_gamma, judge_gamma = types.posterior_before([sat.picks, sat.judgements], sat.when)
    else:
        pick_gamma = types.prior.expand(sat.picks.n_observations, -1)
        judge_gamma = types.prior.expand(sat.judgements.n_observations, -1)
    p = types.predict_each(sat.picks, pick_gamma).numpy()
    chosen, who = sat.picks.target.argmax(1).numpy(), sat.picks.person.numpy()
    hits = metrics.choice_hits(p, chosen)
    late = np.arange(len(who)) - sat.picks.first.numpy()[who] >= 10
    judged = types.predict_each(sat.judgements, judge_gamma).numpy()
    versus = (sat.judgements.target @ torch.tensor([1.0, -1.0]).double()).numpy()
    said = versus != 0
    return {
        "pickapic_accuracy": pickapic(types, held, known=known),
        "hps_spearman": hps(types, held, known=known),
        "choice_accuracy": metrics.mean(hits, who),
        "cross_turn_accuracy": metrics.mean(
            metrics.cross_turn_hits(judged[:, 0], judged[:, 1], versus),
            sat.judgements.person.numpy()[said],
        ),
        "choice_accuracy_after_10": metrics.mean(hits[late], who[late]),
        "log_likelihood": metrics.mean(np.log(p[np.arange(len(p)), chosen]), who),
        "calibration_error": metrics.calibration_error(p, chosen),
    }


def pickapic(types: UserTypes, held: Held, *, known: bool) -> Estimate:
    """Credit on pairs, ties predicted within a threshold that is tuned on the validation pairs."""

    def p_1(pairs: ChoiceData, before: Sat) -> np.ndarray:
        gamma = _gamma(types, before, pairs.person_ids) if known else None
        return types.predict(pairs, gamma)[:, 1].numpy()

    tuned = metrics.best_threshold(
        p_1(held.validation, held.before), held.validation.target[:, 1].numpy()
    )
    credit = metrics.pickapic_credit(
        p_1(held.pairs, held.sat), held.pairs.target[:, 1].numpy(), tuned
    )
    return metrics.mean(credit, held.pairs.person.numpy())


def hps(types: UserTypes, held: Held, *, known: bool) -> Estimate:
    """Spearman's correlation; known: types are mixed by the mean posterior of a prompt's raters."""
    utility = types.column_utilities(held.ranked).double()  # [P, I, K]
    weight = types.prior.expand(len(utility), -1)
    if known:
        there = held.rankings.person != None  # noqa: E711 - elementwise
        ids, number = np.unique(held.rankings.person[there].astype(str), return_inverse=True)
        gamma = _gamma(types, held.sat, ids)[torch.as_tensor(number)]
        prompt = torch.as_tensor(np.nonzero(there)[0])
        weight = torch.zeros(len(utility), types.n_types).double().index_add_(0, prompt, gamma)
        weight = weight / weight.sum(1, keepdim=True)
    score = (utility * weight[:, None]).sum(2).numpy()
    score[np.isnan(held.rankings.rank)] = np.nan
    return metrics.mean(metrics.spearman(score, held.rankings.rank))


def _gamma(types: UserTypes, sat: Sat, ids: np.ndarray) -> Tensor:
    """Posteriors [N, K] of people by their ids, from what they did in sessions; the prior of those
    who were in none."""
    panel = Panel.of(sat.picks, sat.judgements)
    row = pd.Index(panel.person_ids).get_indexer(ids)
    gamma = types.posterior(panel)[torch.as_tensor(row)]
    return torch.where(torch.as_tensor(row >= 0)[:, None], gamma, types.prior)
