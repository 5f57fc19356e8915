"""A visitor's session without widgets: what is offered, kept, remembered, undone, and blind."""

import re
import secrets
from dataclasses import replace

import numpy as np
import pytest
import torch

from pasta_lib import visits
from pasta_lib.candidates import CATEGORIES, EACH
from pasta_lib.datasets.pasta import bank_sessions, read_sessions
from pasta_lib.datasets.rows import Account
from pasta_lib.demo import Duel, Visit, begin_duel, begin_visit
from pasta_lib.encoders import ClipEncoder
from pasta_lib.sealed import AGENTS, draw_sides, fingerprint, key_of, unseal
from pasta_lib.sessions import NONE
from pasta_lib.simulator import beliefs
from pasta_lib.visits import VisitError, open_log
from pasta_lib.world.agent_study import worth_of_columns
from pasta_lib.world.bank import draw_again, prompts, rows_of
from pasta_lib.world.captions import CaptionError
from pasta_lib.world.gallery import favourites, without_asking
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import IDEA
from pasta_lib.world.understand import _nearest, bare_members, understand


@pytest.fixture
def path(tmp_path):
    return tmp_path / "visits.sqlite"


def begun(studio, path, typed="happiness", agent="pasta", number=3):
    return begin_visit(studio, path, typed, person="ann", agent=agent, number=number)[0]


def play(visit, columns):
    """Answer slate after slate; None skips."""
    for column in columns:
        visit.propose()
        visit.skip() if column is None else visit.pick(column)
    return visit


def test_a_session_draws_what_the_bank_says_and_learns_what_the_simulator_would(studio, path):
    """Belief from pictures drawn now is the belief from the bank's, of the session read back."""
    visit = begun(studio, path)
    for column in (1, 1, 2, 3, 2):
        visit.propose()
        pictures = list(visit.columns())
        assert len(pictures) == 4 and pictures[0].shape == (4, 64, 64, 3)
        again = draw_again(visit.slate["images"][0], studio.pipeline, progress=False)
        assert np.abs(pictures[0].astype(int) - again).max() <= 8
        visit.pick(column)
        if visit.compared:
            visit.judge("better")
    turns = read_sessions(path, Account())
    sessions, unusable = bank_sessions(turns)
    assert unusable == 0 and sessions.chosen.tolist() == [[1, 1, 2, 3, 2]]
    assert sessions.versus_last[0, 1:].tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(sessions.member, visit.sessions.member)
    initial = np.array([visit.initial])
    bank = worth_of_columns(studio.sight, studio.types, initial, progress=False)
    kept = studio.reader.column_worth
    bank = replace(bank, log_tie=kept.log_tie, loyalty=kept.loyalty)
    expected = beliefs(bank, sessions)[0, -1]
    np.testing.assert_allclose(visit.belief, expected, atol=0.02)
    assert np.abs(visit.belief - studio.types.prior.numpy()).max() > 0.1  # something was learnt


def test_the_same_number_is_offered_the_same(hasty, path, tmp_path):
    one, two = begun(hasty, path), begun(hasty, tmp_path / "other.sqlite")
    for visit in (one, two):
        play(visit, [2, None, 0])
        visit.propose()
    assert one.state.slates == two.state.slates
    other = begun(hasty, path, number=4)
    other.propose()
    assert other.slate["slate"] != one.state.slates[0]["slate"]


def test_a_session_goes_on_where_it_stopped(hasty, path):
    visit = play(begun(hasty, path), [1, 3])
    visit.judge("worse")
    visit.propose()
    pictures = list(visit.columns())
    again = Visit(hasty, path, visit.session_id)  # the kernel died
    assert again.slate == visit.slate and again.turn == 3
    again.propose()  # one is waiting: nothing happens
    np.testing.assert_array_equal(list(again.columns()), pictures)
    np.testing.assert_allclose(again.belief, visit.belief, atol=1e-6)
    assert [words for words, _ in again.path] == [words for words, _ in visit.path]
    np.testing.assert_allclose(again.values, visit.values, atol=1e-5)


def test_none_of_these_keeps_the_prompt_and_teaches_nothing(hasty, path):
    visit = play(begun(hasty, path), [None])
    np.testing.assert_allclose(visit.belief, hasty.types.prior, atol=1e-6)
    assert visit.sessions.chosen.tolist() == [[NONE]]
    assert visit.sessions.current()[0] == visit.initial and visit.path == []
    assert visit.compared is None


def test_undo_brings_back_the_slate_and_the_belief(hasty, path):
    visit = play(begun(hasty, path), [0])
    before = visit.belief
    visit.propose()
    slate = visit.slate
    visit.pick(1)
    assert visit.compared == (1, 0)
    visit.judge("same")
    assert visit.compared is None
    visit.propose()
    visit.undo()
    assert visit.slate == slate and visit.turn == 2
    np.testing.assert_allclose(visit.belief, before, atol=1e-6)
    visit.undo()
    assert visit.turn == 1 and visit.path == []
    with pytest.raises(VisitError):
        visit.undo()


def test_the_same_pictures_again_are_not_compared(hasty, path):
    visit = play(begun(hasty, path), [1])
    seen = 0
    while not visit.done:
        visit.propose()
        rephrased = "rephrase" in visit.slate["category"]
        assert rephrased == (visit.stood in visit.slate["member"])
        visit.pick(visit.slate["category"].index("rephrase") if rephrased else 0)
        assert (visit.compared is None) == rephrased
        seen += rephrased
    assert seen > 0


def test_five_turns_and_no_more(hasty, path):
    visit = play(begun(hasty, path), [0, 1, 2, 3, 0])
    assert visit.done and visit.slate is None
    visit.propose()
    assert visit.slate is None
    with pytest.raises(VisitError):
        visit.pick(0)
    visit.leave()
    with pytest.raises(VisitError, match="over"):
        visit.undo()


def test_no_agent_sees_pictures_that_were_not_drawn(hasty, path):
    visit = play(begun(hasty, path), [0, 1])
    visit.propose()
    shown = {m for slate in visit.state.slates[:2] for m in slate["member"]}
    known = (~visit.remember().table[0, :, 0].isnan()).nonzero().flatten().tolist()
    assert set(known) == shown
    assert np.isfinite(visit.values).all()


def test_values_are_those_by_which_the_agent_chose(hasty, path):
    """The slate is among the best of each category, for all that pictures may reveal."""
    visit = play(begun(hasty, path), [0])
    visit.propose()
    values = visit.values.reshape(len(CATEGORIES), EACH)
    rank = (-values).argsort(1).argsort(1).ravel()
    assert all(rank[c] < 3 for c in visit.slate["candidates"])
    assert begun(hasty, path, agent="untrained").values is None


def test_what_the_agent_thinks_is_not_changed_by_who_plays_beside_it(hasty, path):
    alone = play(begun(hasty, path, number=9), [1, 1])
    other = begun(hasty, path, typed="a cat", number=8)
    both = begun(hasty, path, number=9)
    for _ in range(2):
        play(other, [0])
        play(both, [1])
    assert both.state.slates == alone.state.slates


@pytest.mark.parametrize(
    ("typed", "plays", "says"),
    [
        ("happiness", "happiness", ""),
        ("Three FOXES, neon!", "three foxes, neon", ""),
        ("  a   white\ncat ", "a white cat", ""),
        ("a white cat on my sofa", "a white cat", "sofa"),
        ("two white cats and a dog at night, watercolour", None, "Playing with"),
        ("a red and blue cat in neon", "a red cat, neon", "“blue”"),
        ("<script>alert('x')</script>", None, "can't draw that"),
        ('"quotes" & ampersands', None, "can't draw that"),
        ("🦊🎉", None, "can't draw that"),
        ("שלום עולם مرحبا", None, "can't draw that"),
        ("a fox " * 2000, "a fox", "first 500 characters"),
        ("seven foxes on a purple background", "two foxes", "“seven”, “purple background”"),
    ],
)
def test_any_prompt_is_played(studio, typed, plays, says):
    understood = understand(typed, studio.sight.encoder)
    assert says in understood.hint and bool(says) == bool(understood.hint)
    if plays:
        scene = reachable()[understood.member].tolist()
        assert prompts()[understood.member] == plays, scene


def test_an_empty_prompt_is_asked_for_again(studio, path):
    with pytest.raises(CaptionError, match="empty"):
        begin_visit(studio, path, " \n ", person="ann", agent="pasta")


def test_every_caption_of_the_world_means_itself(studio):
    rng = np.random.default_rng(0)
    for member in rng.choice(len(reachable()), 300, replace=False):
        assert understand(prompts()[member], studio.sight.encoder).member == member


def test_bare_words_are_nearest_to_themselves_and_unknown_ones_to_bare_ones(studio):
    encoder: ClipEncoder = studio.sight.encoder
    assert len(bare_members()) == 88
    assert understand("zzz qqq", encoder).member in bare_members()
    assert [_nearest(prompts()[m], encoder) for m in bare_members()] == bare_members().tolist()


def test_a_long_text_of_which_nothing_is_known_is_read_in_part_and_that_is_said(studio):
    hint = understand("zzz qqq " * 30, studio.sight.encoder).hint
    assert "can't draw that" in hint and "read the first words only" in hint
    assert "first words" not in understand("zzz qqq", studio.sight.encoder).hint


def names_in(path):
    """Agents' names in anything of the log's files."""
    files = [p for p in path.parent.iterdir() if p.suffix != ".key"]
    content = b"".join(p.read_bytes() for p in files)
    return [name for name in AGENTS if re.search(rb"\b" + name.encode() + rb"\b", content)]


def test_a_blind_comparison_tells_nothing_before_the_vote(hasty, path, monkeypatch):
    order = []
    for name in ("proposal", "_see"):
        whole = getattr(Visit, name)

        def noted(visit, *args, name=name, whole=whole):
            order.append((name, visit.session_id[-1]))
            return whole(visit, *args)

        monkeypatch.setattr(Visit, name, noted)
    duel, hint = begin_duel(hasty, path, "love", person="ann", number=5)
    assert not hint
    for _ in range(5):
        order.clear()
        duel.propose()
        assert [side for name, side in order if name == "proposal"] == ["A", "B"]
        drawn = duel.columns()
        waiting = [v.slate["member"] for v in duel.sides.values()]
        shown = [v.pictures.keys() for v in duel.sides.values()]
        assert all(set(m) <= s for m, s in zip(waiting, shown, strict=True))
        assert [len(columns) for columns in drawn.values()] == [4, 4]
        duel.sides["A"].pick(1)
        assert not duel.done
        duel.propose()  # B has not been answered: nothing happens
        assert duel.sides["A"].slate is None
        duel.sides["B"].skip()
    assert duel.done
    assert names_in(path) == []
    frame = read_sessions(path, Account()).frame
    assert set(frame["agent"]) == {"A", "B"}
    agents = duel.vote("B")
    assert sorted(agents.values()) == sorted(AGENTS)
    assert set(read_sessions(path, Account()).frame["agent"]) == set(AGENTS)
    with open_log(path) as log:
        assert visits.tally(log, agents["B"]) == (1, 1)
        assert visits.tally(log, agents["A"]) == (0, 1)
        assert visits.unfinished(log, "ann") == []


def test_both_play_the_same_chances(hasty, path):
    duel, _ = begin_duel(hasty, path, "love", person="ann", number=5)
    a, b = (visit.candidates for visit in duel.sides.values())
    np.testing.assert_array_equal(a.member, b.member)
    alone = {name: begun(hasty, path, "love", name, 5) for name in AGENTS}
    for visit in (*duel.sides.values(), *alone.values()):
        visit.propose()
    for visit in duel.sides.values():
        assert visit.slate == alone[visit.agent].slate


def test_undo_in_a_blind_comparison(hasty, path):
    duel, _ = begin_duel(hasty, path, "love", person="ann", number=5)
    duel.propose()
    duel.sides["A"].pick(0)
    duel.undo()  # A's alone
    assert [v.turn for v in duel.sides.values()] == [1, 1]
    for visit in duel.sides.values():
        visit.pick(2)
    duel.propose()
    duel.undo()  # both
    assert all(v.turn == 1 and v.slate for v in duel.sides.values())
    again = Duel(hasty, path, duel.comparison)
    assert [v.turn for v in again.sides.values()] == [1, 1]


def test_the_order_of_columns_tells_nothing(hasty, path):
    """Of both agents' slates: categories stand in an order that hangs on the occasion alone."""
    ascending = {name: [] for name in AGENTS}
    for number in range(30):
        ranks = {}
        for name in AGENTS:
            visit = begun(hasty, path, "love", name, number)
            slate = np.array(visit.proposal()["candidates"])
            ranks[name] = slate.argsort().argsort().tolist()
            ascending[name].append(ranks[name] == sorted(ranks[name]))
        assert len({tuple(r) for r in ranks.values()}) == 1
    assert max(sum(a) for a in ascending.values()) < 6  # one in 24, by chance


def test_both_slates_are_put_on_record_at_one_moment(hasty, path):
    duel, _ = begin_duel(hasty, path, "love", person="ann")
    duel.propose()
    with open_log(path) as log:
        moments = log.execute("select kind, count(*), count(distinct at) from events group by kind")
        assert sorted(moments.fetchall()) == [("begin", 2, 1), ("slate", 2, 1)]


def test_where_one_side_fails_neither_goes_on(hasty, path, monkeypatch):
    duel, _ = begin_duel(hasty, path, "love", person="ann", number=5)
    for failing in "AB":
        with monkeypatch.context() as patch:
            whole = Visit.proposal

            def broken(visit, failing=failing, whole=whole):
                if visit.session_id.endswith(failing):
                    raise RuntimeError("no slate")
                return whole(visit)

            patch.setattr(Visit, "proposal", broken)
            with pytest.raises(RuntimeError):
                duel.propose()
        assert [v.slate for v in duel.sides.values()] == [None, None]
    duel.propose()
    assert all(v.slate for v in duel.sides.values())


def test_a_pick_is_of_the_slate_that_was_seen(hasty, path):
    """Another tab undid and went another way: the turn is the same, the slate is not."""
    here = play(begun(hasty, path), [0])
    here.propose()
    there = Visit(hasty, path, here.session_id)
    there.undo()
    play(there, [1])
    there.propose()
    assert there.turn == here.turn == 2 and there.slate != here.slate
    with pytest.raises(VisitError, match="another tab"):
        here.pick(2)
    assert here.slate == there.slate  # it looked again
    here.pick(np.int64(2))
    assert here.state.picks == [1, 2]


def test_what_cannot_be_is_refused(hasty, path):
    visit = begun(hasty, path)
    visit.propose()
    for column in (4, 7, -1):
        with pytest.raises(VisitError, match="no column"):
            visit.pick(column)
    play(visit, [1, 2])
    with pytest.raises(VisitError, match="no judgement"):
        visit.judge("great")
    duel, _ = begin_duel(hasty, path, "love", person="ann")
    for preferred in ("A", "Q"):
        with pytest.raises(VisitError, match=r"not at its end|no vote"):
            duel.vote(preferred)
    with pytest.raises(ValueError, match="Pasta"):
        begin_visit(hasty, path, "love", person="ann", agent="Pasta")
    assert visit.state.picks == [1, 2] and visit.state.verdicts == [None, None]


def test_a_session_is_not_resumed_with_other_models(hasty, studio, path):
    visit = begun(hasty, path)
    with pytest.raises(VisitError, match="1 steps by QuietDDIMScheduler, guidance 1"):
        Visit(studio, path, visit.session_id)
    with pytest.raises(VisitError, match="seed 0; now it is 1"):
        Visit(replace(hasty, seed=1), path, visit.session_id)


def test_pictures_drawn_otherwise_are_not_taken_for_the_banks(hasty, studio, path):
    visit = play(begun(hasty, path), [0] * 5)
    names = [name for s in visit.state.slates for four in s["images"] for name in four]
    with pytest.raises(ValueError, match="no picture of the bank"):
        rows_of(np.array(names, object))
    assert rows_of(np.array(studio.images(np.array([5]))[0], object)).tolist() == [20, 21, 22, 23]


def test_sides_are_random_and_balanced():
    """400 tosses: even within 3 of Efron's tight distribution, and no run tells the next."""
    key, so_far = secrets.token_bytes(32), []
    for i in range(400):
        so_far.append((f"c{i}", draw_sides(key, f"c{i}", so_far)))
    first = np.array([unseal(key, *one)["A"] == "pasta" for one in so_far])
    ahead = np.cumsum(2 * first - 1)
    assert np.abs(ahead).max() <= 12  # a fair coin would stray to 20 or 30
    changes = (first[1:] != first[:-1]).mean()
    assert 0.45 < changes < 0.75  # an alternation would be told
    sealed = np.array([bit for _, bit in so_far])
    assert abs((sealed == first).mean() - 0.5) < 0.1  # the log's bit says nothing of the side


def test_the_key_is_for_its_owner_and_checked(path):
    key = key_of(path)
    kept = path.with_suffix(".key")
    assert kept.stat().st_mode & 0o077 == 0 and key_of(path) == key
    assert key_of(path, fingerprint(key)) == key and list(path.parent.iterdir()) == [kept]
    kept.write_bytes(b"")
    with pytest.raises(VisitError, match="damaged"):
        key_of(path)
    kept.write_bytes(secrets.token_bytes(32))
    with pytest.raises(VisitError, match="another one"):
        key_of(path, fingerprint(key))


def test_without_the_key_nobody_is_named(hasty, path):
    duel, _ = begin_duel(hasty, path, "love", person="ann")
    path.with_suffix(".key").unlink()
    again = Duel(hasty, path, duel.comparison)
    with pytest.raises(VisitError, match="key"):
        again.propose()


def test_favourites_are_what_types_like(studio):
    gallery = favourites(studio.types, studio.sight.pictures, studio.sight.names, n=10, said=2)
    rows = np.array([[int(name[1:6]) for name in row] for row in gallery.names])
    assert gallery.names.shape == (8, 10) and (reachable()[rows][..., IDEA] < 0).all()
    # By hand, for the two that like neon: what it adds to their score, above what to the others'.
    score = without_asking(studio.types, studio.sight.pictures.flatten(0, 1))
    above = score - score.mean(1, keepdim=True)
    neon = studio.sight.names.index("neon") - len(studio.sight.names)  # concepts stand last
    neon = studio.sight.pictures.flatten(0, 1)[:, neon] > 0.5
    adds = above[neon].mean(0) - above.mean(0)
    fond_of_neon = [k for k, words in enumerate(gallery.words) if "neon" in words]
    assert fond_of_neon == sorted(adds.argsort(descending=True)[:2].tolist())
    fond = int(adds.argmax())
    best = rows[fond, 0]
    mine = above.reshape(-1, 4, 8)[(reachable()[:, IDEA] < 0).nonzero()[0], :, fond].max()
    assert above.reshape(-1, 4, 8)[best, int(gallery.names[fond, 0][-1]), fond] == mine
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = replace(studio.types, order=studio.types.order[order])
    again = favourites(shuffled, studio.sight.pictures, studio.sight.names, n=10, said=2)
    assert again.words == [gallery.words[k] for k in order]
