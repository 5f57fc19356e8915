"""The closed set of scenes within which prompts are expanded.

Pictures of each of its members lie in the image bank, so sessions can be simulated without drawing.
Chosen for interest (ours): a person can ask for any subject or idea, in any style and on any
background; for any coloured or counted subject, in any style. 9,016 members.
"""

from functools import cache

import numpy as np

from pasta_lib.world.scenes import (
    BACKGROUND,
    COLOUR,
    COLUMNS,
    COUNT,
    IDEA,
    IDEA_NAMES,
    STYLE,
    SUBJECT,
    SUBJECT_NAMES,
    UNSAID,
    own_colours,
)
from pasta_lib.world.vocabulary import BACKGROUNDS, COLOURS, COUNTS, STYLES


@cache
def reachable() -> np.ndarray:
    """Every member once, int64 `[9016, 7]` as in `scenes`, in a fixed order. Read only.

    1. every subject × every style or none × every background or none;
    2. every idea × every style or none × every background or none;
    3. every subject in every colour × every style or none;
    4. two, three and four of every subject × every style or none.
    """
    styles = np.arange(UNSAID, len(STYLES))
    backgrounds = np.arange(UNSAID, len(BACKGROUNDS))
    subjects, ideas = np.arange(len(SUBJECT_NAMES)), np.arange(len(IDEA_NAMES))
    parts = [
        _product({SUBJECT: subjects, STYLE: styles, BACKGROUND: backgrounds}, colour=0, count=1),
        _product({IDEA: ideas, STYLE: styles, BACKGROUND: backgrounds}, UNSAID, UNSAID),
        _product({SUBJECT: subjects, COLOUR: np.arange(1, len(COLOURS)), STYLE: styles}, 0, 1),
        _product({SUBJECT: subjects, COUNT: np.arange(2, 1 + len(COUNTS)), STYLE: styles}, 0, 1),
    ]
    tinted = parts[2]
    parts[2] = tinted[own_colours()[tinted[:, SUBJECT]] != tinted[:, COLOUR]]
    members = np.concatenate(parts)
    members.flags.writeable = False
    return members


def _product(values: dict[int, np.ndarray], colour: int, count: int) -> np.ndarray:
    """All combinations of the values of some columns; the others as given or unsaid."""
    grid = np.meshgrid(*values.values(), indexing="ij")
    out = np.full((grid[0].size, len(COLUMNS)), UNSAID, np.int64)
    out[:, COLOUR], out[:, COUNT] = colour, count
    for column, codes in zip(values, grid, strict=True):
        out[:, column] = codes.ravel()
    return out


def member_index(scenes: np.ndarray) -> np.ndarray:
    """Row of each scene in `reachable()`, -1 where it is none. int64 `[B]` from `[B, 7]`."""
    table = _index()
    return np.array([table.get(row.tobytes(), -1) for row in scenes.astype(np.int64)], np.int64)


@cache
def _index() -> dict[bytes, int]:
    return {row.tobytes(): i for i, row in enumerate(reachable())}
