"""The demo as visitors meet it: Voilà and a real browser, by visible text and by keyboard.

With PASTA_SCREENSHOTS=figures (`make screenshots`) the pictures of the demo are taken anew.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

from pasta_lib.datasets.pasta import bank_sessions, read_sessions
from pasta_lib.datasets.rows import Account
from pasta_lib.sealed import AGENTS
from pasta_lib.visits import open_log

ROOT = Path(__file__).parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt install chromium"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PATIENCE = 180_000  # ms; a busy machine opens the page in a minute


@pytest.fixture
def demo(tmp_path):
    """Voilà with the notebook in a folder of its own: where to go, and the visitors' log."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / "07_interactive_demo.ipynb", folder)
    make = (ROOT / "Makefile").read_text().partition("\nDEMO := ")[2].partition("\n")[0]
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", "07_interactive_demo.ipynb", "--no-browser",
               f"--port={port}", "--show_tracebacks=True", *make.split()]  # fmt: skip
    with (tmp_path / "voila.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}/", tmp_path / "visits" / "visits.sqlite", server.pid
    for process in [*psutil.Process(server.pid).children(recursive=True), server]:
        process.kill()
    server.wait()


@pytest.fixture
def page():
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1020})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def test_visitors_play(demo, page):
    where, path, server = demo
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    film = []
    open_page(page, where)
    assert page.get_by_text("What happens when you choose").count() == 0  # the book is not here

    # One session, half of it by keyboard.
    page.get_by_role("textbox", name="Nickname").fill("<b>ann</b>")
    page.get_by_label("Prompt", exact=True).fill("happiness")
    page.get_by_role("button", name="Start").focus()
    page.keyboard.press("Enter")
    says(page, "Turn 1 of 5: choose")
    film.append(page.screenshot())
    assert alt_texts(page) == 16
    wanted = neon(page)
    tab_to(page, wanted)
    page.keyboard.press("Enter")
    says(page, "Turn 2 of 5: choose")
    assert [d["column"] for kind, d in of(path) if kind == "pick"] == [wanted - 1]
    film.append(page.screenshot())
    choose(page, neon(page), times=2)  # a double click
    page.get_by_role("button", name="Better").click()
    for turn in (3, 4):
        says(page, f"Turn {turn} of 5: choose")
        film.append(page.screenshot())
        if turn == 3:
            keep(page, "fig07_demo_1280")
        choose(page, neon(page))
        page.get_by_role("button", name="About the same").click()
    says(page, "Turn 5 of 5: choose")
    film.append(page.screenshot())
    page.get_by_role("button", name="None of these").click()
    says(page, "That was the last turn")
    film.append(page.screenshot())
    keep_film(film)
    events = [kind for kind, _ in of(path)]
    assert events == [
        "begin", "slate", "pick", "slate", "pick", "judge", "slate", "pick", "judge",
        "slate", "pick", "judge", "slate", "skip",
    ]  # fmt: skip

    # On a phone: a blind comparison.
    page.set_viewport_size({"width": 400, "height": 860})
    page.get_by_text("New session").first.click()
    page.get_by_label("Prompt", exact=True).fill("a white cat")
    page.get_by_role("button", name="Blind A/B").click()
    page.get_by_role("button", name="Start").click()
    for turn in range(5):
        says(page, "one of A and one of B")
        if turn == 1:
            page.get_by_text("one of A and one of B").evaluate("e => e.scrollIntoView()")
            keep(page, "fig07_demo_400")
        assert page.get_by_text("Who the agent thinks you are").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        press(page, f"Choose column {turn % 4 + 1} of A", "best: one of B.")
        press(page, "Choose column 1 of B", "one of A and" if turn < 4 else "Whose last pictures")
    assert all(name not in json.dumps(detail) for _, detail in of(path)[15:] for name in AGENTS)
    page.get_by_role("button", name="I prefer A's pictures").click()
    says(page, "Thank you!")
    page.get_by_text("95 % interval").wait_for()
    (vote,) = [detail for kind, detail in of(path) if kind == "vote"]
    assert vote["preferred"] == "A" and sorted(vote["agents"].values()) == sorted(AGENTS)

    # A prompt that means harm; in the middle of a turn the kernel is killed; the visitor returns.
    page.set_viewport_size({"width": 1280, "height": 1020})
    page.get_by_text("New session").first.click()
    page.get_by_role("button", name="PASTA").first.click()
    page.get_by_label("Prompt", exact=True).fill("<img src=x onerror=alert(1)> holiday")
    page.get_by_role("button", name="Start").click()
    says(page, "Turn 1 of 5: choose")
    choose(page, 3)
    while of(path)[-1][0] not in ("pick", "slate") or of(path)[-2][0] == "begin":
        page.wait_for_timeout(20)
    for process in psutil.Process(server).children(recursive=True):
        if "ipykernel" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
    before = of(path)
    open_page(page, where)
    page.get_by_role("textbox", name="Nickname").fill("<b>ann</b>")
    page.get_by_role("button", name="Go on with “holiday”").click()
    says(page, "Turn 2 of 5: choose")
    column = new(page)[0]
    choose(page, column)
    page.get_by_text("Is this pick better").wait_for()
    picked = ("pick", {"turn": 2, "column": column - 1})
    assert of(path)[: len(before)] == before and of(path)[-1] == picked
    assert dialogs == []

    # What they left is rater data.
    account = Account()
    turns = read_sessions(path, account)
    sessions, incomplete = bank_sessions(turns)
    assert not account.reasons and incomplete == 1 and len(sessions.session) == 3
    assert set(turns.frame["person_id"]) == {"<b>ann</b>"}
    assert set(turns.frame["agent"]) == set(AGENTS)


def open_page(page, where):
    """Voilà is up a few seconds after it was started."""
    for _ in range(60):
        try:
            page.goto(where, wait_until="commit")
            break
        except Exception:
            page.wait_for_timeout(1000)
    page.get_by_role("button", name="Start").wait_for()


def says(page, words):
    page.get_by_role("status").filter(has_text=words).wait_for()


def press(page, name, then="", times=1):
    """A click, and what is said then. What is drawn moves the page, and a click may miss, as a
    hand's may: it is made again where nothing was said of it."""
    button, status = page.get_by_role("button", name=name), page.get_by_role("status")
    before = status.all_inner_texts()
    button.click(click_count=times)
    for waited in range(1, PATIENCE // 100):
        page.wait_for_timeout(100)
        if status.all_inner_texts() != before:
            if status.filter(has_text=then).count():
                return
        elif waited % 10 == 0:
            with suppress(PlaywrightTimeout):
                button.click(timeout=500)
    raise AssertionError(f"{then!r} was not said after {name!r}, but {status.all_inner_texts()}")


def choose(page, column, times=1):
    press(page, f"Choose column {column}", times=times)


def tab_to(page, column):
    """By Tab, from each column's button to the next; the first has the focus, or is given it."""
    page.wait_for_function("document.activeElement.title.startsWith('Choose column')")
    for _ in range(PATIENCE // 100):
        at = page.evaluate("document.activeElement.title")
        if at == f"Choose column {column}":
            return
        assert at.startswith("Choose column") and at < f"Choose column {column}"
        page.keyboard.press("Tab")
        page.wait_for_timeout(100)
    raise AssertionError(f"Tab does not lead to column {column}")


def new(page):
    """Columns that are not the last pick again: of the same pictures nobody is asked to say which
    are better."""
    words = page.locator("figcaption").all_inner_texts()
    return [column for column, text in enumerate(words, 1) if "again" not in text]


def neon(page):
    """The new column whose words say neon, or the first."""
    words = page.locator("figcaption").all_inner_texts()
    return next((column for column in new(page) if "neon" in words[column - 1]), new(page)[0])


def alt_texts(page):
    """Pictures of columns that say what they show."""
    return page.locator('figure img[alt*="picture"]').count()


def of(path):
    with open_log(path) as log:
        rows = log.execute("select kind, detail from events order by id").fetchall()
    return [(kind, json.loads(detail)) for kind, detail in rows]


def keep(page, name):
    """A screenshot as a figure, with its sidecar, where PASTA_SCREENSHOTS says."""
    folder = os.environ.get("PASTA_SCREENSHOTS")
    if not folder:
        return
    with Image.open(BytesIO(page.screenshot())) as image:
        small = image.convert("RGB").quantize(128)
        small.save(Path(folder) / f"{name}.png", "PNG", optimize=True)
    size = page.viewport_size
    sidecar = {
        "figure": name, "title": f"The demo in a browser {size['width']} pixels wide",
        "notebook": "07_interactive_demo", "command": "make screenshots", "seed": None,
        "inputs": {}, "versions": {}, "numbers": {"width": size["width"]},
        "tolerances": {"width": 0},
    }  # fmt: skip
    (Path(folder) / f"{name}.json").write_text(json.dumps(sidecar, indent=1) + "\n")


def keep_film(shots):
    """The README's moving picture: two seconds a turn."""
    folder = os.environ.get("PASTA_SCREENSHOTS")
    if not folder:
        return
    frames = []
    for shot in shots:
        with Image.open(BytesIO(shot)) as image:
            frames.append(image.convert("RGB").crop((0, 220, 1280, 1020)).resize((800, 500)))
    palette = Image.fromarray(np.concatenate(frames)).quantize(256)  # of all turns' colours
    frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    frames[0].save(Path(folder) / "demo.gif", save_all=True, append_images=frames[1:],
                   duration=2000, loop=0, optimize=True)  # fmt: skip
