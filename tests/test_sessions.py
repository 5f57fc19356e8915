"""Sessions: what happens in a turn, and that sessions do not hang on their neighbours."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pasta_lib.baselines import alike, best_slate, untrained
from pasta_lib.candidates import CATEGORY, propose
from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import (
    bank_sessions,
    judgements,
    picks,
    read_sessions,
    session_table,
)
from pasta_lib.datasets.rows import Account
from pasta_lib.sessions import NONE, UNJUDGED, Sessions, begin, play
from pasta_lib.world import raters
from pasta_lib.world.bank import image_ids
from pasta_lib.world.people import draw_law, draw_population
from pasta_lib.world.reachable import reachable

N = 60


@pytest.fixture(scope="module")
def crowd():
    rng = np.random.default_rng(0)
    x = rng.random((len(reachable()), 4, 88)).astype(np.float32) * 3
    return raters.Crowd(draw_population(draw_law(0), 50, 0), x, 0)


def started(n=N):
    rng = np.random.default_rng(1)
    initial = rng.integers(len(reachable()), size=n)
    return begin(np.arange(n), rng.integers(50, size=n), initial)


@pytest.fixture(scope="module")
def played(crowd):
    return play(started(), untrained(3), crowd, 3)


class Reluctant:
    """Picks nothing in the second turn, the third column otherwise."""

    def values(self, sessions, member):
        return np.zeros(member.shape)

    def choose(self, sessions, member, values):
        return np.full(len(values), NONE if sessions.turns == 1 else 2)

    def judge(self, sessions, value, last):
        return np.ones(len(value), int)


def test_the_pick_carries_on_and_none_of_these_leaves_it():
    out = play(started(), untrained(3), Reluctant(), 3, turns=3)
    rows = np.arange(N)
    assert (out.versus_last == [UNJUDGED, UNJUDGED, 1]).all()
    first_pick = out.member[rows, 0, 2]
    cut = Sessions(**{k: v[:, :2] if v.ndim > 1 else v for k, v in vars(out).items()})
    assert (cut.current()[0] == first_pick).all()
    shown = cut.member.reshape(N, -1)
    offered = propose(out.initial, *cut.current(), shown, out.session, 3)
    for r in rows:
        third = set(zip(out.member[r, 2], out.wording[r, 2], strict=True))
        assert third <= set(zip(offered.member[r], offered.wording[r], strict=True))
    assert (out.current()[0] == out.member[rows, 2, 2]).all()


def test_a_slate_has_one_candidate_of_each_of_four_categories(played):
    assert (np.diff(np.sort(played.category, 2), axis=2) > 0).all()
    share = np.bincount(played.category.ravel(), minlength=5) / played.category.size
    assert share == pytest.approx(np.full(5, 0.2), abs=0.04)


def test_a_session_does_not_hang_on_its_neighbours(crowd, played):
    some = np.random.default_rng(2).permutation(N)[:11]
    whole = started()
    alone = begin(whole.session[some], whole.person[some], whole.initial[some])
    alone = play(alone, untrained(3), crowd, 3)
    for name, values in vars(alone).items():
        assert (values == getattr(played, name)[some]).all(), name


def test_sessions_go_on_where_they_stopped(crowd, played):
    half = play(started(), untrained(3), crowd, 3, turns=2)
    cut = Sessions(**{k: v[:, :2] if v.ndim > 1 else v for k, v in vars(played).items()})
    assert all((getattr(half, k) == v).all() for k, v in vars(cut).items())
    whole = play(half, untrained(3), crowd, 3, turns=3)
    assert all((getattr(whole, k) == v).all() for k, v in vars(played).items())


def test_the_best_slate_against_brute_force():
    from itertools import combinations

    score = np.random.default_rng(3).normal(size=(5, 25))
    for row, slate in zip(score, best_slate(score), strict=True):
        best = max(
            (c for c in combinations(range(25), 4) if len(set(CATEGORY[list(c)])) == 4),
            key=lambda c: row[list(c)].sum(),
        )
        assert set(slate) == set(best)


def test_the_attentive_baseline_follows_the_picks(crowd):
    rng = np.random.default_rng(4)
    text = rng.normal(size=(len(reachable()), 6, 8)).astype(np.float32)
    text /= np.linalg.norm(text, axis=2, keepdims=True)
    agent = alike(text, 0)
    first = play(started(), untrained(3), crowd, 3, turns=1)
    shown = first.member.reshape(N, -1)
    candidates = propose(first.initial, *first.current(), shown, first.session, 3)
    slate = agent(first, candidates)
    for r in range(N):
        of_text = text[first.member[r, 0], first.wording[r, 0]]
        picked = first.chosen[r, 0]
        if picked == NONE:
            continue
        direction = of_text[picked] - np.delete(of_text, picked, 0).mean(0)
        score = text[candidates.member[r], candidates.wording[r]] @ direction
        assert set(slate[r]) == set(best_slate(score[None])[0])
    fresh = agent(started(), propose(started().initial, *started().current(),
                                     np.zeros((N, 0), int), np.arange(N), 3))  # fmt: skip
    assert len({tuple(CATEGORY[s]) for s in fresh}) > 20  # nothing to go by yet


def test_a_table_gives_back_the_sessions(played, tmp_path):
    table = session_table(played, source="synthetic", agent="untrained", population="0",
                          model="miniature", began="2026-01-01")  # fmt: skip
    pq.write_table(table, tmp_path / "s.parquet")
    turns = read_sessions(tmp_path / "s.parquet", account := Account())
    assert account.used == played.chosen.size and not account.reasons
    assert (turns.slate == played.texts().reshape(-1, 4)).all()
    assert (turns.images == image_ids()[played.member].reshape(-1, 4, 4)).all()
    rows, where = picks(turns)
    chosen = played.chosen.ravel()
    assert (where == np.flatnonzero(chosen >= 0)).all()
    assert (rows.target.argmax(1) == chosen[chosen >= 0]).all()
    judged, where = judgements(turns)
    assert (where == np.flatnonzero(played.versus_last.ravel() != UNJUDGED)).all()
    assert (judged.tie == (played.versus_last.ravel()[where] == 0)).all()


def test_sessions_come_back_from_a_file(played, tmp_path):
    """All but the numbers of sessions and people, which a file has as names."""
    table = session_table(played, source="synthetic", agent="untrained", population="0",
                          model="miniature", began="2026-01-01")  # fmt: skip
    pq.write_table(table.slice(0, table.num_rows - 2), tmp_path / "s.parquet")  # the last one ended
    turns = read_sessions(tmp_path / "s.parquet", Account())
    back, left_out = bank_sessions(turns)
    assert left_out == 1
    expected = played.select(slice(0, N - 1))
    for name, values in vars(back).items():
        if name not in ("session", "person"):
            assert (values == getattr(expected, name)).all(), name
    same = expected.person[:, None] == expected.person
    assert ((back.person[:, None] == back.person) == same).all()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("images", [["m99999_0"] * 4] * 4, "another bank.*m99999_0"),
        ("images", [[f"m00001_{i}" for i in (0, 1, 3, 2)]] * 4, "row 7, column 0: expected the 4"),
        ("category", ["surprise"] * 4, "'surprise'"),
        ("slate", ["a fox on the moon", "b", "c", "d"], "row 7, column 0: 'a fox on the moon'"),
        ("initial_prompt", "a fox on the moon", "row 5: 'a fox on the moon' is no initial prompt"),
    ],
)
def test_sessions_from_another_bank_are_refused(played, tmp_path, column, value, message):
    rows = session_table(played, source="synthetic", agent="untrained", population="0",
                         model="miniature", began="2026-01-01").to_pylist()  # fmt: skip
    for row in rows[5:10] if column == "initial_prompt" else rows[7:8]:
        row[column] = value
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    with pytest.raises(BadData, match=message):
        bank_sessions(read_sessions(tmp_path / "s.parquet", Account()))


def test_held_out_people_meet_held_out_prompts():
    split = raters.split_of(np.arange(raters.PEOPLE))
    assert [(split == s).sum() for s in ("train", "validation", "test")] == [2800, 400, 800]
    held = raters.held_out_prompts(0)
    assert held.mean() == pytest.approx(0.2, abs=1e-3)
    where = np.arange(1000) % 2 == 0
    prompts = raters.prompts_for(where, np.arange(len(reachable())), 0, "any")
    assert (held[prompts] == where).all()
    ideas = reachable()[prompts, 6] >= 0
    assert ideas.mean() == pytest.approx(0.5, abs=0.06)
