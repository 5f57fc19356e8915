"""Agents choose what they say, and look at nothing that they may not see."""

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

from pasta_lib.agents import (
    curious,
    greedy,
    information,
    iql_agent,
    peeking,
    promising_slates,
    told,
)
from pasta_lib.baselines import best_slate, untrained
from pasta_lib.candidates import CATEGORY, propose, wordings
from pasta_lib.histories import Reader, language_reader, transcripts
from pasta_lib.iql import (
    IQLConfig,
    Trained,
    _read,
    new_networks,
    train_iql,
)
from pasta_lib.prospects import history_of, slates_of
from pasta_lib.sessions import NONE, Sessions, begin, play
from pasta_lib.simulator import ColumnWorth, SimulatedUsers, beliefs
from pasta_lib.text_worth import (
    TextWorth,
    TextWorthConfig,
    fit_text_worth,
    load_text_worth,
    save_text_worth,
    text_features,
)
from pasta_lib.world import oracle, raters
from pasta_lib.world.people import PART, draw_law, draw_population
from pasta_lib.world.reachable import reachable

K, N, F = 3, 40, 5
PER_TURN = ("member", "wording", "category", "chosen", "versus_last")
INITIAL = np.array([2, 70, 500])
EVERY_SLATE = np.array([s for s in combinations(range(25), 4) if len(set(CATEGORY[list(s)])) == 4])


def random_worth(kinds):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextWorth(F, kinds, hidden=8).requires_grad_(False)


@pytest.fixture(scope="module")
def reader():
    g = torch.Generator().manual_seed(0)
    members = len(reachable())
    features = torch.rand(members, 6, F, generator=g)
    text_worth = random_worth(K)
    text_worth.net[-1].weight *= 30  # some texts are liked more than others
    text_worth.deviation.fill_(5.0)
    row = np.full(members, -1)
    row[INITIAL] = np.arange(3)
    table = 2 * torch.randn(3, members, K, generator=g)
    prior = torch.tensor([0.5, 0.3, 0.2]).double().log()
    worth = ColumnWorth(table, row, prior, torch.tensor(0.2))
    return Reader(features, text_worth, worth)


def started(n=N):
    return begin(np.arange(n), np.arange(n), INITIAL[np.arange(n) % 3])


@pytest.fixture(scope="module")
def moment(reader):
    """After two turns: the sessions, and what may come next."""
    users = SimulatedUsers(reader.column_worth, np.arange(N) % K, 0)
    sessions = play(started(), untrained(1), users, 0, turns=2)
    shown = sessions.member.reshape(N, -1)
    return sessions, propose(sessions.initial, *sessions.current(), shown, sessions.session, 0)


def trained(slate_level):
    config = IQLConfig(hidden=12, slate_level=slate_level)
    value, critics = new_networks(F, 2 * F + 5, K, config, 0)
    with torch.no_grad():
        for critic in critics:
            for parameter in critic.parameters():
                parameter *= 3
    prospects = random_worth(4 * K)
    prospects.net[-1].weight *= 10
    prospects.deviation.fill_(10.0)
    return Trained(critics.requires_grad_(False), value.requires_grad_(False), [], prospects)


def agents(reader):
    return {
        "greedy": greedy(reader),
        "noisy": greedy(reader, noise=1.0, seed=3),
        "curious": curious(reader, weight=5.0),
        "additive": iql_agent(trained(False), reader),
        "slate-level": iql_agent(trained(True), reader),
        "peeking": peeking(reader.column_worth),
        "told": told(reader, np.arange(N) % K),
    }


def test_the_best_slate_of_an_additive_critic_is_exact():
    """Against all 3,125 admissible slates, on a thousand random cases, half of them with ties."""
    rng = np.random.default_rng(0)
    score = rng.normal(size=(1000, 25))
    score[500:] = rng.integers(0, 3, size=(500, 25))
    assert len(EVERY_SLATE) == 5**5
    best = score[:, EVERY_SLATE].sum(2).max(1)
    slates = best_slate(score)
    assert np.take_along_axis(score, slates, 1).sum(1) == pytest.approx(best)
    assert (np.diff(np.sort(CATEGORY[slates], 1)) > 0).all()
    assert (best_slate(np.zeros((1, 25)))[0] == [0, 5, 10, 15]).all()  # ties: the first of each


def test_promising_slates_are_all_of_the_best_of_each_category():
    score = torch.as_tensor(np.random.default_rng(1).normal(size=(3, 25)))
    everything = {frozenset(s) for s in promising_slates(score, 5)[0].tolist()}
    assert everything == {frozenset(s) for s in EVERY_SLATE.tolist()}
    some = promising_slates(score, 2)
    assert some.shape == (3, 5 * 2**4, 4)
    for row, slates in zip(score.numpy(), some.numpy(), strict=True):
        rank = (row.reshape(5, 5)[:, :, None] < row.reshape(5, 5)[:, None]).sum(2).ravel()
        assert (rank[slates] < 2).all()
        assert len({frozenset(s) for s in slates.tolist()}) == len(slates)


def test_greedy_takes_what_the_posterior_expects_most(reader, moment):
    sessions, candidates = moment
    gamma = beliefs(reader.column_worth, sessions)[:, -1]
    slate = greedy(reader)(sessions, candidates)
    for s in range(0, N, 7):
        text = reader.features[candidates.member[s], candidates.wording[s]]
        each = reader.text_worth(reader.features[sessions.initial[s], 0], text) @ gamma[s]
        best = max(EVERY_SLATE.tolist(), key=lambda c, each=each: each[c].sum())
        assert set(slate[s]) == set(best)


def test_who_is_told_the_type_takes_what_it_likes_most(reader, moment):
    sessions, candidates = moment
    kind = np.random.default_rng(2).integers(K, size=N)
    slate = told(reader, kind)(replace(sessions, person=sessions.person[::-1].copy()), candidates)
    for s in range(0, N, 7):
        text = reader.features[candidates.member[s], candidates.wording[s]]
        each = reader.text_worth(reader.features[sessions.initial[s], 0], text)[:, kind[N - 1 - s]]
        best = max(EVERY_SLATE.tolist(), key=lambda c, each=each: each[c].sum())
        assert set(slate[s]) == set(best)


def test_a_slate_level_critic_takes_the_best_that_it_searched(reader, moment):
    """Against Q worked out slate by slate, pick by pick: the posterior after each by Bayes' rule,
    and what it expects to follow. What follows picks has a say: for the additive critic, some
    slates are others."""
    sessions, candidates = moment
    made = trained(True)
    critics, slate = made.critics, iql_agent(made, reader)(sessions, candidates)
    additive = iql_agent(trained(False), reader)(sessions, candidates)
    other = (np.sort(slate, 1) != np.sort(additive, 1)).any(1)
    assert 10 <= other.sum() <= 30
    gamma = beliefs(reader.column_worth, sessions)
    history = reader.history(sessions, gamma)
    for s in (*other.nonzero()[0][:4], *(~other).nonzero()[0][:2]):
        h = [critic.encoder(history)[s : s + 1, -1:] for critic in critics]
        one = sessions.select(np.array([s]))
        words = candidates.member[[s]][:, None], candidates.wording[[s]][:, None]
        texts = slates_of(reader, made.prospects, one, *words, [2])  # two turns are left
        score = torch.stack([c.items(x, texts)[0, 0] for c, x in zip(critics, h, strict=True)])
        slates = promising_slates(score.mean(0, keepdim=True))[0]
        follows, q = texts.follows[0, 0], []
        for t in slates:
            joint = texts.worth[0, 0, t].softmax(0) * gamma[s, -1]  # of pick and type
            after = joint / joint.sum(1, keepdim=True)
            expected = (joint.sum(1) * (after * follows[t]).sum(1)).sum()
            q.append(score[:, t].mean() - (follows[t] @ gamma[s, -1]).mean() + expected)
        assert set(slate[s]) == set(slates[torch.stack(q).argmax()].tolist())


def test_a_critics_value_of_a_slate_is_what_its_parts_say(reader, moment):
    sessions, _ = moment
    history = reader.history(sessions, beliefs(reader.column_worth, sessions))
    critic, prospects = trained(True).critics[0], trained(True).prospects
    slates = slates_of(reader, prospects, sessions, sessions.member, sessions.wording, [4, 3])
    h = critic.encoder(history)[:, :2]
    bare = replace(slates, follows=torch.zeros_like(slates.follows))
    expected = critic.state(h)[..., 0] + critic.items(h, bare).mean(2)
    assert torch.allclose(critic(history, bare), expected, atol=1e-5)
    picked = slates.worth.softmax(2)  # what follows: of each type's picks
    later = (picked * slates.follows * history.belief[:, :2, None]).sum((2, 3))
    assert torch.allclose(critic(history, slates), expected + later, atol=1e-5)
    additive = trained(False).critics[0]  # of each text alike
    later = (slates.follows * history.belief[:, :2, None]).sum(3).mean(2)
    assert torch.allclose(additive(history, slates), additive(history, bare) + later, atol=1e-5)


def test_v_begins_with_what_followed_from_the_prompt_that_stands(reader, moment):
    sessions, _ = moment
    made, belief = trained(True), beliefs(reader.column_worth, sessions)
    history = history_of(reader, made.prospects, sessions, belief)
    plain = reader.history(sessions, belief)
    assert torch.allclose(made.value(history) - made.value(plain), history.follows, atol=1e-5)
    assert (history.follows[:, 0] == 0).all()
    chosen = sessions.chosen.copy()
    chosen[:20, 0] = NONE  # then the initial prompt stands, of which nobody knows what follows
    skipped = replace(sessions, chosen=chosen)
    found = history_of(reader, made.prospects, skipped, belief).follows
    assert (found[:20, 1] == 0).all() and (found[:20, 2] == history.follows[:20, 2]).all()
    for s in range(0, N, 5):
        for t in (1, 2):  # of five; after the first four slates follow
            before = sessions.select(np.array([s]))
            before = replace(before, **{k: getattr(before, k)[:, :t] for k in PER_TURN})
            (member,), (wording,) = before.current()
            each = (
                made.prospects(
                    reader.features[sessions.initial[s], 0], reader.features[member, wording]
                )
                - made.prospects.mean
            )
            n = 5 - t
            expected = n * each.reshape(4, K)[n - 1] @ belief[s, t]
            assert history.follows[s, t].item() == pytest.approx(expected.item(), abs=1e-4)


def test_nobody_looks_at_pictures_before_they_are_drawn(reader, moment):
    """Other pictures of what was not shown yet change nothing, but for who peeks."""
    sessions, candidates = moment
    table = reader.column_worth.table.flip(2)
    shown = sessions.member.reshape(N, -1)
    for s in range(N):  # as they were: what somebody with this prompt has seen
        row = reader.column_worth.row[sessions.initial[s]]
        table[row, shown[s]] = reader.column_worth.table[row, shown[s]]
    worth = ColumnWorth(table, *list(vars(reader.column_worth).values())[1:])
    other = Reader(reader.features, reader.text_worth, worth)
    for (name, agent), same in zip(agents(reader).items(), agents(other).values(), strict=True):
        unmoved = (agent(sessions, candidates) == same(sessions, candidates)).all()
        assert unmoved == (name != "peeking"), name


def test_a_slate_does_not_hang_on_the_sessions_beside_it(reader, moment):
    sessions, candidates = moment
    rows = np.random.default_rng(5).permutation(N)[:13]
    some = type(candidates)(candidates.member[rows], candidates.wording[rows])
    for name, agent in agents(reader).items():
        alone = agent(sessions.select(rows), some)
        assert (alone == agent(sessions, candidates)[rows]).all(), name


def test_histories_tell_what_happened_before_and_not_what_comes(reader, moment):
    sessions, _ = moment
    history = reader.history(sessions, beliefs(reader.column_worth, sessions))
    assert (history.past[:, 0] == 0).all() and history.past.shape == (N, 3, 2 * F + 5)
    for s in range(0, N, 9):
        for t in range(2):
            words = reader.features[sessions.member[s, t], sessions.wording[s, t]]
            picked = sessions.chosen[s, t]
            past = history.past[s, t + 1]
            if picked != NONE:
                assert torch.allclose(past[:F], words[picked])
                others = [i for i in range(4) if i != picked]
                assert torch.allclose(past[F : 2 * F], words[others].mean(0))
            flags = [sessions.versus_last[s, t] == v for v in (1, 0, -1)] + [picked == NONE, True]
            assert past[2 * F :].tolist() == [float(f) for f in flags]
    assert torch.allclose(history.left[0, :, 0], torch.tensor([1.0, 0.8, 0.6]))
    for t in range(3):
        so_far = Sessions(**{k: v[:, :t] if v.ndim > 1 else v for k, v in vars(sessions).items()})
        now = beliefs(reader.column_worth, so_far)[:, -1].float()
        assert torch.allclose(history.belief[:, t], now, atol=1e-6)
    assert not torch.allclose(history.belief[:, 1], history.belief[:, 2], atol=1e-2)


def test_what_a_pick_would_reveal():
    """Types that pick apart: all of the belief's entropy. Types that agree: nothing."""
    belief = torch.tensor([0.5, 0.25, 0.25])
    apart = torch.zeros(4, 3)
    apart[[0, 1, 2], [0, 1, 2]] = 60.0
    assert information(belief, apart).item() == pytest.approx(1.5 * np.log(2), abs=1e-4)
    alike = torch.randn(4, 1).expand(4, 3)
    assert information(belief, alike).item() == pytest.approx(0, abs=1e-5)
    worth = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0))
    for got, one in zip(information(belief, worth), worth, strict=True):
        joint = one.double().softmax(0) * belief  # [L, K]
        marginal = joint.sum(1, keepdim=True) * belief
        expected = (joint * (joint / marginal).log()).sum()
        assert got.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_curious_agent_asks_where_it_knows_nothing(reader, moment):
    """Against every slate it searched: expected utility, and what the pick would tell."""
    sessions, candidates = moment
    slate = curious(reader, weight=5.0)(sessions, candidates)
    gamma = beliefs(reader.column_worth, sessions)[:, -1].float()
    for s in range(0, N, 11):
        one = sessions.select(np.array([s]))
        words = (part[[s]][:, None] for part in (candidates.member, candidates.wording))
        worth = reader.slates(one, *words).worth[0, 0]
        slates = promising_slates((worth @ gamma[s])[None])[0]
        now = (worth[slates] @ gamma[s]).mean(1)
        score = now + 5.0 * 0.4 * information(gamma[s], worth[slates])  # two of five turns to come
        assert set(slate[s]) == set(slates[score.argmax()].tolist())


def test_a_critic_learns_from_the_turns_of_its_sessions(reader, monkeypatch):
    """Rewards, slates and beliefs of a batch are of the same sessions and turns; before training,
    and without what followed in the logs, an agent is the greedy one, whichever its critic."""
    users = SimulatedUsers(reader.column_worth, np.arange(N) % K, 0)
    sessions = play(started(), untrained(1), users, 0)
    reward = np.arange(N * 5.0).reshape(N, 5)
    seen = {}

    def stub(value, critics, batch, n, **more):
        seen["batch"], seen["n"] = batch(torch.tensor([7, 3])), n
        return Trained(critics.requires_grad_(False), value, [])

    monkeypatch.setattr("pasta_lib.iql.learn", stub)
    fresh = {
        level: train_iql(sessions, reward, reader, seed=0, config=IQLConfig(slate_level=level))
        for level in (False, True)
    }
    history, slates, got = seen["batch"]
    expected = torch.tensor(reward[[7, 3]] - reward.mean()).float()
    assert seen["n"] == N and torch.allclose(got, expected)
    some = sessions.select(np.array([7, 3]))
    assert torch.equal(slates.text, reader.texts(some.member, some.wording))
    assert torch.allclose(history.belief, beliefs(reader.column_worth, some))
    begun = started()
    offered = propose(begun.initial, *begun.current(), np.zeros((N, 0), int), begun.session, 0)
    for new in fresh.values():
        same = np.sort(iql_agent(replace(new, prospects=None), reader)(begun, offered), 1)
        assert (same == np.sort(greedy(reader)(begun, offered), 1)).all()
    every = reader.slates(sessions, sessions.member, sessions.wording)
    assert torch.allclose(slates.worth, every.worth[[7, 3]])
    prospects, belief = fresh[True].prospects, beliefs(reader.column_worth, sessions)
    worth, follows, stands = _read(reader, prospects, sessions, belief, at_once=5)
    assert torch.allclose(worth, every.worth)
    words = sessions.member, sessions.wording
    every = slates_of(reader, prospects, sessions, *words, [4, 3, 2, 1, 0])
    assert torch.allclose(follows, every.follows) and (follows[:, 4] == 0).all()
    assert torch.allclose(slates.follows, follows[[7, 3]])
    assert torch.allclose(history.follows, stands[[7, 3]])
    assert torch.allclose(stands, history_of(reader, prospects, sessions, belief).follows)


@pytest.fixture(scope="module")
def small_language_model(tmp_path_factory):
    """Random weights, in the real format."""
    folder = tmp_path_factory.mktemp("lm")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=alphabet)
    pieces.train_from_iterator(["Asked for: a fox. Shown: Picked: Better."] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_positions": 2048, "n_embd": 16, "n_layer": 1, "n_head": 2,
             "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    config = GPT2Config(vocab_size=pieces.get_vocab_size(), **sizes)
    GPT2Model(config).save_pretrained(folder)
    return folder


def test_a_language_model_reads_histories(reader, moment, small_language_model):
    """Texts of all that was said; each one's state is what the model alone gives, and an agent
    trains on it by the same code."""
    sessions, candidates = moment
    said = transcripts(sessions)
    assert len(said) == N * 3 and said[0] == f"Asked for: {wordings()[INITIAL[0], 0]}."
    words, picked = sessions.texts()[0, 0], sessions.chosen[0, 0]
    assert said[1] == f"{said[0]}\nShown: {'; '.join(words)}. Picked: {words[picked]}."
    assert said[2].startswith(said[1]) and said[2].split()[-1] in ("Better.", "same.", "Worse.")
    embed = language_reader(str(small_language_model), batch_size=7)
    network = GPT2Model.from_pretrained(small_language_model).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(small_language_model)
    with torch.no_grad():
        alone = network(**tokenizer(said[5], return_tensors="pt")).last_hidden_state[0, -1]
    assert torch.allclose(embed(said)[5], alone, atol=1e-5)
    reading = replace(reader, embed=embed)
    users = SimulatedUsers(reader.column_worth, np.arange(N) % K, 0)
    whole = play(started(), untrained(1), users, 0)
    config = IQLConfig(steps=3, batch=4, hidden=8)
    learnt = train_iql(whole, np.zeros((N, 5)), reading, seed=0, config=config, progress=False)
    assert learnt.value.encoder.recurrent.input_size == reading.sizes[1] == 16
    assert reader.sizes == (F, 2 * F + 5, K)
    slate = iql_agent(learnt, reading)(sessions, candidates)
    assert (np.diff(np.sort(CATEGORY[slate], 1)) > 0).all()


def test_what_texts_call_for_by_hand():
    """Twice as likely as usual, as usual, and less."""
    encoder = SimpleNamespace(encode_texts=lambda texts: np.array([[0.2], [0.1]])[: len(texts)])

    class Words(nn.Module):
        usual = torch.tensor([0.1, 0.4])

        def forward(self, vectors):
            return torch.cat([vectors, vectors, 0.4 + vectors], 1)

    found = text_features(encoder, Words(), ["a fox", "a cat"])
    assert found.numpy() == pytest.approx(
        np.array([[np.log(2), np.log(1.5)], [0, np.log(1.25)]]) / 3
    )
    Words.usual = torch.tensor([0.3, 0.7])
    assert text_features(encoder, Words(), ["a fox"]).tolist() == [[0, 0]]


def test_what_texts_are_worth_is_learnt(tmp_path):
    """From a rule that depends on both texts, on pairs that were not learnt from."""
    g = torch.Generator().manual_seed(0)
    features = torch.rand(400, F, generator=g)
    prompt, text = (torch.randint(400, (20_000,), generator=g) for _ in range(2))
    a, b = features[prompt], features[text]
    worth = torch.stack([3 * b[:, 0] * a[:, 1] - 2, 2 * b[:, 2] - a[:, 3]], 1)
    noisy = worth + 0.3 * torch.randn(worth.shape, generator=g)
    config = TextWorthConfig(hidden=64, steps=312, batch=1024)
    model = fit_text_worth(prompt[:16000], text[:16000], features, noisy[:16000], seed=0,
                           config=config, progress=False)  # fmt: skip
    with torch.no_grad():
        error = model(a[16000:], b[16000:]) - worth[16000:]
    assert (error.square().mean(0) < 0.05 * worth.var(0)).all()
    save_text_worth(model, tmp_path / "t.safetensors")
    back = load_text_worth(tmp_path / "t.safetensors")
    assert torch.allclose(back(a[:99], b[:99]), model(a[:99], b[:99]), atol=0.02)
    level = fit_text_worth(prompt, text, features, torch.ones(20_000, 2), seed=0, config=config,
                           progress=False)  # fmt: skip
    with torch.no_grad():
        assert torch.allclose(level(a[:99], b[:99]), torch.ones(99, 2), atol=1e-3)


class Returns(nn.Module):
    """An agent that always gives the same."""

    def __init__(self, slate):
        super().__init__()
        self.slate = slate

    def forward(self, sessions, candidates):
        return np.array(self.slate)


@pytest.mark.parametrize(
    ("slate", "message"),
    [
        ([[0, 5, 10, 15, 20]] * N, r"shape \(40, 5\) for 40 sessions"),
        ([[0, 5, 10]] * N, r"shape \(40, 3\)"),
        ([[0.0, 5.0, 10.0, 15.0]] * N, "float64"),
        ([[0, 5, 10, 15]] * (N - 1) + [[0, 5, 6, 15]], "session 39 has two of one category"),
        ([[0, 5, 10, 25]] * N, "session 0 has no candidate"),
        ([[0, 5, 10, -1]] * N, "session 0 has no candidate"),
    ],
)
def test_slates_that_are_refused(reader, slate, message):
    users = SimulatedUsers(reader.column_worth, np.zeros(N, int), 0)
    with pytest.raises(ValueError, match=message):
        play(started(), Returns(slate), users, 0)


def test_the_oracles_against_brute_force():
    """The peeking one takes the columns of the highest true value. The one that reads texts would
    take the same, if pictures of a text were all alike and as expected."""
    rng = np.random.default_rng(0)
    members = len(reachable())
    x = np.repeat(rng.random((members, 1, 88)).astype(np.float32), 4, 1)
    people = draw_population(draw_law(0), N, 5)
    crowd = raters.Crowd(people, x, 0)
    sessions = started()
    shown = np.zeros((N, 0), int)
    candidates = propose(sessions.initial, *sessions.current(), shown, sessions.session, 0)
    value = crowd.values(sessions, candidates.member)
    slate = oracle.peeking_oracle(crowd)(sessions, candidates)
    best = value[:, EVERY_SLATE].sum(2).max(1)
    assert np.take_along_axis(value, slate, 1).sum(1) == pytest.approx(best)
    shows = np.repeat(oracle.readings_and_products(x).mean(1)[:, None], 6, 1)
    slate = oracle.oracle(people, shows)(sessions, candidates)
    assert np.take_along_axis(value, slate, 1).sum(1) == pytest.approx(best, abs=1e-4)


def test_the_oracle_expects_of_a_text_what_its_pictures_show_on_average():
    """Texts name a style and a background; pictures show them most of the time."""
    rng = np.random.default_rng(0)
    style, background = rng.integers(6, size=2000), rng.integers(8, size=2000)
    shown = np.zeros((2000, 4, 88), np.float32)
    for part, values in (("style", style), ("background", background)):
        seen = np.where(rng.random((2000, 4)) < 0.9, values[:, None], 0)
        np.put_along_axis(shown[..., PART[part]], seen[..., None], 1.0, 2)
    features = np.concatenate([np.eye(6)[style], np.eye(8)[background]], 1).astype(np.float32)
    expected = oracle.expected_readings(torch.as_tensor(features)[:, None].repeat(1, 3, 1), shown)
    assert expected.shape == (2000, 3, 200)
    other = (style > 0) & (background > 0)
    for part, values in (("style", style), ("background", background)):
        named = np.take_along_axis(expected[:, 1, PART[part]], values[:, None], 1)[other, 0]
        assert named.mean() == pytest.approx(0.9, abs=0.03)
        assert expected[other, 1, PART[part].start].mean() == pytest.approx(0.1, abs=0.03)
