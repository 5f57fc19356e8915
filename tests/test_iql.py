"""IQL against exact dynamic programming, its losses and statistics by hand, resuming."""

import itertools
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
)
from pasta_lib.slate_mdp import AdditiveTable, SlateMDP, SlateTable, TableValue
from pasta_lib.text_worth import TextWorth

TURNS = 3


def slate_mdp(sharpness=0.0):
    utility = np.random.default_rng(0).normal(2, 1, size=(4, 4))
    return SlateMDP(torch.as_tensor(utility, dtype=torch.float32), TURNS, sharpness)


def solved(mdp, expectile, critic=AdditiveTable):
    """V `[TURNS, 4]` by IQL, from 20,000 sessions."""
    config = IQLConfig(expectile=expectile, learning_rate=0.05, weight_decay=0.0, steps=3000,
                       batch=512, polyak=0.05)  # fmt: skip
    critics = nn.ModuleList([critic(mdp), critic(mdp)])
    batch = mdp.logs(20_000, seed=0)
    out = learn(TableValue(mdp), critics, batch, 20_000, seed=0, config=config, progress=False)
    return out.value.table[:TURNS]


def test_dynamic_programming_agrees_with_trying_all_plans():
    """Every rule that says which slate to show after which pick, by hand, two turns and three
    prompts; picks by softmax."""
    utility = torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 6.0]])
    mdp = SlateMDP(utility, 2, sharpness=0.7)
    pairs = [(0, 1), (0, 2), (1, 2)]
    best = np.full(3, -np.inf)
    for first in pairs:
        for last in itertools.product(pairs, repeat=3):  # after each pick
            for start in range(3):
                p = np.exp(0.7 * utility[start, list(first)].numpy())
                total = utility[start, list(first)].mean().item()
                for chance, pick in zip(p / p.sum(), first, strict=True):
                    total += chance * utility[pick, list(last[pick])].mean().item()
                best[start] = max(best[start], total)
    assert mdp.values()[0][0].numpy() == pytest.approx(best, abs=1e-5)


def test_a_small_slate_mdp_is_solved():
    """Where picks are even, Q is additive: V comes within 1 % of V*, and below it at α = ½."""
    mdp = slate_mdp()
    exact = mdp.values()[0][:TURNS]
    assert torch.allclose(solved(mdp, 0.999), exact, rtol=0.01)
    assert (solved(mdp, 0.5) < exact - 0.02).all()


def test_under_softmax_choice_the_additive_form_is_biased_and_a_free_one_is_not():
    mdp = slate_mdp(sharpness=2.0)
    exact = mdp.values()[0][:TURNS]
    free, additive = solved(mdp, 0.999, SlateTable), solved(mdp, 0.999)
    assert torch.allclose(free, exact, rtol=0.02)
    assert (additive - exact)[0].abs().max() > 2 * (free - exact)[0].abs().max()


def test_one_step_by_hand():
    """V goes towards the lower of two target critics, both critics towards r + V(h')."""
    mdp = slate_mdp()
    critics = nn.ModuleList([AdditiveTable(mdp), AdditiveTable(mdp)])
    value = TableValue(mdp)
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
    mdp, n = slate_mdp(), 20_000
    batch = mdp.logs(n, seed=0)
    config = IQLConfig(steps=100, batch=16)
    path = tmp_path / "c.safetensors"

    def run(seed=0, config=config, of=""):
        critics = nn.ModuleList([AdditiveTable(mdp), AdditiveTable(mdp)])
        more = {"seed": seed, "config": config, "of": of, "checkpoint": path, "progress": False}
        learn(TableValue(mdp), critics, batch, n, **more)

    run()
    for other in ({"seed": 1}, {"config": replace(config, expectile=0.9)}, {"of": "others"}):
        with pytest.raises(BadData, match="another training"):
            run(**other)


def test_the_minimum_of_the_expectile_loss():
    """Of {0, 1} it is α."""
    outcomes = torch.tensor([0.0, 1.0])
    for expectile in (0.5, 0.8, 0.95):
        grid = torch.linspace(0, 1, 1001)
        losses = torch.stack([expectile_loss(outcomes - v, expectile) for v in grid])
        assert grid[losses.argmin()].item() == pytest.approx(expectile, abs=2e-3)


def test_interrupted_training_goes_on_to_the_same_end(tmp_path):
    mdp, n = slate_mdp(), 20_000
    batch = mdp.logs(n, seed=0)
    config = IQLConfig(steps=300, batch=64, learning_rate=0.05)

    def run(checkpoint, stop=10**9):
        calls = itertools.count()

        def interrupted(rows):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return batch(rows)

        critics = nn.ModuleList([AdditiveTable(mdp), AdditiveTable(mdp)])
        return learn(TableValue(mdp), critics, interrupted, n, seed=1, config=config,
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

    begins = TextWorth(5, 12).requires_grad_(False)
    save_trained(Trained(critics, value, [{"step": 100}], begins), tmp_path / "t.safetensors")
    back = load_trained(tmp_path / "t.safetensors", 5, 15, 3, config)
    text = torch.rand(7, 5)
    assert torch.allclose(back.prospects(text, text), begins(text, text), atol=5e-3)
    assert back.log == [{"step": 100}]
    for a, b in zip(critics.parameters(), back.critics.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    with pytest.raises(RuntimeError):
        load_trained(tmp_path / "t.safetensors", 5, 15, 4, config)
    with pytest.raises(BadData, match="not of slate_level=False"):
        load_trained(tmp_path / "t.safetensors", 5, 15, 3, replace(config, slate_level=False))
    with pytest.raises(ValueError, match="needs belief=True"):
        new_networks(5, 15, 3, replace(config, belief=False))
