"""Prompt expansions: what is offered, and that it hangs on the session alone."""

import numpy as np
import pytest

from pasta_lib.candidates import CATEGORIES, CATEGORY, WORDINGS, propose, wordings
from pasta_lib.seeds import gumbels, normals, uniforms
from pasta_lib.world import captions
from pasta_lib.world.reachable import member_index, reachable
from pasta_lib.world.scenes import IDEA, STYLE, SUBJECT, Scene, from_array, idea_weights, to_array

ALL = np.arange(len(reachable()))


def offered(current, initial=None, shown=None, session=None, seed=0):
    current = np.atleast_1d(current)
    initial = current if initial is None else np.atleast_1d(initial)
    shown = np.zeros((len(current), 0), int) if shown is None else shown
    session = np.arange(len(current)) if session is None else session
    return propose(initial, current, np.zeros_like(current), shown, session, seed)


def member(*args, **kwargs):
    return member_index(to_array([Scene(*args, **kwargs)]))[0]


@pytest.fixture(scope="module")
def of_every_member():
    return offered(ALL)


def test_no_wording_twice_and_no_scene_twice_but_as_a_rephrasing(of_every_member):
    texts = of_every_member.texts()
    for row, scenes, current in zip(texts, of_every_member.member, ALL, strict=True):
        assert len(set(row)) == 25
        assert (scenes[:5] == current).all()
        assert len({current, *scenes[5:]}) == 21


def test_every_category_keeps_and_changes_what_it_says(of_every_member):
    scenes = reachable()[of_every_member.member]  # [9016, 25, 7]
    now = reachable()[:, None]
    thing = (scenes[..., [SUBJECT, IDEA]] == now[..., [SUBJECT, IDEA]]).all(2)
    style = scenes[..., STYLE] == now[..., STYLE]
    detail = (scenes[..., [1, 3, 4]] == now[..., [1, 3, 4]]).all(2)
    said = scenes[..., [1, 3, 4]] > [0, -1, 1]  # a colour, a background, a number above one
    for name, keeps in {
        "rephrase": (1, 1, 1), "elaboration": (1, 1, 0), "style": (1, 0, 1),
        "subject change": (0, 1, None), "creative": (0, 0, None),
    }.items():  # fmt: skip
        here = CATEGORY == CATEGORIES.index(name)
        for kept, same in zip(keeps, (thing, style, detail), strict=True):
            assert kept is None or (same[:, here] == bool(kept)).all(), name
    elaborated = CATEGORY == CATEGORIES.index("elaboration")
    assert (said[:, elaborated].sum(2) == 1).all()


def test_every_wording_is_read_as_its_scene():
    words = wordings()
    assert words.shape == (len(ALL), WORDINGS) and len(set(words.ravel())) == words.size
    for scene, row in zip(from_array(reachable()[::29]), words[::29], strict=True):
        assert row[0] == captions.write(scene)
        for text in row:
            parsed = captions.parse(text)
            assert parsed.scene == scene and not parsed.unknown


def test_what_a_session_is_offered_hangs_on_itself_alone():
    rng = np.random.default_rng(0)
    current, session = rng.integers(len(ALL), size=200), rng.permutation(1000)[:200]
    shown = rng.integers(len(ALL), size=(200, 8))
    together = offered(current, shown=shown, session=session)
    some = rng.permutation(200)[:7]
    alone = offered(current[some], shown=shown[some], session=session[some])
    assert (alone.member == together.member[some]).all()
    assert (alone.wording == together.wording[some]).all()
    another = offered(current, shown=shown, session=session, seed=1)
    assert (another.member[:, 5:] != together.member[:, 5:]).mean() > 0.5
    later = offered(current, shown=shown[:, :4], session=session)
    assert (later.member[:, 5:] != together.member[:, 5:]).mean() > 0.5


def test_the_rephrasings_are_the_other_wordings():
    for now in range(WORDINGS):
        out = propose(ALL[:5], ALL[:5], np.full(5, now), np.zeros((5, 0), int), ALL[:5], 0)
        assert (np.sort(out.wording[:, :5], 1) == np.delete(np.arange(WORDINGS), now)).all()


def test_what_was_shown_comes_again_only_for_want_of_others():
    fox = member("fox")
    first = offered(np.full(300, fox)).member
    again = offered(np.full(300, fox), shown=first).member
    for before, now in zip(first, again, strict=True):
        assert not set(before[15:20]) & set(now[15:20])  # there are 87 other things
    styles = again[:, 10:15]  # but six styles, of which five were shown
    assert all(len(set(b[10:15]) & set(s)) == 4 for b, s in zip(first, styles, strict=True))


def test_things_that_have_to_do_with_the_initial_prompt_come_four_times_as_often():
    happy = member_index(to_array([Scene.of_idea("happiness")]))[0]
    out = offered(np.full(4000, member("fox")), initial=np.full(4000, happy)).member[:, 15:20]
    subject = reachable()[out, SUBJECT].ravel()
    counts = np.bincount(subject[subject >= 0], minlength=64)
    meant = idea_weights()[SUBJECT][reachable()[happy, IDEA]] > 0
    other = ~meant & (np.arange(64) != reachable()[member("fox"), SUBJECT])
    # Five of 87 without replacement: a little less than four times
    assert 3.2 < counts[meant].mean() / counts[other].mean() < 4.1


def test_random_numbers_are_even_and_independent():
    u = uniforms(3, "any", [np.arange(20_000), np.full(20_000, 2)], 8)
    assert ((u > 0) & (u < 1)).all()
    assert np.abs(u.mean(0) - 0.5).max() < 0.01  # four standard errors: .008
    assert np.abs(np.histogram(u, 50, (0, 1))[0] / 3200 - 1).max() < 0.08
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < 0.03
    assert np.abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03
    for other in (
        uniforms(4, "any", [np.arange(20_000), np.full(20_000, 2)], 8),
        uniforms(3, "other", [np.arange(20_000), np.full(20_000, 2)], 8),
        uniforms(3, "any", [np.arange(20_000), np.full(20_000, 3)], 8),
        uniforms(3, "any", [np.full(20_000, 2), np.arange(20_000)], 8),
    ):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.01
    assert abs(normals(0, "z", [np.arange(20_000)], 1).std() - 1) < 0.02
    assert abs(gumbels(0, "g", [np.arange(20_000)], 1).mean() - np.euler_gamma) < 0.04
