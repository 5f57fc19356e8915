"""Scenes: what a picture of the miniature world shows, as words and as integer arrays.

A scene names a subject (or an *idea*, such as "happiness", that stands for many scenes), and
perhaps a style, a background, a second subject. What it leaves open is drawn when it is painted.
One scene is a `Scene`; many are an integer array of shape `[B, 7]`, a column an attribute, the
codes being positions in the vocabulary and `UNSAID` (-1) for what is not said.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from pasta_lib.world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    IDEAS,
    STYLES,
    STYLES_WITHOUT_COLOUR,
    SUBJECTS,
)

SUBJECT, COLOUR, STYLE, BACKGROUND, COUNT, SECOND, IDEA = COLUMNS = range(7)
UNSAID = -1

SUBJECT_NAMES, COLOUR_NAMES, STYLE_NAMES, BACKGROUND_NAMES, IDEA_NAMES = (
    tuple(t) for t in (SUBJECTS, COLOURS, STYLES, BACKGROUNDS, IDEAS)
)
VALUES = {  # what the eye is scored on: attribute → its column, its values in their codes' order
    "subject": (SUBJECT, SUBJECT_NAMES), "colour": (COLOUR, COLOUR_NAMES),
    "style": (STYLE, STYLE_NAMES), "background": (BACKGROUND, BACKGROUND_NAMES),
    "count": (COUNT, tuple(COUNTS)),
}  # fmt: skip
ATTRIBUTES = tuple(VALUES)
HELD_OUT_SEED = 2025
HELD_OUT_SHARE = 0.10
SECOND_SHARE = 0.12  # of sampled scenes with one subject, how many get a second one


@dataclass(frozen=True)
class Scene:
    """One scene. `None` is "not said"; a subject always has a colour ("natural") and a count."""

    subject: str | None = None
    colour: str | None = "natural"
    style: str | None = None
    background: str | None = None
    count: int | None = 1
    second: str | None = None
    idea: str | None = None

    def __post_init__(self) -> None:
        if (self.subject is None) == (self.idea is None):
            raise ValueError(f"a scene has either a subject or an idea, got {self}")
        if self.idea is not None and (self.second, self.count, self.colour) != (None,) * 3:
            raise ValueError(f"an idea says nothing of colour, count or second subject: {self}")
        if self.subject is not None and None in (self.colour, self.count):
            raise ValueError(f"a subject has a colour and a count, if only 'natural' and 1: {self}")
        if self.second is not None and (self.count != 1 or self.second == self.subject):
            raise ValueError(f"a second subject stands beside one other subject: {self}")
        to_array([self])  # every word is in the vocabulary

    @staticmethod
    def of_idea(idea: str, style: str | None = None, background: str | None = None) -> "Scene":
        """An abstract prompt, perhaps with a style or a background."""
        return Scene(None, None, style, background, None, None, idea)


def to_array(scenes: list[Scene]) -> np.ndarray:
    """Codes of scenes, int64 `[B, 7]`. Raises ValueError for a word out of the vocabulary."""
    rows = [
        [
            _code(s.subject, SUBJECT_NAMES, "subject"),
            _code(s.colour, COLOUR_NAMES, "colour"),
            _code(s.style, STYLE_NAMES, "style"),
            _code(s.background, BACKGROUND_NAMES, "background"),
            UNSAID if s.count is None else _code(s.count, tuple(COUNTS), "count") + 1,
            _code(s.second, SUBJECT_NAMES, "second subject"),
            _code(s.idea, IDEA_NAMES, "idea"),
        ]
        for s in scenes
    ]
    array = np.array(rows, np.int64).reshape(-1, len(COLUMNS))
    has_subject = array[:, SUBJECT] >= 0
    own = own_colours()[array[:, SUBJECT]] == array[:, COLOUR]  # a red heart is a natural heart
    array[has_subject & own & (array[:, COLOUR] > 0), COLOUR] = 0
    return array


def from_array(array: np.ndarray) -> list[Scene]:
    """The inverse of `to_array`. `array`: int `[B, 7]`."""

    def name(code: int, names: tuple) -> str | None:
        return None if code == UNSAID else names[code]

    return [
        Scene(
            name(s, SUBJECT_NAMES),
            name(c, COLOUR_NAMES),
            name(y, STYLE_NAMES),
            name(b, BACKGROUND_NAMES),
            None if n == UNSAID else int(n),
            name(e, SUBJECT_NAMES),
            name(i, IDEA_NAMES),
        )
        for s, c, y, b, n, e, i in array.tolist()
    ]


def _code(word: str | int | None, names: tuple, what: str) -> int:
    if word is None:
        return UNSAID
    if word not in names:
        raise ValueError(f"unknown {what} {word!r}; expected one of: {', '.join(map(str, names))}")
    return names.index(word)


def shows_colour(scenes: np.ndarray) -> np.ndarray:
    """Whether the style of each scene lets a subject's colour be seen, bool, from `[..., 7]`."""
    hiding = [STYLE_NAMES.index(style) for style in STYLES_WITHOUT_COLOUR]
    return ~np.isin(scenes[..., STYLE], hiding)


@cache
def own_colours() -> np.ndarray:
    """The tint each subject already has, as a colour code, or -1. int `[subjects]`."""
    return np.array([_code(s.own_colour, COLOUR_NAMES, "colour") for s in SUBJECTS.values()])


@cache
def held_out_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Pairs that no training ever shows: subject × style and subject × background, bool.

    One tenth of each, at most one a subject, so that every subject and value stays well known.
    """
    rng = np.random.default_rng(HELD_OUT_SEED)

    def draw(values: int) -> np.ndarray:
        pairs = np.zeros((len(SUBJECTS), values), bool)
        chosen = rng.permutation(len(SUBJECTS))[: round(HELD_OUT_SHARE * pairs.size)]
        pairs[chosen, rng.permutation(len(chosen)) % values] = True
        return pairs

    return draw(len(STYLES)), draw(len(BACKGROUNDS))


def is_held_out(scenes: np.ndarray) -> np.ndarray:
    """Whether a subject of a *resolved* scene meets a held-out style or background. `[B]`.

    Raises ValueError where a scene leaves its subject, style or background open.
    """
    unsaid = (scenes[:, [SUBJECT, STYLE, BACKGROUND]] == UNSAID).any(1)
    if unsaid.any():
        raise ValueError(
            f"row {unsaid.argmax()} leaves its subject, style or background open: "
            f"{scenes[unsaid][0]}; resolve() the scenes first"
        )
    by_style, by_background = held_out_pairs()
    out = np.zeros(len(scenes), bool)
    for column in (SUBJECT, SECOND):
        here = scenes[:, column] >= 0
        s = scenes[here, column]
        out[here] |= by_style[s, scenes[here, STYLE]]
        out[here] |= by_background[s, scenes[here, BACKGROUND]]
    return out


def sample_scenes(
    n: int,
    rng: np.random.Generator,
    held_out: bool | None = False,
    second: float = SECOND_SHARE,
) -> np.ndarray:
    """Fully specified scenes, uniform over subjects, styles, backgrounds and counts.

    `held_out`: False keeps to the training pairs, of first and second subject alike; True to
    scenes whose first subject makes a held-out pair; None mixes. `second`: the share of scenes
    with a second subject, 0..1. Returns int64 `[n, 7]` with nothing unsaid but second and idea.
    """
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n:
        m = 2 * n + 16 if held_out is not True else 8 * n + 64
        array = np.full((m, len(COLUMNS)), UNSAID, np.int64)
        array[:, SUBJECT] = rng.integers(len(SUBJECTS), size=m)
        array[:, COLOUR] = rng.integers(len(COLOURS), size=m)
        array[:, STYLE] = rng.integers(len(STYLES), size=m)
        array[:, BACKGROUND] = rng.integers(len(BACKGROUNDS), size=m)
        array[:, COUNT] = rng.integers(1, 1 + len(COUNTS), size=m)
        pair = rng.random(m) < second
        array[pair, COUNT] = 1
        array[pair, SECOND] = rng.integers(len(SUBJECTS), size=pair.sum())
        good = array[:, SECOND] != array[:, SUBJECT]
        good &= own_colours()[array[:, SUBJECT]] != array[:, COLOUR]
        if held_out is False:
            good &= ~is_held_out(array)
        elif held_out:
            first = array.copy()
            first[:, SECOND] = UNSAID
            good &= is_held_out(first)
        kept.append(array[good])
    return np.concatenate(kept)[:n]


def resolve(scenes: np.ndarray, rng: np.random.Generator, training: bool = False) -> np.ndarray:
    """Draw what each scene leaves open: int64 `[B, 7]` in which only second and idea may be -1.

    An idea draws its subject, colour, background and count from its weighted set. With
    `training`, draws that would make a held-out pair are drawn again; a scene that itself names a
    held-out pair raises ValueError.
    """
    out = scenes.copy()
    todo = np.arange(len(scenes))
    for _ in range(1000):
        out[todo] = _draw(scenes[todo], rng)
        bad = own_colours()[out[todo, SUBJECT]] == out[todo, COLOUR]
        if training:
            bad |= is_held_out(out[todo])
        todo = todo[bad]
        if not len(todo):
            return out
    raise ValueError(f"no admissible scene for {from_array(scenes[todo[:1]])[0]}")


def _draw(scenes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = scenes.copy()
    weights = idea_weights()
    idea = scenes[:, IDEA]
    for column in (SUBJECT, COLOUR, STYLE, BACKGROUND, COUNT):
        open_ = scenes[:, column] == UNSAID
        cumulative = weights[column][idea[open_]].cumsum(1)
        u = rng.random((open_.sum(), 1)) * cumulative[:, -1:]
        out[open_, column] = (cumulative <= u).sum(1) + (column == COUNT)
    return out


@cache
def idea_weights() -> dict[int, np.ndarray]:
    """Weights of the values by idea: column → float `[ideas + 1, values]`; the last row, which
    code -1 indexes, is for scenes without an idea (uniform style and background)."""
    tables = {
        SUBJECT: (SUBJECT_NAMES, "subject", {}),
        COLOUR: (COLOUR_NAMES, "colour", {"natural": 10, **dict.fromkeys(COLOUR_NAMES[1:], 1)}),
        STYLE: (STYLE_NAMES, "style", {}),
        BACKGROUND: (BACKGROUND_NAMES, "background", {}),
        COUNT: (tuple(COUNTS), "count", {1: 3, 2: 1, 3: 1, 4: 1}),
    }
    out = {}
    for column, (names, key, default) in tables.items():
        default = default or dict.fromkeys(names, 1)
        rows = [IDEAS[idea].get(key, default) for idea in IDEA_NAMES]
        rows.append(dict.fromkeys(names, 1))
        for row in rows:
            if unknown := set(row) - set(names):
                raise ValueError(f"an idea names an unknown {key}: {sorted(unknown)}")
        out[column] = np.array([[row.get(n, 0) for n in names] for row in rows], float)
    return out


def sample_prompts(
    n: int, rng: np.random.Generator, second: float = SECOND_SHARE
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts for training and the scenes painted for them, both int64 `[n, 7]`.

    One in eight is an idea (one third of those with a style, one fifth with a background); of the
    rest one in eight leaves out the style, and as many the background. The words never name, nor
    the paint show, a held-out pair. `second` as in `sample_scenes`, of those that are no ideas.
    """
    shown = sample_scenes(n, rng, second=second)
    said = shown.copy()
    said[rng.random(n) < 0.125, STYLE] = UNSAID
    said[rng.random(n) < 0.125, BACKGROUND] = UNSAID
    idea = rng.random(n) < 0.125
    said[idea] = UNSAID
    m = int(idea.sum())
    said[idea, IDEA] = rng.integers(len(IDEAS), size=m)
    said[idea, STYLE] = np.where(rng.random(m) < 1 / 3, rng.integers(len(STYLES), size=m), UNSAID)
    ground = rng.integers(len(BACKGROUNDS), size=m)
    said[idea, BACKGROUND] = np.where(rng.random(m) < 1 / 5, ground, UNSAID)
    shown[idea] = resolve(said[idea], rng, training=True)
    return said, shown
