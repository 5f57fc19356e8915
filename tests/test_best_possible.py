"""Bayes' prediction of what people answer, against brute force, and with planted truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import bank_sessions, read_sessions
from pasta_lib.datasets.rows import Account
from pasta_lib.sessions import UNJUDGED
from pasta_lib.world import people
from pasta_lib.world.bank import load_bank
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.best_possible import (
    Answers,
    Particles,
    answers_in,
    answers_of,
    log_judgement,
    predict,
    values,
)
from pasta_lib.world.people import (
    column_values,
    draw_law,
    draw_population,
    perceived,
    picture_values,
)
from pasta_lib.world.rater_files import RATERS_DIR
from pasta_lib.world.reachable import reachable


@pytest.fixture(scope="module")
def law():
    return draw_law(0)


def some_answers(n_people=3, turns=3, columns=3, pictures=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (n_people, turns, columns, pictures)
    chosen = torch.randint(columns, (n_people, turns), generator=g)
    chosen[0, 1] = -1  # none of these
    last = torch.arange(turns).expand(n_people, -1) - 1
    last = last.clone()
    last[0, 2] = 0
    versus = torch.randint(-1, 2, (n_people, turns), generator=g)
    versus[:, 0], versus[0, 1] = UNJUDGED, UNJUDGED
    return Answers(
        torch.rand(*shape, 32, generator=g), torch.rand(*shape, generator=g),
        0.3 * torch.randn(*shape, 8, generator=g), chosen, versus, last,
    )  # fmt: skip


def by_hand(law, kind, z, answers, u):
    """The same value, written out for one particle: log P of each turn's columns and judgements."""
    taste = law.taste[kind] + law.deviation * z[:32]
    faithful = people.FAITHFULNESS * np.exp(people.FAITHFULNESS_SPREAD * z[32])
    steady = people.STEADINESS * np.exp(people.STEADINESS_SPREAD * z[33])
    indifferent = people.INDIFFERENCE * np.exp(people.INDIFFERENCE_SPREAD * z[34])
    v = answers.x[u].numpy() @ taste + faithful * answers.asked[u].numpy()
    v = v + answers.together[u, ..., kind].numpy()
    return np.sort(v, -1)[..., -2:].mean(-1), steady, indifferent


def test_values_and_judgements_by_hand(law):
    answers = some_answers()
    g = torch.Generator().manual_seed(1)
    kind, z = torch.randint(8, (3, 5), generator=g), torch.randn(3, 5, 35, generator=g)
    got = values(law, Particles(kind, z, torch.zeros(3, 5)), answers)
    for u, n in np.ndindex(3, 5):
        want = by_hand(law, int(kind[u, n]), z[u, n].numpy(), answers, u)[0]
        assert got[u, n].numpy() == pytest.approx(want, abs=1e-4)
    p = log_judgement(torch.tensor(0.3), torch.tensor(2.0), torch.tensor(0.4)).exp()
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    worse, better = sigma(2 * (-0.3 - 0.4)), sigma(2 * (0.3 - 0.4))
    assert p.tolist() == pytest.approx([worse, 1 - worse - better, better], abs=1e-6)


def test_predictions_are_those_of_very_many_guesses(law):
    """Importance sampling from the law itself, in numpy, without any move."""
    answers = some_answers()
    got = predict(law, answers, 20_000, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    n = 200_000
    kind, z = rng.choice(8, n, p=law.share), rng.standard_normal((n, 35))
    for u in range(3):
        weight = np.ones(n)
        taste = law.taste[kind] + law.deviation * z[:, :32]
        faithful = people.FAITHFULNESS * np.exp(people.FAITHFULNESS_SPREAD * z[:, 32])
        steady = people.STEADINESS * np.exp(people.STEADINESS_SPREAD * z[:, 33])
        indifferent = people.INDIFFERENCE * np.exp(people.INDIFFERENCE_SPREAD * z[:, 34])
        v = np.einsum("np,tlmp->ntlm", taste, answers.x[u].numpy())
        v += faithful[:, None, None, None] * answers.asked[u].numpy()
        v += np.moveaxis(answers.together[u].numpy(), -1, 0)[kind]
        v = np.sort(v, -1)[..., -2:].mean(-1)  # [n, T, L]
        for t in range(3):
            p = np.exp(steady[:, None] * v[:, t])
            p /= p.sum(1, keepdims=True)
            want = (weight[:, None] * p).sum(0) / weight.sum()
            assert got.pick[u, t].numpy() == pytest.approx(want, abs=0.015), (u, t)
            c, last = int(answers.chosen[u, t]), int(answers.last[u, t])
            if c >= 0:  # a judgement is predicted when the pick is known
                weight = weight * p[:, c]
            if answers.versus[u, t] != UNJUDGED:
                gap = v[:, t, c] - v[:, last, int(answers.chosen[u, last])]
                better = 1 / (1 + np.exp(-steady * (gap - indifferent)))
                worse = 1 / (1 + np.exp(-steady * (-gap - indifferent)))
                three = np.stack([worse, 1 - better - worse, better], 1)
                want = (weight[:, None] * three).sum(0) / weight.sum()
                assert got.judgement[u, t].numpy() == pytest.approx(want, abs=0.015), (u, t)
                weight = weight * three[:, int(answers.versus[u, t]) + 1]
        share = np.bincount(kind, weight, minlength=8) / weight.sum()
        assert got.types[u, -1].numpy() == pytest.approx(share, abs=0.03)


def test_moves_leave_the_posterior_as_it_is(law):
    answers = some_answers(turns=6, seed=3)
    few, many = (
        predict(law, answers, 6000, torch.Generator().manual_seed(m), moves=m) for m in (2, 8)
    )
    assert (few.pick - many.pick).abs().max() < 0.04
    assert (few.types - many.types).abs().max() < 0.08


def test_the_order_of_people_does_not_matter(law):
    answers = some_answers(n_people=4)
    turned = Answers(*(part.flip(0) for part in vars(answers).values()))
    a = predict(law, answers, 4000, torch.Generator().manual_seed(0)).pick
    b = predict(law, turned, 4000, torch.Generator().manual_seed(0)).pick.flip(0)
    assert (a - b).abs().max() < 0.03


def test_what_people_saw_is_read_off_their_files(law):
    """Particles that are the people themselves value what they saw as the people's code does."""
    turns = read_sessions(RATERS_DIR / "sessions_0.parquet", Account())
    turns = turns.select(np.arange(len(turns.frame)) < 60)
    x = perceived(load_bank())
    answers, ids = answers_of(turns, law, x.reshape(-1, x.shape[2]))
    population = draw_population(law, 4000, 0)
    who = ids.astype(int)
    z = np.zeros((len(who), 1, 35), np.float32)
    z[:, 0, :32] = (population.taste - law.taste[population.type])[who] / law.deviation
    z[:, 0, 32] = np.log(population.faithfulness[who] / people.FAITHFULNESS)
    z[:, 0, 32] /= people.FAITHFULNESS_SPREAD
    kind = torch.as_tensor(population.type[who])[:, None]
    got = values(law, Particles(kind, torch.as_tensor(z), torch.zeros(len(who), 1)), answers)
    prompt = pd.Index(bank_prompts()).get_indexer(turns.frame["initial_prompt"])
    member = np.array([[int(name[1:6]) for name in row] for row in turns.images[:, :, 0]])
    number = {name: i for i, name in enumerate(ids)}
    place = dict.fromkeys(ids, 0)
    for row, name in enumerate(turns.frame["person_id"]):
        u, t = number[name], place[name]
        asked_for = reachable()[prompt[[row]]]
        pictures = picture_values(population, who[[u]], x[member[[row]]], asked_for)
        assert got[u, 0, t].numpy() == pytest.approx(column_values(pictures)[0], abs=2e-3)
        assert answers.chosen[u, t] == turns.frame["chosen"].iloc[row]
        first = turns.frame["turn"].iloc[row] == 1
        assert (answers.last[u, t] == -1) if first else (answers.last[u, t] < t)
        place[name] += 1
    assert (answers.chosen >= 0).sum() == (turns.frame["chosen"] >= 0).sum()


def test_sessions_are_answers_as_their_files_are(law):
    """Of sessions as arrays, what `answers_of` reads off the same sessions' rows."""
    turns = read_sessions(RATERS_DIR / "sessions_0.parquet", Account())
    turns = turns.select(np.arange(len(turns.frame)) < 200)
    alone = replace(turns, frame=turns.frame.assign(person_id=turns.frame["session_id"]))
    x = perceived(load_bank())
    written, ids = answers_of(alone, law, x.reshape(-1, x.shape[2]))
    sessions, left_out = bank_sessions(turns)
    assert len(ids) == len(sessions.session) and not left_out
    for name, want in vars(written).items():
        got = getattr(answers_in(sessions, law, x), name)
        assert torch.allclose(got.double(), want.double(), atol=1e-6), name


def test_a_prompt_that_the_bank_does_not_hold_is_refused(law):
    turns = read_sessions(RATERS_DIR / "sessions_0.parquet", Account())
    few = turns.select(np.arange(len(turns.frame)) < 5)
    few.frame.loc[2, "initial_prompt"] = "a prompt nobody knows"
    with pytest.raises(BadData, match="row 2: 'a prompt nobody knows'"):
        answers_of(few, law, perceived(load_bank()).reshape(-1, people.WIDTH))
