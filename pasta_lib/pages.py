"""What the demo shows, as HTML. What people typed is escaped, every picture is described."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from pasta_lib.candidates import CATEGORIES, EACH

LARGEST = 320  # pixels on the page, of a larger picture
STYLE = """<style>
.pasta {font-family: system-ui, sans-serif; font-size: 15px; line-height: 1.4; max-width: 1240px}
.pasta .widget-html-content {line-height: 1.35; font-size: 14px}
.pasta p, .pasta h3, .pasta figure {margin: 0 0 .4em} .pasta h3 {font-size: 1.05em}
.pasta .pictures {display: grid; gap: 3px; grid-template-columns: repeat(2, 1fr)}
.pasta img {width: 100%; aspect-ratio: 1; border-radius: 4px; background: #ddd; display: block}
.pasta figcaption {min-height: 5.8em; font-size: .9em; margin-top: .3em} .pasta small {color: #555}
.pasta .chosen {outline: 4px solid #0072B2; outline-offset: 2px; border-radius: 4px}
.pasta .missing {aspect-ratio: 1; border: 1px dashed #888; border-radius: 4px; background: #f4f4f4}
.pasta .type {display: grid; grid-template-columns: 96px 1fr; gap: 8px; margin-bottom: 5px}
.pasta .faces {display: grid; grid-template-columns: repeat(3, 1fr); gap: 2px}
.pasta .rail {background: #e6e6e6; height: 10px; border-radius: 5px; overflow: hidden}
.pasta .rail div {background: #0072B2; height: 10px}
.pasta .path {display: flex; gap: 10px; flex-wrap: wrap} .pasta .path li {width: 92px}
.pasta ol {list-style: none; margin: 0; padding: 0} .pasta .path small {display: block}
.pasta .alert {border-left: 5px solid #D55E00; background: #fdf1e9; padding: .5em .8em}
.pasta .status {border-left: 5px solid #0072B2; background: #eef5fa; padding: .4em .8em}
.pasta table {border-collapse: collapse; font-size: .88em}
.pasta td, .pasta th {text-align: left; padding: 2px 10px 2px 0; vertical-align: top}
.pasta button.widget-button:focus-visible, .pasta button:focus-visible {outline: 3px solid #D55E00}
.pasta button.widget-button {white-space: normal; height: auto; min-height: 34px; line-height: 1.25}
</style>"""


def picture(pixels: np.ndarray, words: str) -> str:
    """A picture uint8 `[H, W, 3]` as a JPEG inside the page, with what a screen reader says."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    image.thumbnail((LARGEST, LARGEST))
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(words)}" src="data:image/jpeg;base64,{data}">'


def column(
    number: int, words: str, category: str, pictures: np.ndarray | None, chosen: bool = False
) -> str:
    """Four pictures `[4, H, W, 3]`, or room for them, over what they are of."""
    if pictures is None:
        inside = '<div class="missing"></div>' * 4
    else:
        inside = "".join(
            picture(p, f"Column {number}, picture {i} of {len(pictures)}: {words}")
            for i, p in enumerate(pictures, 1)
        )
    return (
        f'<figure class="{"chosen" if chosen else ""}"><div class="pictures">{inside}</div>'
        f"<figcaption>{'✓ your choice: ' if chosen else ''}{escape(words)}<br>"
        f"<small>{escape(category)}</small></figcaption></figure>"
    )


def types_page(
    belief: Sequence[float], faces: Sequence[tuple[str, np.ndarray]], heading: str
) -> str:
    """Bars of the posterior over types; each type is labelled by words and typical pictures."""
    rows = []
    for k, (p, (words, pictures)) in enumerate(zip(belief, faces, strict=True), 1):
        shown = "".join(picture(i, f"typical of type {k}: {words}") for i in pictures)
        rows.append(
            f'<li class="type"><div class="faces">{shown}</div><div><b>{p:.0%}</b> type {k}: '
            f'{escape(words)}<div class="rail"><div style="width:{100 * p:.1f}%"></div></div>'
            "</div></li>"
        )
    return f"<h3>{escape(heading)}</h3><ol>{''.join(rows)}</ol>"


def path_page(initial: str, path: Sequence[tuple[str, np.ndarray]]) -> str:
    """The prompt and the picks so far, as thumbnails."""
    steps = "".join(
        f"<li>{picture(pictures[0], f'pick {i}: {words}')}<small>{i}. {escape(words)}</small></li>"
        for i, (words, pictures) in enumerate(path, 1)
    )
    return f'<h3>Your path from “{escape(initial)}”</h3><ol class="path">{steps}</ol>'


def compared_page(before: tuple[str, np.ndarray], now: tuple[str, np.ndarray]) -> str:
    """The last pick and this one, side by side."""
    both = "".join(
        f"<li>{picture(pictures[0], f'{which}: {words}')}<small>{which}: {escape(words)}</small>"
        "</li>"
        for which, (words, pictures) in (("last pick", before), ("this pick", now))
    )
    return f'<h3>Is this pick better than your last one?</h3><ol class="path">{both}</ol>'


def considered_page(texts: Sequence[str], values: np.ndarray | None, slate: Sequence[int]) -> str:
    """The 25 candidates by category, with what the agent thinks of each."""
    if values is None:
        said = "The baseline does not think: one of each of four categories, at random."
        values = [None] * len(texts)
    else:
        said = "By category, with the value the agent sees in each by itself."
    cells = []
    for i, (text, value) in enumerate(zip(texts, values, strict=True)):
        number = "" if value is None else f"{value:.2f} "
        words = f"{number}{escape(text)}"
        cells.append(f"<td>{f'<b>✓ shown: {words}</b>' if i in slate else words}</td>")
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(cells[EACH * c : EACH * (c + 1)])}</tr>"
        for c, name in enumerate(CATEGORIES)
    )
    return f"<p>{said}</p><div style='overflow-x:auto'><table>{rows}</table></div>"


def tally_page(won: int, n: int, low: float, high: float) -> str:
    """How often PASTA was preferred, of all blind comparisons in the log."""
    if not n:
        return "<p>Nobody has voted yet.</p>"
    return (
        f"<p>Blind comparisons so far: PASTA was preferred in <b>{won} of {n}</b> "
        f"({won / n:.0%}; 95 % interval {low:.0%} to {high:.0%}).</p>"
    )


def download(name: str, content: list | dict, words: str) -> str:
    """A link that saves `content` as JSON."""
    data = base64.b64encode(json.dumps(content, indent=1).encode()).decode()
    return (f'<a download="{escape(name)}" href="data:application/json;base64,{data}">'
            f"{escape(words)}</a>")  # fmt: skip


def status(words: str) -> str:
    return f'<p class="status" role="status">{escape(words)}</p>' if words else ""


def alert(words: str) -> str:
    return f'<p class="alert" role="alert">⚠ {escape(words)}</p>' if words else ""
