"""The demo's controls: core ipywidgets around the plain-Python sessions of `demo`.

    app = DemoApp(open_studio(), "visits/visits.sqlite")
    app.page

Every callback goes through `_do`: one at a time, in a thread of its own, so that the page says at
once that something is under way and a second click finds its button disabled. What goes wrong is
kept in `last_error`, told in `error`, and the controls come back. What to show is read off the
session anew each time (`_show`); the session is in the log.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np
from scipy.stats import binomtest

from pasta_lib import pages, visits
from pasta_lib.demo import AGENTS, Duel, Studio, Visit, begin_duel, begin_visit
from pasta_lib.sessions import SLATE, TURNS
from pasta_lib.world.captions import CaptionError
from pasta_lib.world.vocabulary import IDEAS

BLIND = "Blind A/B"
PLAYS = {words: name for name, words in AGENTS.items()} | {BLIND: BLIND}
TRY = ("happiness", "a quiet evening", "holiday", "love", "a white cat", "three foxes, neon")
CONSENT = (
    "<p><small>What you type, see and choose is kept in one file on this computer, <code>{}</code>,"
    " under the nickname you give (none is needed), and nowhere else. Below you can take it with "
    "you, or have it deleted. Please do not type anything private.</small></p>"
)


class Panel:
    """One agent's slate: four columns with a button under each, and "none of these"."""

    def __init__(self) -> None:
        self.heading, self.none = w.HTML(), w.Button(layout=w.Layout(width="auto"))
        self.shown = [w.HTML() for _ in range(SLATE)]
        self.choose = [
            w.Button(button_style="info", layout=w.Layout(width="auto")) for _ in range(SLATE)
        ]
        wide = w.Layout(flex="1 1 130px", min_width="130px", max_width="200px", margin="4px")
        columns = [w.VBox(pair, layout=wide) for pair in zip(self.shown, self.choose, strict=True)]
        row = w.Box(columns, layout=_row())
        self.box = w.VBox([self.heading, row, self.none], layout=w.Layout(flex="1 1 560px"))

    @property
    def buttons(self) -> list[w.Button]:
        return [*self.choose, self.none]

    def show(self, visit: Visit, side: str, ready: bool) -> None:
        """The last slate of a visit: what is drawn of it, and what was chosen. `ready` for it."""
        slate, pick = visit.state.slates[-1], None
        if visit.slate is None:
            pick = visit.state.picks[-1]
        for c, shown in enumerate(self.shown):
            pictures = visit.pictures.get(slate["member"][c])
            words, category = slate["slate"][c], slate["category"][c]
            shown.value = pages.column(c + 1, words, category, pictures, c == pick)
        of_side = f" of {side}" if side else ""
        self.heading.value = f"<h3>{side} Turn {len(visit.state.slates)} of {TURNS}</h3>"
        for c, button in enumerate(self.choose, 1):
            button.description = f"Choose column {c}{of_side}"
        self.none.description = f"None of these{of_side}"
        for button in self.buttons:
            button.disabled = not ready


class DemoApp:
    """`page` is what to display; `log` the file of visits, begun where there is none."""

    def __init__(self, studio: Studio, log: str | Path) -> None:
        self.studio, self.log = studio, Path(log)
        self.visit: Visit | None = None
        self.duel: Duel | None = None
        self.agents: dict[str, str] | None = None  # of the duel, once opened
        self.judged = True  # or the visitor has nothing to say of the last two picks
        self.last_error: Exception | None = None
        self._guest = f"guest-{secrets.token_hex(3)}"
        self._busy, self._thread = threading.Lock(), None
        self._make_controls()
        self._arrange()
        self._busy.acquire()
        self._run(lambda: None)

    # What visitors do. Each runs through `_do`.

    def start(self) -> None:
        """A new session; then the last one ends."""
        agent, common = PLAYS[self.agent.value], {"person": self.person}
        if agent == BLIND:
            new, hint = begin_duel(self.studio, self.log, self.prompt.value, **common)
        else:
            new, hint = begin_visit(self.studio, self.log, self.prompt.value, agent=agent, **common)
        self._change_to(new)
        self.hint.value = pages.status(hint)
        self.go_on()

    def resume(self) -> None:
        """The last session of this nickname that was not finished."""
        with visits.open_log(self.log) as log:
            waiting = visits.unfinished(log, self.person)
        if not waiting:
            raise visits.VisitError("There is no unfinished session under this nickname.")
        name, _, blind = waiting[0]
        self._change_to((Duel if blind else Visit)(self.studio, self.log, name))
        self.judged = False
        self.go_on()

    def go_on(self) -> None:
        """Whatever comes next: the next slate, drawn; nothing where an answer is waited for."""
        for visit in self._visits:
            visit.remember()
        if self.duel:
            self.duel.propose()
            self.duel.columns()
        elif self.visit and not self._asks:
            self.visit.propose()
            if self.visit.slate is not None:
                self._say(f"Drawing 16 pictures for turn {self.visit.turn} of {TURNS} …")
                for drawn, _ in enumerate(self.visit.columns(), 1):
                    self.progress.value = drawn
                    self.panels[0].show(self.visit, "", ready=False)
                    _visible(self.panels[0].box, True)

    def answer(self, panel: int, column: int | None) -> None:
        """Choose a column of a panel's slate, or none of it."""
        visit = self._visits[panel]
        if visit.slate is None:  # a second click that came late
            return
        visit.skip() if column is None else visit.pick(column)
        self.judged = False
        self.go_on()

    def compare(self, verdict: str | None) -> None:
        """The last pick is "better", "same" or "worse" than the one before; None: can't say."""
        if verdict:
            self.visit.judge(verdict)
        self.judged = True
        self.go_on()

    def undo(self) -> None:
        (self.duel or self.visit).undo()
        self.judged = True
        self.go_on()

    def vote(self, side: str) -> None:
        """Prefer A's or B's last pictures; who they are is opened."""
        self.agents = self.duel.vote(side)
        self._leave()

    def end(self) -> None:
        self._change_to(None)

    def delete(self) -> str:
        """All sessions and votes of this nickname, for good."""
        with visits.open_log(self.log) as log:
            gone = visits.forget(log, self.person)
        self.visit = self.duel = None
        self._change_to(None)
        self.sure.value = False
        return f"{gone} events of “{self.person}” were deleted."

    def export(self) -> None:
        """Show a link that saves all events of this nickname."""
        with visits.open_log(self.log) as log:
            mine = visits.of_person(log, self.person)
        link = pages.download("my_sessions.json", mine, f"Save {len(mine)} events as JSON")
        self.exported.value = f"<p>{link}</p>"

    # How it is done.

    def wait(self, seconds: float = 120) -> None:
        """Until what is under way is done."""
        if self._thread:
            self._thread.join(seconds)
            if self._thread.is_alive():
                raise TimeoutError(f"still busy after {seconds} s")

    @property
    def person(self) -> str:
        return self.nickname.value.strip()[:40] or self._guest

    @property
    def _visits(self) -> list[Visit]:
        if self.duel:
            return list(self.duel.sides.values())
        return [self.visit] if self.visit else []

    def _do(self, button: w.Button, action: Callable, words: str) -> None:
        """Run an action in a thread; clicks on what is disabled, or beside another one, are late
        and do not count."""
        if button.disabled or not self._busy.acquire(blocking=False):
            return
        self._disable()
        self.last_error, self.error.value, self.progress.value = None, "", 0
        self.exported.value = ""
        self._say(words)
        self._thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._thread.start()

    def _run(self, action: Callable) -> None:
        words = None
        try:
            words = action()
        except Exception as error:
            self._tell(error)
        try:
            self._show(words or self._next_step())
        except Exception as error:  # what can't be shown must not keep the controls
            self._tell(error)
        finally:
            self._busy.release()

    def _tell(self, error: Exception) -> None:
        self.last_error = error
        words = str(error)
        if not isinstance(error, visits.VisitError | CaptionError):
            logging.getLogger(__name__).error("in the demo", exc_info=error)
            words = (f"Something went wrong ({type(error).__name__}: {error}). What you chose so "
                     "far is kept: press “Try again”.")  # fmt: skip
        self.error.value = pages.alert(words)

    def _change_to(self, new: Visit | Duel | None) -> None:
        """The session that was played is over."""
        self._leave()
        self.duel = new if isinstance(new, Duel) else None
        self.visit = new if isinstance(new, Visit) else None
        self.agents, self.judged, self.hint.value = None, True, ""

    def _leave(self) -> None:
        for visit in self._visits:
            if not visit.state.left:
                visit.leave()

    def _make_controls(self) -> None:
        self.nickname = w.Text(description="Nickname", placeholder="optional")
        self.prompt = w.Combobox(
            description="Prompt", placeholder="happiness, or two white cats in neon",
            options=[*IDEAS, "a white cat", "a castle at night", "three foxes, neon"],
            layout=w.Layout(width="min(420px, 96%)"),
        )  # fmt: skip
        self.agent = w.ToggleButtons(description="Who draws", options=list(PLAYS))
        self.suggestions = [w.Button(description=words) for words in TRY]
        for button in self.suggestions:
            button.on_click(lambda b: setattr(self.prompt, "value", b.description))
        self.hint, self.status, self.error = w.HTML(), w.HTML(), w.HTML()
        self.consent = w.HTML(CONSENT.format(escape(self.log.name)))
        self.exported, self.total, self.types = w.HTML(), w.HTML(), w.HTML()
        self.path, self.considered, self.compared = w.HTML(), w.HTML(), w.HTML()
        self.progress = w.IntProgress(max=SLATE, layout=w.Layout(width="min(420px, 96%)"))
        self.panels = [Panel(), Panel()]
        self.sure = w.Checkbox(description="Yes, delete all I did under this nickname")
        button = self._button
        self.start_button = button("Start", self.start, "Reading your prompt …", "primary")
        self.resume_button = button("Go on with my last session", self.resume, "Drawing it again …")
        self.retry_button = button("Try again", self.go_on, "Trying again …", "warning")
        self.undo_button = button("Undo my last choice", self.undo, "Taking it back …")
        self.end_button = button("End this session", self.end, "Ending …")
        self.compare_buttons = [
            button(words, lambda v=verdict: self.compare(v), "Noted; thinking …")
            for words, verdict in (("Better", "better"), ("About the same", "same"),
                                   ("Worse", "worse"), ("Can't say", None))
        ]  # fmt: skip
        self.vote_buttons = [
            button(f"I prefer {side}'s pictures", lambda s=side: self.vote(s), "Opening …", "info")
            for side in "AB"
        ]
        self.export_button = button("Show my sessions", self.export, "Collecting …")
        self.delete_button = button("Delete my sessions", self.delete, "Deleting …", "danger")
        for p, panel in enumerate(self.panels):
            for column, control in [*enumerate(panel.choose), (None, panel.none)]:
                control.on_click(partial(self._answered, p, column))
        self.nickname.observe(self._changed, "value")
        self.sure.observe(self._changed, "value")

    def _answered(self, panel: int, column: int | None, button: w.Button) -> None:
        words = "Your choice is kept; thinking …"
        self._do(button, partial(self.answer, panel, column), words)

    def _changed(self, _) -> None:
        """Whose sessions can be resumed, saved or deleted."""
        self.exported.value = ""
        try:
            self._show_own()
        except visits.VisitError as error:
            self._tell(error)

    def _button(self, words: str, action: Callable, doing: str, style: str = "") -> w.Button:
        button = w.Button(description=words, button_style=style, layout=w.Layout(width="auto"))
        button.on_click(lambda b: self._do(b, action, doing))
        return button

    def _arrange(self) -> None:
        self.comparing = w.VBox([self.compared, w.Box(self.compare_buttons, layout=_row())])
        self.voting = w.Box(self.vote_buttons, layout=_row())
        self.slates = w.Box([panel.box for panel in self.panels], layout=_row())
        self.learnt = w.VBox([self.types, self.path], layout=w.Layout(flex="1 1 300px"))
        own = w.VBox([self.export_button, self.exported, self.sure, self.delete_button])
        titles = ("What the agent considered", "Your data: take it along, or delete it")
        self.folded = w.Accordion([self.considered, own], titles=titles)
        setup = w.VBox([
            self.nickname, self.prompt, w.Box(self.suggestions, layout=_row()), self.agent,
            w.Box([self.start_button, self.resume_button], layout=_row()), self.consent,
        ])  # fmt: skip
        self.setup = w.Accordion([setup], titles=("New session",))
        controls = w.Box([self.undo_button, self.end_button], layout=_row())
        played = w.VBox([self.slates, self.voting, controls], layout=w.Layout(flex="3 1 560px"))
        self.page = w.VBox([
            w.HTML(pages.STYLE), self.setup, self.hint, self.status, self.progress, self.error,
            self.retry_button, self.comparing, w.Box([played, self.learnt], layout=_row()),
            self.total, self.folded,
        ])  # fmt: skip
        self.page.add_class("pasta")

    @property
    def _controls(self) -> list:
        panels = [button for panel in self.panels for button in panel.buttons]
        return [
            self.nickname, self.prompt, self.agent, *self.suggestions, self.start_button,
            self.resume_button, self.retry_button, self.undo_button, self.end_button,
            *self.compare_buttons, *self.vote_buttons, self.export_button, self.delete_button,
            self.sure, *panels,
        ]  # fmt: skip

    def _disable(self) -> None:
        for control in self._controls:
            control.disabled = True
        _visible(self.progress, True)

    def _say(self, words: str) -> None:
        self.status.value = pages.status(words)

    def _next_step(self) -> str:
        """What the visitor is asked to do."""
        if self.agents:
            named = {side: AGENTS[agent] for side, agent in self.agents.items()}
            return f"A was {named['A']}, B was {named['B']}. Thank you! Play again?"
        if self.duel:
            if self.duel.done:
                return "Whose last pictures do you prefer, all in all? Vote below them."
            sides = [s for s, v in self.duel.sides.items() if v.slate is not None]
            return f"Choose the column you like best: one of {' and one of '.join(sides)}."
        if not self.visit:
            return "Type what you would like to see, or press a suggestion; then press Start."
        if self._asks:
            return "Before the next pictures: how does this pick compare with your last?"
        if self.visit.done:
            return "That was the last turn. On the right is what your picks said. Play again?"
        return f"Turn {self.visit.turn} of {TURNS}: choose the column you like best."

    @property
    def _asks(self) -> bool:
        return bool(self.visit and not self.judged and self.visit.compared)

    def _show(self, words: str) -> None:
        """Everything, from where the session stands."""
        self._say(words)
        for control in self._controls:
            control.disabled = False
        _visible(self.progress, False)
        self._show_slates()
        _visible(self.comparing, self._asks)
        if self._asks:
            now, before = (self._picked(t) for t in self.visit.compared)
            self.compared.value = pages.compared_page(before, now)
        playing = bool(self._visits) and not any(v.state.left for v in self._visits)
        for control in (self.undo_button, self.end_button):
            _visible(control, playing)
        self.undo_button.disabled = not any(v.state.picks for v in self._visits)
        _visible(self.voting, playing and self.duel is not None and self.duel.done)
        over = not self._visits or all(v.done for v in self._visits)
        self.setup.selected_index = 0 if over else None
        self._show_learnt()
        self._show_own()
        with visits.open_log(self.log) as log:
            won, n = visits.tally(log, "pasta")
        low, high = binomtest(won, n).proportion_ci(method="wilson") if n else (0, 1)
        self.total.value = pages.tally_page(won, n, low, high)

    def _show_slates(self) -> None:
        """Of a blind comparison both, or none; and a way on where something went wrong."""
        sides = self.duel.sides if self.duel else {"": self.visit}
        waiting = [v for v in self._visits if v.slate is not None]
        ready = bool(waiting) and all(
            m in visit.pictures for visit in waiting for m in visit.slate["member"]
        )
        for panel in self.panels:
            _visible(panel.box, False)
            for button in panel.buttons:
                button.disabled = True
        for panel, (side, visit) in zip(self.panels, sides.items(), strict=False):
            if visit and visit.state.slates and (ready or not waiting or not self.duel):
                _visible(panel.box, True)
                panel.show(visit, side, ready and visit in waiting)
        self._focus()
        over = all(visit.done for visit in self._visits)
        _visible(self.retry_button, not (ready or over or self._asks))

    def _picked(self, turn: int) -> tuple[str, np.ndarray]:
        slate, column = self.visit.state.slates[turn], self.visit.state.picks[turn]
        return slate["slate"][column], self.visit.pictures[slate["member"][column]]

    def _focus(self) -> None:
        """On the first button that can be pressed, for those who play by keyboard."""
        for button in [b for panel in self.panels for b in panel.choose]:
            if not button.disabled:
                return button.focus()

    def _show_learnt(self) -> None:
        """Beliefs, path and candidates; of a blind comparison, only when it is over."""
        if not self._visits or (self.duel and not self.agents):
            self.types.value = self.path.value = ""
            self.considered.value = "<p>Here you will see the 25 texts the agent chose from.</p>"
            return
        visit = self.visit or next(v for v in self._visits if v.agent == "pasta")
        heading = "Who the agent thinks you are"
        self.types.value = pages.types_page(visit.belief, self.studio.faces, heading)
        self.path.value = pages.path_page(visit.state.begun["initial_prompt"], visit.path)
        if visit.slate is not None:
            self.considered.value = pages.considered_page(
                visit.candidates.texts()[0], visit.values, visit.slate["candidates"]
            )

    def _show_own(self) -> None:
        """What the nickname has begun, and what it may delete."""
        self.delete_button.disabled = not self.sure.value
        with visits.open_log(self.log) as log:
            waiting = visits.unfinished(log, self.person)
        _visible(self.resume_button, bool(waiting) and not self._visits)
        if waiting:
            self.resume_button.description = f"Go on with “{waiting[0][1][:40]}”"


def _row() -> w.Layout:
    return w.Layout(flex_flow="row wrap")


def _visible(widget: w.Widget, there: bool) -> None:
    widget.layout.display = None if there else "none"
