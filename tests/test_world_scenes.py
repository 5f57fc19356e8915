"""Scenes, held-out pairs, captions and their parser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_lib.world import captions
from pasta_lib.world.captions import CaptionError, parse, write
from pasta_lib.world.reachable import member_index, reachable
from pasta_lib.world.scenes import (
    BACKGROUND,
    BACKGROUND_NAMES,
    COLOUR,
    COUNT,
    IDEA,
    IDEA_NAMES,
    SECOND,
    STYLE,
    STYLE_NAMES,
    SUBJECT,
    SUBJECT_NAMES,
    Scene,
    from_array,
    held_out_pairs,
    is_held_out,
    own_colours,
    resolve,
    sample_prompts,
    sample_scenes,
    to_array,
)
from pasta_lib.world.vocabulary import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    COUNTS,
    IDEAS,
    STYLES,
    SUBJECTS,
)


def test_vocabulary_is_as_large_as_promised():
    assert len(SUBJECTS) >= 64
    assert len(CATEGORIES) >= 8
    assert (len(COLOURS), len(STYLES), len(BACKGROUNDS), len(COUNTS)) == (6, 6, 8, 4)
    assert len(IDEAS) >= 20
    assert {s.category for s in SUBJECTS.values()} == set(CATEGORIES)
    assert len({s.emoji for s in SUBJECTS.values()}) == len(SUBJECTS)


def test_every_idea_spans_categories():
    for idea, table in IDEAS.items():
        assert len({SUBJECTS[s].category for s in table["subject"]}) >= 2, idea


def test_scene_to_codes_by_hand():
    row = to_array([Scene("fox", "white", "watercolour", "night", 2)])[0]
    assert row.tolist() == [1, 1, 1, 4, 2, -1, -1]
    assert to_array([Scene.of_idea("happiness", "neon")])[0].tolist() == [-1, -1, 4, -1, -1, -1, 0]
    # a red heart is a heart as it is
    assert from_array(to_array([Scene("heart", "red")])) == [Scene("heart", "natural")]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"subject": "unicorn"}, "unicorn"),
        ({"subject": "cat", "colour": "mauve"}, "mauve"),
        ({"subject": "cat", "count": 5}, "5"),
        ({"subject": None}, "either a subject or an idea"),
        ({"subject": "cat", "idea": "love"}, "either a subject or an idea"),
        ({"subject": "cat", "second": "cat"}, "beside one other"),
        ({"subject": "cat", "second": "fox", "count": 2}, "beside one other"),
    ],
)
def test_impossible_scenes_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        Scene(**arguments)


def test_held_out_pairs_are_a_tenth_and_leave_every_value_known():
    by_style, by_background = held_out_pairs()
    assert by_style.mean() == pytest.approx(0.1, abs=0.002)
    assert by_background.mean() == pytest.approx(0.1, abs=0.002)
    assert by_style.sum(1).max() == 1
    assert by_background.sum(1).max() == 1
    assert (~by_style).sum(0).min() > 40
    assert (~by_background).sum(0).min() > 40


def test_training_never_shows_or_says_a_held_out_pair():
    said, shown = sample_prompts(20_000, np.random.default_rng(0))
    assert not is_held_out(shown).any()
    full = (said[:, [SUBJECT, STYLE, BACKGROUND]] >= 0).all(1)
    assert full.mean() > 0.6
    assert not is_held_out(said[full]).any()
    for column in (SUBJECT, STYLE, BACKGROUND, COLOUR, COUNT):  # what is said is what is shown
        spoken = said[:, column] >= 0
        assert (said[spoken, column] == shown[spoken, column]).all()
    assert {int(i) for i in said[:, IDEA]} == set(range(-1, len(IDEAS)))


def test_held_out_sampling_gives_only_held_out_scenes():
    assert is_held_out(sample_scenes(500, np.random.default_rng(1), held_out=True)).all()
    second = sample_scenes(5000, np.random.default_rng(1))
    second = second[second[:, SECOND] >= 0]
    assert len(second) > 100
    assert (second[:, COUNT] == 1).all()
    assert (second[:, SECOND] != second[:, SUBJECT]).all()


def test_ideas_are_drawn_by_their_weights():
    scenes = np.repeat(to_array([Scene.of_idea("love")]), 20_000, 0)
    drawn = resolve(scenes, np.random.default_rng(2))
    weights = IDEAS["love"]["subject"]
    for subject, weight in weights.items():
        share = (drawn[:, SUBJECT] == SUBJECT_NAMES.index(subject)).mean()
        # drawing again what makes no sense (a "red" red heart) moves shares a little
        assert share == pytest.approx(weight / sum(weights.values()), abs=0.03)
    backgrounds = {BACKGROUND_NAMES[i] for i in np.unique(drawn[:, BACKGROUND])}
    assert backgrounds == set(IDEAS["love"]["background"])
    assert (drawn[:, [SUBJECT, COLOUR, STYLE, BACKGROUND, COUNT]] >= 0).all()


def test_resolve_is_seeded_and_keeps_what_is_said():
    scenes = to_array([Scene("cat", style="neon")] * 50)
    a, b = (resolve(scenes, np.random.default_rng(3)) for _ in range(2))
    assert (a == b).all()
    assert (a[:, STYLE] == STYLE_NAMES.index("neon")).all()
    assert len(np.unique(a[:, BACKGROUND])) > 3


def test_resolve_refuses_to_train_on_a_held_out_pair():
    subject, style = np.argwhere(held_out_pairs()[0])[0]
    scene = to_array([Scene(SUBJECT_NAMES[subject], style=STYLE_NAMES[style])])
    with pytest.raises(ValueError, match="no admissible scene"):
        resolve(scene, np.random.default_rng(0), training=True)


def test_plain_captions():
    assert write(Scene("fox", "white", "watercolour", "night", 2)) == (
        "two white foxes on a night sky, watercolour"
    )
    assert write(Scene("owl")) == "an owl"
    assert write(Scene.of_idea("a quiet evening")) == "a quiet evening"


def test_parser_is_the_inverse_of_every_wording():
    said, _ = sample_prompts(6000, np.random.default_rng(4))
    rng = np.random.default_rng(5)
    for scene in from_array(said):
        caption = write(scene, rng)
        parsed = parse(caption)
        assert (parsed.scene, parsed.unknown) == (scene, ()), caption


def test_wordings_vary_and_both_spellings_occur():
    rng = np.random.default_rng(6)
    words = {write(Scene("cat", "white", "watercolour", "night", 1), rng) for _ in range(400)}
    assert len(words) > 100
    assert any("watercolor " in w for w in words)
    assert any("watercolour" in w for w in words)
    assert any("-colored" in w for w in words)
    assert any("-coloured" in w for w in words)


@pytest.mark.parametrize(
    ("caption", "scene", "unknown"),
    [
        ("two white foxes, watercolour, on a night sky",
         Scene("fox", "white", "watercolour", "night", 2), ()),
        ("A White Cat!", Scene("cat", "white"), ()),
        ("a sparkling donut with a car at dusk",
         Scene("doughnut", "natural", None, "sunset", 1, "car"), ("sparkling",)),
        ("an image of happiness", Scene.of_idea("happiness"), ()),
        ("a red heart", Scene("heart", "natural"), ()),
    ],
)  # fmt: skip
def test_parser_on_other_sentences(caption, scene, unknown):
    parsed = parse(caption)
    assert from_array(to_array([parsed.scene]))[0] == scene
    assert parsed.unknown == unknown


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("cat " * 2500, "10,000 characters"),
        ("a dragon on a roof", "not understood: dragon, roof"),
        ("a cat, a fox and an owl", "more than one subject"),
        ("a red and blue cat", "more than one colour"),
        ("two cats and a fox", "beside one other"),
        ("happiness and two cats", "one or the other"),
    ],
)
def test_parser_says_what_is_wrong(caption, message):
    with pytest.raises(CaptionError, match=message):
        parse(caption)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_cleanly(text):
    try:
        parsed = parse(text)
    except CaptionError:
        return
    assert parse(captions.write(parsed.scene)).scene == from_array(to_array([parsed.scene]))[0]


def test_reachable_is_a_closed_set_of_about_nine_thousand():
    members = reachable()
    assert len(members) == 9016
    assert len(np.unique(members, axis=0)) == 9016
    assert (member_index(members) == np.arange(9016)).all()
    scenes = [Scene("cat", "white"), Scene("fox", count=2), Scene.of_idea("love", "neon", "night")]
    assert (member_index(to_array(scenes)) >= 0).all()
    outside = to_array([Scene("cat", "white", "neon", "night")])
    assert member_index(outside).tolist() == [-1]
    tinted = members[members[:, COLOUR] > 0]
    assert (own_colours()[tinted[:, SUBJECT]] != tinted[:, COLOUR]).all()
    # changing style within a member's own kind never leaves the set
    restyled = members[members[:, STYLE] >= 0].copy()
    restyled[:, STYLE] = (restyled[:, STYLE] + 1) % len(STYLES)
    assert (member_index(restyled) >= 0).all()
    assert not members.flags.writeable


def test_idea_names_do_not_hide_in_subjects():
    for idea in IDEA_NAMES:
        assert parse(idea).scene.idea == idea
