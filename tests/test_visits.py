"""The log of visits: nothing lost, nothing twice, and sessions and comparisons read off it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from pasta_lib.candidates import wordings
from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import bank_sessions, read_sessions
from pasta_lib.datasets.rows import Account
from pasta_lib.sessions import NONE, UNJUDGED
from pasta_lib.visits import VisitError, forget, of_person, open_log, record, record_all, state
from pasta_lib.world.bank import image_ids


def begin(log, session="s1", person="ann", agent="pasta"):
    record(log, session, "begin", person_id=person, agent=agent, initial_prompt="a <b>cat</b>",
           model="miniature")  # fmt: skip


def slate(log, turn, session="s1"):
    texts = [f"text {turn}.{c}" for c in range(4)]
    record(log, session, "slate", turn=turn, slate=texts, category=["style"] * 4,
           images=[[f"m{turn:05}_{c}"] * 4 for c in range(4)])  # fmt: skip


def play(log, session, turns):
    """So many turns more, the first column each time."""
    for _ in range(turns):
        turn = state(log, session).turn + 1
        slate(log, turn, session)
        record(log, session, "pick", turn=turn, column=0)


@pytest.fixture
def log(tmp_path):
    with open_log(tmp_path / "visits.sqlite") as log:
        yield log


def rows(log):
    names = ("session_id", "turn", "agent", "chosen", "versus_last")
    return [tuple(r) for r in log.execute(f"select {', '.join(names)} from sessions")]


def test_a_session_is_read_off_its_events(log):
    begin(log)
    slate(log, 1)
    record(log, "s1", "pick", turn=1, column=2)
    slate(log, 2)
    record(log, "s1", "skip", turn=2)
    slate(log, 3)
    record(log, "s1", "pick", turn=3, column=0)
    record(log, "s1", "judge", turn=3, versus_last="better")
    slate(log, 4)  # shown, not answered: no turn yet
    assert rows(log) == [("s1", 1, "pasta", 2, None), ("s1", 2, "pasta", None, None),
                         ("s1", 3, "pasta", 0, "better")]  # fmt: skip
    whole = dict(zip([d[0] for d in log.execute("select * from sessions").description],
                     log.execute("select * from sessions").fetchone(), strict=True))  # fmt: skip
    assert whole["initial_prompt"] == "a <b>cat</b>" and whole["source"] == "visitor"
    assert json.loads(whole["slate"])[3] == "text 1.3"
    assert json.loads(whole["images"])[3] == ["m00001_3"] * 4
    now = state(log, "s1")
    assert (now.turn, now.answered) == (4, False)
    assert (now.picks, now.verdicts) == ([2, None, 0], [None, None, "better"])


def test_undo_takes_back_the_last_answer_and_all_that_followed(log):
    begin(log)
    slate(log, 1)
    record(log, "s1", "pick", turn=1, column=2)
    slate(log, 2)
    record(log, "s1", "undo", turn=1)  # the second slate was shown for nothing
    assert rows(log) == [] and state(log, "s1").turn == 1
    record(log, "s1", "pick", turn=1, column=3)
    slate(log, 2)
    record(log, "s1", "pick", turn=2, column=1)
    record(log, "s1", "judge", turn=2, versus_last="worse")
    record(log, "s1", "undo", turn=2)
    record(log, "s1", "pick", turn=2, column=0)
    assert rows(log) == [("s1", 1, "pasta", 3, None), ("s1", 2, "pasta", 0, None)]
    assert state(log, "s1").verdicts == [None, None]
    (n,) = log.execute("select count(*) from events").fetchone()
    assert n == 11  # nothing was taken out of the log


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("pick", {"turn": 1, "column": 0}),  # a double click
        ("skip", {"turn": 1}),
        ("slate", {"turn": 3}),
        ("slate", {"turn": 1}),
        ("judge", {"turn": 1, "versus_last": "same"}),  # nothing to compare with
        ("undo", {"turn": 2}),
        ("begin", {}),
    ],
)
def test_what_cannot_follow_is_refused(log, kind, detail):
    begin(log)
    slate(log, 1)
    record(log, "s1", "pick", turn=1, column=2)
    with pytest.raises(VisitError):
        record(log, "s1", kind, **detail)
    assert log.execute("select count(*) from events").fetchone() == (3,)


def test_no_more_than_five_turns_and_nothing_after_leaving(log):
    begin(log)
    for turn in range(1, 6):
        slate(log, turn)
        record(log, "s1", "pick", turn=turn, column=0)
    with pytest.raises(VisitError, match="look again"):
        slate(log, 6)
    record(log, "s1", "leave")
    with pytest.raises(VisitError, match="over"):
        record(log, "s1", "undo", turn=5)
    with pytest.raises(VisitError, match="no session"):
        state(log, "another")


def test_twenty_tabs_at_once_pick_once(tmp_path):
    path = tmp_path / "visits.sqlite"
    with open_log(path) as log:
        begin(log)
        slate(log, 1)
    said = []

    def tab(column):
        with open_log(path) as mine:
            try:
                record(mine, "s1", "pick", turn=1, column=column % 4)
                said.append("kept")
            except VisitError as error:
                said.append(str(error))

    tabs = [threading.Thread(target=tab, args=(c,)) for c in range(20)]
    for t in tabs:
        t.start()
    for t in tabs:
        t.join()
    assert said.count("kept") == 1 and sum("another tab" in s for s in said) == 19
    with open_log(path) as log:
        assert len(rows(log)) == 1


def test_kill_9_in_the_middle_loses_no_answer(tmp_path):
    """A process that answers as fast as it can, says so, and is killed."""
    path = tmp_path / "visits.sqlite"
    code = """
import sys
from pasta_lib.visits import open_log, record
asked = dict(person_id="ann", agent="pasta", initial_prompt="a cat", model="m")
with open_log(sys.argv[1]) as log:
    for n in range(10**6):
        record(log, f"s{n}", "begin", **asked)
        print(n, flush=True)
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        said = [process.stdout.readline() for _ in range(30)]
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.readlines()
    last = int([line for line in said if line.endswith(b"\n")][-1])
    with open_log(path) as log:
        assert log.execute("pragma integrity_check").fetchone() == ("ok",)
        (n,) = log.execute("select count(*) from events").fetchone()
        assert last + 1 <= n <= last + 2  # all that was said to be kept; perhaps one more
        slate(log, 1, session=f"s{n - 1}")  # and it goes on


def test_a_full_disk_says_so_and_keeps_what_was_there(log):
    begin(log)
    (pages,) = log.execute("pragma page_count").fetchone()
    log.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(VisitError, match="disk is full"):
        record(log, "s1", "slate", turn=1, slate=["x" * 10**6])
    log.execute("pragma max_page_count = 100000")
    slate(log, 1)
    assert state(log, "s1").turn == 1


def test_places_where_no_log_can_be(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(VisitError), open_log(tmp_path / "file" / "visits.sqlite"):
        pass
    (tmp_path / "text.sqlite").write_text("hello " * 1000)
    with pytest.raises(VisitError, match="no log of visits"), open_log(tmp_path / "text.sqlite"):
        pass
    assert (tmp_path / "text.sqlite").read_text().startswith("hello")


def test_events_are_never_changed(log):
    begin(log)
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        log.execute("update events set kind = 'leave'")


def test_who_is_who_stays_sealed_until_the_vote(log):
    for side in "AB":
        begin(log, f"c1-{side}", agent=side)
        play(log, f"c1-{side}", 4)
    with pytest.raises(VisitError, match="not at its end"):
        record(log, "c1", "vote", preferred="A", agents={})
    for side in "AB":
        play(log, f"c1-{side}", 1)
    assert {row[2] for row in rows(log)} == {"A", "B"}
    assert log.execute("select count(*) from comparisons").fetchone() == (0,)
    opened = {"A": "untrained", "B": "pasta"}
    record(log, "c1", "vote", preferred="B", agents=opened)
    assert [(row[0], row[2]) for row in rows(log)] == [
        *[("c1-A", "untrained")] * 5, *[("c1-B", "pasta")] * 5
    ]  # fmt: skip
    found = log.execute("select agent_a, agent_b, preferred, person_id from comparisons").fetchall()
    assert found == [("untrained", "pasta", "B", "ann")]
    with pytest.raises(VisitError, match="already"):
        record(log, "c1", "vote", preferred="A", agents=opened)


@pytest.mark.parametrize("others", [(), ("first",), ("last",), ("first", "last")])
def test_people_can_take_their_sessions_away_and_have_them_deleted(tmp_path, others):
    """Whoever was there before or after them; votes go with them."""
    path = tmp_path / "visits.sqlite"
    with open_log(path) as log:
        if "first" in others:
            begin(log, "s0", "bob")
        for session in ("s1", "c1-A", "c1-B"):
            begin(log, session, "ann", agent=session[-1])
        for session in ("c1-A", "c1-B"):
            play(log, session, 5)
        record(log, "c1", "vote", preferred="A", agents={"A": "x", "B": "y"})
        if "last" in others:
            begin(log, "s2", "bob")
        mine = of_person(log, "ann")
        assert len(mine) == 24 and {e["session_id"] for e in mine} == {"s1", "c1-A", "c1-B", "c1"}
        assert mine[0]["detail"]["initial_prompt"] == "a <b>cat</b>"
        assert forget(log, "ann") == 24
        assert of_person(log, "ann") == [] and len(of_person(log, "bob")) == len(others)
        assert log.execute("select count(*) from comparisons").fetchone() == (0,)
        assert log.execute("select count(*) from events").fetchone() == (len(others),)
    assert b"ann" not in path.read_bytes()


def test_several_events_are_kept_at_one_moment_or_not_at_all(log):
    begin(log)
    slate(log, 1)
    last = state(log, "s1").last
    pick, twice = (("s1", "pick", last, {"turn": 1, "column": c}) for c in (0, 9))
    with pytest.raises(VisitError, match="no column 9"):
        record_all(log, [("s2", "begin", None, {"person_id": "ann", "agent": "x"}), twice])
    assert state(log, "s1").last == last and log.execute(
        "select count(*) from events"
    ).fetchone() == (2,)
    record_all(log, [pick])
    with pytest.raises(VisitError, match="another tab"):  # since then something happened
        record(log, "s1", "slate", last, turn=2, slate=["a"] * 4)


def test_the_log_is_written_through(log):
    assert log.execute("pragma synchronous").fetchone() == (2,)  # full: a power cut loses nothing
    assert log.execute("pragma journal_mode").fetchone() == ("wal",)


def test_what_visitors_leave_is_rater_data(tmp_path):
    """A class that picked: read like the raters' file, picks, judgements and all."""
    path = tmp_path / "visits.sqlite"
    texts, ids = wordings()[[5, 700, 1400, 2800], 0].tolist(), image_ids()[[5, 700, 1400, 2800]]
    with open_log(path) as log:
        for s in range(3):
            record(log, f"s{s}", "begin", person_id=f"p{s}", agent="pasta", model="m",
                   initial_prompt=str(wordings()[9, 0]))  # fmt: skip
            for turn in range(1, 6):
                record(log, f"s{s}", "slate", turn=turn, slate=texts, images=ids.tolist(),
                       category=["rephrase", "elaboration", "style", "creative"])  # fmt: skip
                if s == 2 and turn == 3:
                    record(log, f"s{s}", "skip", turn=turn)
                    continue
                record(log, f"s{s}", "pick", turn=turn, column=(s + turn) % 4)
                if turn > 1:
                    record(log, f"s{s}", "judge", turn=turn, versus_last="worse")
        begin(log, "empty", "nobody")
    account = Account()
    turns = read_sessions(path, account)
    assert not account.reasons and len(turns.frame) == 15
    sessions, left_out = bank_sessions(turns)
    assert left_out == 0 and sessions.initial.tolist() == [9] * 3
    assert sessions.chosen.tolist() == [[1, 2, 3, 0, 1], [2, 3, 0, 1, 2], [3, 0, NONE, 2, 3]]
    assert sessions.member[1, 4].tolist() == [5, 700, 1400, 2800]
    assert sessions.versus_last[2].tolist() == [UNJUDGED, -1, UNJUDGED, -1, -1]
    (tmp_path / "other.sqlite").write_bytes(b"")
    with pytest.raises(BadData, match=r"other.sqlite: no such table"):
        read_sessions(tmp_path / "other.sqlite", account)
