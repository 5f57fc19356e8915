"""What the demo's controls do: a page around the plain-Python sessions of `demo`.

    app = DemoApp(open_studio(GeneratorConfig()), "visits/visits.sqlite")
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
from contextlib import suppress
from functools import partial
from pathlib import Path

import ipywidgets as w
import numpy as np
from scipy.stats import binomtest

from pasta_lib import pages, visits
from pasta_lib.controls import BLIND, Controls, visible
from pasta_lib.demo import NAMES, VERDICTS, Duel, Studio, Visit, begin_duel, begin_visit
from pasta_lib.sessions import TURNS
from pasta_lib.world.captions import CaptionError

AGAIN = "Once more? Open “New session”."
NOT_YET = "<p>While a slate waits, here are the 25 texts it was chosen from.</p>"
PLAYS = {words: name for name, words in NAMES.items()} | {BLIND: BLIND}


class DemoApp(Controls):
    """`page` is what to display; `log` the file of visits, begun where there is none."""

    def __init__(self, studio: Studio, log: str | Path) -> None:
        super().__init__(Path(log).name)
        self.studio, self.log = studio, Path(log)
        self.visit: Visit | None = None
        self.duel: Duel | None = None
        self.agents: dict[str, str] | None = None  # of the duel, once opened
        self.judged = True  # or the visitor has nothing to say of the last two picks
        self.last_error: Exception | None = None
        self._guest = f"guest-{secrets.token_hex(3)}"
        self.nickname.placeholder = f"optional; you are {self._guest}"
        self._busy, self._thread = threading.Lock(), None
        self._connect()
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
            self._say("Drawing 32 pictures, both sides before either is shown …")
            self.duel.columns()
        elif self.visit and not self._asks:
            self.visit.propose()
            if self.visit.slate is not None:
                self._say(f"Drawing 16 pictures for turn {self.visit.turn} of {TURNS} …")
                for drawn, _ in enumerate(self.visit.columns(), 1):
                    self.progress.value = drawn
                    self.panels[0].show(self.visit, "")
                    visible(self.panels[0].box, True)

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
        if not self._asks:  # a second click that came late
            return
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

    def end(self) -> None:
        self._change_to(None)

    def delete(self) -> str:
        """All sessions and votes of this nickname, for good."""
        with visits.open_log(self.log) as log:
            gone = visits.forget(log, self.person)
        if any(v.state.begun["person_id"] == self.person for v in self._visits):
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
        typed = self.nickname.value.encode("utf-8", "replace").decode().strip()
        return typed[:40] or self._guest

    @property
    def _visits(self) -> list[Visit]:
        if self.duel:
            return list(self.duel.sides.values())
        return [self.visit] if self.visit else []

    def _do(self, action: Callable, meanwhile: str, button: w.Button) -> None:
        """Run an action in a thread; clicks on what is disabled, or beside another one, are late
        and do not count."""
        if button.disabled or not self._busy.acquire(timeout=0.1):
            return
        for control in self.all:
            control.disabled = True
        visible(self.progress, True)
        self.last_error, self.error.value, self.progress.value = None, "", 0
        self.exported.value = ""
        self._say(meanwhile)
        self._thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._thread.start()

    def _run(self, action: Callable) -> None:
        words = None
        try:
            words = action()
        except Exception as error:
            self._tell(error)
        try:
            self._show()
        except Exception as error:  # what can't be shown must not keep the controls
            if self.last_error is None:
                self._tell(error)
        self._enable()
        if action != self.export:
            self._focus()
        self._say(words or self._next_step())  # last, when it can be done
        self._busy.release()

    def _tell(self, error: Exception) -> None:
        self.last_error = error
        words = str(error)
        if not isinstance(error, visits.VisitError | CaptionError):
            logging.getLogger(__name__).error("in the demo", exc_info=error)
            words = f"Something went wrong ({type(error).__name__}: {error})."
            if self._visits:
                words += " What you chose so far is kept: press “Try again”."
        self.error.value = pages.alert(words)

    def _change_to(self, new: Visit | Duel | None) -> None:
        """The session that was played is over."""
        self._leave()
        self.duel = new if isinstance(new, Duel) else None
        self.visit = new if isinstance(new, Visit) else None
        self.agents, self.judged, self.hint.value = None, True, ""

    def _leave(self) -> None:
        for visit in self._visits:
            with suppress(visits.VisitError):  # it was ended, or deleted, in another tab
                visit.leave()

    def _connect(self) -> None:
        """What each control does, and what is said meanwhile."""
        does = {
            self.start_button: (self.start, "Reading your prompt …"),
            self.resume_button: (self.resume, "Drawing it again …"),
            self.retry_button: (self.go_on, "Trying again …"),
            self.undo_button: (self.undo, "Taking it back …"),
            self.end_button: (self.end, "Ending …"),
            self.export_button: (self.export, "Collecting …"),
            self.delete_button: (self.delete, "Deleting …"),
        }
        for button, verdict in zip(self.compare_buttons, (*VERDICTS, None), strict=True):
            does[button] = partial(self.compare, verdict), "Noted; thinking …"
        for button, side in zip(self.vote_buttons, "AB", strict=True):
            does[button] = partial(self.vote, side), "Opening …"
        for number, panel in enumerate(self.panels):
            for column, button in [*enumerate(panel.choose), (None, panel.none)]:
                answer = partial(self.answer, number, column)
                does[button] = answer, "Your choice is kept; thinking …"
        for button, (action, meanwhile) in does.items():
            button.on_click(partial(self._do, action, meanwhile))
        for button in self.suggestions:
            button.on_click(lambda pressed: setattr(self.prompt, "value", pressed.description))
        self.nickname.observe(self._changed, "value")
        self.sure.observe(self._changed, "value")

    def _changed(self, change: dict) -> None:
        """Whose sessions can be resumed, saved or deleted."""
        if change["owner"] is self.nickname:
            self.sure.value = False
        self.exported.value = ""
        self.delete_button.disabled = not self.sure.value
        try:
            self._show_own()
        except visits.VisitError as error:
            self._tell(error)

    def _say(self, words: str) -> None:
        self.status.value = pages.status(words)

    def _next_step(self) -> str:
        """What the visitor is asked to do."""
        if self.agents:
            named = {side: NAMES[agent] for side, agent in self.agents.items()}
            return f"A was {named['A']}, B was {named['B']}. Thank you! {AGAIN}"
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
            return f"That was the last turn: see what your picks said of you. {AGAIN}"
        return f"Turn {self.visit.turn} of {TURNS}: choose the column you like best."

    @property
    def _asks(self) -> bool:
        """Whether the visitor is asked which of two picks, both drawn, is better."""
        if not self.visit or self.judged or not self.visit.compared:
            return False
        return all(self._member(t) in self.visit.pictures for t in self.visit.compared)

    @property
    def _votes(self) -> bool:
        return self.duel is not None and self.duel.done and not self.agents

    def _enable(self) -> None:
        """Every control that can do something now."""
        waiting = [v for v in self._visits if v.slate is not None] if self._ready else []
        useless = set()
        if not any(v.state.picks for v in self._visits):
            useless.add(self.undo_button)
        if not self.sure.value:
            useless.add(self.delete_button)
        for number, panel in enumerate(self.panels):
            if not any(v in waiting for v in self._visits[number : number + 1]):
                useless.update(panel.buttons)
        for control in self.all:
            control.disabled = control in useless

    def _focus(self) -> None:
        """On the first control that answers what is asked, for those who play by keyboard."""
        choose = [button for panel in self.panels for button in panel.choose]
        asked = self.vote_buttons if self._votes else choose
        for button in self.compare_buttons if self._asks else asked:
            if not button.disabled:
                return button.focus()

    @property
    def _ready(self) -> bool:
        """Whether a slate waits for an answer, and all that wait are drawn."""
        waiting = [v for v in self._visits if v.slate is not None]
        return bool(waiting) and all(m in v.pictures for v in waiting for m in v.slate["member"])

    def _show(self) -> None:
        """Everything, from where the session stands."""
        visible(self.progress, False)
        self._show_slates()
        visible(self.comparing, self._asks)
        if self._asks:
            now, before = (self._picked(t) for t in self.visit.compared)
            self.compared.value = pages.compared_page(before, now)
        playing = bool(self._visits) and not any(v.state.left for v in self._visits)
        for control in (self.undo_button, self.end_button):
            visible(control, playing)
        visible(self.voting, self._votes)
        self.setup.selected_index = None if self._visits else 0
        self._show_learnt()
        self._show_own()
        with visits.open_log(self.log) as log:
            won, n = visits.tally(log, "pasta")
        low, high = binomtest(won, n).proportion_ci(method="wilson") if n else (0, 1)
        self.total.value = pages.tally_page(won, n, low, high)

    def _show_slates(self) -> None:
        """Of a blind comparison both, or none; and a way on where something went wrong."""
        sides = self.duel.sides if self.duel else {"": self.visit}
        answered = all(visit.slate is None for visit in self._visits)
        for panel in self.panels:
            visible(panel.box, False)
        for panel, (side, visit) in zip(self.panels, sides.items(), strict=False):
            if visit and visit.state.slates and (self._ready or answered or not self.duel):
                visible(panel.box, True)
                panel.show(visit, side)
        over = all(visit.done for visit in self._visits)
        visible(self.retry_button, not (self._ready or over or self._asks))

    def _picked(self, turn: int) -> tuple[str, np.ndarray]:
        words = self.visit.state.slates[turn]["slate"][self.visit.state.picks[turn]]
        return words, self.visit.pictures[self._member(turn)]

    def _member(self, turn: int) -> int:
        return self.visit.state.slates[turn]["member"][self.visit.state.picks[turn]]

    def _show_learnt(self) -> None:
        """Beliefs, path and candidates; of a blind comparison, only when it is over."""
        self.considered.value = NOT_YET
        if not self._visits or (self.duel and not self.agents):
            self.types.value = self.path.value = ""
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
        """What the nickname has begun."""
        with visits.open_log(self.log) as log:
            waiting = visits.unfinished(log, self.person)
        visible(self.resume_button, bool(waiting) and not self._visits)
        if waiting:
            self.resume_button.description = f"Go on with “{waiting[0][1][:40]}”"
