"""People who deviate from their types: against EM's posterior, formulas by hand, and sampling."""

import numpy as np
import pytest
import torch
from deviations_by_hand import by_hand

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.deviations import Spread, fit_spread, follow, strangers
from pasta_lib.user_model import column_utility, share_of_items
from pasta_lib.user_types import UserTypes

D, V, K = 5, 4, 3  # CLIP's numbers, concepts, types
USUAL = torch.tensor([0.2, 0.5, 0.3, 0.4])
CONCEPTS = torch.tensor([D + 1, D + 3])


def a_model(k=K, seed=0):
    g = torch.Generator().manual_seed(seed)
    utility = ClipUtility(D, USUAL, USUAL, k, 3.0, torch.tensor([[1], [3]]))
    with torch.no_grad():
        for name in ("likes", "likes_together", "insists"):
            p = getattr(utility, name)
            p.copy_(torch.randn(p.shape, generator=g))
        utility.tenth_log_share.fill_(-0.1)
        utility.log_tie.fill_(-0.5)
    log_prior = torch.tensor([0.5, 0.3, 0.2])[:k].double().log()
    return UserTypes(
        utility.requires_grad_(False), torch.arange(k).roll(1), log_prior, 0, 1, 1, None
    )


def some(seed, n=60, columns=4, images=2, people=7, **kwargs):
    g = torch.Generator().manual_seed(seed)

    def seen(n):
        unit = torch.nn.functional.normalize(torch.randn(n, D, generator=g), dim=-1)
        return torch.cat([unit, torch.rand(n, V, generator=g)], 1)

    arrays = {
        "items": torch.randint(40, (n, columns, images), generator=g), "table": seen(40),
        "context": torch.randint(5, (n,), generator=g), "context_table": seen(5),
        "person": (torch.arange(n) % people).sort().values.numpy().astype(str).astype(object),
        "target": torch.randint(columns, (n,), generator=g),
    }  # fmt: skip
    return ChoiceData.from_arrays(**arrays | kwargs)


def a_spread(tastes, faithfulness):
    return Spread(CONCEPTS, torch.full((2,), tastes), faithfulness)


def a_history(seed=0):
    """Picks, and judgements with ties between them."""
    picks = some(seed)
    three = np.eye(3)[np.arange(30) % 3]
    judged = some(seed + 1, n=30, columns=2, target=three[:, :2], tie=three[:, 2])
    return [picks, judged], [2 * np.arange(60), 4 * np.arange(30) + 1]


def test_without_deviations_it_is_the_posterior_over_types():
    types, (parts, when) = a_model(), a_history()
    ids = parts[0].person_ids
    persons = strangers(types, a_spread(0.0, 0.0), ids)
    got = follow(persons, parts, when)
    gamma = types.posterior_before(parts, when)
    for part, p, g in zip(parts, got, gamma, strict=True):
        assert p.double().numpy() == pytest.approx(types.predict_each(part, g).numpy(), abs=1e-5)
    later = some(5)
    want = types.predict(later, persons.gamma)
    assert persons.predict(later).numpy() == pytest.approx(want.numpy(), abs=1e-5)


def with_gaps(data, seed=0):
    """The same with a column, and a picture of another one, missing here and there; of unequal
    weight."""
    rng, items, target = np.random.default_rng(seed), data.items.clone(), data.target.clone()
    n, columns, _ = items.shape
    items[rng.random(n) < 0.4, 0, 1] = -1
    if columns > 2:
        items[rng.random(n) < 0.4, columns - 1] = -1
    gone = (items < 0).all(2)
    lost = target.masked_fill(~gone, 0.0).sum(1)
    target[gone] = 0.0
    target[:, 0] += lost
    weight = torch.as_tensor(rng.uniform(0.5, 2, n))
    return ChoiceData(**vars(data) | {"items": items, "target": target, "weight": weight})


def history_of(person, parts, when):
    """(data, n) in the order in which a person answered; at one time, the parts in their order."""
    found = [
        (moments[n], p, n)
        for p, (part, moments) in enumerate(zip(parts, when, strict=True))
        for n in range(part.n_observations)
        if part.person_ids[part.person[n]] == person
    ]
    return [(parts[p], n) for _, p, n in sorted(found)]


def test_answers_are_learnt_by_newton_steps():
    """Everything again by hand, with ties, gaps, weights and answers at one time; what is known
    before is a mean that turns the order of pictures."""
    types, (parts, when) = a_model(), a_history()
    parts, when = [with_gaps(part) for part in parts], [when[0] // 4, when[1] // 4]
    spread, known = Spread(CONCEPTS, torch.tensor([0.7, 1.2]), 0.4), torch.tensor([3.0, -2.0, -1.5])
    persons = strangers(types, spread, parts[0].person_ids)
    persons.mean[:] = known
    got = follow(persons, parts, when)
    later = some(5)
    afterwards = persons.predict(later, at_once=7).numpy()
    for u, person in enumerate(persons.ids):
        history = history_of(person, parts, when)
        p, gamma, mean, covariance = by_hand(types, spread, history, known.numpy())
        for (data, n), want in zip(history, p, strict=True):
            mine = got[0 if data is parts[0] else 1][n].numpy()
            assert mine == pytest.approx(want, abs=1e-4)
        assert persons.gamma[u].numpy() == pytest.approx(gamma, abs=1e-4)
        assert persons.mean[u].numpy() == pytest.approx(mean, abs=1e-3)
        assert persons.covariance[u].numpy() == pytest.approx(covariance, abs=1e-4)
        for n in np.flatnonzero(later.person_ids[later.person] == person)[:2]:
            (*_, want), *_ = by_hand(types, spread, [*history, (later, n)], known.numpy())
            assert afterwards[n] == pytest.approx(want, abs=1e-4)


def values(types, data, n, k, delta):
    """What the columns of observation n are worth to people of type k with deviations [S, 3]."""
    image, text = data.table[data.items[n]], data.context_table[data.context[n]][None]
    s = types.utility(image, text)[..., types.order[k]]
    met = types.utility.meets(image, text)[..., types.order[k]]
    x = torch.cat([image[..., CONCEPTS], met[..., None]], -1)
    own = s[..., None] + x @ torch.as_tensor(delta, dtype=torch.float32).T
    own = own[:, None]  # [L, 1, M, S]
    share = share_of_items(types.utility.tenth_log_share)
    return column_utility(own, torch.ones(own.shape[:3], dtype=torch.bool), share)[:, 0].T.numpy()


def answered(types, data, deviation, seed):
    """The same occasions, answered by people of random types and deviations."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(types.n_types, data.n_people, p=types.prior.numpy())
    delta = rng.normal(size=(data.n_people, 3)) * deviation
    who = data.person.numpy()
    value = np.concatenate(
        [values(types, data, n, kind[u], delta[u][None]) for n, u in enumerate(who)]
    )
    chosen = (value + rng.gumbel(size=value.shape)).argmax(1)
    target = torch.nn.functional.one_hot(torch.as_tensor(chosen), value.shape[1]).double()
    return ChoiceData(**vars(data) | {"target": target}), kind, delta


def test_what_is_expected_of_people_is_what_sampling_says():
    """The exact posterior of types and deviations by 20,000 draws from the prior a person."""
    types, spread = a_model(2), a_spread(1.0, 0.5)
    types = UserTypes(types.utility, types.order, torch.tensor([0.6, 0.4]).log(), 0, 1, 1, None)
    data, _, _ = answered(types, some(3, n=200, people=10), [1.0, 1.0, 0.5], seed=1)
    persons = strangers(types, spread, data.person_ids)
    (got,) = follow(persons, [data], [np.arange(200)])
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(10_000, 3)) * [1.0, 1.0, 0.5]
    exact = np.zeros((200, 4))
    for u in range(10):
        log_w = np.log(np.repeat(types.prior.numpy()[:, None], len(draws), 1))  # [K, S]
        for n in np.flatnonzero(data.person.numpy() == u):
            value = np.stack([values(types, data, n, k, draws) for k in range(2)])
            log_p = value - np.logaddexp.reduce(value, -1, keepdims=True)
            weight = np.exp(log_w - log_w.max())
            exact[n] = np.einsum("ks,ksl->l", weight / weight.sum(), np.exp(log_p))
            log_w = log_w + log_p[..., data.target[n].argmax()]
    wrong = np.abs(got.numpy() - exact).max(1)
    assert wrong.mean() < 0.02 and wrong.max() < 0.12
    of_types = types.predict_each(data, types.posterior_before([data], [np.arange(200)])[0]).numpy()
    assert np.abs(of_types - exact).max(1).mean() > 3 * wrong.mean()


def test_the_order_of_people_does_not_matter():
    types, (parts, when) = a_model(), a_history()
    spread, ids = a_spread(0.6, 0.3), parts[0].person_ids
    one, other = strangers(types, spread, ids), strangers(types, spread, [*ids[::-1], "nobody"])
    for a, b in zip(follow(one, parts, when), follow(other, parts, when), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    row = other.ids.get_indexer(one.ids)
    assert torch.allclose(other.mean[row], one.mean, atol=1e-6)
    assert torch.allclose(other.gamma[-1], types.prior)  # of whom nothing is known
    assert not torch.allclose(one.mean[0], one.mean[1])


def test_what_is_expected_to_please_is_a_mean_over_types():
    types, (parts, when) = a_model(), a_history()
    persons = strangers(types, a_spread(0.6, 0.3), parts[0].person_ids)
    follow(persons, parts, when)
    ranked = some(9, n=6, columns=3, images=1)
    rows, ids = torch.tensor([0, 0, 4]), ["3", "1", "3"]
    got = persons.expected_utility(ranked, rows, ids)
    for i, (row, name) in enumerate(zip(rows, ids, strict=True)):
        u, want = persons.ids.get_loc(name), np.zeros(3)
        image = ranked.table[ranked.items[row]][:, 0]
        text = ranked.context_table[ranked.context[row]]
        for k, mine in enumerate(types.order):
            met = types.utility.meets(image, text)[:, mine]
            x = torch.cat([image[:, CONCEPTS], met[:, None]], 1)
            value = types.utility(image, text)[:, mine] + x @ persons.mean[u, k]
            want += persons.gamma[u, k].item() * value.numpy()
        assert (got[i] - got[i][0]).numpy() == pytest.approx(want - want[0], abs=1e-5)


@pytest.mark.parametrize("planted", [(1.0, 0.0, 0.5), (0.0, 1.0, 0.2)])
def test_the_spread_is_found_again(planted):
    types = a_model()
    data, _, _ = answered(types, some(4, n=9000, people=300), planted, seed=2)
    found = fit_spread(types, [data], [np.arange(9000)])
    assert (found.concepts == CONCEPTS).all()
    assert found.tastes.numpy() == pytest.approx(planted[:2], abs=0.2)
    assert found.faithfulness == pytest.approx(planted[2], abs=0.1)


def test_a_person_nobody_spoke_of_is_refused():
    types, data = a_model(), some(0)
    persons = strangers(types, a_spread(0.6, 0.3), data.person_ids[1:])
    with pytest.raises(BadData, match=r"Person '0' is not among these people \(1 such\)"):
        persons.predict(data)
    with pytest.raises(BadData, match="Person '0'"):
        persons.expected_utility(data, torch.tensor([0]), ["0"])
