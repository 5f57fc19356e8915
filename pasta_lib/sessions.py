"""Sessions: a person and an agent, five turns of four columns of four pictures; many at once.

The agent picks a slate from the candidates, the person picks a column of it (or none), and says
whether it is better or worse than the last pick. What is picked becomes the prompt from which the
next candidates are made; after "none of these" the old one stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from pasta_lib.candidates import CATEGORY, Candidates, propose, wordings

TURNS = 5  # H
SLATE = 4  # L
NONE = -1  # chosen: none of these
UNJUDGED = -9  # versus_last where there is nothing to compare


@dataclass(frozen=True)
class Sessions:
    """S sessions of T turns. Members are rows of `reachable()`, wordings of `wordings()`.

    `session`, `person`, `initial` `[S]`; `member`, `wording`, `category` `[S, T, 4]`, the slates;
    `chosen` `[S, T]`, a column or NONE; `versus_last` `[S, T]`: 1 better, 0 same, -1 worse, or
    UNJUDGED, against the last turn in which a column was picked. All int64.
    """

    session: np.ndarray
    person: np.ndarray
    initial: np.ndarray
    member: np.ndarray
    wording: np.ndarray
    category: np.ndarray
    chosen: np.ndarray
    versus_last: np.ndarray

    @property
    def turns(self) -> int:
        return self.chosen.shape[1]

    @property
    def occasion(self) -> list[np.ndarray]:
        """Names the coming turn of each session, for `seeds`: its number, and which turn."""
        return [self.session, np.full(len(self.session), self.turns)]

    def last_pick(self) -> np.ndarray:
        """The turn (from 0) of the last pick before each turn and now, `[S, T + 1]`; -1: none."""
        turn = np.where(self.chosen == NONE, -1, np.arange(self.turns))
        return np.maximum.accumulate(np.pad(turn, ((0, 0), (1, 0)), constant_values=-1), 1)

    def standing(self) -> np.ndarray:
        """The member that was picked last, before each turn and now, `[S, T + 1]`; -1: none."""
        return self._of_last_pick(self.member, self.last_pick(), -1)

    def prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """Member and wording `[S, T + 1]` of the prompt that stands before each turn and now: the
        last pick, or the initial."""
        turn = self.last_pick()
        member = self._of_last_pick(self.member, turn, self.initial[:, None])
        return member, self._of_last_pick(self.wording, turn, 0)

    def current(self) -> tuple[np.ndarray, np.ndarray]:
        """Member and wording `[S]` of the prompt that stands now."""
        member, wording = self.prompts()
        return member[:, -1], wording[:, -1]

    def _of_last_pick(self, shown: np.ndarray, turn: np.ndarray, nothing) -> np.ndarray:
        """What of slates' `shown` `[S, T, 4]` was picked in turns `[S, N]`; -1: `nothing`."""
        if not self.turns:
            return np.broadcast_to(nothing, turn.shape)
        rows = np.arange(len(turn))[:, None]
        return np.where(turn < 0, nothing, shown[rows, turn, self.chosen[rows, turn]])

    def select(self, rows: np.ndarray) -> "Sessions":
        """Only some sessions, by an index or a mask."""
        return Sessions(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def texts(self) -> np.ndarray:
        """What the slates say, str objects `[S, T, 4]`."""
        return wordings()[self.member, self.wording]

    def _and(self, **turn: np.ndarray) -> "Sessions":
        """One turn more."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        grown = {k: np.concatenate([parts[k], v[:, None]], 1) for k, v in turn.items()}
        return Sessions(**parts | grown)


Agent = Callable[[Sessions, Candidates], np.ndarray]
"""What has happened so far and 25 candidates for each of S sessions → positions `[S, 4]` of the
candidates that make the slate, at most one of a category."""


def begin(session: np.ndarray, person: np.ndarray, initial: np.ndarray) -> Sessions:
    """Sessions before their first turn."""
    n = len(session)
    empty, slates = np.zeros((n, 0), np.int64), np.zeros((n, 0, SLATE), np.int64)
    return Sessions(session, person, initial, slates, slates, slates, empty, empty)


def joined(parts: Sequence[Sessions]) -> Sessions:
    """One after the other."""
    names = [f.name for f in fields(Sessions)]
    return Sessions(**{k: np.concatenate([getattr(part, k) for part in parts]) for k in names})


def play(sessions: Sessions, agent: Agent, user, seed: int, turns: int = TURNS) -> Sessions:
    """Play all sessions on, at once, for `turns` turns.

    Raises ValueError, naming the session, for a slate of other than four candidates, or two of one
    category. `user` plays the people: `user.values(sessions, member)` gives what each column of the
    slates `member` `[S, 4]` is worth to them, `[S, 4]`; `user.choose(sessions, member, values)` a
    column or NONE; `user.judge(sessions, value, last)` 1, 0 or -1. Memory: about 40 kB a session.
    """
    rows = np.arange(len(sessions.session))
    stood = sessions.standing()[:, -1]
    last, before = np.zeros(len(rows)), stood >= 0
    if before.any():
        again = np.repeat(stood.clip(0)[:, None], SLATE, 1)
        last = user.values(sessions, again)[:, 0]
    for _ in range(turns):
        shown = sessions.member.reshape(len(rows), -1)
        candidates = propose(sessions.initial, *sessions.current(), shown, sessions.session, seed)
        slate = _checked(agent(sessions, candidates), len(rows))
        member = np.take_along_axis(candidates.member, slate, 1)
        values = user.values(sessions, member)
        chosen = user.choose(sessions, member, values)
        value, picked = values[rows, chosen], chosen != NONE
        versus = np.where(picked & before, user.judge(sessions, value, last), UNJUDGED)
        last, before = np.where(picked, value, last), before | picked
        sessions = sessions._and(
            member=member, wording=np.take_along_axis(candidates.wording, slate, 1),
            category=CATEGORY[slate], chosen=chosen, versus_last=versus.astype(np.int64),
        )  # fmt: skip
    return sessions


def _checked(slate: np.ndarray, n: int) -> np.ndarray:
    """What an agent gave, if it is slates."""
    slate, expected = np.asarray(slate), "positions among the 25 candidates, one of a category"
    if slate.shape != (n, SLATE) or slate.dtype.kind not in "iu":
        raise ValueError(
            f"The agent gave {slate.dtype} of shape {slate.shape} for {n} sessions; expected "
            f"integers [{n}, {SLATE}]: {expected} at most."
        )
    outside = ((slate < 0) | (slate >= len(CATEGORY))).any(1)
    kinds = np.sort(CATEGORY[np.where(outside[:, None], 0, slate)], 1)
    twice = ~outside & (kinds[:, 1:] == kinds[:, :-1]).any(1)
    for bad, what in ((outside, "no candidate"), (twice, "two of one category")):
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"The agent's slate {slate[row].tolist()} for session {row} has {what}; expected "
                f"{SLATE} {expected} at most."
            )
    return slate
