"""Agents against each other, before the same people on the same chances.

    head-to-head   a person compares the last slates of two agents (the mean of their columns)
                   once, with their own noise: P(win) = σ(steadiness · (v - v'))

The probability itself is averaged, instead of one draw of it: the same expectation, less noise.
Everybody plays every agent from the same prompt, with the same candidates where the same texts
stand, and the same noise (`seeds`), so differences between agents are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import t as student

from pasta_lib.sessions import Agent, begin, play
from pasta_lib.world import raters
from pasta_lib.world.people import Law, draw_population
from pasta_lib.world.raters import Crowd

HELD_OUT_PEOPLE = 1000  # seeds of people drawn for evaluation alone begin here
VALIDATION = 2000  # seed of what validation people are shown, and how they answer


@dataclass(frozen=True)
class Stage:
    """S sessions to be: who sits in each, and where it begins."""

    crowd: Crowd
    person: np.ndarray  # [S], of the crowd
    initial: np.ndarray  # [S], members

    @property
    def steadiness(self) -> np.ndarray:
        """Of each session's person, [S]."""
        return self.crowd.people.steadiness[self.person]


def held_out_stage(law: Law, x: np.ndarray, population: int, n: int) -> Stage:
    """`n` people of a population's law whom no model and no file has seen, each before one of the
    initial prompts that its raters' models were not taught; half of the prompts are ideas."""
    people = draw_population(law, n, HELD_OUT_PEOPLE + population)
    initial = raters.prompts_for(
        np.ones(n, bool), raters.initial_prompts(population), population, "held-out stage"
    )
    return Stage(Crowd(people, x, HELD_OUT_PEOPLE), np.arange(n), initial)


def validation_stage(law: Law, x: np.ndarray, population: int) -> Stage:
    """The population's own validation people, to choose between critics: two sessions each, from
    prompts that are not held out."""
    people = draw_population(law, raters.PEOPLE, population)
    mine = np.flatnonzero(raters.split_of(np.arange(raters.PEOPLE)) == "validation")
    person = np.tile(mine, 2)
    initial = raters.prompts_for(
        np.zeros(len(person), bool), raters.initial_prompts(population), population,
        "validation stage",
    )  # fmt: skip
    return Stage(Crowd(people, x, VALIDATION), person, initial)


@dataclass(frozen=True)
class Played:
    """What came of it: `value` `[S, T, L]`, what each column was worth to the person who saw it;
    `versus` `[S, T]`, better 1, same 0, worse -1 (see `Sessions`)."""

    value: np.ndarray
    versus: np.ndarray

    @property
    def utility(self) -> np.ndarray:
        """Of slates, `[S, T]`: the mean of their columns."""
        return self.value.mean(2)


def perform(agent: Agent, stage: Stage) -> Played:
    """An agent before everybody."""
    sessions = begin(np.arange(len(stage.person)), stage.person, stage.initial)
    out = play(sessions, agent, stage.crowd, stage.crowd.seed)
    value = [stage.crowd.values(sessions, out.member[:, t]) for t in range(out.turns)]
    return Played(np.stack(value, 1), out.versus_last)


def win_probability(one: Played, other: Played, stage: Stage, *, best=False) -> np.ndarray:
    """P(the last slate of `one` is preferred to `other`'s), `[S]`; `best`: by their best columns
    instead of the mean."""
    final = [p.value[:, -1].max(1) if best else p.value[:, -1].mean(1) for p in (one, other)]
    return expit(stage.steadiness * (final[0] - final[1]))


def crossed_interval(
    values: np.ndarray, person: np.ndarray, prompt: np.ndarray
) -> dict[str, float]:
    """Mean of `values` `[S]`, or `[seeds, S]` of several trainings, with a 95 % interval over
    people, prompts and training seeds.

    People and prompts are crossed: the variance is that of people's sums, and of prompts' sums,
    less what both count (Cameron, Gelbach and Miller 2011), to which that of the seeds' mean is
    added; a bootstrap over both would count a session's own noise three times (Owen 2007).
    Student's t has the degrees of freedom of such a sum (Welch and Satterthwaite), clusters being
    counted by their share of sessions: half of all sessions may begin from a few prompts. Raises
    ValueError for one person or one prompt.
    """
    if len(np.unique(person)) < 2 or len(np.unique(prompt)) < 2:
        raise ValueError("One person, or one prompt, tells nothing of others: no interval.")
    values = np.atleast_2d(values).astype(float)
    each = values.mean(0)
    both = np.unique(np.stack([person, prompt], 1), axis=0, return_inverse=True)[1]
    of_people, of_prompts, of_both = (_clustered(each, c) for c in (person, prompt, both))
    sampling = max(of_people + of_prompts - of_both, of_people, of_prompts)
    parts = [(sampling, min(_effective(person), _effective(prompt)) - 1)]
    if len(values) > 1:
        parts.append((values.mean(1).var(ddof=1) / len(values), len(values) - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / max(sum(part**2 / df for part, df in parts), 1e-300)
    wide = float(student.ppf(0.975, max(freedom, 1)) * variance**0.5)
    value = float(each.mean())
    return {"value": value, "low": value - wide, "high": value + wide, "n": len(each)}


def crossed_ratio(
    above: np.ndarray, below: np.ndarray, person: np.ndarray, prompt: np.ndarray
) -> dict[str, float]:
    """Mean of `above` `[S]` or `[seeds, S]` over that of `below` `[S]`, with `crossed_interval` of
    what is linear in them (the delta method)."""
    ratio = above.mean() / below.mean()
    return crossed_interval(ratio + (above - ratio * below) / below.mean(), person, prompt)


def _clustered(values: np.ndarray, cluster: np.ndarray) -> float:
    """Variance of the mean of `values` `[S]`, whose clusters are independent."""
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], values - values.mean())
    n = _effective(cluster)
    return float((sums**2).sum() / len(values) ** 2 * n / (n - 1))


def _effective(cluster: np.ndarray) -> float:
    """1 / Σ share²: how many clusters of one size would be as many."""
    share = np.unique(cluster, return_counts=True)[1] / len(cluster)
    return float(1 / (share**2).sum())
