"""A visitor's session, in plain Python: a prompt, five slates, five picks; kept event by event.

    studio = open_studio(GeneratorConfig())   # models and agents, once
    visit = begin_visit(studio, log, "happiness", person="ann", agent="pasta")
    visit.propose()                           # the agent's slate, on record before it is drawn
    for column in visit.columns(): ...        # four pictures each
    visit.pick(2)                             # or skip(); then judge("better"), undo(), leave()

What was said lies in the log (`visits`), not here: `Visit(studio, log, session_id)` goes on where a
session stopped, with the same candidates and the same pictures. A `Duel` is two visits at once,
whose agents are called A and B until the visitor has voted. Widgets are in `widgets`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from operator import index
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from pasta_lib import visits
from pasta_lib.agents import candidate_values, iql_agent
from pasta_lib.baselines import untrained
from pasta_lib.candidates import CATEGORIES, CATEGORY, Candidates, propose, wordings
from pasta_lib.generator import MAX_PROMPT, GeneratorConfig, generate, load_pipeline
from pasta_lib.histories import Reader
from pasta_lib.iql import Trained
from pasta_lib.sealed import AGENTS, draw_sides, fingerprint, key_of, unseal
from pasta_lib.seeds import uniforms
from pasta_lib.sessions import NONE, SLATE, TURNS, UNJUDGED, Sessions, begin
from pasta_lib.simulator import ColumnWorth, beliefs, utilities_of_columns
from pasta_lib.user_types import UserTypes
from pasta_lib.visits import VisitError
from pasta_lib.world.agent_study import Sight, load_pasta, load_reader, load_sight, load_user_model
from pasta_lib.world.bank import PICTURES, draw_again, image_ids, prompts, seed_of
from pasta_lib.world.gallery import favourites
from pasta_lib.world.reachable import reachable
from pasta_lib.world.understand import bare_members, understand

NAMES = dict(zip(AGENTS, ("PASTA", "Baseline"), strict=True))
FACES = 3  # pictures that stand for a type
VERDICTS = {"better": 1, "same": 0, "worse": -1}


@dataclass(frozen=True)
class Studio:
    """What all sessions share. `drawing`: which pipeline draws; `faces`: of every type, what it
    likes in words and in three pictures; `seed`: of what is offered."""

    sight: Sight
    types: UserTypes
    reader: Reader
    trained: Trained
    pipeline: DiffusionPipeline
    drawing: GeneratorConfig
    faces: list[tuple[str, np.ndarray]]
    seed: int = 0

    def draw(self, member: np.ndarray) -> np.ndarray:
        """The four pictures of each of N members, uint8 `[N, 4, H, W, 3]`: of their plainest
        wording and the image bank's seeds, so that their names in the log say how to draw them."""
        words = [prompts()[m] for m in member for _ in range(PICTURES)]
        seeds = [seed_of(m, picture) for m in member for picture in range(PICTURES)]
        drawn = generate(self.pipeline, words, seeds, self.drawing, progress=False)
        return drawn.reshape(len(member), PICTURES, *drawn.shape[1:])

    @torch.no_grad()
    def worth(self, initial: int, pictures: np.ndarray) -> Tensor:
        """R_k of columns of pictures as they were drawn, `[N, K]`, under an initial prompt."""
        flat = pictures.reshape(-1, *pictures.shape[2:])
        seen = self.sight.image(torch.as_tensor(self.sight.encoder.encode_images(flat)))
        said = torch.as_tensor(self.sight.encoder.encode_texts([prompts()[initial]]))
        columns = seen.reshape(len(pictures), PICTURES, -1)
        return utilities_of_columns(self.types, columns, self.sight.text(said))[0]

    @property
    def model(self) -> str:
        """Generator, how it draws, and encoder, as the log names them."""
        d = self.drawing
        revision = f"@{d.revision}" if d.revision else ""
        steps = f"{d.steps} steps by {type(self.pipeline.scheduler).__name__}"
        clip = self.sight.encoder.config.model
        return f"{d.model}{revision}, {steps}, guidance {d.guidance:g}, CLIP {clip}"

    def images(self, member: np.ndarray) -> list[list[str]]:
        """What the log calls the pictures of members. Only those that are drawn as the bank was
        have the bank's names."""
        as_the_bank = self.drawing == replace(GeneratorConfig(), batch_size=self.drawing.batch_size)
        names = image_ids()[member].tolist()
        return names if as_the_bank else [[f"other_{n[1:]}" for n in four] for four in names]


def open_studio(drawing: GeneratorConfig, seed: int = 0) -> Studio:
    """The miniature's models and its trained agent: half a minute. With another `drawing` (SDXL,
    see `hub`), its pictures are what the miniature's CLIP and user model see, at their size."""
    sight = load_sight()
    types = load_user_model(sight)
    reader = load_reader(sight, types, bare_members()[:1])  # columns are drawn, not looked up
    pipeline = load_pipeline(drawing)
    gallery = favourites(types, sight.pictures, sight.names, said=2)
    names = list(gallery.names[:, :FACES].ravel())
    drawn = draw_again(names, load_pipeline(GeneratorConfig()), progress=False)
    faces = zip(gallery.words, drawn.reshape(-1, FACES, *drawn.shape[1:]), strict=True)
    return Studio(
        sight, types, reader, load_pasta(reader), pipeline, drawing, list(faces), seed
    )  # fmt: skip


def begin_visit(
    studio: Studio, log: Path, typed: str, *, person: str, agent: str, number: int | None = None
) -> tuple[Visit, str]:
    """A session with one of `AGENTS`, and what of the prompt was not understood.

    `number` names what will be offered; by default it is drawn. Raises CaptionError for an empty
    prompt, VisitError where the log can't be written, ValueError for an unknown agent.
    """
    if agent not in AGENTS:
        raise ValueError(f"agent {agent!r}: expected one of {', '.join(AGENTS)}")
    begun, hint = _beginning(studio, typed, person, number)
    session_id = _new_name()
    with visits.open_log(log) as open_:
        visits.record(open_, session_id, "begin", agent=agent, **begun)
    return Visit(studio, log, session_id), hint


def begin_duel(
    studio: Studio, log: Path, typed: str, *, person: str, number: int | None = None
) -> tuple[Duel, str]:
    """Both agents, at the same prompt and with the same chances; as `begin_visit`."""
    begun, hint = _beginning(studio, typed, person, number)
    name = _new_name()
    with visits.open_log(log) as open_:
        so_far = visits.sealed(open_)
        key = key_of(log)
        begun |= {"sealed": draw_sides(key, name, so_far), "key": fingerprint(key)}
        both = [(f"{name}-{side}", "begin", None, begun | {"agent": side}) for side in "AB"]
        visits.record_all(open_, both)
    return Duel(studio, log, name), hint


def _beginning(studio: Studio, typed: str, person: str, number: int | None) -> tuple[dict, str]:
    understood = understand(typed, studio.sight.encoder)
    number = secrets.randbits(32) if number is None else number
    begun = {
        "person_id": person, "typed": typed[:MAX_PROMPT], "number": number, "seed": studio.seed,
        "initial_prompt": prompts()[understood.member], "initial": understood.member,
        "model": studio.model,
    }  # fmt: skip
    return begun, understood.hint


def _new_name() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class Visit:
    """One session of a visitor with one agent."""

    def __init__(self, studio: Studio, log: Path, session_id: str) -> None:
        """Goes on where the log says that the session stands. Raises VisitError for one that never
        began, or that began with other models or another seed."""
        self.studio, self.log, self.session_id = studio, Path(log), session_id
        self.look()
        begun = self.state.begun
        for name, now in (("model", studio.model), ("seed", studio.seed)):
            if begun[name] != now:
                raise VisitError(f"This session began with {name} {begun[name]}; now it is {now}. "
                                 "Open the demo as it was, or begin a new session.")  # fmt: skip
        self.initial, self.number = begun["initial"], begun["number"]
        self.pictures: dict[int, np.ndarray] = {}  # by member
        members, kinds = len(reachable()), len(studio.types.prior)
        row = np.full(members, -1)
        row[self.initial] = 0
        unseen = torch.full((1, members, kinds), torch.nan)  # nobody peeks at what is not drawn
        self.worth = replace(studio.reader.column_worth, table=unseen, row=row)

    def propose(self) -> None:
        """Have the agent choose the next slate, and put it on record. Nothing happens where one is
        waiting to be answered, or all have been."""
        if self.slate is None and not self.done:
            self._record("slate", **self.proposal())

    def proposal(self) -> dict:
        """The slate that comes next, as the log has it. In which order the columns stand is drawn,
        and tells nothing of who chose them."""
        candidates = self.candidates
        order = uniforms(self.studio.seed, "columns", [self.number, self.turn], SLATE)[0].argsort()
        slate = np.sort(self._agent(self.sessions, candidates)[0])[order]
        member, wording = candidates.member[0, slate], candidates.wording[0, slate]
        return {
            "turn": self.turn, "slate": wordings()[member, wording].tolist(),
            "category": [CATEGORIES[c] for c in CATEGORY[slate]],
            "images": self.studio.images(member), "member": member.tolist(),
            "wording": wording.tolist(), "candidates": slate.tolist(),
        }  # fmt: skip

    def columns(self) -> Iterator[np.ndarray]:
        """Of the slate that is waiting: pictures uint8 `[4, H, W, 3]`, column by column."""
        for member in self.slate["member"]:
            self._see([member])
            yield self.pictures[member]

    def pick(self, column: int) -> None:
        """Choose column 0 … 3."""
        self._record("pick", turn=self.turn, column=index(column))

    def skip(self) -> None:
        """None of these."""
        self._record("skip", turn=self.turn)

    def judge(self, versus_last: str) -> None:
        """The pick just made is "better", "same" or "worse" than the one before."""
        self._record("judge", turn=len(self.state.picks), versus_last=versus_last)

    def undo(self) -> None:
        """Take back the last answer: its slate is waiting again."""
        self._record("undo", turn=len(self.state.picks))

    def leave(self) -> None:
        """End it: nothing can follow."""
        self._record("leave")

    @property
    def turn(self) -> int:
        """The coming or waiting turn, from 1; TURNS + 1 when all were answered."""
        return len(self.state.picks) + 1

    @property
    def slate(self) -> dict | None:
        """The slate that waits for an answer."""
        return None if self.state.answered else self.state.slates[-1]

    @property
    def done(self) -> bool:
        return self.state.left or len(self.state.picks) == TURNS

    @property
    def compared(self) -> tuple[int, int] | None:
        """The turns (from 0) of the last pick and the one before it, where the visitor may say
        which is better."""
        picked = [t for t, pick in enumerate(self.state.picks) if pick is not None]
        now = len(self.state.picks) - 1
        if self.slate or self.state.left or len(picked) < 2 or picked[-1] != now:
            return None
        member = [self.state.slates[t]["member"][self.state.picks[t]] for t in picked[-2:]]
        again = member[0] == member[1]  # the same pictures: there is nothing to compare
        return None if again or self.state.verdicts[-1] else (now, picked[-2])

    @property
    def sessions(self) -> Sessions:
        """All that was answered, as agents read it."""
        state, n = self.state, len(self.state.picks)
        slates = state.slates[:n]
        member, wording = (
            np.array([s[k] for s in slates], np.int64).reshape(1, n, SLATE)
            for k in ("member", "wording")
        )
        candidates = np.array([s["candidates"] for s in slates], np.int64).reshape(1, n, SLATE)
        picks = [NONE if pick is None else pick for pick in state.picks]
        versus = [VERDICTS.get(verdict, UNJUDGED) for verdict in state.verdicts]
        start = begin(np.array([self.number]), np.zeros(1, np.int64), np.array([self.initial]))
        return replace(
            start, member=member, wording=wording, category=CATEGORY[candidates],
            chosen=np.array([picks], np.int64), versus_last=np.array([versus], np.int64),
        )  # fmt: skip

    @property
    def stood(self) -> int | None:
        """The member that was picked last before the last slate."""
        member = self.sessions.standing()[0, len(self.state.slates) - 1]
        return None if member < 0 else int(member)

    @property
    def candidates(self) -> Candidates:
        """The 25 expansions of the coming or waiting turn."""
        now = self.sessions
        shown = now.member.reshape(1, -1)
        return propose(now.initial, *now.current(), shown, now.session, self.studio.seed)

    @property
    def belief(self) -> np.ndarray:
        """The posterior over types, `[K]`, from all that was answered."""
        return beliefs(self.remember(), self.sessions)[0, -1].numpy()

    @property
    def values(self) -> np.ndarray | None:
        """What the agent thinks of each of the 25 candidates, `[25]`; None of one that does not
        think."""
        if self.agent != "pasta":
            return None
        reader = replace(self.studio.reader, column_worth=self.remember())
        return candidate_values(self.studio.trained, reader, self.sessions, self.candidates)[0]

    @property
    def path(self) -> list[tuple[str, np.ndarray]]:
        """Words and pictures of the picks so far."""
        out = []
        for slate, pick in zip(self.state.slates, self.state.picks, strict=False):
            if pick is not None:
                self._see([slate["member"][pick]])
                out.append((slate["slate"][pick], self.pictures[slate["member"][pick]]))
        return out

    @cached_property
    def agent(self) -> str:
        """Who plays, by a name of `AGENTS`."""
        name = self.state.begun["agent"]
        if name in AGENTS:
            return name
        comparison, side = self.session_id.rsplit("-", 1)
        key = key_of(self.log, self.state.begun["key"])
        return unseal(key, comparison, self.state.begun["sealed"])[side]

    def _agent(self, sessions: Sessions, candidates: Candidates) -> np.ndarray:
        if self.agent == "untrained":
            return untrained(self.studio.seed)(sessions, candidates)
        reader = replace(self.studio.reader, column_worth=self.remember())
        return iql_agent(self.studio.trained, reader)(sessions, candidates)

    def remember(self) -> ColumnWorth:
        """What the columns that were answered are worth, to every type. Draws again what a session
        that is resumed has shown before."""
        answered = self.state.slates[: len(self.state.picks)]
        self._see([m for slate in answered for m in slate["member"]])
        return self.worth

    def _see(self, members: list[int]) -> None:
        """Draw what was not drawn yet."""
        new = [m for m in dict.fromkeys(members) if m not in self.pictures]
        if new:
            drawn = self.studio.draw(np.array(new))
            self.worth.table[0, new] = self.studio.worth(self.initial, drawn)
            self.pictures |= dict(zip(new, drawn, strict=True))

    def _record(self, kind: str, **detail) -> None:
        """Whatever becomes of it, look again: another tab may have been faster."""
        try:
            with visits.open_log(self.log) as log:
                visits.record(log, self.session_id, kind, self.state.last, **detail)
        finally:
            self.look()

    def look(self) -> None:
        """Where the log says that the session stands."""
        with visits.open_log(self.log) as log:
            self.state = visits.state(log, self.session_id)


class Duel:
    """The same prompt with two agents, A and B; which is which, the vote opens."""

    def __init__(self, studio: Studio, log: Path, comparison: str) -> None:
        self.log, self.comparison = Path(log), comparison
        self.sides = {side: Visit(studio, log, f"{comparison}-{side}") for side in "AB"}

    def columns(self) -> dict[str, list[np.ndarray]]:
        """The slates that wait, by side; both are drawn before either is given."""
        return {s: list(v.columns()) for s, v in self.sides.items() if v.slate is not None}

    def propose(self) -> None:
        """The next slates, when both sides have been answered: chosen first, then put on record at
        one moment, all or none."""
        turn = min(visit.turn for visit in self.sides.values())
        late = [v for v in self.sides.values() if v.slate is None and not v.done and v.turn == turn]
        if not late:
            return
        events = [(v.session_id, "slate", v.state.last, v.proposal()) for v in late]
        try:
            with visits.open_log(self.log) as log:
                visits.record_all(log, events)
        finally:
            for visit in late:
                visit.look()

    def undo(self) -> None:
        """Take back one side's answer of this turn, or, where there is none, both of the last."""
        turns = {side: len(visit.state.picks) for side, visit in self.sides.items()}
        for side, visit in self.sides.items():
            if turns[side] == max(turns.values()) > 0:
                visit.undo()

    def vote(self, preferred: str) -> dict[str, str]:
        """Whose last pictures are preferred, "A" or "B"; returns who they are."""
        agents = {side: visit.agent for side, visit in self.sides.items()}
        with visits.open_log(self.log) as log:
            visits.record(log, self.comparison, "vote", preferred=preferred, agents=agents)
        for visit in self.sides.values():
            visit.leave()
        return agents

    @property
    def done(self) -> bool:
        return all(visit.done for visit in self.sides.values())
