"""Prompt expansions: what may be drawn next, given what was asked for, picked and shown.

PASTA's candidate generator is a large language model; here a small grammar stands in its place.
Five candidates in each of five categories (Nabati et al. 2025; what each category means is ours).
All lie within `reachable()`, so their pictures are in the image bank. A member of it is a *thing*
(a subject or an idea), a *style* or none, and one *detail* or none: a background, a colour, a
number.

| category | keeps | changes |
|---|---|---|
| rephrase | the scene | the words |
| elaboration | thing and style | the detail: one more, or another in its place |
| style | thing and detail | the style |
| subject change | style and detail | the thing |
| creative | perhaps the detail | thing and style |

So no scene can come up in two categories.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from pasta_lib.seeds import gumbels, uniforms
from pasta_lib.world import captions
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import (
    BACKGROUND,
    COLOUR,
    COUNT,
    IDEA,
    STYLE,
    SUBJECT,
    from_array,
    idea_weights,
)
from pasta_lib.world.vocabulary import BACKGROUNDS, COLOURS, COUNTS, IDEAS, STYLES, SUBJECTS

CATEGORIES = ("rephrase", "elaboration", "style", "subject change", "creative")
EACH = 5  # candidates of a category, 25 in all as in PASTA
WORDINGS = 6  # of every member: the plainest, from which the bank was drawn, and five others
CATEGORY = np.repeat(np.arange(len(CATEGORIES)), EACH)  # of each of the 25
RELATED = 4.0  # how much likelier a thing is for having to do with what was asked for first (ours)
SHOWN_BEFORE = -20.0  # log weight of a scene shown before in the session: only for want of others

THINGS = len(SUBJECTS) + len(IDEAS)
N_STYLES = 1 + len(STYLES)  # the first: none
N_DETAILS = len(BACKGROUNDS) + len(COLOURS) + len(COUNTS) - 1  # the first: none


@dataclass(frozen=True)
class Candidates:
    """25 expansions for each of B sessions; their categories are `CATEGORY`.

    `member`  int64 `[B, 25]`, rows of `reachable()`: what is to be drawn.
    `wording` int64 `[B, 25]`, which of the member's wordings: what an agent reads.
    """

    member: np.ndarray
    wording: np.ndarray

    def texts(self) -> np.ndarray:
        """The wordings, str objects `[B, 25]`."""
        return wordings()[self.member, self.wording]


def propose(
    initial: np.ndarray,
    current: np.ndarray,
    wording: np.ndarray,
    shown: np.ndarray,
    session: np.ndarray,
    seed: int,
) -> Candidates:
    """25 candidates for the next slate of each session, no scene twice except as a rephrasing.

    `initial`: the member that was asked for at the start, int `[B]`; `current`, `wording`: what was
    picked last (or is still current after "none of these"); `shown`: members shown so far in the
    session, int `[B, S]`; `session`: each session's number, int `[B]`. What a session is offered
    hangs on these and the seed alone, not on the sessions beside it.

    Things that have to do with the initial prompt come up four times as often: what an idea stands
    for, a subject's own category, the ideas it stands for. A scene shown before comes up again only
    for want of others.
    """
    keys = [session, np.full(len(current), shown.shape[1])]
    thing, style, detail = (part[current, None] for part in _parts())
    table, n_details = _table(), _details_of().sum(1)
    details, styles, things = np.arange(1, N_DETAILS), np.arange(1, N_STYLES), np.arange(THINGS)

    def draw(members: np.ndarray, purpose: str, log_weight: np.ndarray | float = 0.0) -> np.ndarray:
        """Five of the members `[B, P]`, without replacement; -1 is not to be had."""
        before = (members[:, :, None] == shown[:, None]).any(2)
        weight = np.where(members < 0, -np.inf, log_weight + SHOWN_BEFORE * before)
        noisy = weight + gumbels(seed, purpose, keys, members.shape[1])
        return np.take_along_axis(members, np.argsort(-noisy, 1)[:, :EACH], 1)

    related = np.log(_related()[_parts()[0][initial]])
    chance = uniforms(seed, "creative parts", keys, 2 * THINGS).reshape(-1, 2, THINGS)
    new_style = (style + 1 + (chance[:, 0] * (N_STYLES - 1)).astype(int)) % N_STYLES
    new_detail = np.argsort(~_details_of(), 1, kind="stable")[
        things, (chance[:, 1] * n_details).astype(int)
    ]
    another = things != thing
    by_category = [
        np.repeat(current[:, None], EACH, 1),
        draw(np.where(details != detail, table[thing, style, details], -1), "elaboration"),
        draw(np.where(styles != style, table[thing, styles, detail], -1), "style"),
        draw(np.where(another, table[things, style, detail], -1), "subject change", related),
        draw(np.where(another, table[things, new_style, new_detail], -1), "creative", related),
    ]
    words = (uniforms(seed, "wording", keys, EACH * len(CATEGORIES)) * WORDINGS).astype(int)
    words[:, :EACH] = (wording[:, None] + 1 + np.arange(EACH)) % WORDINGS
    return Candidates(np.concatenate(by_category, 1), words)


@cache
def wordings() -> np.ndarray:
    """Six wordings of every member, all different, str objects `[9016, 6]`; the first is the
    plainest. About three seconds, once."""
    rng = np.random.default_rng(WORDINGS)
    out = np.empty((len(reachable()), WORDINGS), object)
    for i, scene in enumerate(from_array(reachable())):
        words = dict.fromkeys([captions.write(scene)])
        for _ in range(100):
            if len(words) == WORDINGS:
                break
            words[captions.write(scene, rng)] = None
        for opening in _MORE_OPENINGS:  # a bare idea can hardly be worded in six ways
            if len(words) < WORDINGS:
                words[opening + captions.write(scene)] = None
        out[i] = list(words)
    out.flags.writeable = False
    return out


_MORE_OPENINGS = ("a scene of ", "an illustration of ", "a picture showing ", "an image showing ")


@cache
def _parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thing, style and detail of every member, int `[9016]` each; 0 is no style, no detail."""
    members = reachable()
    thing = np.where(members[:, IDEA] >= 0, len(SUBJECTS) + members[:, IDEA], members[:, SUBJECT])
    background, colour, count = (members[:, c] for c in (BACKGROUND, COLOUR, COUNT))
    detail = np.select(
        [background >= 0, colour > 0, count > 1],
        [1 + background, len(BACKGROUNDS) + colour, len(BACKGROUNDS) + len(COLOURS) + count - 2],
        0,
    )
    return thing, 1 + members[:, STYLE], detail


@cache
def _table() -> np.ndarray:
    """The member of every thing, style and detail, int `[88, 7, 17]`; -1 where there is none."""
    table = np.full((THINGS, N_STYLES, N_DETAILS), -1)
    table[_parts()] = np.arange(len(reachable()))
    return table


@cache
def _details_of() -> np.ndarray:
    """Which details a thing can have (ideas have no colour and no number), bool `[88, 17]`."""
    return _table()[:, 0] >= 0


@cache
def _related() -> np.ndarray:
    """Weight of every thing, by the thing that was asked for first, float `[88, 88]`."""
    stands_for = idea_weights()[SUBJECT][:-1] > 0  # [ideas, subjects]
    category = np.array([subject.category for subject in SUBJECTS.values()])
    related = np.eye(THINGS, dtype=bool)
    related[: len(SUBJECTS), : len(SUBJECTS)] |= category[:, None] == category
    related[len(SUBJECTS) :, : len(SUBJECTS)] |= stands_for
    related[: len(SUBJECTS), len(SUBJECTS) :] |= stands_for.T
    return np.where(related, RELATED, 1.0)
