"""What somebody typed, as a prompt of this world: the nearest thing to it that can be drawn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np

from pasta_lib.encoders import ClipEncoder
from pasta_lib.world.bank import prompts
from pasta_lib.world.captions import MAX_CAPTION, CaptionError, Parsed, parse
from pasta_lib.world.reachable import member_index, reachable
from pasta_lib.world.scenes import BACKGROUND, COLOUR, COUNT, STYLE, Scene, to_array

PLAIN = {"second": None, "background": None, "count": 1, "colour": "natural", "style": None}


@dataclass(frozen=True)
class Understood:
    """`member` of `reachable()`; `hint`: what was not understood, or nothing."""

    member: int
    hint: str


def understand(typed: str, encoder: ClipEncoder) -> Understood:
    """The member that says as much of what was typed as any. Of words that contradict each other
    the last is left out ("a neon cat, watercolour": a neon cat); where nothing that can be drawn is
    named, the bare subject or idea that CLIP finds nearest is played. (Of words that CLIP was never
    taught, "nearest" says little.) Raises CaptionError for nothing but white space.
    """
    words = " ".join(typed.split())
    read = words[:MAX_CAPTION]
    hints = []
    if len(words) > len(read):
        hints.append(f"Only the first {MAX_CAPTION} characters were read.")
    parsed, left_out = _parsed(read)
    if parsed is None:
        if not words:
            raise CaptionError("the prompt is empty: type what you would like to see")
        member = _nearest(read, encoder)
        nearest = f"This small world can't draw that; CLIP finds “{prompts()[member]}” nearest"
        nearest += " (it read the first words only)." if encoder.overlong([read])[0] else "."
        return Understood(member, " ".join([*hints, nearest]))
    member = _member(parsed.scene)
    if left_out:
        hints.append(f"“{left_out}” does not go with the rest.")
    if parsed.unknown:
        unknown = ", ".join(f"“{word}”" for word in parsed.unknown[:5])
        hints.append(f"Not known here: {unknown}.")
    if hints or to_array([parsed.scene])[0].tolist() != reachable()[member].tolist():
        hints.append(f"Playing with “{prompts()[member]}”.")
    return Understood(member, " ".join(hints))


def _parsed(text: str) -> tuple[Parsed | None, str]:
    """What a text says, and the word that was left out. If it is no caption, it is tried without
    its last word, then without the one before that alone, and so on."""
    words = text.split()
    for left_out in range(len(words), -1, -1):
        try:
            rest = words[:left_out] + words[left_out + 1 :]
            return parse(" ".join(rest)), "".join(words[left_out : left_out + 1])
        except CaptionError:
            pass
    return None, ""


def _member(scene: Scene) -> int:
    """The scene, or what is left of it when as little as possible is left out."""
    said = [name for name, plain in PLAIN.items() if getattr(scene, name) != plain]
    for n in range(len(said) + 1):
        for left_out in combinations(said, n):
            less = replace(scene, **{name: PLAIN[name] for name in left_out})
            if (member := int(member_index(to_array([less]))[0])) >= 0:
                return member
    raise AssertionError(f"{scene} is in no part of this world")  # a bare subject always is


def _nearest(text: str, encoder: ClipEncoder) -> int:
    """Of bare subjects and ideas."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "of 1 of 1 texts the end is not read")  # the hint says it
        typed = encoder.encode_texts([text])[0]
    return int(bare_members()[np.argmax(_bare(encoder) @ typed)])


@cache
def bare_members() -> np.ndarray:
    """Members that are a subject or an idea and nothing more, `[88]`."""
    scenes = reachable()
    plain = (scenes[:, [STYLE, BACKGROUND]] < 0).all(1)
    return np.flatnonzero(plain & (scenes[:, COLOUR] <= 0) & (scenes[:, COUNT] <= 1))


@cache
def _bare(encoder: ClipEncoder) -> np.ndarray:
    return encoder.encode_texts([prompts()[m] for m in bare_members()])
