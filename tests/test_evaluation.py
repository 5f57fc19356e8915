"""Head-to-heads and their intervals."""

from dataclasses import replace

import numpy as np
import pytest

from pasta_lib.baselines import untrained
from pasta_lib.evaluation import (
    Played,
    Stage,
    crossed_interval,
    crossed_ratio,
    held_out_stage,
    perform,
    validation_stage,
    win_probability,
)
from pasta_lib.world import raters
from pasta_lib.world.oracle import peeking_oracle
from pasta_lib.world.people import draw_law, draw_population
from pasta_lib.world.reachable import reachable


@pytest.fixture(scope="module")
def stage():
    rng = np.random.default_rng(0)
    x = rng.random((len(reachable()), 4, 88)).astype(np.float32)
    return held_out_stage(draw_law(0), x, 0, 200)


def test_people_and_prompts_of_the_stage_are_held_out(stage):
    frozen = draw_population(draw_law(0), raters.PEOPLE, 0)
    assert not np.isin(stage.crowd.people.taste[:, 0], frozen.taste[:, 0]).any()
    assert raters.held_out_prompts(0)[stage.initial].all()
    assert np.isin(stage.initial, raters.initial_prompts(0)).all()
    share = np.bincount(draw_population(draw_law(0), 20_000, 1000).type) / 20_000
    assert share == pytest.approx(draw_law(0).share, abs=0.01)  # of the same law


def test_a_head_to_head_by_hand():
    people = draw_population(draw_law(0), 3, 0)
    one, other = np.zeros((3, 2, 4)), np.zeros((3, 2, 4))
    one[:, -1] = [1, 2, 3, 6]  # mean 3, best 6
    other[:, -1] = [2.5, 2.5, 2.5, 2.5]
    one[:, 0] = 99  # earlier slates do not count
    a, b = Played(one, None), Played(other, None)
    stage = Stage(raters.Crowd(people, None, 0), np.array([2, 0, 1]), None)
    steady = people.steadiness[[2, 0, 1]]
    assert win_probability(a, b, stage) == pytest.approx(1 / (1 + np.exp(-steady * 0.5)))
    assert win_probability(a, b, stage) + win_probability(b, a, stage) == pytest.approx(1)
    best = 1 / (1 + np.exp(-steady * 3.5))
    assert win_probability(a, b, stage, best=True) == pytest.approx(best)


def test_critics_are_chosen_by_validation_people_on_other_prompts():
    x = np.zeros((len(reachable()), 4, 88), np.float32)
    stage = validation_stage(draw_law(0), x, 0)
    frozen = draw_population(draw_law(0), raters.PEOPLE, 0)
    assert (stage.crowd.people.taste == frozen.taste).all()
    assert (np.sort(stage.person) == np.repeat(np.arange(2800, 3200), 2)).all()
    assert not raters.held_out_prompts(0)[stage.initial].any()


def test_agents_play_on_the_same_chances(stage):
    first, again = (perform(untrained(0), stage) for _ in range(2))
    assert (first.value == again.value).all() and (first.versus == again.versus).all()
    better = perform(peeking_oracle(stage.crowd), stage)
    assert (better.utility[:, 0] >= first.utility[:, 0] - 1e-6).all()  # of the same candidates
    assert win_probability(better, first, stage).mean() > 0.6


def test_validation_people_meet_chances_of_their_own(stage):
    """Both stages number their sessions from 0: by one seed, session for session would be shown,
    and answer, by the same random numbers."""
    validation = validation_stage(draw_law(0), stage.crowd.x, 0)
    assert validation.crowd.seed != stage.crowd.seed
    other = replace(stage, crowd=replace(stage.crowd, seed=validation.crowd.seed))
    here, there = (perform(untrained(0), s).value[:, 0] for s in (stage, other))
    assert (here != there).mean() > 0.5  # of the first slates: other candidates, mostly


def test_a_crossed_interval_covers_as_often_as_it_says():
    """People, who come several times, and prompts both have effects of their own; an interval over
    sessions alone covers too rarely, and over one of them too."""
    rng = np.random.default_rng(0)
    covered = np.zeros(4)
    for _ in range(400):
        person, prompt = rng.integers(60, size=400), rng.integers(40, size=400)
        values = 0.5 * rng.normal(size=60)[person] + 0.5 * rng.normal(size=40)[prompt]
        values += rng.normal(size=400)
        alone = np.arange(400)
        clusters = [(person, prompt), (person, alone), (alone, prompt), (alone, alone)]
        for i, two in enumerate(clusters):
            found = crossed_interval(values, *two)
            covered[i] += found["low"] < 0 < found["high"]
    assert 0.92 < covered[0] / 400 < 0.98
    assert (covered[1:] / 400 < 0.88).all()


def test_an_interval_where_half_of_all_sessions_share_a_few_prompts(stage):
    """On the layout of the real stage, where prompts have an effect of their own."""
    rng, prompt = np.random.default_rng(3), np.unique(stage.initial, return_inverse=True)[1]
    covered = 0
    for _ in range(500):
        values = 0.3 * rng.normal(size=prompt.max() + 1)[prompt] + rng.normal(size=len(prompt))
        found = crossed_interval(values, np.arange(len(prompt)), prompt)
        covered += found["low"] < 0 < found["high"]
    assert 0.91 < covered / 500 < 0.98
    with pytest.raises(ValueError, match="one prompt"):
        crossed_interval(values, np.arange(len(prompt)), np.zeros(len(prompt)))


def test_everybody_once_and_every_prompt_once_is_the_plain_interval():
    values = np.random.default_rng(2).normal(size=300)
    found = crossed_interval(values, np.arange(300), np.arange(300))
    wide = 1.968 * values.std(ddof=1) / 300**0.5
    assert found["high"] - found["value"] == pytest.approx(wide, rel=1e-3)


def test_few_training_seeds_make_an_interval_wider():
    rng = np.random.default_rng(1)
    one, who, prompt = rng.normal(size=500), np.arange(500), np.arange(500) % 40
    same = crossed_interval(np.tile(one, (5, 1)), who, prompt)
    alone = crossed_interval(one, who, prompt)
    assert same["high"] == pytest.approx(alone["high"], rel=0.02)
    apart = crossed_interval(one + np.arange(-2, 3)[:, None], who, prompt)
    error = np.sqrt(2.5 / 5)  # of the mean of five seeds
    assert apart["high"] - apart["value"] == pytest.approx(2.78 * error, rel=0.05)
    assert apart["value"] == pytest.approx(alone["value"]) and apart["n"] == 500


def test_a_ratio_and_its_interval():
    """A constant share of what is below is known; otherwise it covers as often as it says."""
    rng = np.random.default_rng(0)
    person, prompt = np.arange(400), rng.integers(60, size=400)
    below = rng.normal(2, 1, 400)
    exact = crossed_ratio(0.6 * below, below, person, prompt)
    assert [exact[k] for k in ("value", "low", "high")] == pytest.approx([0.6] * 3)
    covered = 0
    for _ in range(300):
        common = rng.normal(size=60)[prompt]
        below = 2 + common + rng.normal(size=400)
        above = 1 + 0.5 * common + rng.normal(size=(3, 400))  # a ratio of one half
        found = crossed_ratio(above, below, person, prompt)
        covered += found["low"] <= 0.5 <= found["high"]
    assert 0.92 <= covered / 300 <= 0.99


def test_what_never_differs_has_no_interval():
    """An agent against itself, in single precision."""
    found = crossed_interval(np.zeros((5, 40), np.float32), np.arange(40), np.arange(40) % 7)
    assert (found["low"], found["value"], found["high"]) == (0, 0, 0)
