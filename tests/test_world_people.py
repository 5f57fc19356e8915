"""Synthetic people: what they value by brute force, how they choose, what a population is."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from pasta_lib.world import people
from pasta_lib.world.eye import Reading
from pasta_lib.world.people import (
    N_TYPES,
    NONE,
    PART,
    WIDTH,
    Population,
    asked,
    choose,
    column_values,
    draw_law,
    draw_population,
    judge,
    perceived,
    picture_values,
)
from pasta_lib.world.scenes import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    STYLE_NAMES,
    SUBJECT_NAMES,
    Scene,
    to_array,
)
from pasta_lib.world.vocabulary import CATEGORIES, IDEAS, SUBJECTS


@pytest.fixture(scope="module")
def law():
    return draw_law(0)


@pytest.fixture(scope="module")
def crowd(law):
    return draw_population(law, 4000, 0)


def some_x(*shape, seed=0):
    """What an eye might see: probabilities, attribute by attribute."""
    rng = np.random.default_rng(seed)
    parts = [rng.dirichlet(np.full(p.stop - p.start, 0.3), shape) for p in PART.values()]
    return np.concatenate(parts, -1).astype(np.float32)


def showing(**attributes):
    """x of a picture that shows just this, for certain."""
    names = {"subject": SUBJECT_NAMES, "colour": COLOUR_NAMES, "style": STYLE_NAMES,
             "background": BACKGROUND_NAMES, "count": (1, 2, 3, 4)}  # fmt: skip
    x = np.zeros(WIDTH, np.float32)
    for attribute, value in attributes.items():
        x[PART[attribute].start + names[attribute].index(value)] = 1
    return x


def by_category(x):
    """The 32 numbers that a taste is about, from the eye's 88."""
    category = np.array([CATEGORIES.index(s.category) for s in SUBJECTS.values()])
    return np.concatenate([np.bincount(category, x[:64], 8), x[64:]])


@pytest.mark.parametrize(
    ("scene", "shown", "met"),
    [
        (Scene("fox"), {"subject": "fox"}, 1),
        (Scene("fox"), {"subject": "owl"}, 0),
        (Scene("fox", "red", "neon"), {"subject": "fox", "colour": "red", "style": "neon"}, 1),
        (Scene("fox", "red", "neon"), {"subject": "fox", "colour": "blue", "style": "neon"}, 0.75),
        (Scene("fox", count=3), {"subject": "fox", "count": 3}, 1),
        (Scene("fox", count=3), {"subject": "fox", "count": 2}, 0.5),
        (Scene("fox", background="snow"), {"subject": "owl", "background": "snow"}, 0.5),
        (Scene.of_idea("love"), {"subject": "heart"}, 1),
        (Scene.of_idea("love"), {"subject": "tulip"}, 1),
        (Scene.of_idea("love"), {"subject": "angry face"}, 0),
        (Scene.of_idea("love", "neon"), {"subject": "heart", "style": "flat"}, 0.5),
    ],
)
def test_how_far_a_picture_shows_what_was_asked_for(scene, shown, met):
    assert asked(to_array([scene]))[0] @ showing(**shown) == pytest.approx(met)


def test_the_value_of_a_picture_by_brute_force(crowd):
    x = some_x(6, 2, 3)
    who = np.array([5, 5, 17, 99, 3, 0])
    scenes = [Scene("fox"), Scene.of_idea("love"), Scene("owl", "red"), Scene("cat", count=2),
              Scene("car", style="neon"), Scene.of_idea("fear", None, "night")]  # fmt: skip
    got = picture_values(crowd, who, x, to_array(scenes))
    category = [CATEGORIES.index(s.category) for s in SUBJECTS.values()]
    for b, person in enumerate(who):
        for place in np.ndindex(2, 3):
            seen = x[b][place]
            value = crowd.taste[person] @ by_category(seen)
            value += crowd.faithfulness[person] * (asked(to_array([scenes[b]]))[0] @ seen)
            setting = [*seen[PART["style"]], *seen[PART["background"]]]
            for s, c in enumerate(category):
                for j, p in enumerate(setting):
                    value += crowd.together[person, c, j] * seen[s] * p
            assert got[b][place] == pytest.approx(value, abs=1e-4)


def test_a_column_is_worth_its_two_best_pictures():
    values = np.array([[[1.0, 5, 3, -9], [2, 2, 2, 2]]])
    assert column_values(values).tolist() == [[4, 2]]
    rng = np.random.default_rng(0)
    many = rng.normal(size=(5, 4, 4))
    assert column_values(rng.permuted(many, axis=2)) == pytest.approx(column_values(many))
    assert column_values(np.array([[[7.0]]])).tolist() == [[7]]


def one_person(steadiness=1.5, indifference=0.4):
    one = np.ones(1)
    taste, together = np.zeros((1, 32)), np.zeros((1, 8, 14))
    return Population(np.zeros(1, int), taste, together, one, steadiness * one, indifference * one)


def test_choices_are_a_softmax():
    n, values = 40_000, np.array([0.3, -0.5, 1.0, 0.2])
    picked = choose(one_person(), np.zeros(n, int), np.tile(values, (n, 1)), 0, [np.arange(n)])
    share = np.bincount(picked + 1, minlength=5) / n
    want = softmax(1.5 * np.array([NONE, *values]))
    assert share == pytest.approx(want, abs=4 * (0.25 / n) ** 0.5)


def test_judgements_are_logistic():
    n = 40_000
    said = judge(one_person(), np.zeros(n, int), np.full(n, 1.0), np.full(n, 0.7), 0,
                 [np.arange(n)])  # fmt: skip
    better, worse = expit(1.5 * (0.3 - 0.4)), expit(1.5 * (-0.3 - 0.4))
    assert (said == 1).mean() == pytest.approx(better, abs=0.01)
    assert (said == -1).mean() == pytest.approx(worse, abs=0.01)


def test_two_types_differ_in_style_alone(law):
    a, b = law.taste[-2], law.taste[-1]
    style = slice(14, 20)
    assert (a[style] != b[style]).any() and (law.together[-2] == law.together[-1]).all()
    assert np.delete(a, np.r_[style]) == pytest.approx(np.delete(b, np.r_[style]))
    best = law.taste[:, :8].argmax(1)
    assert len({tuple(row) for row in law.taste.round(3)}) == N_TYPES
    assert len(set(best[:-2])) >= 4


def test_people_deviate_by_half_the_spread_between_types(law, crowd):
    for of in (slice(0, 8), slice(8, 14), slice(14, 20), slice(20, 28), slice(28, 32)):
        types = np.array([crowd.taste[crowd.type == k].mean(0) for k in range(N_TYPES)])
        within = (crowd.taste - types[crowd.type])[:, of].std(0).mean()
        between = types[:, of].std(0).mean()
        assert within / between == pytest.approx(0.5, rel=0.12)
    assert np.bincount(crowd.type, minlength=8) / 4000 == pytest.approx(law.share, abs=0.03)


def test_a_population_is_its_seed(law, crowd):
    again = draw_population(draw_law(0), 4000, 0)
    assert all((getattr(again, k) == v).all() for k, v in vars(crowd).items())
    other = draw_law(1)
    assert (other.taste != law.taste).any()


def test_a_colour_counts_as_far_as_it_can_be_seen():
    import torch

    sure = {name: torch.zeros(2, len(values)) for name, values in (
        ("subject", SUBJECT_NAMES), ("colour", COLOUR_NAMES), ("style", STYLE_NAMES),
        ("background", BACKGROUND_NAMES), ("count", (1, 2, 3, 4)), ("second", (*SUBJECT_NAMES, ""))
    )}  # fmt: skip
    sure["colour"][:, COLOUR_NAMES.index("red")] = 1
    sure["style"][0, STYLE_NAMES.index("pencil sketch")] = 0.75
    sure["style"][:, STYLE_NAMES.index("flat")] = torch.tensor([0.25, 1])
    x = perceived(Reading(**sure))
    assert x[:, PART["colour"]].sum(1).tolist() == [0.25, 1]


def test_every_idea_asks_for_what_it_stands_for():
    for idea, weights in IDEAS.items():
        asks = asked(to_array([Scene.of_idea(idea)]))[0, PART["subject"]]
        assert {SUBJECT_NAMES[i] for i in np.flatnonzero(asks)} == set(weights["subject"])
    assert people.PART["count"].stop == WIDTH == 88
