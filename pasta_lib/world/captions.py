"""Scenes into natural English, and English back into scenes.

`write` words a scene in one of many ways; `parse` reads any of those wordings, and many others made
of the same words, and says which words it did not understand.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from pasta_lib.world.scenes import SUBJECT_NAMES, Scene
from pasta_lib.world.vocabulary import BACKGROUNDS, COLOURS, COUNTS, IDEAS, STYLES, SUBJECTS

MAX_CAPTION = 500  # characters; longer text is not a caption of this world

_STYLE_FIRST = ("{style} of {what}{where}", "a {style} of {what}{where}")
_STYLE_LAST = (
    "{what}{where}, {style}",
    "{what}{where}, {style} style",
    "{what}{where} in {style} style",
)
_OPENINGS = ("", "", "", "an image of ", "a picture of ")
_SMALL_WORDS = """a an the of on in at with and & next to under against style image picture
background scene showing some art illustration by beside is are very my"""
_PLAIN = [name for name, words in BACKGROUNDS.items() if f"on a {name} background" in words]
_STOPS = ",.;:!?\u2026\u2013\u2014"  # no phrase reaches across one
_JOININGS = ("{a} and {b}", "{a} with {b}", "{a} next to {b}")


class CaptionError(ValueError):
    """Text that is no caption of this world; the message says which words are the trouble."""


@dataclass(frozen=True)
class Parsed:
    """What a caption says, and the words in it that say nothing here."""

    scene: Scene
    unknown: tuple[str, ...]


def write(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A caption of `scene`: the plainest wording, or with `rng` one of many.

    With `rng`, one in five natural subjects that stand alone is called by its own colour, as people
    do: "a red heart", "a green frog" (ours).
    """
    pick = (lambda options: options[0]) if rng is None else lambda o: o[rng.integers(len(o))]
    style_first = scene.style is not None and bool(pick((False, False, True)))
    opening = "" if style_first or rng is None else pick(_OPENINGS)
    if scene.idea is not None:
        what = opening + scene.idea
    else:
        colour, own = scene.colour, SUBJECTS[scene.subject].own_colour
        if own and colour == "natural" and not scene.second and pick((0, 0, 0, 0, 1)):
            colour = own
        what = opening + _noun_phrase(scene.subject, colour, scene.count, pick)
        if scene.second is not None:
            second = _noun_phrase(scene.second, "natural", 1, pick)
            what = pick(_JOININGS).format(a=what, b=second)
    where = "" if scene.background is None else " " + pick(BACKGROUNDS[scene.background])
    if scene.style is None:
        return what + where
    wordings = STYLES[scene.style]
    if style_first:
        return pick(_STYLE_FIRST).format(style=pick(wordings[1:]), what=what, where=where)
    return pick(_STYLE_LAST).format(style=pick(wordings), what=what, where=where)


def _noun_phrase(subject: str, colour: str, count: int, pick) -> str:
    noun = pick(SUBJECTS[subject].wordings)[0 if count == 1 else 1]
    adjective = pick(COLOURS[colour] or ("",))
    if adjective and pick((0, 0, 0, 0, 1)):
        adjective += pick(("-coloured", "-colored"))
    words = f"{adjective} {noun}".strip()
    number = pick(COUNTS[count])
    if number == "a" and words[0] in "aeiou":
        number = "an"
    return f"{number} {words}"


def parse(caption: str) -> Parsed:
    """Read a caption. The longest known phrase wins; small words and punctuation are passed over.

    A colour or a number belongs to the noun that follows it, or to the last noun where none does;
    but with an unknown word right after it and no noun to come it belongs to that ("a cat on a red
    roof") and is unknown too, as is a colour that no background has ("a cat on a red background").
    A plural without a number that is known counts as two. A subject's own colour is "natural", as
    in `to_array`: of a scene without one, `parse(write(scene, rng)).scene == scene`.

    Raises CaptionError when it is no text, empty, longer than `MAX_CAPTION`, names no subject and
    no idea, says two different things of one attribute, or says of a second subject what it cannot
    have: a colour or a number. Everything else it does not know is in `unknown`, in order.
    """
    if not isinstance(caption, str):
        raise CaptionError(f"a prompt is text, such as 'two foxes'; got {caption!r}")
    if not caption.strip():
        raise CaptionError("the prompt is empty; write what the picture shows, such as 'two foxes'")
    if len(caption) > MAX_CAPTION:
        raise CaptionError(
            f"the prompt has {len(caption):,} characters; at most {MAX_CAPTION} are "
            "read: shorten it"
        )
    phrases = _phrases_of(_tokens(caption))
    unknown = tuple(p.text for p in phrases if p.attribute == "unknown")
    nouns = [_noun(phrases, i) for i, p in enumerate(phrases) if p.attribute == "subject"]
    idea, style, background = (
        _only(caption, attribute, [p.value for p in phrases if p.attribute == attribute])
        for attribute in ("idea", "style", "background")
    )
    if idea is not None:
        for p in phrases:
            if p.attribute in ("subject", "colour", "count") and p.value != 1:
                raise CaptionError(
                    f"{caption!r} names the idea {idea!r} and a {p.attribute} {p.text!r}; "
                    "say one or the other"
                )
        return Parsed(Scene.of_idea(idea, style, background), unknown)
    if not nouns:
        words = f" (not understood: {', '.join(unknown)})" if unknown else ""
        raise CaptionError(
            f"{caption!r} names nothing that this world can draw{words}; subjects are "
            f"{', '.join(SUBJECT_NAMES[:6])}, … and ideas {', '.join(list(IDEAS)[:3])}, … "
            "(all are in pasta_lib.world.vocabulary)"
        )
    return Parsed(_scene(caption, nouns, style, background), unknown)


class _Phrase(NamedTuple):
    """Words of a caption and what they say: ("foxes", "subject", "fox", True)."""

    text: str
    attribute: str  # or "nothing", or "unknown"
    value: object = None
    plural: bool = False


class _Noun(NamedTuple):
    """A subject, with the colours and numbers that are said of it."""

    subject: str
    colours: list[str]
    counts: list[int]


def _noun(phrases: list[_Phrase], i: int) -> _Noun:
    """The noun at `i` with what stands between it and the noun before; the last takes the rest."""
    places = [k for k, p in enumerate(phrases) if p.attribute == "subject"]
    start = max((k for k in places if k < i), default=-1) + 1
    here = phrases[start:] if i == places[-1] else phrases[start:i]
    colours, counts = ([p.value for p in here if p.attribute == a] for a in ("colour", "count"))
    return _Noun(phrases[i].value, colours, counts or ([2] if phrases[i].plural else []))


def _scene(caption: str, nouns: list[_Noun], style: str | None, background: str | None) -> Scene:
    """The scene of one or two nouns."""
    names = [noun.subject for noun in nouns]
    for name in names:
        if names.count(name) > 1:
            raise CaptionError(
                f"{caption!r} names {name!r} {names.count(name)} times; for several of a kind say "
                f"how many, such as 'two {SUBJECTS[name].wordings[0][1]}'"
            )
    if len(nouns) > 2:
        raise CaptionError(f"{caption!r} names more than two subjects: {', '.join(names)}")
    colours = [_only(caption, "colour", noun.colours) or "natural" for noun in nouns]
    colours = [
        "natural" if colour == SUBJECTS[name].own_colour else colour
        for name, colour in zip(names, colours, strict=True)
    ]
    counts = [_only(caption, "count", noun.counts) or 1 for noun in nouns]
    if len(nouns) == 1:
        return Scene(names[0], colours[0], style, background, counts[0])
    if counts != [1, 1]:
        raise CaptionError(
            f"{caption!r}: a second subject stands beside one other, not {max(counts)}"
        )
    if colours[1] != "natural":
        raise CaptionError(
            f"{caption!r}: only the first of two subjects can be coloured, and {colours[1]!r} is "
            f"said of the second; say 'a {colours[1]} {names[1]} and …' instead"
        )
    return Scene(names[0], colours[0], style, background, 1, names[1])


def _only(caption: str, attribute: str, values: list):
    """The value that all agree on, None where there is none."""
    different = list(dict.fromkeys(values))
    if len(different) > 1:
        raise CaptionError(
            f"{caption!r} names more than one {attribute}: {', '.join(map(str, different))}"
        )
    return different[0] if different else None


def _tokens(text: str) -> list[str]:
    """Words, stops, and runs of any other symbols. 'snow-white' is two words; "fox's" is one, and
    so are "1,000", "3-4" and "-3"."""
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    number = r"(?<!\w)-\d+(?:[-.,]\d+)*|\d+(?:[-.,]\d+)+"
    word, passed_over = r"[^\W_]+(?:'[^\W_]+)*", r"\-'\"\u2018\u201c\u201d`«»()\[\]"
    return re.findall(rf"{number}|{word}|[{_STOPS}]|(?:[^\w\s{_STOPS}{passed_over}]|_)+", text)


def _phrases_of(tokens: list[str]) -> list[_Phrase]:
    """The longest known phrases, in order, and the unknown tokens between them."""
    table, longest = _known_phrases()
    out = []
    i = 0
    while i < len(tokens):
        for length in range(min(longest, len(tokens) - i), 0, -1):
            words = tuple(tokens[i : i + length])
            if words in table:
                out.append(_Phrase(" ".join(words), *table[words]))
                break
        else:
            out.append(_Phrase(tokens[i], "unknown"))
            length = 1
        i += length
    return _of_what_is_unknown(_of_backgrounds(out))


def _of_backgrounds(out: list[_Phrase]) -> list[_Phrase]:
    """The phrases, where colours of a background are its own: "on white", "a snow-white
    background"; and unknown where no background has them: "on red", "a red and blue background"."""
    coloured = [p.attribute == "colour" or p.text in _PLAIN for p in out]
    for last in np.flatnonzero(coloured).tolist():
        after, *_ = *out[last + 1 :], _Phrase(".", "nothing")
        run = [last]  # "red and blue", backwards
        while run[-1] > 1 and out[run[-1] - 1].text in ("and", "&") and coloured[run[-1] - 2]:
            run.append(run[-1] - 2)
        beyond = out[last + 2] if after.text in ("and", "&") and last + 2 < len(out) else after
        named = beyond.text in ("background", *(f"{name} background" for name in _PLAIN))
        placed = run[-1] > 0 and out[run[-1] - 1].text in ("on", "against")
        if not named and (not placed or after.attribute == "subject"):
            continue
        alone = after.text in (*_STOPS, "background") or after.attribute == "style"
        name = out[last].value or out[last].text
        if alone and len(run) == 1 and name in _PLAIN:  # the one colour of one that there is
            out[last] = _Phrase(out[last].text, "background", name)
        else:
            for k in run:
                text = f"{out[k].text} background" if named else out[k].text
                out[k] = _Phrase(text, "unknown")
    return out


def _of_what_is_unknown(out: list[_Phrase]) -> list[_Phrase]:
    """The phrases, where colours and numbers of what is unknown are unknown too."""
    nouns = [k for k, p in enumerate(out) if p.attribute in ("subject", "idea")]
    for k in range(max(nouns, default=-1) + 1, len(out) - 1):
        if out[k].attribute in ("colour", "count") and out[k + 1].attribute == "unknown":
            out[k] = _Phrase(out[k].text, "unknown")
    return out


@cache
def _known_phrases() -> tuple[dict[tuple[str, ...], tuple], int]:
    """Every phrase the parser knows → (attribute, value, plural), and the length of the longest."""
    table: dict[tuple[str, ...], tuple] = {}

    def know(phrase: str, attribute: str, value: object = None, plural: bool = False) -> None:
        table.setdefault(tuple(_tokens(phrase)), (attribute, value, plural))

    for name, subject in SUBJECTS.items():
        for singular, plural in (*subject.wordings, (name, _regular_plural(name))):
            know(singular, "subject", name)
            know(plural, "subject", name, plural=True)
            know(_regular_plural(singular), "subject", name, plural=True)
    for name, wordings in COLOURS.items():
        for wording in wordings:
            for suffix in ("", " coloured", " colored"):
                know(wording + suffix, "colour", name)
    for name, wordings in STYLES.items():
        for wording in wordings:
            know(wording, "style", name)
    for name, wordings in BACKGROUNDS.items():
        for wording in wordings:
            for part in _shortened(wording):
                know(part, "background", name)
    for word, name in {"night": "night", "sunset": "sunset", "dusk": "sunset", "meadow": "meadow",
                       "snow": "snow"}.items():  # fmt: skip
        know(word, "background", name)
    for number, wordings in COUNTS.items():
        for wording in (*wordings, str(number)):
            if wording != "a":
                know(wording, "count", number)
    know("single", "count", 1)
    for idea in IDEAS:
        know(idea, "idea", idea)
        know(idea.removeprefix("a "), "idea", idea)
    for small in (*_SMALL_WORDS.split(), *_STOPS):
        know(small, "nothing")
    return table, max(map(len, table))


def _regular_plural(noun: str) -> str:
    """By rule, as people make it of any noun: "fishes", "volcanos"."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _shortened(wording: str) -> list[str]:
    """ "on a night sky" → itself and "night sky": its ends of two words or more, less articles."""
    words = wording.split()
    ends = [words[start:] for start in range(1, len(words) - 1)]
    return [wording, *(" ".join(e) for e in ends if e[0] not in ("the", "a", "plain"))]
