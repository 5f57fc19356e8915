"""EM: golden log-likelihoods, planted truth, brute force, properties, resumption, bad input."""

import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import nn

import pasta_lib.em as em
from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.datasets.electricity import read_electricity
from pasta_lib.em import EMConfig, fit_user_types
from pasta_lib.em_steps import GradientStep, NewtonStep, cut
from pasta_lib.information import mixture_hessian, standard_errors
from pasta_lib.panel import Panel
from pasta_lib.user_model import (
    LinearUtility,
    choice_log_probabilities,
    column_utility,
    hard_posterior,
    posterior,
    stacked,
)
from pasta_lib.user_types import UserTypes, match_types

GOLDEN = {  # methods: conditional logit published (xlogit), latent classes best known
    1: -4958.6491193376,
    2: -4526.8290,
    3: -4298.0275,
    4: -4138.6366,
    5: -4028.3617,
    6: -3950.5742,
    8: -3839.3558,
}
QUICK = EMConfig(min_waves=3, max_waves=6, confirmations=2)


@pytest.fixture(scope="module")
def panel() -> ChoiceData:
    return read_electricity(Path(__file__).parents[1] / "data" / "electricity.csv.gz")


def fit(data: ChoiceData, n_types: int, seed: int = 0, config: EMConfig = QUICK, **more):
    utility = LinearUtility(data.table.shape[1], n_types)
    return fit_user_types(data, utility, n_types, seed=seed, config=config, progress=False, **more)


def planted(seed: int, people=2000, choices=20, width=4, features=8):
    """(data, types [U], true UserTypes), part-worths ~ N(0, 1), six unequal shares."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.28, 0.22, 0.18, 0.14, 0.11, 0.07], dtype=torch.float64)
    truth = LinearUtility(features, 6)
    truth.weight.data.normal_(generator=generator)
    kind = torch.multinomial(share, people, replacement=True, generator=generator)
    x = torch.randn(people * choices, width, features, generator=generator, dtype=torch.float64)
    worth = truth.weight.detach()[kind].repeat_interleave(choices, 0)
    chances = torch.einsum("nld,nd->nl", x, worth).softmax(1)
    chosen = torch.multinomial(chances, 1, generator=generator)[:, 0]
    person = np.repeat(np.arange(people), choices)
    data = ChoiceData.from_arrays(x, target=chosen, person=person)
    return data, kind, UserTypes.of(truth, share.log(), data, None)


def small_ragged(seed: int = 0) -> ChoiceData:
    """40 observations of 9 people: 2-4 alternatives of 1-3 items, soft targets, weights."""
    generator = torch.Generator().manual_seed(seed)
    n, width, m, d = 40, 4, 3, 2
    x = torch.randn(n, width, m, d, generator=generator, dtype=torch.float64)
    alternatives = torch.randint(2, width + 1, (n,), generator=generator)
    items = torch.randint(1, m + 1, (n, width), generator=generator)
    x[torch.arange(width) >= alternatives[:, None]] = torch.nan
    x[torch.arange(m) >= items[..., None]] = torch.nan
    target = torch.rand(n, width, generator=generator, dtype=torch.float64)
    target *= torch.arange(width) < alternatives[:, None]
    target /= target.sum(1, keepdim=True)
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
    person = torch.randint(9, (n,), generator=generator)
    return ChoiceData.from_arrays(x, target=target, person=person, weight=weight)


def types_with(weight: torch.Tensor, prior: torch.Tensor, data: ChoiceData) -> UserTypes:
    utility = LinearUtility(weight.shape[1], len(weight))
    utility.weight.data = weight.double()
    return UserTypes.of(utility, prior.double().log(), data, None)


# --- golden numbers -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n_types", GOLDEN)
def test_golden_log_likelihoods_with_default_settings(panel, n_types):
    fits = [fit(panel, n_types, seed, EMConfig()) for seed in range(10)]
    short = [GOLDEN[n_types] - f.log_likelihood for f in fits]
    assert sum(gap <= 1e-3 for gap in short) >= 9, short
    if n_types == 1:
        assert max(map(abs, short)) < 1e-8, short


def test_the_first_750_choices_are_not_left_at_a_local_maximum(panel):
    first = panel.select(torch.arange(panel.n_observations) < 750)
    assert first.n_people == 63
    assert fit(first, 2, config=EMConfig()).log_likelihood == pytest.approx(-790.916, abs=1e-3)


def test_an_e_step_for_each_choice_instead_of_each_person_loses_189_nats(panel):
    """The classic mistake, made on purpose: every choice is taken for a person of its own.

    Its likelihood is nearly flat near the top: EM is long at about -4941.1, where it has lost 189
    nats, and creeps on to -4940.9, where it has lost more.
    """
    everyone = torch.arange(panel.n_observations)
    alone = replace(panel, person=everyone, person_ids=everyone.numpy())
    step = NewtonStep(alone, 2, ridge=1e-8)
    member = torch.randint(2, (len(everyone), 1), generator=torch.Generator().manual_seed(0))
    state, at = step.start(nn.functional.one_hot(member, 2).double()), torch.tensor([-torch.inf])
    while at < -4941.08:
        before, (at, state) = state, step(state)
    wrong = types_with(before[0, 2:].reshape(2, 6), before[0, :2].exp(), panel)
    assert GOLDEN[2] - wrong.log_likelihood == pytest.approx(189, abs=2)
    to_the_end = fit(alone, 2)
    assert to_the_end.log_likelihood > -4940.95
    assert GOLDEN[2] - float(to_the_end.person_log_likelihood(panel).sum()) > 189


# --- planted truth --------------------------------------------------------------------------------


@pytest.mark.slow
def test_planted_types_are_recovered_and_intervals_cover():
    """20 replications; the first with the default settings, the others with fewer restarts."""
    covered, agreement, ideal = [], [], []
    for seed in range(20):
        data, kind, truth = planted(seed)
        found = fit(data, 6, seed, EMConfig() if seed == 0 else QUICK)
        best = truth.posterior(data)
        match = match_types(best, found.posterior(data))
        ideal.append(adjusted_rand_score(kind, best.argmax(1)))
        agreement.append(adjusted_rand_score(kind, found.posterior(data).argmax(1)))
        error = found.part_worths[match] - truth.part_worths
        covered.append(error.abs() < 1.96 * standard_errors(found, data).part_worths[match])
    assert min(a / b for a, b in zip(agreement, ideal, strict=True)) >= 0.98
    share = torch.stack(covered).double().mean().item()
    assert 0.92 <= share <= 0.98, share


# --- against brute force --------------------------------------------------------------------------


def test_likelihood_and_posterior_by_hand():
    """Three people, two types, two alternatives: the sums written out."""
    x = torch.tensor([[[1.0], [0.0]], [[0.0], [2.0]], [[1.0], [0.0]], [[3.0], [0.0]]]).double()
    data = ChoiceData.from_arrays(x, target=torch.tensor([0, 1, 1, 0]), person=list("aabc"))
    weight, prior = torch.tensor([[1.0], [-2.0]]), torch.tensor([0.7, 0.3])
    types = types_with(weight, prior, data)
    sigma = lambda u: 1 / (1 + np.exp(-u))  # noqa: E731
    a = np.array([sigma(1) * sigma(2), sigma(-2) * sigma(-4)])
    b = np.array([1 - sigma(1), 1 - sigma(-2)])
    c = np.array([sigma(3), sigma(-6)])
    joint = np.stack([a, b, c]) * prior.numpy()
    expected = joint / joint.sum(1, keepdims=True)
    assert np.allclose(types.posterior(data), expected, atol=1e-6)
    assert types.log_likelihood == pytest.approx(np.log(joint.sum(1)).sum(), abs=1e-6)
    assert types.aic == pytest.approx(2 * 3 - 2 * types.log_likelihood)
    assert types.bic == pytest.approx(np.log(3) * 3 - 2 * types.log_likelihood)
    # a stranger and, for person a's second choice, what the first one taught
    first = np.array([sigma(1), sigma(-2)]) * prior.numpy()
    second = (first / first.sum()) @ np.array([sigma(2), sigma(-4)])
    assert types.predict(data)[1, 1].item() == pytest.approx(
        prior.numpy() @ [sigma(2), sigma(-4)], abs=1e-6
    )
    sequential = types.sequential_log_likelihood(data)
    assert sequential[1].item() == pytest.approx(np.log(second), abs=1e-6)
    assert sequential.sum().item() == pytest.approx(types.log_likelihood, abs=1e-9)
    known = types.predict(data.select(torch.tensor([1])), torch.tensor(first / first.sum())[None])
    assert known[0, 1].item() == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("strength", [1e-8, 3.0])
def test_the_newton_step_is_the_derivatives_of_the_expected_log_likelihood(strength):
    data = small_ragged()
    step = NewtonStep(data, 2, ridge=strength)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    log_prior = torch.tensor([0.6, 0.4], dtype=torch.float64).log()
    at, following = step(torch.cat([log_prior, weight.flatten()])[None])

    types = types_with(weight, log_prior.exp(), data)
    penalty = (step.prior_precision * weight.square()).sum() / 2
    assert at.item() == pytest.approx(types.log_likelihood - penalty.item(), abs=1e-9)
    gamma = types.posterior(data)
    block = cut(data, slice(None), slice(0, data.n_people))

    def expected(flat):
        utility = block.utility(partial(stacked(types.utility), flat[None]), {"weight": flat})
        each = block.each_log_likelihood(utility, {})
        ridge = (step.prior_precision * flat.reshape(2, 2) ** 2).sum() / 2
        return (gamma * block.by_person(each)[:, 0]).sum() - ridge

    start = weight.flatten()
    gradient = torch.func.grad(expected)(start)
    hessian = torch.func.jacrev(torch.func.grad(expected))(start)
    newton = start - torch.linalg.solve(hessian, gradient)
    assert torch.allclose(following[0, 2:], newton, atol=1e-9)
    assert torch.allclose(following[0, :2].exp(), gamma.mean(0), atol=1e-12)


def test_restarts_in_one_batch_are_as_if_alone():
    data = small_ragged()
    step = NewtonStep(data, 3, ridge=1e-8)
    member = torch.randint(3, (9, 5), generator=torch.Generator().manual_seed(0))
    state = step.start(nn.functional.one_hot(member, 3).double())
    together = step(state)
    step.outer = None  # and outer products made anew in each block
    alone = [step(row[None]) for row in state]
    assert torch.allclose(together[0], torch.cat([a for a, _ in alone]), atol=1e-10)
    assert torch.allclose(together[1], torch.cat([s for _, s in alone]), atol=1e-8)


def test_squarem_lands_on_the_fixed_point_of_a_linear_map():
    rate, fixed = 0.9, torch.tensor([[3.0, -1.0]])
    step = lambda x: fixed + rate * (x - fixed)  # noqa: E731
    x = torch.zeros(1, 2)
    assert torch.allclose(em._squarem(x, step(x), step(step(x)), 0), fixed, atol=1e-4)


def test_the_hessian_of_the_mixture_is_louis_formula():
    """Louis (1982): observed information = complete information - information in the types."""
    data = small_ragged()
    types = types_with(
        torch.tensor([[1.0, -0.5], [-1.0, 0.3], [0.2, 2.0]]), torch.tensor([0.5, 0.3, 0.2]), data
    )
    k, d, pooled = 3, 2, data.pooled()
    x, y = pooled.features().squeeze(2), data.target * data.weight[:, None]
    p = types.log_probabilities(data).exp()
    gamma, prior = types.posterior(data), types.prior
    expected = torch.zeros(k * d + k - 1, k * d + k - 1, dtype=torch.float64)
    for u in range(data.n_people):
        mine = data.person == u
        g_mean = torch.zeros(len(expected), dtype=torch.float64)
        for t in range(k):
            g = torch.zeros(len(expected), dtype=torch.float64)
            curvature = torch.zeros(d, d, dtype=torch.float64)
            for n in mine.nonzero()[:, 0]:
                q, total = p[n, :, t], y[n].sum()
                centre = q @ x[n]
                curvature += total * ((x[n] * q[:, None]).T @ x[n] - torch.outer(centre, centre))
                g[t * d : t * d + d] += y[n] @ x[n] - total * centre
            g[k * d :] = torch.eye(k, dtype=torch.float64)[t, : k - 1] - prior[: k - 1]
            expected += gamma[u, t] * torch.outer(g, g)
            expected[t * d : t * d + d, t * d : t * d + d] -= gamma[u, t] * curvature
            g_mean += gamma[u, t] * g
        expected -= torch.outer(g_mean, g_mean)
        some = prior[: k - 1]
        expected[k * d :, k * d :] -= torch.diag(some) - torch.outer(some, some)
    assert torch.allclose(mixture_hessian(types, data, size=7), expected, atol=1e-9)


def test_standard_errors_of_one_type_are_the_conditional_logits(panel):
    types = fit(panel, 1)
    x, p = panel.features().squeeze(2), types.log_probabilities(panel).exp()[..., 0]
    centred = x - torch.einsum("nl,nld->nd", p, x)[:, None]
    information = torch.einsum("nl,nld,nle->de", p, centred, centred)
    errors = standard_errors(types, panel)
    expected = torch.linalg.inv(information).diagonal().sqrt()
    assert torch.allclose(errors.part_worths[0], expected, rtol=1e-6)
    assert errors.prior.item() == 0


# --- properties -----------------------------------------------------------------------------------


def log_likelihood(data: ChoiceData) -> float:
    weight = torch.tensor([[1.0, -0.5], [-1.0, 0.3]])
    return types_with(weight, torch.tensor([0.6, 0.4]), data).log_likelihood


def rebuilt(data: ChoiceData, rows, **changes) -> ChoiceData:
    parts = {
        "items": data.items[rows],
        "target": data.target[rows],
        "weight": data.weight[rows],
        "person": data.person[rows],
    }
    return ChoiceData.from_arrays(table=data.table, **(parts | changes))


def test_order_of_people_alternatives_and_items_does_not_matter():
    data = small_ragged()
    before = log_likelihood(data)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert log_likelihood(rebuilt(data, rows)) == pytest.approx(before, abs=1e-10)
    turned = rebuilt(
        data, slice(None), items=data.items.flip(1).flip(2), target=data.target.flip(1)
    )
    assert log_likelihood(turned) == pytest.approx(before, abs=1e-10)


def test_order_of_types_does_not_matter_and_falls_in_the_result():
    data = small_ragged()
    weight, prior = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.3])
    types = types_with(weight, prior, data)
    swapped = types_with(weight[[2, 0, 1]], prior[[2, 0, 1]], data)
    assert types.prior.tolist() == sorted(types.prior.tolist(), reverse=True)
    assert types.log_likelihood == pytest.approx(swapped.log_likelihood, abs=1e-10)
    assert torch.allclose(types.posterior(data), swapped.posterior(data))
    assert torch.allclose(types.part_worths, weight[[1, 2, 0]].double())


def test_a_weight_of_two_is_a_duplicate_and_a_soft_target_two_halves():
    data = small_ragged()
    twice = torch.cat([torch.arange(40), torch.tensor([5])])
    weight = data.weight.clone()
    weight[5] *= 2
    duplicated = rebuilt(data, twice)
    assert log_likelihood(rebuilt(data, slice(None), weight=weight)) == pytest.approx(
        log_likelihood(duplicated), abs=1e-10
    )
    x = torch.randn(1, 2, 2, dtype=torch.float64)
    soft = ChoiceData.from_arrays(x, target=torch.tensor([[0.5, 0.5]]), person=["a"])
    halves = ChoiceData.from_arrays(
        x.expand(2, 2, 2), target=torch.tensor([0, 1]), person=["a", "a"], weight=[0.5, 0.5]
    )
    assert log_likelihood(soft) == pytest.approx(log_likelihood(halves), abs=1e-12)


def test_a_fit_does_not_depend_on_the_order_of_people(panel):
    rows = torch.randperm(panel.n_observations, generator=torch.Generator().manual_seed(0))
    shuffled = rebuilt(panel, rows)
    a, b = fit(panel, 3), fit(shuffled, 3, seed=1)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-4)
    assert torch.allclose(a.part_worths, b.part_worths, atol=1e-2)
    assert torch.allclose(a.prior, b.prior, atol=1e-3)


def test_the_likelihood_never_falls(panel):
    trace = fit(panel, 4).restarts.trace
    assert len(trace) > 5
    assert all(b >= a - 1e-9 for a, b in pairwise(trace))


def test_matching_undoes_a_permutation():
    gamma = torch.rand(50, 4, dtype=torch.float64).softmax(1)
    order = [2, 0, 3, 1]
    assert match_types(gamma, gamma[:, order]).tolist() == np.argsort(order).tolist()


# --- any module -----------------------------------------------------------------------------------


def test_a_linear_module_fitted_by_gradient_comes_near_the_newton_optimum(panel):
    scaled = replace(panel, table=panel.table / panel.table.std(0))
    utility = nn.Linear(6, 2, bias=False, dtype=torch.float64)
    nn.init.zeros_(utility.weight)
    config = EMConfig(
        wave=2, max_waves=2, learning_rate=0.3, batch=5000, tolerance=1e-6, patience=6
    )
    found = fit_user_types(scaled, utility, 2, seed=0, config=config, progress=False)
    assert found.log_likelihood == pytest.approx(GOLDEN[2], abs=1.0)
    assert torch.equal(utility.weight, torch.zeros(2, 6))  # the caller's module is left alone
    match = match_types(fit(panel, 2).posterior(panel), found.posterior(scaled))
    assert match.tolist() == [0, 1]


def test_a_network_finds_types_that_no_linear_utility_can_tell_apart():
    """Both types have the same mean taste; one likes |x| large, the other small."""
    generator = torch.Generator().manual_seed(0)
    people, choices = 150, 30
    kind = torch.arange(people) % 2
    x = torch.randn(people * choices, 3, 1, generator=generator)
    taste = (x.abs() * 3).squeeze(2) * (1 - 2 * kind.repeat_interleave(choices)[:, None])
    chosen = torch.multinomial(taste.softmax(1), 1, generator=generator)[:, 0]
    person = np.repeat(np.arange(people), choices)
    data = ChoiceData.from_arrays(x, target=chosen, person=person)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2, bias=False))
    config = EMConfig(wave=2, min_waves=2, max_waves=2, batch=600, tolerance=1e-5)
    found = fit_user_types(data, network, 2, seed=0, config=config, progress=False)
    assert adjusted_rand_score(kind, found.posterior(data).argmax(1)) > 0.95


# --- long work can be stopped ---------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch, calls: int):
    count = iter(range(calls))

    def show(bar, search):
        if next(count, None) is None:
            raise Interrupted

    monkeypatch.setattr(em, "_show", show)


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("utility", [lambda: LinearUtility(6, 2), a_network])
def test_an_interrupted_fit_goes_on_to_the_same_result(panel, tmp_path, monkeypatch, utility):
    some = panel.select_people(torch.arange(60))
    config = EMConfig(min_waves=3, max_waves=3, tolerance=1e-6, batch=200, max_passes=15)
    arguments = (some, utility(), 2)
    options = {"seed": 3, "config": config, "progress": False}
    file = tmp_path / "em.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = fit_user_types(*arguments, **options)
        for calls in (2, 5, 1):
            with monkeypatch.context() as patch:
                interrupt_after(patch, calls)
                with pytest.raises(Interrupted):
                    fit_user_types(*arguments, **options, checkpoint=file)
        resumed = fit_user_types(*arguments, **options, checkpoint=file)
        again = fit_user_types(*arguments, **options, checkpoint=file)  # nothing left to do
    for other in (resumed, again):
        assert other.log_likelihood == whole.log_likelihood
        assert torch.equal(other.log_prior, whole.log_prior)
        for a, b in zip(other.utility.parameters(), whole.utility.parameters(), strict=True):
            assert torch.equal(a, b)
        assert np.array_equal(other.restarts.trace, whole.restarts.trace)
        assert other.restarts.passes == whole.restarts.passes
    assert not list(tmp_path.glob("*.part"))


def test_the_checkpoint_of_another_fit_is_refused(panel, tmp_path):
    file = tmp_path / "em.safetensors"
    fit(panel, 2, checkpoint=file)
    with pytest.raises(BadData, match="checkpoint of another fit"):
        fit(panel, 2, seed=1, checkpoint=file)
    twins = nn.Sequential(nn.Linear(6, 2), nn.Tanh()), nn.Sequential(nn.Linear(6, 2), nn.ReLU())
    twins[1].load_state_dict(twins[0].state_dict())
    assert len({em._fingerprint(panel, twin, 2, 0, QUICK, None) for twin in twins}) == 2
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(BadData, match="not a whole checkpoint"):
        fit(panel, 2, checkpoint=file)


def test_the_progress_bar_shows_wave_pass_and_log_likelihood(panel, capsys):
    fit_user_types(panel, LinearUtility(6, 2), 2, seed=0, config=QUICK)
    shown = capsys.readouterr().err
    assert "EM, 2 types" in shown
    assert "best log-likelihood -4526.8290" in shown


# --- bad input ------------------------------------------------------------------------------------


def test_more_types_than_people_is_refused():
    with pytest.raises(BadData, match="Cannot find 10 types among 9 people"):
        fit(small_ragged(), 10)
    with pytest.raises(BadData, match="Cannot find 0 types"):
        fit(small_ragged(), 0)


def test_a_utility_that_does_not_fit_is_refused():
    for utility, words in (
        (LinearUtility(2, 2), "2 scores for 3 types"),
        (LinearUtility(5, 3), "cannot take the data's 2 features"),
        (nn.Linear(5, 3), "cannot take the data's 2 features"),
    ):
        with pytest.raises(BadData, match=words):
            fit_user_types(small_ragged(), utility, 3, seed=0, progress=False)
    data = small_ragged()
    n, of_two = data.n_observations, nn.Linear(2, 3)
    prompts = replace(data, context=torch.zeros(n, dtype=torch.long),
                      context_table=torch.ones(1, 4, dtype=torch.float64))  # fmt: skip
    ties = replace(data, tie=torch.zeros(n, dtype=torch.float64))
    rated = ratings_alone()
    for odd, utility, words in (
        (prompts, LinearUtility(2, 3), "cannot take the data's 2 and 4 features"),
        (data, ClipUtility(2, *[torch.zeros(0)] * 2, 3, 1.0), "cannot take the data's 2 features"),
        (ties, of_two, "`log_tie`"),
        (ties, LinearUtility(2, 3), "`log_tie`"),
        (rated, of_two, "`rating_terms`"),
        (Panel.of(data), LinearUtility(2, 3), "not a panel"),
    ):
        with pytest.raises(BadData, match=words):
            fit_user_types(odd, utility, 3, seed=0, progress=False)


def ratings_alone() -> ChoiceData:
    rng = np.random.default_rng(0)
    x, person = rng.normal(size=(60, 1, 2)), np.arange(60) // 5
    return ChoiceData.from_arrays(x, rating=x[:, 0, 0] + rng.normal(size=60) / 9, person=person)


def test_ratings_alone_can_be_fitted():
    utility = ClipUtility(0, torch.full((2,), 0.5), torch.full((2,), 0.5), 2, 1.0)
    data = ratings_alone()
    data = replace(data, context=torch.zeros(60, dtype=torch.long),
                   context_table=torch.zeros(1, 2, dtype=torch.float64))  # fmt: skip
    config = EMConfig(wave=1, min_waves=1, max_waves=1, confirmations=1, max_passes=20, ridge=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few passes
        types = fit_user_types(data, utility, 2, seed=0, config=config, progress=False)
    assert np.isfinite(types.log_likelihood)


def test_a_strong_ridge_keeps_a_network_where_it_began():
    data, utility = small_ragged(), nn.Linear(2, 2, bias=False, dtype=torch.float64)
    nn.init.constant_(utility.weight, 0.25)
    moved = {}
    for strength in (1e-8, 1e6):
        config = EMConfig(wave=1, min_waves=1, max_waves=1, confirmations=1, max_passes=40,
                          ridge=strength, learning_rate=0.01)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few passes
            found = fit_user_types(data, utility, 2, seed=0, config=config, progress=False)
        moved[strength] = (found.utility.weight - 0.25).abs().max().item()
    assert moved[1e6] < 0.02 < 0.1 < moved[1e-8]
    step = GradientStep(utility, data, 2, 0.01, 4096, 3.0, torch.Generator(), posterior)
    off = utility.weight.detach().flatten()[None] + torch.tensor([[0.1, 0.0, -0.2, 0.0]])
    assert step._penalty(off).item() == pytest.approx(3.0 / 2 * 0.05)


def test_the_race_stops_restarts_and_the_best_is_counted(panel):
    restarts = fit(panel, 3, config=EMConfig()).restarts
    assert 1 <= restarts.found_best <= restarts.finished < restarts.tried


def test_standard_errors_of_what_the_data_leave_open_are_refused():
    data = small_ragged()
    constant = torch.cat([data.table, torch.ones(len(data.table), 1)], 1)
    types = fit(replace(data, table=constant), 1)
    with pytest.raises(BadData, match="do not determine every part-worth"):
        standard_errors(types, replace(data, table=constant))


def test_a_diverging_network_is_told_of():
    data = small_ragged()
    network = nn.Linear(2, 2)
    network.weight.data[0, 0] = torch.nan
    with pytest.raises(BadData, match="lower the learning rate"):
        fit_user_types(data, network, 2, seed=0, progress=False)


def test_single_precision_features_give_the_same_fit(panel):
    single = replace(panel, table=panel.table.float())  # whole numbers: nothing is lost
    assert fit(single, 2).log_likelihood == pytest.approx(GOLDEN[2], abs=1e-3)
    assert standard_errors(fit(single, 2), single).part_worths.isfinite().all()


def test_a_posterior_of_other_people_is_refused():
    data = small_ragged()
    types = types_with(torch.zeros(2, 2), torch.tensor([0.5, 0.5]), data)
    with pytest.raises(BadData, match=r"`gamma` must be \[9, 2\]"):
        types.predict(data, torch.ones(8, 2))


def test_perfectly_separable_choices_are_bounded_and_warned_of():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, 2, generator=generator, dtype=torch.float64)
    data = ChoiceData.from_arrays(x, target=x[..., 0].argmax(1), person=np.arange(200) // 10)
    with pytest.warns(UserWarning, match="perfectly predictable"):
        types = fit(data, 1)
    assert types.part_worths.isfinite().all()
    assert types.part_worths.abs().max() < 1e5
    assert -1e-2 < types.log_likelihood <= 0


def test_types_that_nobody_needs_do_not_break_the_fit():
    """Three types where the data hold one: some die out or coincide, none becomes NaN."""
    data, _, _ = planted(0, people=40, choices=5, width=3, features=2)
    one = fit(data, 1)
    three = fit(data, 3)
    assert three.part_worths.isfinite().all()
    assert three.log_likelihood >= one.log_likelihood


def test_a_posterior_far_below_float_range_is_still_a_posterior():
    gamma, evidence = posterior(
        torch.tensor([0.5, 0.5]).double().log(), torch.tensor([[-5000.0, -5001.0]]).double()
    )
    assert torch.allclose(gamma, torch.tensor([[0.7310586, 0.2689414]]).double(), atol=1e-7)
    assert evidence.item() == pytest.approx(-5000 + np.log(0.5 * (1 + np.exp(-1))), abs=1e-3)


def test_choice_probabilities_leave_out_what_is_not_there():
    scores = torch.tensor([[[[1.0], [3.0]]], [[[2.0], [9.0]]], [[[7.0], [7.0]]]])  # L=3, B=1, M=2
    mask = torch.tensor([[[True, True]], [[True, False]], [[False, False]]])
    p = choice_log_probabilities(column_utility(scores, mask)).exp().flatten()
    assert torch.allclose(p, torch.tensor([0.5, 0.5, 0.0]))


def test_a_hard_posterior_by_hand():
    gamma, best = hard_posterior(torch.tensor([-1.0, -2.0]), torch.tensor([[0.0, 0.5], [0, 1.5]]))
    assert gamma.tolist() == [[1, 0], [0, 1]] and best.tolist() == [-1.0, -0.5]


def test_hard_em_is_the_best_of_all_divisions():
    """Every division of eight people in two, each half with its own best part-worth."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 3, 1))
    person = np.repeat(np.arange(8), 6)
    worth = np.where(np.arange(8) % 2, 1.5, -1.5)[person]
    chosen = (worth[:, None] * x[..., 0] + rng.gumbel(size=(48, 3))).argmax(1)
    data = ChoiceData.from_arrays(x, target=chosen, person=person)
    grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    log_p = (torch.as_tensor(x) * grid).log_softmax(1)  # [N, L, grid]
    each = log_p[torch.arange(48), torch.as_tensor(chosen)].reshape(8, 6, -1).sum(1)
    best = -np.inf
    for division in range(2**8):
        member = torch.tensor([division >> u & 1 for u in range(8)]).bool()
        halves = [each[m].sum(0).max() + m.sum() * (m.double().mean() + 1e-300).log()
                  for m in (member, ~member)]  # fmt: skip
        best = max(best, float(sum(halves)))
    types = fit(data, 2, config=replace(QUICK, hard=True))
    joint = types.log_prior + torch.stack(
        [types.observation_log_likelihood(data)[data.person == u].sum(0) for u in range(8)]
    )
    assert joint.max(1).values.sum().item() == pytest.approx(best, abs=1e-3)
    soft = fit(data, 2)
    assert soft.log_likelihood > types.log_likelihood  # what is given away


def test_em_begins_where_it_is_told_to():
    data, kind, _ = planted(0, people=300)
    right = nn.functional.one_hot(kind, 6).double()
    once = EMConfig(wave=1, min_waves=1, max_waves=1, confirmations=1)
    told = fit(data, 6, config=once, start=right)
    assert adjusted_rand_score(kind, told.posterior(data).argmax(1)) > 0.97
    long_search = fit(data, 6)
    assert told.log_likelihood == pytest.approx(long_search.log_likelihood, abs=0.01)
    with pytest.raises(BadData, match=r"`start` must be \[300, 6\]"):
        fit(data, 6, config=once, start=right[:, :5])


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    data, kind, _ = planted(0, people=60)
    start, path = nn.functional.one_hot(kind, 6).double(), tmp_path / "fit.safetensors"
    fit(data, 6, start=start, checkpoint=path)
    with pytest.raises(BadData, match="another fit"):
        fit(data, 6, start=start.flip(1), checkpoint=path)
