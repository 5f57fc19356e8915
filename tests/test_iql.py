"""IQL against exact dynamic programming, its losses and statistics by hand, resuming."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pasta_lib.choices import BadData
from pasta_lib.iql import (
    IQLConfig,
    expectile_loss,
    learn,
    load_trained,
    new_networks,
    save_trained,
    slate_statistics,
)

ITEMS, TURNS = 4, 3
PAIRS = torch.tensor(list(itertools.combinations(range(ITEMS), 2)))  # slates of two


class Table(nn.Module):
    """V of (turn, item that was picked last)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(TURNS + 1, ITEMS))

    def forward(self, history):
        return self.table[torch.arange(TURNS + 1), history]


class Additive(nn.Module):
    """f of (turn, item picked last, item of the slate), averaged over the slate."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(TURNS, ITEMS, ITEMS))

    def forward(self, history, slates):
        turn = torch.arange(TURNS)[:, None]
        return self.table[turn, history[:, :-1, None], PAIRS[slates]].mean(2)


def slate_mdp(softmax=False):
    """A slate of two of four items; the pick, even or by softmax, is the next state. Logs of
    slates at random, and exact V*: `[TURNS + 1, ITEMS]`."""
    rng = np.random.default_rng(0)
    utility = torch.as_tensor(rng.normal(2, 1, size=(ITEMS, ITEMS)), dtype=torch.float32)
    shown = utility[:, PAIRS]  # [state, slate, 2]
    pick = shown.mul(2).softmax(2) if softmax else torch.full_like(shown, 0.5)
    exact = torch.zeros(TURNS + 1, ITEMS)
    for turn in reversed(range(TURNS)):
        following = exact[turn + 1][PAIRS]
        exact[turn] = (shown.mean(2) + (pick * following).sum(2)).max(1).values
    n = 20_000
    states, slates = np.zeros((n, TURNS + 1), int), rng.integers(len(PAIRS), size=(n, TURNS))
    states[:, 0] = rng.integers(ITEMS, size=n)
    for turn in range(TURNS):
        p = pick[states[:, turn], slates[:, turn]].numpy()
        which = (rng.random(n) > p[:, 0]).astype(int)
        states[:, turn + 1] = PAIRS.numpy()[slates[:, turn], which]
    states, slates = torch.as_tensor(states), torch.as_tensor(slates)
    reward = shown.mean(2)[states[:, :-1], slates]
    return (lambda rows: (states[rows], slates[rows], reward[rows])), n, exact


def solved(batch, n, expectile, critic=Additive):
    config = IQLConfig(expectile=expectile, learning_rate=0.05, weight_decay=0.0, steps=3000,
                       batch=512, polyak=0.05)  # fmt: skip
    critics = nn.ModuleList([critic(), critic()])
    return learn(Table(), critics, batch, n, seed=0, config=config, progress=False)


def test_a_small_slate_mdp_is_solved():
    """Where picks are even, Q is additive: V comes within 1 % of V*, and below it at α = ½."""
    batch, n, exact = slate_mdp()
    found = solved(batch, n, 0.999).value.table
    assert torch.allclose(found[:TURNS], exact[:TURNS], rtol=0.01)
    average = solved(batch, n, 0.5).value.table
    assert (average[:TURNS] < exact[:TURNS] - 0.02).all()


def test_under_softmax_choice_the_additive_form_is_biased_and_a_free_one_is_not():
    class Free(nn.Module):
        """Q of every slate on its own."""

        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(TURNS, ITEMS, len(PAIRS)))

        def forward(self, history, slates):
            return self.table[torch.arange(TURNS), history[:, :-1], slates]

    batch, n, exact = slate_mdp(softmax=True)
    free = solved(batch, n, 0.999, Free).value.table
    additive = solved(batch, n, 0.999).value.table
    assert torch.allclose(free[:TURNS], exact[:TURNS], rtol=0.02)
    assert (additive - exact)[0].abs().max() > 2 * (free - exact)[0].abs().max()


def test_one_step_by_hand():
    """V goes towards the lower of two target critics, both critics towards r + V(h')."""
    critics, value = nn.ModuleList([Additive(), Additive()]), Table()
    with torch.no_grad():
        critics[0].table.fill_(5.0)
        critics[1].table.fill_(1.0)
        value.table.fill_(2.0)
    states, slates = torch.zeros(4, TURNS + 1, dtype=torch.long), torch.zeros(4, TURNS, dtype=int)
    config = IQLConfig(steps=1, batch=4, learning_rate=0.01, weight_decay=0.0)
    learn(value, critics, lambda rows: (states, slates, torch.ones(4, TURNS)), 4, seed=0,
          config=config, progress=False)  # fmt: skip
    assert (value.table[:TURNS, 0] < 2).all()  # 1 is lower than 2; the mean, or 5, is not
    goal = torch.tensor([3.0, 3.0, 1.0])  # r + V, but for the last turn
    for critic, was in zip(critics, (5.0, 1.0), strict=True):
        moved = critic.table[torch.arange(TURNS), 0, 0] - was
        assert (moved.sign() == (goal - was).sign()).all()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    batch, n, _ = slate_mdp()
    config = IQLConfig(steps=100, batch=16)
    path = tmp_path / "c.safetensors"

    def run(seed=0, config=config):
        critics = nn.ModuleList([Additive(), Additive()])
        learn(Table(), critics, batch, n, seed=seed, config=config, checkpoint=path, progress=False)

    run()
    for other in ({"seed": 1}, {"config": replace(config, expectile=0.9)}):
        with pytest.raises(BadData, match="another training"):
            run(**other)


def test_the_minimum_of_the_expectile_loss():
    """Of {0, 1} it is α."""
    outcomes = torch.tensor([0.0, 1.0])
    for expectile in (0.5, 0.8, 0.95):
        grid = torch.linspace(0, 1, 1001)
        losses = torch.stack([expectile_loss(outcomes - v, expectile) for v in grid])
        assert grid[losses.argmin()].item() == pytest.approx(expectile, abs=2e-3)


def test_what_a_pick_would_reveal():
    """Types that pick apart: all of the belief's entropy. Types that agree: nothing."""
    belief = torch.tensor([0.5, 0.25, 0.25])
    apart = torch.zeros(4, 3)
    apart[[0, 1, 2], [0, 1, 2]] = 60.0
    mean, picked, information = slate_statistics(belief, apart).tolist()
    assert information == pytest.approx(1.5 * math.log(2), abs=1e-4)
    assert mean == pytest.approx(15) and picked == pytest.approx(60)
    alike = torch.randn(4, 1).expand(4, 3)
    assert slate_statistics(belief, alike)[2].item() == pytest.approx(0, abs=1e-5)
    worth = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0))
    for got, one in zip(slate_statistics(belief, worth), worth, strict=True):
        joint = one.double().softmax(0) * belief  # [L, K]
        marginal = joint.sum(1, keepdim=True) * belief
        expected = (joint * (joint / marginal).log()).sum()
        assert got[2].item() == pytest.approx(expected.item(), abs=1e-5)
        assert got[1].item() == pytest.approx((joint * one).sum().item(), abs=1e-5)


def test_interrupted_training_goes_on_to_the_same_end(tmp_path):
    batch, n, _ = slate_mdp()
    config = IQLConfig(steps=300, batch=64, learning_rate=0.05)

    def run(checkpoint, stop=10**9):
        calls = itertools.count()

        def interrupted(rows):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return batch(rows)

        critics = nn.ModuleList([Additive(), Additive()])
        return learn(Table(), critics, interrupted, n, seed=1, config=config,
                     checkpoint=checkpoint, progress=False)  # fmt: skip

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c.safetensors", stop=250)
    assert len(list(tmp_path.iterdir())) == 1  # no half-written file
    resumed = run(tmp_path / "c.safetensors")
    for a, b in zip(whole.critics.parameters(), resumed.critics.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.value.table, resumed.value.table) and whole.log == resumed.log


def test_networks_are_kept_in_half_precision(tmp_path):
    config = IQLConfig(hidden=16, slate_level=True)
    value, critics = new_networks(5, 15, 3, config, seed=4)
    from pasta_lib.iql import Trained

    save_trained(Trained(critics, value, [{"step": 100}]), tmp_path / "t.safetensors")
    back = load_trained(tmp_path / "t.safetensors", 5, 15, 3, config)
    assert back.log == [{"step": 100}]
    for a, b in zip(critics.parameters(), back.critics.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    with pytest.raises(RuntimeError):
        load_trained(tmp_path / "t.safetensors", 5, 15, 4, config)
    with pytest.raises(ValueError, match="needs belief=True"):
        new_networks(5, 15, 3, replace(config, belief=False))
