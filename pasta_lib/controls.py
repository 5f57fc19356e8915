"""What the demo's page is made of: core ipywidgets, laid out; what they do is in `widgets`."""

from html import escape

import ipywidgets as w

from pasta_lib import pages
from pasta_lib.demo import NAMES, Visit
from pasta_lib.sessions import SLATE, TURNS
from pasta_lib.world.vocabulary import IDEAS

BLIND = "Blind A/B"
TRY = ("happiness", "a quiet evening", "holiday", "love", "a white cat", "three foxes, neon")
CONSENT = (
    "<p><small>What you type, see and choose is kept in one file on this computer, <code>{}</code>,"
    " under the nickname you give, or the one beside it, and nowhere else. Below you can take it "
    "with you, or have it deleted. Please do not type anything private.</small></p>"
)


class Panel:
    """One agent's slate: four columns with a button under each, and "none of these"."""

    def __init__(self) -> None:
        self.heading, self.none = w.HTML(), _button("None of these")
        self.shown = [w.HTML() for _ in range(SLATE)]
        self.choose = [_button(f"Choose column {c}", "info") for c in range(1, SLATE + 1)]
        both = zip(self.shown, self.choose, strict=True)
        columns = [w.VBox(pair, layout=_narrow()) for pair in both]
        whole = w.Layout(flex="1 1 560px")
        self.box = w.VBox([self.heading, _row(columns), self.none], layout=whole)

    @property
    def buttons(self) -> list[w.Button]:
        return [*self.choose, self.none]

    def show(self, visit: Visit, side: str) -> None:
        """The last slate of a visit: what is drawn of it, and what was chosen."""
        slate, pick = visit.state.slates[-1], None
        if visit.slate is None:
            pick = visit.state.picks[-1]
        for c, shown in enumerate(self.shown):
            pictures = visit.pictures.get(slate["member"][c])
            words, category = slate["slate"][c], slate["category"][c]
            if slate["member"][c] == visit.stood:
                category += ": your last pick again, in other words"
            shown.value = pages.column(c + 1, words, category, pictures, c == pick)
        of_side = f" of {side}" if side else ""
        self.heading.value = f"<h3>{side} Turn {len(visit.state.slates)} of {TURNS}</h3>"
        for c, button in enumerate(self.choose, 1):
            button.description = f"Choose column {c}{of_side}"
        self.none.description = f"None of these{of_side}"


class Controls:
    """All widgets; `page` holds them. `log`: the name of the file of visits."""

    def __init__(self, log: str) -> None:
        self.nickname = w.Text(description="Nickname", placeholder="optional")
        self.prompt = w.Combobox(
            description="Prompt", placeholder="happiness, or two white cats in neon",
            options=[*IDEAS, "a white cat", "a castle at night", "three foxes, neon"],
            layout=_wide(),
        )  # fmt: skip
        self.suggestions = [w.Button(description=words) for words in TRY]
        self.agent = w.ToggleButtons(description="Who draws", options=[*NAMES.values(), BLIND])
        self.consent = w.HTML(CONSENT.format(escape(log)))
        self.start_button = _button("Start", "primary")
        self.resume_button = _button("Go on with my last session")
        self.hint, self.status, self.error = w.HTML(), w.HTML(), w.HTML()
        self.progress = w.IntProgress(max=SLATE, layout=_wide())
        self.retry_button = _button("Try again", "warning")
        self.compared = w.HTML()
        judged = ("Better", "About the same", "Worse", "Can't say")
        self.compare_buttons = [_button(words) for words in judged]
        self.panels = [Panel(), Panel()]
        self.vote_buttons = [_button(f"I prefer {side}'s pictures", "info") for side in "AB"]
        self.undo_button, self.end_button = (
            _button("Undo my last choice"),
            _button("End this session"),
        )
        self.types, self.path, self.total, self.considered = (w.HTML() for _ in range(4))
        self.export_button, self.exported = _button("Show my sessions"), w.HTML()
        self.sure = w.Checkbox(description="Yes, delete all I did under this nickname")
        self.delete_button = _button("Delete my sessions", "danger")
        self.page = self._arranged()
        self.page.add_class("pasta")

    def _arranged(self) -> w.VBox:
        setup = w.VBox([
            self.nickname, self.prompt, _row(self.suggestions), self.agent,
            _row([self.start_button, self.resume_button]), self.consent,
        ])  # fmt: skip
        self.setup = w.Accordion([setup], titles=("New session",))
        self.comparing = w.VBox([self.compared, _row(self.compare_buttons)])
        self.voting = _row(self.vote_buttons)
        slates = _row([panel.box for panel in self.panels])
        ending = _row([self.undo_button, self.end_button])
        played = w.VBox([slates, self.voting, ending], layout=w.Layout(flex="3 1 560px"))
        learnt = w.VBox([self.types, self.path], layout=w.Layout(flex="1 1 300px"))
        own = w.VBox([self.export_button, self.exported, self.sure, self.delete_button])
        titles = ("What the agent considered", "Your data: take it along, or delete it")
        return w.VBox([
            w.HTML(pages.STYLE), self.setup, self.hint, self.status, self.progress, self.error,
            self.retry_button, self.comparing, _row([played, learnt]), self.total,
            w.Accordion([self.considered, own], titles=titles),
        ])  # fmt: skip

    @property
    def all(self) -> list[w.Widget]:
        """Everything that can be pressed or set."""
        panels = [button for panel in self.panels for button in panel.buttons]
        return [
            self.nickname, self.prompt, self.agent, *self.suggestions, self.start_button,
            self.resume_button, self.retry_button, self.undo_button, self.end_button,
            *self.compare_buttons, *self.vote_buttons, self.export_button, self.delete_button,
            self.sure, *panels,
        ]  # fmt: skip


def visible(widget: w.Widget, there: bool) -> None:
    widget.layout.display = None if there else "none"


def _button(words: str, style: str = "") -> w.Button:
    return w.Button(description=words, button_style=style, layout=w.Layout(width="auto"))


def _row(widgets: list[w.Widget]) -> w.Box:
    """Beside each other, or below where the window is narrow."""
    return w.Box(widgets, layout=w.Layout(flex_flow="row wrap"))


# A layout of its own for each: what hides one widget must not hide another.
def _wide() -> w.Layout:
    return w.Layout(width="min(420px, 96%)")


def _narrow() -> w.Layout:
    return w.Layout(flex="1 1 130px", min_width="130px", max_width="200px", margin="4px")
