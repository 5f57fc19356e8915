"""What visitors do, kept at once: an append-only log in one SQLite file. Ours.

Every event (begin, slate, pick, skip, judge, undo, vote, leave) is a row and a transaction of its
own, in WAL mode: what was answered is on disk before the next thing happens, and a session goes on
where it stopped, whatever became of the kernel. The log refuses what can't follow (a second pick of
a turn, from another tab, say), so nothing is there twice. `sessions`, in the project's schema, and
`comparisons` are views of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pasta_lib.sessions import TURNS

VERDICTS = ("better", "same", "worse")
MINE = """(session_id in (select session_id from events where kind = 'begin'
                          and detail ->> 'person_id' = ?)
           or session_id || '-A' in (select session_id from events where kind = 'begin'
                                     and detail ->> 'person_id' = ?))"""
SCHEMA = """
create table if not exists events (
    id integer primary key autoincrement, at text not null, session_id text not null,
    kind text not null, detail text not null check (json_valid(detail)));
create index if not exists events_of_session on events (session_id, id);
create trigger if not exists events_stay before update on events
    begin select raise(abort, 'events are never changed'); end;

create view if not exists standing as  -- events that were not undone
    select e.id, e.at, e.session_id, e.kind, e.detail, e.detail ->> 'turn' as turn from events e
    where e.kind in ('slate', 'pick', 'skip', 'judge') and not exists (
        select 1 from events u where u.session_id = e.session_id and u.kind = 'undo' and u.id > e.id
        and (u.detail ->> 'turn') <= (e.detail ->> 'turn') - (e.kind = 'slate'));

create view if not exists comparisons as
    select v.session_id as comparison_id, b.detail ->> 'person_id' as person_id,
        b.detail ->> 'initial_prompt' as initial_prompt,
        v.detail ->> '$.agents.A' as agent_a, v.detail ->> '$.agents.B' as agent_b,
        v.detail ->> 'preferred' as preferred, v.at as created_at
    from events v join events b on b.session_id = v.session_id || '-A' and b.kind = 'begin'
    where v.kind = 'vote';

create view if not exists sessions as
    select b.session_id, b.detail ->> 'person_id' as person_id, 'visitor' as source,
        coalesce((select v.detail ->> ('$.agents.' || (b.detail ->> 'agent')) from events v
            where v.kind = 'vote' and v.session_id || '-' || (b.detail ->> 'agent') = b.session_id),
            b.detail ->> 'agent') as agent,
        b.detail ->> 'initial_prompt' as initial_prompt, s.turn,
        s.detail -> 'slate' as slate, s.detail -> 'category' as category,
        s.detail -> 'images' as images, p.detail ->> 'column' as chosen,
        j.detail ->> 'versus_last' as versus_last, p.at as created_at, b.detail ->> 'model' as model
    from events b
    join standing s on s.session_id = b.session_id and s.kind = 'slate'
    join standing p on p.session_id = s.session_id and p.turn = s.turn
        and p.kind in ('pick', 'skip')
    left join standing j on j.session_id = s.session_id and j.turn = s.turn and j.kind = 'judge'
    where b.kind = 'begin' order by b.id, s.turn;
"""


class VisitError(Exception):
    """The log can't be written, or the event can't follow what is in it; with what to do."""


@contextmanager
def open_log(path: str | Path) -> Iterator[sqlite3.Connection]:
    """A log, begun where there is none. Raises VisitError where it can't be read or written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = sqlite3.connect(path, timeout=10, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise VisitError(_explained(error, path)) from error
    try:
        with _said_clearly(path):
            log.execute("pragma journal_mode = wal")
            log.execute("pragma synchronous = full")
            log.execute("pragma secure_delete = on")
            log.executescript(SCHEMA)
        yield log
    finally:
        log.close()


@dataclass(frozen=True)
class State:
    """Where a session stands. `begun`: how it began; `slates`: those that stand, a turn each;
    `picks`: columns, None for a skip, and `verdicts`, None where there is none, of the turns that
    were answered; `left`: whether it is over; `last`: the number of its last event."""

    begun: dict
    slates: list[dict]
    picks: list[int | None]
    verdicts: list[str | None]
    left: bool
    last: int

    @property
    def turn(self) -> int:
        return len(self.slates)

    @property
    def answered(self) -> bool:
        return len(self.picks) == self.turn


def state(log: sqlite3.Connection, session_id: str) -> State:
    """What the log says of a session. Raises VisitError for one that never began."""
    rows = log.execute(
        "select id, kind, detail from events where session_id = ? order by id", (session_id,)
    ).fetchall()
    events = [(kind, json.loads(detail)) for _, kind, detail in rows]
    if not events or events[0][0] != "begin":
        raise VisitError(f"There is no session {session_id} here: begin a new one.")
    slates, picks, verdicts, left = [], [], [], False
    for kind, detail in events[1:]:
        if kind == "slate":
            slates.append(detail)
        elif kind in ("pick", "skip"):
            picks.append(detail.get("column"))
            verdicts.append(None)
        elif kind == "judge":
            verdicts[-1] = detail["versus_last"]
        elif kind == "undo":
            slates, picks = slates[: detail["turn"]], picks[: detail["turn"] - 1]
            verdicts = verdicts[: detail["turn"] - 1]
        left = left or kind == "leave"
    return State(events[0][1], slates, picks, verdicts, left, rows[-1][0])


def record(
    log: sqlite3.Connection, session_id: str, kind: str, after: int | None = None, **detail
) -> None:
    """Write one event, whole or not at all. Raises VisitError where it can't follow what is there,
    or can't be written: then nothing has changed, and it may be tried again. `after`: the session's
    last event that was looked at (`State.last`); anything since then, and this one is refused."""
    record_all(log, [(session_id, kind, after, detail)])


def record_all(
    log: sqlite3.Connection, events: Sequence[tuple[str, str, int | None, dict]]
) -> None:
    """Several events at one moment, all or none of them."""
    with _said_clearly(Path(log.execute("pragma database_list").fetchone()[2])):
        log.execute("begin immediate")  # nobody else writes until this is done
        try:
            for session_id, kind, after, detail in events:
                if refusal := _refusal(log, session_id, kind, after, detail):
                    raise VisitError(refusal)
            now = datetime.now(UTC).isoformat()
            log.executemany(
                "insert into events (at, session_id, kind, detail) values (?, ?, ?, ?)",
                [(now, name, kind, json.dumps(detail)) for name, kind, _, detail in events],
            )
            log.execute("commit")
        except BaseException:
            if log.in_transaction:
                log.execute("rollback")
            raise


def _refusal(
    log: sqlite3.Connection, session_id: str, kind: str, after: int | None, detail: dict
) -> str | None:
    """Why an event can't follow what is there."""
    if kind in ("begin", "vote"):
        query = "select 1 from events where session_id = ? and kind = ?"
        if log.execute(query, (session_id, kind)).fetchone():
            return f"{session_id} has its {kind} already."
        return None if kind == "begin" else _vote_refusal(log, session_id, detail)
    now = state(log, session_id)
    if now.left:
        return "This session is over: begin a new one."
    turn, pending = detail.get("turn"), now.turn > 0 and not now.answered
    elsewhere = "Something else happened first, perhaps in another tab: look again."
    picked_before = any(pick is not None for pick in now.picks[:-1])
    fits = {
        "slate": not pending and turn == now.turn + 1 <= TURNS,
        "pick": pending and turn == now.turn,
        "skip": pending and turn == now.turn,
        "judge": now.answered and turn == now.turn and picked_before
                 and now.picks[-1] is not None and now.verdicts[-1] is None,
        "undo": turn == len(now.picks) > 0,
        "leave": True,
    }  # fmt: skip
    if not fits[kind] or after not in (None, now.last):
        return elsewhere
    if kind == "pick" and detail.get("column") not in range(len(now.slates[-1]["slate"])):
        return f"There is no column {detail.get('column')!r}: they are counted from 0."
    if kind == "judge" and detail.get("versus_last") not in VERDICTS:
        return f"{detail.get('versus_last')!r} is no judgement: expected {', '.join(VERDICTS)}."
    return None


def _vote_refusal(log: sqlite3.Connection, comparison: str, detail: dict) -> str | None:
    if detail.get("preferred") not in ("A", "B"):
        return f"{detail.get('preferred')!r} is no vote: expected A or B."
    sides = [state(log, f"{comparison}-{side}") for side in "AB"]
    if any(side.left or len(side.picks) < TURNS for side in sides):
        return "This comparison is not at its end: play both sides first."
    return None


def of_person(log: sqlite3.Connection, person_id: str) -> list[dict]:
    """All events of one person's sessions, for them to take away."""
    rows = log.execute(f"select at, session_id, kind, detail from events where {MINE} order by id",
                       (person_id, person_id))  # fmt: skip
    names = ("at", "session_id", "kind", "detail")
    return [dict(zip(names, (*row[:3], json.loads(row[3])), strict=True)) for row in rows]


def unfinished(log: sqlite3.Connection, person_id: str) -> list[tuple[str, str, bool]]:
    """Of a person's sessions that wait for an answer, the last begun first: name, prompt, and
    whether it is a blind comparison (whose name is without "-A", and which waits for a vote)."""
    query = """
        select b.session_id, b.detail ->> 'initial_prompt', b.detail ->> 'agent' = 'A' from events b
        where b.kind = 'begin' and b.detail ->> 'person_id' = ? and b.detail ->> 'agent' <> 'B'
            and not exists (select 1 from events l
                where l.kind = 'leave' and l.session_id = b.session_id)
            and not exists (select 1 from comparisons c
                where c.comparison_id || '-A' = b.session_id)
            and (b.detail ->> 'agent' = 'A' or ? > (select count(*) from standing s
                where s.session_id = b.session_id and s.kind in ('pick', 'skip')))
        order by b.id desc"""
    rows = log.execute(query, (person_id, TURNS))
    return [(name.removesuffix("-A"), prompt, bool(blind)) for name, prompt, blind in rows]


def tally(log: sqlite3.Connection, agent: str) -> tuple[int, int]:
    """How often an agent was preferred, and in how many blind comparisons."""
    query = """select count(*) filter (where iif(preferred = 'A', agent_a, agent_b) = ?), count(*)
               from comparisons"""
    return log.execute(query, (agent,)).fetchone()


def sealed(log: sqlite3.Connection) -> list[tuple[str, int]]:
    """Names and sealed bits of all blind comparisons that were begun (`pasta_lib.sealed`)."""
    query = """select substr(session_id, 1, length(session_id) - 2), detail ->> 'sealed' from events
               where kind = 'begin' and detail ->> 'agent' = 'A'"""
    return log.execute(query).fetchall()


def forget(log: sqlite3.Connection, person_id: str) -> int:
    """Delete one person's sessions and votes for good; how many events there were."""
    with _said_clearly(Path(log.execute("pragma database_list").fetchone()[2])):
        log.execute("begin immediate")
        try:
            query = f"select id from events where {MINE}"
            gone = log.execute(query, (person_id, person_id)).fetchall()
            log.executemany("delete from events where id = ?", gone)
            log.execute("commit")
        except BaseException:
            if log.in_transaction:
                log.execute("rollback")
            raise
        log.execute("pragma wal_checkpoint(truncate)")
    return len(gone)


@contextmanager
def _said_clearly(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise VisitError(_explained(error, path)) from error


def _explained(error: Exception, path: Path) -> str:
    words = str(error).lower()
    if "full" in words or "disk i/o" in words or "no space" in words:
        why = "the disk is full: make room; nothing of what was there is lost"
    elif "readonly" in words or "unable to open" in words or isinstance(error, OSError):
        why = "it, or its folder, can't be written: choose another place for it"
    elif "locked" in words:
        why = "somebody else has been writing for ten seconds: try again"
    elif "not a database" in words or "malformed" in words:
        why = "it is no log of visits: choose another name, and keep that file"
    else:
        why = str(error)
    return f"What you did could not be kept in {path.name}: {why}."
