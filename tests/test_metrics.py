"""The four metrics: worked by hand, and against scipy."""

import numpy as np
import pytest
from scipy import stats

from pasta_lib.metrics import (
    best_threshold,
    calibration_error,
    choice_hits,
    cross_turn_hits,
    inversion_score,
    mean,
    pickapic_credit,
    spearman,
)


def test_pick_a_pic_by_hand():
    p = np.array([0.9, 0.9, 0.9, 0.55, 0.55, 0.5, 0.1])
    label = np.array([1, 0, 0.5, 1, 0.5, 0.5, 0])
    assert pickapic_credit(p, label, 0.0).tolist() == [1, 0, 0.5, 1, 0.5, 1, 1]
    assert pickapic_credit(p, label, 0.2).tolist() == [1, 0, 0.5, 0.5, 1, 1, 1]
    assert pickapic_credit(p, label, 1.0).tolist() == [0.5, 0.5, 1, 0.5, 1, 1, 0.5]


def test_a_useless_scorer_tunes_itself_to_saying_tie():
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat([0.5, 0, 1], [136, 432, 432]))
    p = rng.permutation(np.linspace(0, 1, 1000))
    threshold = best_threshold(p, label)
    assert threshold == 1
    assert pickapic_credit(p, label, threshold).mean() == pytest.approx((1 + 0.136) / 2)
    coin = (p > 0.5).astype(float)
    assert pickapic_credit(coin, label, 0.0).mean() == pytest.approx(0.5, abs=0.04)
    assert best_threshold(label, label) == 0  # of equal ones the smallest


def test_swapping_the_two_pictures_changes_nothing():
    rng = np.random.default_rng(1)
    p, label = rng.random(50), rng.choice([0, 0.5, 1], 50)
    for t in (0, 0.3):
        assert (pickapic_credit(p, label, t) == pickapic_credit(1 - p, 1 - label, t)).all()


def test_spearman_is_scipys_also_with_ties_and_padding():
    rng = np.random.default_rng(2)
    scores, ranks = rng.normal(size=(20, 6)).round(), rng.integers(1, 5, (20, 6)).astype(float)
    scores[:7, 4:] = np.nan
    ranks[3:7, 4:] = np.nan
    got = spearman(scores, ranks)
    for i in range(20):
        there = ~np.isnan(scores[i] + ranks[i])
        want = stats.spearmanr(scores[i, there], -ranks[i, there]).statistic
        assert got[i] == pytest.approx(want)
    order = rng.permutation(6)
    assert spearman(scores[:, order], ranks[:, order]) == pytest.approx(got)
    assert spearman(np.ones((1, 4)), ranks[:1, :4]) == 0
    assert spearman(-ranks, ranks)[8:] == pytest.approx(1)


def test_inversions_by_hand():
    ranks = np.array([[1.0, 2, 3, 3]])
    assert inversion_score(np.array([[4.0, 3, 2, 1]]), ranks) == pytest.approx(1)
    assert inversion_score(np.array([[1.0, 2, 3, 4]]), ranks) == pytest.approx(1 / 6)
    assert inversion_score(np.array([[1.0, 2, 1, 1]]), ranks) == pytest.approx(5 / 6)  # 1 against 2
    assert inversion_score(np.array([[3.0, 1, 2, np.nan]]), ranks) == pytest.approx(2 / 3)


def test_the_likeliest_column():
    p = np.array([[0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.4, 0.4, 0.1, 0.1]])
    assert choice_hits(p, np.array([0, 2, 1])).tolist() == [1, 0.25, 0.5]
    assert choice_hits(p, np.array([1, 2, 2])).tolist() == [0, 0.25, 0]


def test_better_or_worse():
    better, worse = np.array([0.6, 0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.3, 0.1])
    assert cross_turn_hits(better, worse, np.array([1, 1, -1, 0])).tolist() == [1, 0, 0.5]


def test_a_standard_error_allows_for_people():
    rng = np.random.default_rng(3)
    x = rng.normal(size=500)
    assert mean(x).se == pytest.approx(x.std(ddof=1) / 500**0.5)
    assert mean(x, np.arange(500)[::-1]).se == pytest.approx(mean(x).se)
    twice = mean(np.tile(x, 2), np.tile(np.arange(500), 2))  # everybody says all twice
    assert (twice.value, twice.se, twice.n) == pytest.approx((x.mean(), mean(x).se, 1000))
    spread = [
        mean(rng.normal(size=(40, 1)).repeat(25, 1).ravel(), np.arange(40).repeat(25)).value
        for _ in range(400)
    ]
    one = mean(rng.normal(size=(40, 1)).repeat(25, 1).ravel(), np.arange(40).repeat(25))
    assert one.se == pytest.approx(np.std(spread), rel=0.4)
    with pytest.raises(ValueError, match="two clusters"):
        mean(x, np.zeros(500))


def test_calibration():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(4), 20_000)
    chosen = (p.cumsum(1) < rng.random((20_000, 1))).sum(1)
    assert calibration_error(p, chosen) < 0.01
    sharper = p**3 / (p**3).sum(1, keepdims=True)
    assert calibration_error(sharper, chosen) > 0.08
    assert calibration_error(np.array([[1.0, 0], [0, 1]]), np.array([0, 1]), bins=2) == 0


def test_few_answers_have_a_calibration_error_too():
    p = np.array([[0.5, 0.3, 0.1, 0.1]] * 3)
    assert 0 <= calibration_error(p, np.array([0, 0, 1])) <= 1


def test_one_picture_has_no_inversions():
    one = np.array([[1.0, np.nan], [1.0, 2.0]])
    assert np.isnan(inversion_score(one, one)).tolist() == [True, False]
