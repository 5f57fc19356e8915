"""Synthetic raters at work: what a population picks, compares, ranks and rates. All of it is ours.

Everything is drawn from the image bank, so no picture is drawn; everything hangs on the seed alone.
The tables here hold numbers (members of `reachable()`, pictures of the bank);
`data/makers/make_raters.py` writes them in the schemas of the public data sets.
"""

from dataclasses import dataclass

import numpy as np

from pasta_lib.candidates import propose
from pasta_lib.seeds import gumbels, uniforms
from pasta_lib.sessions import Sessions, begin, play
from pasta_lib.world.people import (
    BEST,
    Population,
    choose,
    column_values,
    judge,
    picture_values,
)
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import BACKGROUND, COLOUR, COUNT, IDEA, STYLE

PEOPLE = 4000
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1  # of people; the last ones, whose order tells nothing
HELD_OUT = 0.2  # of the prompts: nobody from whom a model may learn is asked about them


@dataclass(frozen=True)
class Crowd:
    """A population that sits in sessions (see `sessions.play`). `x`: `perceived` of the bank;
    `best`: how many pictures of a column count."""

    people: Population
    x: np.ndarray
    seed: int
    best: int = BEST

    def values(self, sessions: Sessions, member: np.ndarray) -> np.ndarray:
        """What each column of slates `[S, 4]` is worth to the one who sits there, `[S, 4]`."""
        asked_for = reachable()[sessions.initial]
        seen = picture_values(self.people, sessions.person, self.x[member], asked_for)
        return column_values(seen, self.best)

    def choose(self, sessions: Sessions, member: np.ndarray, values: np.ndarray) -> np.ndarray:
        return choose(self.people, sessions.person, values, self.seed, sessions.occasion)

    def judge(self, sessions: Sessions, value: np.ndarray, last: np.ndarray) -> np.ndarray:
        """As `people.judge`."""
        return judge(self.people, sessions.person, value, last, self.seed, sessions.occasion)


def held_out_prompts(seed: int) -> np.ndarray:
    """Which members of `reachable()` nobody's answers may teach a model about, bool `[9016]`."""
    return np.random.default_rng([seed, 3]).permutation(len(reachable())) < HELD_OUT * len(
        reachable()
    )


def initial_prompts(seed: int) -> np.ndarray:
    """Members that sessions start from: all 24 ideas, all 64 bare subjects, and 312 of the prompts
    for a subject that say one thing more."""
    rng = np.random.default_rng([seed, 4])
    scenes = reachable()
    said = (scenes[:, [STYLE, BACKGROUND]] >= 0).sum(1)
    said += (scenes[:, COLOUR] > 0).astype(int) + (scenes[:, COUNT] > 1)
    one_more = np.flatnonzero((said == 1) & (scenes[:, IDEA] < 0))
    plain = np.flatnonzero(said == 0)
    return np.concatenate([plain, np.sort(rng.permutation(one_more)[: 400 - len(plain)])])


def split_of(person: np.ndarray, n_people: int = PEOPLE) -> np.ndarray:
    """ "train", "validation" or "test" of person numbers."""
    test = n_people - round(TEST_SHARE * n_people)
    validation = test - round(VALIDATION_SHARE * n_people)
    return np.select([person >= test, person >= validation], ["test", "validation"], "train")


def play_sessions(crowd: Crowd, agent, seed: int, each: int = 3) -> Sessions:
    """`each` sessions of every person, and of a test person two more, from held-out prompts.

    Half of the sessions start from an idea. A person's sessions are numbered in the order in which
    they took place.
    """
    n = len(crowd.people)
    person = np.repeat(np.arange(n), each + 2 * (split_of(np.arange(n), n) == "test"))
    session = np.arange(len(person))
    nth = session - np.searchsorted(person, person)
    initial = prompts_for(nth >= each, initial_prompts(seed), seed, "initial prompt")
    return play(begin(session, person, initial), agent, crowd, seed)


def prompts_for(held_out: np.ndarray, pool: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A prompt of `pool` for each of N occasions, members `[N]`: half of them ideas, and held-out
    ones where `held_out` `[N]` says so."""
    chance = uniforms(seed, purpose, [np.arange(len(held_out))], 2)
    out = held_out_prompts(seed)[pool]
    return np.where(held_out, _drawn(pool[out], chance), _drawn(pool[~out], chance))


def _drawn(members: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Members drawn by two uniform numbers `[B, 2]`: half of them ideas."""
    idea = reachable()[members, IDEA] >= 0
    ideas, others = members[idea], members[~idea]
    one = ideas[(chance[:, 1] * len(ideas)).astype(int)]
    other = others[(chance[:, 1] * len(others)).astype(int)]
    return np.where(chance[:, 0] < 0.5, one, other)


@dataclass(frozen=True)
class Shown:
    """Pictures that somebody looked at: `prompt` `[N]`, a member; `member`, `picture` `[N, I]`, the
    pictures of the bank; `person` `[N]`."""

    prompt: np.ndarray
    member: np.ndarray
    picture: np.ndarray
    person: np.ndarray


def show(person: np.ndarray, images: int, seed: int, purpose: str, prompt: np.ndarray) -> Shown:
    """`images` pictures for each prompt `[N]`: of different expansions of it, as different
    generators would draw it. All who look at the same row's prompt and number see the same."""
    number = np.arange(len(person))
    none = np.zeros((len(person), 0), int)
    offered = propose(prompt, prompt, np.zeros_like(prompt), none, number, seed + len(purpose))
    chance = uniforms(seed, purpose, [number], 26 + images)
    everything = np.concatenate([prompt[:, None], offered.member[:, 5:]], 1)  # 21 scenes
    which = np.argsort(chance[:, : everything.shape[1]], 1)[:, :images]
    picture = (chance[:, 26:] * 4).astype(int)
    return Shown(prompt, np.take_along_axis(everything, which, 1), picture, person)


def worth(crowd: Crowd, shown: Shown) -> np.ndarray:
    """v of every picture to the one who looks at it, `[N, I]`."""
    x = crowd.x[shown.member, shown.picture]
    return picture_values(crowd.people, shown.person, x, reachable()[shown.prompt])


def compare(crowd: Crowd, shown: Shown, purpose: str) -> np.ndarray:
    """The label of image 1 in each pair, `[N]`: 1, 0, or .5 for a tie."""
    values = worth(crowd, shown)
    key = [np.arange(len(values)), np.full(len(values), len(purpose))]
    return (1 + judge(crowd.people, shown.person, values[:, 1], values[:, 0], crowd.seed, key)) / 2


def rank(crowd: Crowd, shown: Shown, purpose: str) -> np.ndarray:
    """Each picture's rank, `[N, I]`, 1 the best: Plackett and Luce's model.

    `purpose` names the noise: another word than the pictures were drawn by (`show`), or the numbers
    that chose row n's pictures decide how they are ranked.
    """
    values = worth(crowd, shown)
    noise = gumbels(crowd.seed, purpose, [np.arange(len(values))], values.shape[1])
    noisy = crowd.people.steadiness[shown.person, None] * values + noise
    return 1 + np.argsort(np.argsort(-noisy, 1), 1)


def rate(crowd: Crowd, shown: Shown) -> np.ndarray:
    """Stars 1 … 10, `[N]`, of single pictures: a person's worst and best spread over the scale."""
    values = worth(crowd, shown)[:, 0]
    noise = gumbels(crowd.seed, "rating", [np.arange(len(values))], 2)
    logistic = (noise[:, 0] - noise[:, 1]) / crowd.people.steadiness[shown.person]
    return np.clip(np.round(5 + 1.5 * (values + logistic)), 1, 10).astype(int)
