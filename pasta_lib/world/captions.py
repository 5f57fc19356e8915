"""Scenes into natural English, and English back into scenes.

`write` words a scene in one of many ways; `parse` reads any of those wordings, and many others made
of the same words, and says which words it did not understand.
"""

import re
from dataclasses import dataclass
from functools import cache

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
_SMALL_WORDS = """a an the one single of on in at with and next to under against style image picture
photo drawing painting background scene showing some art illustration by beside is are very my"""
_JOININGS = ("{a} and {b}", "{a} with {b}", "{a} next to {b}")


class CaptionError(ValueError):
    """Text that is no caption of this world; the message says which words are the trouble."""


@dataclass(frozen=True)
class Parsed:
    """What a caption says, and the words in it that say nothing here."""

    scene: Scene
    unknown: tuple[str, ...]


def write(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A caption of `scene`: the plainest wording, or with `rng` one of many."""
    pick = (lambda options: options[0]) if rng is None else lambda o: o[rng.integers(len(o))]
    style_first = scene.style is not None and bool(pick((False, False, True)))
    opening = "" if style_first or rng is None else pick(_OPENINGS)
    if scene.idea is not None:
        what = opening + scene.idea
    else:
        what = opening + _noun_phrase(scene.subject, scene.colour, scene.count, pick)
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


def _noun_phrase(subject: str, colour: str | None, count: int, pick) -> str:
    noun = pick(SUBJECTS[subject].wordings)[0 if count == 1 else 1]
    adjective = pick(COLOURS[colour] or ("",)) if colour else ""
    if adjective and pick((0, 0, 0, 0, 1)):
        adjective += pick(("-coloured", "-colored"))
    words = f"{adjective} {noun}".strip()
    number = pick(COUNTS[count])
    if number == "a" and words[0] in "aeiou":
        number = "an"
    return f"{number} {words}"


def parse(caption: str) -> Parsed:
    """Read a caption. The longest known phrase wins; articles and small words are skipped.

    Raises CaptionError when it is empty, longer than `MAX_CAPTION`, names no subject and no idea,
    or says two different things of one attribute. Words it does not know are in `unknown`.
    """
    if not caption.strip():
        raise CaptionError("the prompt is empty; write what the picture shows, such as 'two foxes'")
    if len(caption) > MAX_CAPTION:
        raise CaptionError(
            f"the prompt has {len(caption):,} characters; at most {MAX_CAPTION} are "
            "read: shorten it"
        )
    found, unknown = _scan(_tokens(caption))
    if "idea" in found:
        for attribute in ("subject", "colour", "count"):
            if attribute in found:
                raise CaptionError(
                    f"{caption!r} names the idea {found['idea'][0]!r} and a {attribute} "
                    f"{found[attribute][0]!r}; say one or the other"
                )
    elif "subject" not in found:
        known = ", ".join(SUBJECT_NAMES[:6])
        words = f" (not understood: {', '.join(unknown)})" if unknown else ""
        raise CaptionError(
            f"{caption!r} names nothing that this world can draw{words}; subjects are {known}, … "
            f"and ideas {', '.join(list(IDEAS)[:3])}, …"
        )
    for attribute, values in found.items():
        if len(values) > (2 if attribute == "subject" else 1):
            raise CaptionError(
                f"{caption!r} names more than one {attribute}: {', '.join(map(str, values))}"
            )
    value = {attribute: values[0] for attribute, values in found.items()}
    style, background = value.get("style"), value.get("background")
    if "idea" in value:
        return Parsed(Scene.of_idea(value["idea"], style, background), tuple(unknown))
    second = found["subject"][1] if len(found["subject"]) > 1 else None
    if second and value.get("count", 1) != 1:
        raise CaptionError(
            f"{caption!r}: a second subject stands beside one other, not {value['count']}"
        )
    return Parsed(
        Scene(value["subject"], value.get("colour", "natural"), style, background,
              value.get("count", 1), second),
        tuple(unknown),
    )  # fmt: skip


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", text.lower().replace("\u2019", "'"))


def _scan(tokens: list[str]) -> tuple[dict[str, list], list[str]]:
    """Values found by attribute, each once and in order, and the tokens that mean nothing."""
    phrases, longest = _phrases()
    found: dict[str, list] = {}
    unknown = []
    i = 0
    while i < len(tokens):
        for length in range(min(longest, len(tokens) - i), 0, -1):
            meaning = phrases.get(tuple(tokens[i : i + length]))
            if meaning is not None:
                break
        else:
            unknown.append(tokens[i])
            i += 1
            continue
        i += length
        attribute, value = meaning
        if attribute != "nothing" and value not in found.setdefault(attribute, []):
            found[attribute].append(value)
    return found, unknown


@cache
def _phrases() -> tuple[dict[tuple[str, ...], tuple[str, object]], int]:
    """Every phrase the parser knows → (attribute, value), and the length of the longest."""
    table: dict[tuple[str, ...], tuple[str, object]] = {}

    def know(phrase: str, attribute: str, value: object) -> None:
        table.setdefault(tuple(_tokens(phrase)), (attribute, value))

    for name, subject in SUBJECTS.items():
        for forms in (*subject.wordings, (name, name + "s")):
            for form in forms:
                know(form, "subject", name)
    for name, wordings in COLOURS.items():
        for wording in wordings:
            for suffix in ("", "-coloured", "-colored", " coloured", " colored"):
                know(wording + suffix, "colour", name)
    for name, wordings in STYLES.items():
        for wording in wordings:
            know(wording, "style", name)
    for name, wordings in BACKGROUNDS.items():
        for wording in wordings:
            words = wording.split()
            for start in range(
                len(words) - 1 if words[0] in ("on", "in", "at", "against", "under") else 1
            ):
                if words[start] not in ("the", "a", "plain") and not (
                    start and len(words) - start < 2
                ):
                    know(" ".join(words[start:]), "background", name)
    for name in ("night", "sunset", "dusk", "meadow", "snow"):
        know(name, "background", "sunset" if name == "dusk" else name)
    for number, wordings in COUNTS.items():
        for wording in wordings:
            if number > 1:
                know(wording, "count", number)
    for idea in IDEAS:
        know(idea, "idea", idea)
        know(re.sub(r"^a ", "", idea), "idea", idea)
    for small in _SMALL_WORDS.split():
        know(small, "nothing", None)
    return table, max(map(len, table))
