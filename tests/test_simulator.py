"""Simulated users do what the user model says, and beliefs are its posterior."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pasta_lib.baselines import untrained
from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.deviations import what_and_how_far
from pasta_lib.panel import Panel
from pasta_lib.sessions import NONE, UNJUDGED, Sessions, begin, play
from pasta_lib.simulator import (
    ColumnWorth,
    SimulatedUsers,
    beliefs,
    column_worth,
    deviating,
    draw_users,
    expected_utility,
    fit_to_sessions,
    log_likelihoods,
)
from pasta_lib.user_types import UserTypes
from pasta_lib.world import raters
from pasta_lib.world.agent_study import training_prompts
from pasta_lib.world.reachable import reachable

K, MEMBERS, PROMPTS, WIDTH, CONCEPTS = 3, 40, 5, 6, 4


def filled(seed=0):
    """A utility whose every parameter says something, and vectors of pictures and prompts."""
    g = torch.Generator().manual_seed(seed)
    usual = torch.full((CONCEPTS,), 0.3)
    utility = ClipUtility(WIDTH, usual, usual, K, 5.0, torch.tensor([[3, 2], [1, 0]]))
    with torch.no_grad():
        for parameter in utility.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g)
        utility.tenth_log_scale.fill_(0.0)
        utility.tenth_log_share.fill_(-0.05)
    pictures, prompts = (
        torch.cat([torch.randn(n, WIDTH, generator=g), torch.rand(n, CONCEPTS, generator=g)], 1)
        for n in (MEMBERS * 4, PROMPTS)
    )
    return utility, pictures.unflatten(0, (MEMBERS, 4)), prompts


@pytest.fixture(scope="module")
def made():
    utility, pictures, prompts = filled()
    log_prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    types = UserTypes.of(utility, log_prior, some_choices(pictures, prompts), None)
    initial = np.array([3, 8, 2, 30, 11])
    worth = column_worth(types, pictures, prompts, initial, at_once=2, progress=False)
    return types, pictures, prompts, initial, worth


def some_choices(pictures, prompts, members=None, prompt=None, **more):
    if members is None:
        members, prompt = np.arange(8).reshape(2, 4), np.array([0, 1])
        more = {"target": np.array([0, 1]), "person": np.array([0, 1])}
    return ChoiceData.from_arrays(
        items=members[..., None] * 4 + np.arange(4), table=pictures.flatten(0, 1).numpy(),
        context=prompt, context_table=prompts.numpy(), **more,
    )  # fmt: skip


def random_sessions(initial, n=200, turns=5, seed=1):
    """People who pick and judge at random, and sometimes nothing at all."""
    rng = np.random.default_rng(seed)
    member = np.stack([rng.permutation(MEMBERS)[: turns * 4].reshape(turns, 4) for _ in range(n)])
    chosen = rng.integers(-1, 4, size=(n, turns))
    seen = np.cumsum(chosen != NONE, 1) - (chosen != NONE) > 0
    versus = np.where((chosen != NONE) & seen, rng.integers(-1, 2, size=(n, turns)), UNJUDGED)
    versus[:9] = -1  # also where nothing was picked, which tells nothing
    return Sessions(np.arange(n), np.arange(n), rng.choice(initial, n), member,
                    np.zeros_like(member), np.zeros_like(member), chosen, versus)  # fmt: skip


def test_a_columns_worth_is_what_the_user_model_says(made):
    types, pictures, prompts, initial, worth = made
    members = np.random.default_rng(0).permutation(MEMBERS).reshape(10, 4)
    prompt = np.arange(10) % PROMPTS
    data = some_choices(pictures, prompts, members, prompt, person=np.arange(10),
                        target=np.zeros(10, int))  # fmt: skip
    expected = types.column_utilities(data)
    assert torch.allclose(worth.of(initial[prompt], members), expected, atol=1e-5)
    assert worth.table.std() > 0.1


def test_a_belief_is_the_posterior_of_the_same_picks_and_judgements(made):
    types, pictures, prompts, initial, worth = made
    sessions = random_sessions(initial)
    row = worth.row[sessions.initial]
    s, t = np.nonzero(sessions.chosen != NONE)
    picks = some_choices(pictures, prompts, sessions.member[s, t], row[s], person=s,
                         target=sessions.chosen[s, t])  # fmt: skip
    picked = np.take_along_axis(sessions.member, sessions.chosen[..., None], 2)[..., 0]
    before = np.cumsum(sessions.chosen != NONE, 1) - (sessions.chosen != NONE) > 0
    told = (sessions.versus_last != UNJUDGED) & (sessions.chosen != NONE) & before
    s, t = np.nonzero(told)
    last = [max(u for u in range(b) if sessions.chosen[a, u] != NONE) for a, b in zip(s, t)]  # noqa: B905
    versus = sessions.versus_last[s, t]
    judgements = some_choices(
        pictures, prompts, np.stack([picked[s, t], picked[s, last]], 1), row[s], person=s,
        target=np.stack([versus == 1, versus == -1], 1).astype(float),
        tie=(versus == 0).astype(float),
    )  # fmt: skip
    gamma = beliefs(worth, sessions)[:, -1].double()
    panel = Panel.of(picks, judgements)
    there = np.asarray(panel.person_ids, int)
    assert torch.allclose(gamma[there], types.posterior(panel), atol=1e-5)
    nothing = np.setdiff1d(np.arange(200), there)
    assert torch.allclose(gamma[nothing], worth.log_prior.exp().expand(len(nothing), -1))
    parts = log_likelihoods(worth, sessions)
    assert (parts[torch.as_tensor(sessions.chosen == NONE)] == 0).all()


def test_a_belief_does_not_hang_on_the_order_of_sessions_or_types(made):
    *_, initial, worth = made
    sessions, order = random_sessions(initial), np.random.default_rng(2).permutation(200)
    gamma = beliefs(worth, sessions)[:, -1]
    assert torch.equal(beliefs(worth, sessions.select(order))[:, -1], gamma[order])
    swapped = ColumnWorth(
        worth.table[..., [2, 0, 1]], worth.row, worth.log_prior[[2, 0, 1]], worth.log_tie
    )
    assert torch.allclose(beliefs(swapped, sessions)[:, -1], gamma[:, [2, 0, 1]])


def test_simulated_people_pick_and_judge_as_often_as_the_model_says(made):
    *_, initial, worth = made
    n = 40_000
    users = SimulatedUsers(worth, np.full(n, 1), seed=3)
    start = begin(np.arange(n), np.arange(n), np.full(n, initial[0]))
    slate = np.tile([5, 1, 7, 20], (n, 1))
    values = users.values(start, slate)
    chosen = users.choose(start, slate, values)
    p = torch.as_tensor(values[0]).softmax(0).numpy()
    assert np.bincount(chosen, minlength=4) / n == pytest.approx(p, abs=0.01)
    new, last = values[:, 0], values[:, 1]
    said = users.judge(start, new, last)
    logits = torch.tensor([last[0], (new[0] + last[0]) / 2 + float(worth.log_tie), new[0]])
    assert np.bincount(said + 1) / n == pytest.approx(logits.softmax(0).numpy(), abs=0.01)


def test_types_are_drawn_from_the_prior_and_do_not_hang_on_how_many(made):
    *_, worth = made
    users = draw_users(worth, 30_000, seed=0)
    share = np.bincount(users.kind) / 30_000
    assert share == pytest.approx(worth.log_prior.exp().numpy(), abs=0.01)
    assert (draw_users(worth, 100, seed=0).kind == users.kind[:100]).all()


def test_people_deviate_from_their_types_in_what_columns_show(made):
    """Each by their own taste, which hangs on nobody else; what a type likes is not touched."""
    types, pictures, _, initial, worth = made
    spread = what_and_how_far(types, 2.0, 0.5, 0.3)
    plain = draw_users(worth, 20_000, seed=0)
    users = deviating(plain, pictures, spread)
    assert users.own.std(0).numpy() == pytest.approx([2, 2, 0.5, 0.5], rel=0.03)
    assert users.own.mean(0).numpy() == pytest.approx(0, abs=0.05)
    assert np.corrcoef(users.own.T) == pytest.approx(np.eye(4), abs=0.03)
    few, others = (deviating(draw_users(worth, 10, seed), pictures, spread) for seed in (0, 1))
    assert torch.equal(few.own, users.own[:10]) and not torch.equal(few.own, others.own)
    start = begin(np.arange(3), np.array([5, 0, 19_999]), initial[:3])
    member = np.array([[1, 2, 3, 4], [4, 4, 0, 39], [7, 8, 9, 10]])
    more = users.values(start, member) - plain.values(start, member)
    for s, person in enumerate(start.person):
        for c in range(4):
            shows = pictures[member[s, c]][:, [8, 9, 6, 7]].mean(0).numpy()  # concepts 2, 3, 0, 1
            assert more[s, c] == pytest.approx(shows @ users.own[person].numpy(), abs=1e-5)


def test_simulated_people_are_recognised(made):
    """Planted types come back: as often as the posterior itself believes."""
    g = torch.Generator().manual_seed(5)
    table = 2 * torch.randn(1, len(reachable()), K, generator=g)
    row = np.full(len(reachable()), -1)
    row[7] = 0
    worth = ColumnWorth(table, row, torch.zeros(K).double() - math.log(K), torch.tensor(0.0))
    users = draw_users(worth, 3000, seed=1)
    start = begin(np.arange(3000), np.arange(3000), np.full(3000, 7))
    sessions = play(start, untrained(0), users, 0)
    gamma = beliefs(worth, sessions)[:, -1].numpy()
    assert gamma[np.arange(3000), users.kind].mean() > 0.7
    sure = gamma.max(1)
    right = gamma.argmax(1) == users.kind
    assert right.mean() == pytest.approx(sure.mean(), abs=0.02)  # calibrated


def test_the_tie_threshold_and_the_loyalty_of_sessions_are_recovered():
    g = torch.Generator().manual_seed(6)
    row = np.full(len(reachable()), -1)
    row[7] = 0
    table = torch.randn(1, len(reachable()), K, generator=g)
    prior = torch.zeros(K).double() - math.log(K)
    worth = ColumnWorth(table, row, prior, torch.tensor(0.7), loyalty=0.5)
    number = np.arange(6000)
    start = begin(number, number, np.full(6000, 7))
    sessions = play(start, untrained(0), draw_users(worth, 6000, 2), 0)
    asked = ColumnWorth(table, row, prior, torch.tensor(-1.0))
    found = fit_to_sessions(asked, sessions)
    assert float(found.log_tie) == pytest.approx(0.7, abs=0.06)
    assert found.loyalty == pytest.approx(0.5, abs=0.08)


def test_the_reward_knows_a_person_from_all_of_their_sessions(made):
    """By hand, slate by slate: sessions 0 and 1 are of one person, whatever their numbers."""
    *_, initial, worth = made
    sessions = replace(random_sessions(initial, 3), person=np.array([9, 9, 4]))
    each = log_likelihoods(worth, sessions).sum(1)
    total = torch.stack([each[0] + each[1], each[0] + each[1], each[2]])
    gamma = (worth.log_prior + total).softmax(1).numpy()
    got = expected_utility(worth, sessions)
    for s in range(3):
        for t in range(5):
            columns = worth.of(sessions.initial[[s]], sessions.member[[s], t])[0].numpy()
            assert got[s, t] == pytest.approx((columns @ gamma[s]).mean(), abs=1e-4)


def test_simulated_sessions_begin_from_prompts_that_are_not_held_out():
    prompts = training_prompts(500, 1)
    assert not raters.held_out_prompts(1)[prompts].any()
    assert np.isin(prompts, raters.initial_prompts(1)).all()
    assert (training_prompts(40, 1) == prompts[:40]).all()


def test_what_was_picked_last_is_worth_more_when_it_comes_again(made):
    """By hand: a turn without a pick between them changes nothing; nothing stands at first."""
    *_, initial, worth = made
    loyal = replace(worth, loyalty=0.9)
    member = np.array([[[1, 2, 3, 4], [5, 6, 7, 8], [2, 9, 1, 6], [9, 3, 5, 2]]])
    chosen, none = np.array([[1, NONE, 0, 1]]), np.zeros_like(member)
    session = Sessions(np.zeros(1, int), np.zeros(1, int), initial[:1], member, none, none, chosen,
                       np.full((1, 4), UNJUDGED))  # fmt: skip
    assert session.standing().tolist() == [[-1, 2, 2, 2, 3]]
    extra = torch.zeros(4, 4)
    extra[2, 0] = extra[3, 3] = 0.9
    utility = worth.of(session.initial, member)[0].double() + extra[..., None]
    log_p = utility.log_softmax(1)
    expected = torch.stack([log_p[0, 1], 0 * log_p[0, 0], log_p[2, 0], log_p[3, 1]])
    assert torch.allclose(log_likelihoods(loyal, session)[0], expected, atol=1e-6)


def test_a_prompt_that_was_not_foreseen_is_named(made):
    *_, worth = made
    with pytest.raises(BadData, match="Session 1 begins with member 4"):
        worth.of(np.array([3, 4]), np.zeros((2, 4), int))
    users = SimulatedUsers(worth, np.zeros(2, int), 0)
    with pytest.raises(BadData, match="Session 0 begins with member 4"):
        play(begin(np.arange(2), np.arange(2), np.array([4, 3])), untrained(0), users, 0)
