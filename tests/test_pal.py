"""The baseline that mixes utilities: planted mixtures are recovered, and nobody sees the future."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.pal import PALConfig, Prototypes, fit_pal
from pasta_lib.panel import Panel

D, PEOPLE, EACH = 4, 60, 40
CONFIG = PALConfig(epochs=30, batch=100, ridge=1e-3)


class Plain(nn.Module):
    def __init__(self, n_types):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_types, D))
        self.log_tie = nn.Parameter(torch.tensor(-0.5))

    def forward(self, features):
        return features @ self.weight.T


def planted(seed=0, people=PEOPLE, each=EACH):
    """Everybody lies between two prototypes: w of the first thing, 1 - w of the second."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0, 1, people)
    taste = np.zeros((people, D))
    taste[:, 0], taste[:, 1] = 4 * share, 4 * (1 - share)
    person = np.repeat(np.arange(people), each)
    x = rng.normal(size=(len(person), 3, D))
    worth = (x * taste[person][:, None]).sum(2)
    target = (worth + rng.gumbel(size=worth.shape)).argmax(1)
    return ChoiceData.from_arrays(x.astype(np.float32), target=target, person=person), share, worth


def known(n_types=2):
    utility = Plain(n_types)
    utility.weight.data[0, 0] = utility.weight.data[1, 1] = 4.0
    return Prototypes(utility.requires_grad_(False), n_types, CONFIG)


def test_planted_mixtures_are_recovered():
    data, share, worth = planted()
    pal = fit_pal(data, Plain(2), 2, seed=0, config=CONFIG, progress=False)
    weight = pal.posterior(data).numpy()
    first = int(pal.utility.weight[:, 0].argmax())
    assert np.corrcoef(weight[:, first], share)[0, 1] > 0.9
    chosen = data.target.argmax(1)
    p = pal.predict(data, torch.as_tensor(weight))
    best = torch.as_tensor(worth).log_softmax(1)[torch.arange(len(p)), chosen].mean()
    assert p[torch.arange(len(p)), chosen].log().mean() > best - 0.03


def test_a_person_is_placed_by_what_they_did():
    """Against the maximum over a fine grid of weights."""
    data, _, _ = planted(each=6)
    pal = replace(known(), config=replace(CONFIG, steps=300))
    weight = pal.posterior(data)[:, 0].numpy()
    utility = pal.column_utilities(data)
    logit = torch.linspace(-8, 8, 3201)
    grid = torch.stack([torch.sigmoid(logit), torch.sigmoid(-logit)])
    log_p = torch.log_softmax(torch.einsum("nlk,kg->nlg", utility, grid), 1)
    each = log_p[torch.arange(len(utility)), data.target.argmax(1)]
    total = torch.zeros(data.n_people, len(logit)).index_add_(0, data.person, each)
    # Two logits at ± half: the prior costs half as much as one logit's would.
    total = total - logit.square() / (4 * CONFIG.spread**2)
    assert weight == pytest.approx(torch.sigmoid(logit[total.argmax(1)]).numpy(), abs=0.01)


def test_what_came_before_is_all_that_is_known():
    data, _, _ = planted(people=7, each=5)
    ties = ChoiceData.from_arrays(
        data.features()[::2, :2, 0], person=data.person_ids[data.person][::2],
        target=np.tile([[1.0, 0], [0, 0], [0, 1]], (6, 1)), tie=np.tile([0.0, 1, 0], 6),
    )  # fmt: skip
    when = (2 * np.arange(35), 4 * np.arange(18) + 1)
    pal = known()
    got = pal.posterior_before([data, ties], when)
    for p, part in enumerate((data, ties)):
        for n in (0, 4, 5, 9, 17):
            person = part.person_ids[part.person[n]]
            earlier = [
                other.select((other.person_ids[other.person] == person) & (t < when[p][n]))
                for other, t in zip((data, ties), when, strict=True)
            ]
            earlier = [e for e in earlier if e.n_observations]
            want = pal.posterior(Panel.of(*earlier))[0] if earlier else pal.prior
            assert torch.allclose(got[p][n], want, atol=1e-4)


def test_moments_may_be_any_numbers_but_in_order():
    data, _, _ = planted(people=4, each=5)
    pal, when = known(), np.tile(np.arange(5.0), 4)
    (plain,) = pal.posterior_before([data], [when])
    (late,) = pal.posterior_before([data], [1e9 * when - 3e9])
    assert torch.equal(plain, late)
    with pytest.raises(BadData, match="in the order of `when`"):
        pal.posterior_before([data], [when[::-1]])


def test_alternatives_that_are_not_there_do_not_count():
    data, _, _ = planted(people=5, each=4)
    padded = replace(data, items=torch.cat([data.items, torch.full((20, 1, 1), -1)], 1),
                     target=torch.cat([data.target, torch.zeros(20, 1).double()], 1))  # fmt: skip
    pal = known()
    weight = pal.posterior(data)
    assert torch.allclose(pal.posterior(padded), weight, atol=1e-5)
    p = pal.predict(padded, weight)
    assert torch.allclose(p[:, :3], pal.predict(data, weight)) and (p[:, 3] == 0).all()
    fits = [fit_pal(d, Plain(2), 2, seed=0, config=replace(CONFIG, epochs=3), progress=False)
            for d in (data, padded)]  # fmt: skip
    assert torch.allclose(fits[0].utility.weight, fits[1].utility.weight, atol=1e-5)


def test_the_same_seed_gives_the_same_prototypes():
    data, _, _ = planted(people=10)
    few = replace(CONFIG, epochs=2)
    one, other, third = (
        fit_pal(data, Plain(3), 3, seed=s, config=few, progress=False).utility.weight
        for s in (0, 0, 1)
    )
    assert torch.equal(one, other) and not torch.equal(one, third)


def test_one_observation_is_enough_to_be_placed():
    data = planted()[0]
    one = data.select(torch.arange(data.n_observations) == 0)
    assert known().posterior_before([one], [np.zeros(1)])[0].shape == (1, 2)


def test_a_strong_ridge_keeps_prototypes_where_they_began():
    data, start = planted()[0], Plain(2)
    torch.nn.init.constant_(start.weight, 0.5)
    moved = {}
    for ridge in (1e-3, 1e7):
        config = replace(CONFIG, ridge=ridge, epochs=10)
        found = fit_pal(data, start, 2, seed=0, config=config, progress=False)
        moved[ridge] = (found.utility.weight - 0.5).abs().max().item()
    assert moved[1e7] < 0.1 < 0.5 < moved[1e-3]
