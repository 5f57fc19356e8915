"""The four metrics of a user model against loops over people, on a small made-up crowd."""

import numpy as np
import pytest
import torch
from deviations_by_hand import by_hand, seen
from scipy.stats import spearmanr

from pasta_lib.choices import ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.datasets.hpd import Rankings
from pasta_lib.datasets.pasta import Sat
from pasta_lib.deviations import Spread
from pasta_lib.four_metrics import Held, as_one_observation_each, measure
from pasta_lib.metrics import best_threshold, calibration_error, mean, pickapic_credit
from pasta_lib.user_model import LinearUtility
from pasta_lib.user_types import UserTypes

D, K = 4, 3


class Plain(LinearUtility):
    """Linear in a picture, whatever the prompt; with Davidson's tie."""

    def __init__(self):
        super().__init__(D, K)
        self.log_tie = torch.nn.Parameter(torch.tensor(-0.3))

    def forward(self, image, text=None):
        return super().forward(image)


@pytest.fixture(scope="module")
def types():
    utility = Plain()
    with torch.no_grad():
        utility.weight.copy_(torch.randn(K, D, generator=torch.Generator().manual_seed(0)))
    order, log_prior = torch.tensor([2, 0, 1]), torch.tensor([0.5, 0.3, 0.2]).double().log()
    return UserTypes(utility.requires_grad_(False), order, log_prior, 0.0, 1, 1, None)


def some(rng, n, columns, images, people, name, **kwargs):
    return ChoiceData.from_arrays(
        items=rng.integers(30, size=(n, columns, images)), table=TABLE,
        person=np.sort(rng.integers(people, size=n)).astype(str).astype(object),
        context=np.zeros(n, int), context_table=np.ones((1, D)), **kwargs,
    )  # fmt: skip


TABLE = np.random.default_rng(1).normal(size=(30, D))


def sat(rng, people):
    """Picks of 4 columns, and a judgement after every second pick."""
    picks = some(rng, 90, 4, 2, people, "picks", target=rng.integers(4, size=90))
    versus = rng.integers(-1, 2, size=45)
    target = np.stack([versus == 1, versus == -1], 1).astype(float)
    judged = ChoiceData.from_arrays(
        items=rng.integers(30, size=(45, 2, 2)), table=TABLE, target=target, tie=versus == 0,
        person=picks.person_ids[picks.person][::2], context=np.zeros(45, int),
        context_table=np.ones((1, D)),
    )  # fmt: skip
    return Sat(picks, judged, (2 * np.arange(90), 4 * np.arange(45) + 1))


@pytest.fixture(scope="module")
def held():
    rng = np.random.default_rng(2)
    label = lambda n: np.array([[1, 0], [0, 1], [0.5, 0.5]])[rng.integers(3, size=n)]  # noqa: E731
    known, before = sat(rng, 5), sat(rng, 4)
    rank = rng.permuted(np.tile(np.arange(1.0, 4), (6, 1)), axis=1)
    rank[0, 2] = np.nan  # a prompt with two pictures
    names = rng.integers(30, size=(6, 3)).astype(object)
    names[0, 2] = None
    person = np.array([["0", "1"], ["2", None], ["4", "0"], ["1", "2"], ["3", "4"], ["9", "3"]],
                      object)  # fmt: skip
    rankings = Rankings("made up", np.arange(6), np.full(6, "a fox", object), names, rank, person,
                        np.zeros((6, 2, 3)))  # fmt: skip
    return Held(
        sat=known,
        pairs=some(rng, 60, 2, 1, 5, "pairs", target=label(60)),
        validation=some(rng, 40, 2, 1, 4, "validation", target=label(40)),
        before=before,
        rankings=rankings,
        ranked=as_one_observation_each(
            rankings, lambda names: TABLE[names.astype(int)], lambda texts: np.ones((len(texts), D))
        ),
    )


def gamma_of(types, sat, person, until=np.inf):
    """A person's posterior, by a loop over all they did before a moment."""
    total = types.log_prior.numpy().copy()
    for part, when in zip((sat.picks, sat.judgements), sat.when, strict=True):
        each = types.observation_log_likelihood(part).numpy()
        for n in range(part.n_observations):
            if part.person_ids[part.person[n]] == person and when[n] < until:
                total += each[n]
    return np.exp(total - np.logaddexp.reduce(total))


def same(one, other):
    assert (one.value, one.se, one.n) == pytest.approx((other.value, other.se, other.n))


@pytest.mark.parametrize("known", [True, False])
def test_picks_and_judgements(types, held, known):
    got = measure(types, held, known=known)
    prior = types.prior.numpy()
    picks, judged = held.sat.picks, held.sat.judgements
    log_p = types.log_probabilities(picks).numpy()
    p, hits, late = [], [], []
    for n in range(picks.n_observations):
        person = picks.person_ids[picks.person[n]]
        g = gamma_of(types, held.sat, person, held.sat.when[0][n]) if known else prior
        p.append(np.exp(log_p[n]) @ g)
        hits.append(p[-1].argmax() == picks.target[n].argmax().item())
        late.append((picks.person[:n] == picks.person[n]).sum() >= 10)
    chosen, who = picks.target.argmax(1).numpy(), picks.person.numpy()
    hits, logs = np.array(hits, float), np.log(np.array(p)[np.arange(90), chosen])
    same(got["choice_accuracy"], mean(hits, who))
    same(got["choice_accuracy_after_10"], mean(hits[late], who[late]))
    same(got["log_likelihood"], mean(logs, who))
    assert mean(logs).se != pytest.approx(mean(logs, who).se, rel=0.02)  # people matter
    assert got["calibration_error"] == pytest.approx(calibration_error(np.array(p), chosen))
    three, right = types.log_probabilities(judged).numpy(), []
    for n in range(judged.n_observations):
        person = judged.person_ids[judged.person[n]]
        g = gamma_of(types, held.sat, person, held.sat.when[1][n]) if known else prior
        better, worse, _ = np.exp(three[n]) @ g
        if judged.tie[n] == 0:
            right.append((better > worse) == (judged.target[n, 0] == 1).item())
    said = judged.person.numpy()[judged.tie.numpy() == 0]
    same(got["cross_turn_accuracy"], mean(np.array(right, float), said))


@pytest.mark.parametrize("known", [True, False])
def test_pairs_and_rankings(types, held, known):
    got = measure(types, held, known=known)

    def p_1(pairs, sat):
        log_p, out = types.log_probabilities(pairs).numpy(), []
        for n in range(pairs.n_observations):
            person = pairs.person_ids[pairs.person[n]]
            g = gamma_of(types, sat, person) if known else types.prior.numpy()
            out.append(np.exp(log_p[n, 1]) @ g)
        return np.array(out)

    tuned = best_threshold(p_1(held.validation, held.before), held.validation.target[:, 1].numpy())
    credit = pickapic_credit(p_1(held.pairs, held.sat), held.pairs.target[:, 1].numpy(), tuned)
    same(got["pickapic_accuracy"], mean(credit, held.pairs.person.numpy()))
    weights = types.utility.weight.numpy()[types.order]
    correlations = []
    for n, people in enumerate(held.rankings.person):
        raters = [p for p in people if p is not None]
        g = [gamma_of(types, held.sat, p) if known else types.prior.numpy() for p in raters]
        there = ~np.isnan(held.rankings.rank[n])
        shown = TABLE[held.rankings.images[n][there].astype(int)]
        score = shown @ weights.T @ np.mean(g, 0)
        correlations.append(spearmanr(score, -held.rankings.rank[n][there]).statistic)
    same(got["hps_spearman"], mean(np.array(correlations)))


@pytest.fixture(scope="module")
def on_concepts():
    """Types that see two concepts, and people who deviate in both."""
    g, usual = torch.Generator().manual_seed(3), torch.tensor([0.3, 0.6])
    utility = ClipUtility(D - 2, usual, usual, K, 2.0, torch.tensor([[0], [1]]))
    with torch.no_grad():
        for name in ("likes", "likes_together", "insists"):
            p = getattr(utility, name)
            p.copy_(torch.randn(p.shape, generator=g))
        utility.tenth_log_share.fill_(-0.05)
    log_prior = torch.tensor([0.5, 0.3, 0.2]).double().log()
    types = UserTypes(utility.requires_grad_(False), torch.tensor([2, 0, 1]), log_prior, 0.0, 1, 1,
                      None)  # fmt: skip
    return types, Spread(torch.tensor([D - 2, D - 1]), torch.tensor([0.8, 0.5]), 0.4)


def test_people_without_deviations_are_their_types(on_concepts, held):
    types, spread = on_concepts
    none = Spread(spread.concepts, torch.zeros(2), 0.0)
    a, b = measure(types, held, known=True), measure(types, held, known=True, spread=none)
    for name in a:
        value = getattr(a[name], "value", a[name])
        assert getattr(b[name], "value", b[name]) == pytest.approx(value, abs=1e-5), name


def history(sat, person, until=np.inf):
    """(data, n) of what a person did before a moment."""
    done = [
        (when[n], p, n)
        for p, (part, when) in enumerate(zip((sat.picks, sat.judgements), sat.when, strict=True))
        for n in range(part.n_observations)
        if part.person_ids[part.person[n]] == person and when[n] < until
    ]
    return [((sat.picks, sat.judgements)[p], n) for _, p, n in sorted(done)]


def test_people_who_deviate(on_concepts, held):
    """Against a loop over people who are followed by hand."""
    types, spread = on_concepts
    got = measure(types, held, known=True, spread=spread)

    def expected(data, n, sat, until=np.inf):
        before = history(sat, data.person_ids[data.person[n]], until)
        return by_hand(types, spread, [*before, (data, n)])[0][-1]

    picks = held.sat.picks
    p = [expected(picks, n, held.sat, held.sat.when[0][n]) for n in range(picks.n_observations)]
    chosen = picks.target.argmax(1).numpy()
    taken = np.array(p)[np.arange(len(chosen)), chosen]
    assert got["log_likelihood"].value == pytest.approx(np.log(taken).mean(), abs=1e-4)
    p_1 = [
        np.array([expected(pairs, n, sat)[1] for n in range(pairs.n_observations)])
        for pairs, sat in ((held.validation, held.before), (held.pairs, held.sat))
    ]
    tuned = best_threshold(p_1[0], held.validation.target[:, 1].numpy())
    credit = pickapic_credit(p_1[1], held.pairs.target[:, 1].numpy(), tuned)
    assert got["pickapic_accuracy"].value == pytest.approx(credit.mean(), abs=1e-6)
    correlations = []
    for n, people in enumerate(held.rankings.person):
        rank, scores = held.rankings.rank[n], []
        for person in (name for name in people if name is not None):
            _, gamma, mean, _ = by_hand(types, spread, history(held.sat, person))
            by_type = [
                seen(types, spread.concepts, held.ranked, n, k, mean[k])[0] for k in range(K)
            ]
            scores.append(gamma @ np.array([r - r[np.isfinite(r)].mean() for r in by_type]))
        there = ~np.isnan(rank)
        correlations.append(spearmanr(np.mean(scores, 0)[there], -rank[there]).statistic)
    assert got["hps_spearman"].value == pytest.approx(np.mean(correlations))


def test_the_order_of_types_does_not_matter(types, held):
    turned = UserTypes(types.utility, types.order.flip(0), types.log_prior.flip(0), 0.0, 1, 1, None)
    a, b = measure(types, held, known=True), measure(turned, held, known=True)
    for name in a:
        value = getattr(a[name], "value", a[name])
        assert getattr(b[name], "value", b[name]) == pytest.approx(value, abs=1e-9)
