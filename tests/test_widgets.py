"""Every control of the demo, without a browser: pressed or set, and the session asked."""

import base64
import gc
import html
import json
import re
import resource
import threading

import ipywidgets as w
import numpy as np
import pytest

from pasta_lib import demo, pages, visits
from pasta_lib.demo import Studio
from pasta_lib.visits import VisitError, open_log
from pasta_lib.widgets import BLIND, DemoApp


@pytest.fixture
def app(hasty, tmp_path):
    return DemoApp(hasty, tmp_path / "visits.sqlite")


def press(app, button, fails=False):
    assert not button.disabled, button.description
    button.click()
    app.wait()
    assert (app.last_error is not None) == fails, app.last_error


def start(app, prompt="happiness", agent="PASTA"):
    app.prompt.value, app.agent.value = prompt, agent
    press(app, app.start_button)


def fresh(app, nth=0):
    """A column that shows other pictures than the last pick."""
    return [c for c, name in enumerate(app.visit.slate["category"]) if name != "rephrase"][nth]


def choose(app, column, panel=0):
    press(app, app.panels[panel].choose[column])
    if app._asks:
        press(app, app.compare_buttons[0])


def events(app):
    with open_log(app.log) as log:
        return [kind for (kind,) in log.execute("select kind from events order by id")]


def seen(widget):
    return widget.layout.display != "none"


def test_a_session_from_start_to_end(app):
    assert app.last_error is None and "then press Start" in app.status.value
    assert not seen(app.panels[0].box) and app.setup.selected_index == 0
    app.suggestions[1].click()
    assert app.prompt.value == "a quiet evening"
    press(app, app.start_button)
    assert app.visit.turn == 1 and seen(app.panels[0].box) and not seen(app.panels[1].box)
    assert app.setup.selected_index is None
    for c, shown in enumerate(app.panels[0].shown):
        words = app.visit.slate["slate"][c]
        alts = re.findall('alt="([^"]+)"', shown.value)
        expected = [f"Column {c + 1}, picture {i} of 4: {words}" for i in range(1, 5)]
        assert [html.unescape(alt) for alt in alts] == expected
        assert app.panels[0].choose[c].description == f"Choose column {c + 1}"
    press(app, app.panels[0].choose[2])
    assert app.visit.state.picks == [2] and app.visit.turn == 2
    assert not seen(app.comparing)  # there is nothing to compare yet
    press(app, app.panels[0].none)
    assert app.visit.state.picks == [2, None]
    column = fresh(app, 2)
    press(app, app.panels[0].choose[column])
    assert seen(app.comparing) and all(b.disabled for b in app.panels[0].buttons)
    assert "your choice" in app.panels[0].shown[column].value
    press(app, app.compare_buttons[2])
    assert app.visit.state.verdicts == [None, None, "worse"]
    choose(app, fresh(app))
    choose(app, fresh(app, 1))
    assert app.visit.done and app.visit.state.verdicts[3:] == ["better", "better"]
    assert "last turn" in app.status.value and not seen(app.retry_button)
    judged = ["slate", "pick", "judge"]
    assert events(app) == ["begin", "slate", "pick", "slate", "skip", *judged * 3]
    press(app, app.end_button)
    assert app.visit is None and events(app)[-1] == "leave" and not seen(app.panels[0].box)


@pytest.mark.parametrize(("button", "verdict"), [*enumerate(("better", "same", "worse", None))])
def test_judgements(app, button, verdict):
    start(app)
    for _ in range(2):
        press(app, app.panels[0].choose[fresh(app)])
    press(app, app.compare_buttons[button])
    assert app.visit.state.verdicts == [None, verdict] and app.visit.turn == 3
    assert app.visit.slate is not None


def test_undo(app):
    start(app)
    assert app.undo_button.disabled
    slate = app.visit.slate
    press(app, app.panels[0].choose[3])
    press(app, app.undo_button)
    assert app.visit.slate == slate and app.undo_button.disabled
    assert events(app) == ["begin", "slate", "pick", "slate", "undo"]
    press(app, app.panels[0].choose[1])
    press(app, app.panels[0].choose[fresh(app)])
    press(app, app.undo_button)  # instead of a judgement
    assert app.visit.turn == 2 and not seen(app.comparing)


def test_what_is_learnt_is_shown(app):
    start(app)
    shown = [float(p) for p in re.findall(r"<b>(\d+)%</b>", app.types.value)]
    assert shown == [round(100 * p) for p in app.visit.belief.astype(float)]
    assert app.types.value.count("<img") == 24 and "typical of type 8" in app.types.value
    assert app.considered.value.count("<td>") == 25
    assert app.considered.value.count("✓ shown") == 4
    first = app.visit.candidates.texts()[0, 7]
    assert f"{app.visit.values[7]:.2f} {html.escape(first)}" in app.considered.value
    choose(app, 1)
    assert app.path.value.count("<img") == 1
    again = [float(p) for p in re.findall(r"<b>(\d+)%</b>", app.types.value)]
    assert again == [round(100 * p) for p in app.visit.belief.astype(float)] != shown


def test_the_baseline_does_not_think(app):
    start(app, agent="Baseline")
    assert app.visit.agent == "untrained" and "does not think" in app.considered.value
    choose(app, 0)
    assert app.types.value.count("<b>") == 8


def test_a_blind_comparison(app):
    start(app, agent=BLIND)
    assert seen(app.panels[0].box) and seen(app.panels[1].box)
    names = [b.description for panel in app.panels for b in panel.choose]
    assert names == [f"Choose column {c} of {s}" for s in "AB" for c in range(1, 5)]
    for turn in range(5):
        press(app, app.panels[1].choose[turn % 4])
        assert all(b.disabled for b in app.panels[1].buttons) and not seen(app.comparing)
        page = "".join(w.value for w in (app.types, app.path, app.considered, app.status,
                                         *app.panels[0].shown, *app.panels[1].shown))  # fmt: skip
        assert "PASTA" not in page and "aseline" not in page and app.types.value == ""
        press(app, app.panels[0].none)
    assert app.duel.done and seen(app.voting)
    press(app, app.vote_buttons[1])
    won = int(app.agents["B"] == "pasta")
    assert f"<b>{won} of 1</b>" in app.total.value and "B was" in app.status.value
    assert app.types.value.count("<b>") == 8 and not seen(app.voting)
    assert app.undo_button.layout.display == "none"
    assert [k for k in events(app) if k in ("vote", "leave")] == ["vote", "leave", "leave"]
    start(app)  # and on
    assert app.duel is None and app.panels[0].choose[0].description == "Choose column 1"


def test_wilsons_interval(app):
    """3 of 10: .108 to .603 (Wilson 1927, by hand)."""
    with open_log(app.log) as log:
        for i in range(10):
            agents = {"A": "pasta", "B": "untrained"}
            vote = {"preferred": "A" if i < 3 else "B", "agents": agents}
            visits.record(log, f"c{i}-A", "begin", person_id="x", agent="A", initial_prompt="love")
            log.execute(
                "insert into events (at, session_id, kind, detail) values ('now', ?, 'vote', ?)",
                (f"c{i}", json.dumps(vote)),
            )
    app._show()
    assert "3 of 10" in app.total.value and "11% to 60%" in app.total.value


def test_nickname_resume_export_delete(app, hasty):
    app.nickname.value = "ann <b>"
    start(app)
    choose(app, 1)
    press(app, app.panels[0].choose[fresh(app)])
    other = DemoApp(hasty, app.log)  # the kernel died
    assert not seen(other.resume_button)
    other.nickname.value = "ann <b>"
    assert seen(other.resume_button) and "happiness" in other.resume_button.description
    press(other, other.resume_button)
    assert other._asks  # where it stopped
    press(other, other.compare_buttons[0])
    assert other.visit.session_id == app.visit.session_id
    assert other.visit.slate == other.visit.state.slates[2]
    assert all(w.value.count("<img") == 4 for w in other.panels[0].shown)
    press(other, other.export_button)
    link = re.search(r"base64,([^\"]+)", other.exported.value)[1]
    mine = json.loads(base64.b64decode(link))
    assert [e["kind"] for e in mine] == events(app)
    assert other.delete_button.disabled
    other.sure.value = True
    other.nickname.value = "somebody else"
    assert other.delete_button.disabled and not other.sure.value
    other.nickname.value = "ann <b>"
    other.sure.value = True
    press(other, other.delete_button)
    assert events(app) == [] and "were deleted" in other.status.value
    assert "ann &lt;b&gt;" in other.status.value and "<b>" not in other.status.value
    assert other.visit is None and other.delete_button.disabled


def test_a_blind_comparison_is_resumed(app, hasty):
    app.nickname.value = "bob"
    start(app, agent=BLIND)
    press(app, app.panels[0].choose[1])
    other = DemoApp(hasty, app.log)
    other.nickname.value = "bob"
    press(other, other.resume_button)
    assert other.duel.comparison == app.duel.comparison
    assert [v.slate is None for v in other.duel.sides.values()] == [True, False]
    assert all(b.disabled for b in other.panels[0].buttons)
    assert not any(b.disabled for b in other.panels[1].buttons)


def test_a_session_that_was_deleted_in_another_tab(app, hasty):
    app.nickname.value = "ann"
    start(app)
    other = DemoApp(hasty, app.log)
    other.nickname.value = "ann"
    other.sure.value = True
    press(other, other.delete_button)
    press(app, app.panels[0].choose[0], fails=True)
    assert "begin a new one" in app.error.value and events(app) == []
    start(app, "love")
    assert app.visit.turn == 1 and events(app) == ["begin", "slate"]


def test_guests_are_told_who_they_are(app, hasty):
    start(app)
    other = DemoApp(hasty, app.log)
    assert app.person in app.nickname.placeholder and other.person != app.person
    other.nickname.value = app.person
    press(other, other.resume_button)
    assert other.visit.session_id == app.visit.session_id


class Failing(Studio):
    """A generator that gives up after `good` pictures' columns."""

    good = 0

    def draw(self, member):
        if Failing.good <= 0:
            raise RuntimeError("out of memory <script>")
        Failing.good -= 1
        return super().draw(member)


@pytest.mark.parametrize("agent", ["PASTA", BLIND])
def test_a_failing_generator(hasty, tmp_path, agent):
    Failing.good = 2
    app = DemoApp(Failing(**vars(hasty)), tmp_path / "visits.sqlite")
    app.prompt.value, app.agent.value = "love", agent
    press(app, app.start_button, fails=True)
    assert "out of memory &lt;script&gt;" in app.error.value and 'role="alert"' in app.error.value
    assert "Traceback" not in app.error.value and seen(app.retry_button)
    assert not app.start_button.disabled and all(b.disabled for b in app.panels[0].buttons)
    assert seen(app.panels[0].box) == (agent != BLIND)  # of a blind comparison both, or none
    slates = [v.slate for v in app._visits]
    Failing.good = 99
    press(app, app.retry_button)
    assert [v.slate for v in app._visits] == slates and app.error.value == ""
    assert not app.panels[0].choose[0].disabled and not seen(app.retry_button)
    assert events(app).count("slate") == len(slates)


def test_a_generator_that_fails_while_a_session_is_resumed(app, hasty):
    app.nickname.value = "ann"
    start(app)
    choose(app, 1)
    press(app, app.panels[0].choose[fresh(app)])
    assert app._asks
    Failing.good = 0
    other = DemoApp(Failing(**vars(hasty)), app.log)
    other.nickname.value = "ann"
    press(other, other.resume_button, fails=True)
    assert "out of memory" in other.error.value and seen(other.retry_button)
    assert not seen(other.comparing)
    Failing.good = 99
    press(other, other.retry_button)
    assert other._asks and seen(other.comparing)


def test_a_failing_agent(app, monkeypatch):
    start(app)

    def broken(*_):
        raise ValueError("no slate today")

    with monkeypatch.context() as patch:
        patch.setattr(demo, "iql_agent", lambda *_: broken)
        press(app, app.panels[0].choose[1], fails=True)
    assert "no slate today" in app.error.value and seen(app.retry_button)
    assert app.visit.state.picks == [1] and app.visit.slate is None
    assert all(b.disabled for b in app.panels[0].buttons) and not app.undo_button.disabled
    press(app, app.retry_button)
    assert app.visit.turn == 2 and app.visit.slate is not None


@pytest.mark.parametrize("typed", ["", "   "])
def test_an_empty_prompt(app, typed):
    app.prompt.value = typed
    press(app, app.start_button, fails=True)
    assert "empty" in app.error.value and events(app) == [] and not app.start_button.disabled
    start(app)
    assert app.error.value == ""


@pytest.mark.parametrize(
    "typed", ["<script>alert('x')</script> fox", '"\'><img src=x onerror=alert(1)>', "x" * 10_000,
              "🦊 fox", "שלום"]
)  # fmt: skip
def test_hostile_text_is_text(app, typed):
    app.nickname.value = typed
    start(app, typed)
    choose(app, 0)
    written = "".join(
        w.value for w in (app.hint, app.status, app.error, app.types, app.path, app.considered,
                          *app.panels[0].shown)
    )  # fmt: skip
    assert "<script" not in written and "onerror" not in re.sub("&lt;.*?&gt;", "", written)
    assert set(re.findall(r"<(\w+)", written)) <= {
        "p", "h3", "ol", "li", "div", "b", "img", "small", "figure", "figcaption", "br", "table",
        "tr", "td", "th",
    }  # fmt: skip
    with open_log(app.log) as log:
        ((person,),) = log.execute("select distinct person_id from sessions").fetchall()
    assert person == typed.strip()[:40]


def test_everything_on_a_page_is_escaped():
    bad = "<i>&\"'"
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    for page in (
        pages.column(1, bad, bad, pixels), pages.types_page([1.0], [(bad, pixels)], bad),
        pages.path_page(bad, [(bad, pixels)]), pages.compared_page((bad, pixels), (bad, pixels)),
        pages.considered_page([bad] * 25, None, [0]), pages.status(bad), pages.alert(bad),
        pages.download(bad, {"a": bad}, bad),
    ):  # fmt: skip
        assert "<i>" not in page and "&lt;i&gt;" in page
        assert bad not in page and "&quot;" in page  # nor out of an attribute


def test_pictures_on_a_page_are_small():
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    assert len(pages.picture(noise, "large")) < 150_000


def test_a_double_click_picks_once(app):
    start(app)
    for _ in range(5):
        app.panels[0].choose[1].click()
        app.panels[0].choose[2].click()
    app.wait()
    assert app.last_error is None and app.visit.state.picks == [1]
    assert events(app) == ["begin", "slate", "pick", "slate"]
    column = fresh(app)
    app.panels[0].choose[column].click()
    app.wait()
    app.panels[0].choose[column].click()  # late: it is asked how they compare
    app.wait()
    assert app.last_error is None and app.visit.state.picks == [1, column] and app._asks


def test_while_drawing_everything_is_disabled_and_said(hasty, tmp_path):
    drawing, go_on = threading.Event(), threading.Event()

    class Slow(Studio):
        def draw(self, member):
            drawing.set()
            assert go_on.wait(30)
            return super().draw(member)

    app = DemoApp(Slow(**vars(hasty)), tmp_path / "visits.sqlite")
    app.prompt.value = "love"
    app.start_button.click()
    assert drawing.wait(30)
    assert "Drawing 16 pictures" in app.status.value and seen(app.progress)
    assert all(control.disabled for control in app.all)
    app.start_button.click()  # a click while drawing
    go_on.set()
    app.wait()
    assert app.last_error is None and events(app) == ["begin", "slate"] and not seen(app.progress)


def test_two_tabs_in_one_session(app, hasty):
    app.nickname.value = "ann"
    start(app)
    other = DemoApp(hasty, app.log)
    other.nickname.value = "ann"
    press(other, other.resume_button)
    choose(app, 1)
    press(other, other.panels[0].choose[2], fails=True)
    assert isinstance(other.last_error, VisitError) and "another tab" in other.error.value
    assert other.visit.state.picks == [1] and app.visit.state.picks == [1]
    press(other, other.retry_button)
    choose(other, 0)
    assert other.visit.state.picks == [1, 0]
    assert events(app).count("pick") == 2


def test_where_nothing_can_be_kept(hasty, tmp_path):
    (tmp_path / "file").write_text("no folder")
    app = DemoApp(hasty, tmp_path / "file" / "visits.sqlite")
    assert isinstance(app.last_error, VisitError) and "choose another place" in app.error.value
    app.prompt.value = "love"
    app.start_button.click()
    app.wait()
    assert "choose another place" in app.error.value and not app.start_button.disabled


def test_a_disk_that_fills_up(app, monkeypatch):
    start(app)
    real = visits.record

    def full(log, *args, **detail):
        log.execute(f"pragma max_page_count = {log.execute('pragma page_count').fetchone()[0]}")
        return real(log, *args, **detail | {"padding": "x" * 100_000})

    with monkeypatch.context() as patch:
        patch.setattr(demo.visits, "record", full)
        press(app, app.panels[0].choose[1], fails=True)
    assert "disk is full" in app.error.value and app.visit.state.picks == []
    assert not app.panels[0].choose[1].disabled
    press(app, app.panels[0].choose[1])
    assert app.visit.state.picks == [1] and events(app).count("pick") == 1


def within(widget):
    """A widget and all that it holds."""
    return [widget, *(w for child in getattr(widget, "children", ()) for w in within(child))]


def test_every_control_is_locked_and_named(app):
    folded = (w.Button, w.Text, w.Combobox, w.ToggleButtons, w.Checkbox)
    assert {c for c in within(app.page) if isinstance(c, folded)} == set(app.all)
    layouts = [c.layout for c in within(app.page)]
    assert len(set(layouts)) == len(layouts)  # what hides one must not hide another
    buttons = [c for c in app.all if hasattr(c, "click")]
    start(app, agent=BLIND)
    names = [b.description for b in buttons]
    assert all(names) and len(set(names)) == len(names)


@pytest.mark.slow
def test_two_hundred_sessions_leave_no_memory_behind(hasty, tmp_path):
    """Real agents and pages; pictures are drawn once and kept by the test."""
    drawn = {}

    class Album(Studio):
        def draw(self, member):
            new = [m for m in member if m not in drawn]
            if new and len(drawn) < 40:
                drawn.update(zip(new, super().draw(new), strict=True))
            some = list(drawn)
            return np.stack([drawn.get(m, drawn[some[m % len(some)]]) for m in member])

    app = DemoApp(Album(**vars(hasty)), tmp_path / "visits.sqlite")
    used = []
    for session in range(200):
        start(app, "happiness", ("PASTA", "Baseline", BLIND)[session % 3])
        for panel in range(2 if app.duel else 1):
            choose(app, session % 4, panel)
        if session % 20 == 19:
            gc.collect()
            used.append(memory())
    assert used[-1] - used[2] < 30, used  # MB


def memory():
    """What this process holds now, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
