"""A user model on the four metrics: for strangers, and for people whose earlier answers are known.

A stranger's types are mixed by the prior. A known person's by the posterior from what they did
before: in sessions, turn by turn (predict, then update); in pairs and rankings, from all their
sessions, which came first. With a `Spread`, people are known beyond their types (`deviations`). The
rules are in `metrics`.
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
from pasta_lib.deviations import Spread, follow, strangers
from pasta_lib.metrics import Estimate
from pasta_lib.pal import Prototypes
from pasta_lib.panel import Panel
from pasta_lib.user_model import sum_by_person
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


@dataclass(frozen=True)
class Predicted:
    """What a model says of `Held`. Of `picks` P(c) [N, L]; of `judgements` [N, 2 or 3], better and
    worse first; of the pairs of `validation` and test, `pairs`, P(image 1) [N]; of `rankings`,
    every picture's expected score [P, I]."""

    picks: np.ndarray
    judgements: np.ndarray
    validation: np.ndarray
    pairs: np.ndarray
    rankings: np.ndarray


def measure(
    types: UserTypes | Prototypes, held: Held, *, known: bool, spread: Spread | None = None
) -> dict[str, Estimate | float]:
    """The four metrics; beside them picks after ten others (NaN where fewer than two people have
    so many), log-likelihood in nats a pick, and the expected calibration error of picks. Standard
    errors are clustered by person (HPS: by prompt).
    Of strangers a spread says nothing more: their choices are what EM's types are fitted to.
    """
    if known and spread is not None:
        return scored(by_person(types, spread, held), held)
    return scored(by_type(types, held, known), held)


def by_type(types: UserTypes | Prototypes, held: Held, known: bool) -> Predicted:
    """People are a mixture of types: of the prior's, or of the posterior from what they did."""
    sat = held.sat
    if known:
        pick_gamma, judge_gamma = types.posterior_before([sat.picks, sat.judgements], sat.when)
    else:
        pick_gamma = types.prior.expand(sat.picks.n_observations, -1)
        judge_gamma = types.prior.expand(sat.judgements.n_observations, -1)

    def p_1(pairs: ChoiceData, before: Sat) -> np.ndarray:
        gamma = _gamma(types, before, pairs.person_ids) if known else None
        return types.predict(pairs, gamma)[:, 1].numpy()

    utility = types.column_utilities(held.ranked).double()  # [P, I, K]
    weight = types.prior.expand(len(utility), -1)
    if known:
        prompt, raters = raters_of(held.rankings)
        gamma = _gamma(types, sat, raters)
        weight = _mean_by_prompt(gamma, prompt, len(utility))
    return Predicted(
        picks=types.predict_each(sat.picks, pick_gamma).numpy(),
        judgements=types.predict_each(sat.judgements, judge_gamma).numpy(),
        validation=p_1(held.validation, held.before),
        pairs=p_1(held.pairs, sat),
        rankings=(utility * weight[:, None]).sum(2).numpy(),
    )


def by_person(types: UserTypes, spread: Spread, held: Held) -> Predicted:
    """People deviate from their types, and are known by what they did."""
    prompt, raters = raters_of(held.rankings)
    told = {}
    for name, sat, others in (
        ("test", held.sat, [held.pairs.person_ids, raters]),
        ("validation", held.before, [held.validation.person_ids]),
    ):
        parts = [sat.picks, sat.judgements]
        ids = pd.unique(np.concatenate([*(part.person_ids for part in parts), *others]))
        persons = strangers(types, spread, ids)
        told[name] = persons, follow(persons, parts, sat.when)
    persons, (picks, judgements) = told["test"]
    scores = persons.expected_utility(held.ranked, torch.as_tensor(prompt), raters)
    return Predicted(
        picks=picks.double().numpy(),
        judgements=judgements.double().numpy(),
        validation=told["validation"][0].predict(held.validation)[:, 1].numpy(),
        pairs=persons.predict(held.pairs)[:, 1].numpy(),
        rankings=_mean_by_prompt(scores, prompt, len(held.rankings.rank)).numpy(),
    )


def scored(predicted: Predicted, held: Held) -> dict[str, Estimate | float]:
    """As `measure`."""
    sat, p = held.sat, predicted.picks
    chosen, who = sat.picks.target.argmax(1).numpy(), sat.picks.person.numpy()
    hits = metrics.choice_hits(p, chosen)
    late = np.arange(len(who)) - sat.picks.first.numpy()[who] >= 10
    versus = (sat.judgements.target @ torch.tensor([1.0, -1.0]).double()).numpy()
    crossed = metrics.cross_turn_hits(*predicted.judgements.T[:2], versus)
    label = [pairs.target[:, 1].numpy() for pairs in (held.validation, held.pairs)]
    tuned = metrics.best_threshold(predicted.validation, label[0])  # for ties
    credit = metrics.pickapic_credit(predicted.pairs, label[1], tuned)
    rank = held.rankings.rank
    score = np.where(np.isnan(rank), np.nan, predicted.rankings)
    after_10 = metrics.Estimate(float("nan"), float("nan"), int(late.sum()))
    if len(np.unique(who[late])) > 1:
        after_10 = metrics.mean(hits[late], who[late])
    return {
        "pickapic_accuracy": metrics.mean(credit, held.pairs.person.numpy()),
        "hps_spearman": metrics.mean(metrics.spearman(score, rank)),
        "choice_accuracy": metrics.mean(hits, who),
        "cross_turn_accuracy": metrics.mean(crossed, sat.judgements.person.numpy()[versus != 0]),
        "choice_accuracy_after_10": after_10,
        "log_likelihood": metrics.mean(np.log(p[np.arange(len(p)), chosen]), who),
        "calibration_error": metrics.calibration_error(p, chosen),
    }


def raters_of(rankings: Rankings) -> tuple[np.ndarray, np.ndarray]:
    """Each ranking's prompt, int [N], and who made it, [N]."""
    there = rankings.person != None  # noqa: E711 - elementwise
    return np.nonzero(there)[0], rankings.person[there]


def _mean_by_prompt(values: Tensor, prompt: np.ndarray, n_prompts: int) -> Tensor:
    """[N, J] → [P, J]."""
    prompt = torch.as_tensor(prompt)
    total = sum_by_person(values, prompt, n_prompts)
    return total / torch.bincount(prompt, minlength=n_prompts)[:, None]


def _gamma(types: UserTypes | Prototypes, sat: Sat, ids: np.ndarray) -> Tensor:
    """Posteriors [N, K] of people by their ids, from what they did in sessions; the prior of those
    who were in none."""
    panel = Panel.of(sat.picks, sat.judgements)
    row = pd.Index(panel.person_ids).get_indexer(ids)
    gamma = types.posterior(panel)[torch.as_tensor(row)]
    return torch.where(torch.as_tensor(row >= 0)[:, None], gamma, types.prior)
