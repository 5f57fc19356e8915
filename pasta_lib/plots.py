"""The look of the figures, and the one way to save them: picture and numbers side by side."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).parents[1]
# Tests set PASTA_FIGURES, so that running a notebook to check it leaves the saved figures alone.
FIGURES = Path(os.environ.get("PASTA_FIGURES", ROOT / "figures"))

# Colours by what they mean (Okabe and Ito 2008: told apart by colour-blind readers too).
COLOUR = {
    "prior": "#999999",  # what we say of a stranger
    "posterior": "#0072B2",  # what we say of somebody known
    "fit": "#0072B2",
    "criterion": "#D55E00",  # BIC and the like
    "truth": "#009E73",
    "mistake": "#CC79A7",
}
TYPES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#999999"]


def use_theme(pictures: bool = False) -> None:
    """Seaborn's ticks theme at notebook size, types in `TYPES`' colours, SVGs that do not change
    from run to run. `pictures`: a notebook keeps its figures as JPEGs, a tenth of the size."""
    sns.set_theme("notebook", "ticks", palette=TYPES)
    plt.rcParams |= {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "legend.frameon": False,
        "savefig.dpi": 150,
        "svg.hashsalt": "pasta",
    }
    if pictures:
        from matplotlib_inline.backend_inline import set_matplotlib_formats  # Jupyter brings it

        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80})


def save_figure(
    fig: Figure,
    name: str,
    *,
    title: str,
    notebook: str,
    numbers: Mapping,
    tolerances: Mapping[str, float],
    inputs: Iterable[str | Path] = (),
    seed: int | None = None,
    lines: bool = True,
    folder: Path = FIGURES,
) -> None:
    """Write `name.png`, for line figures `name.svg`, and `name.json` with what they show.

    Figures of pictures are saved in 256 colours, a quarter of the size.
    `numbers` holds what is plotted and claimed, nested as one likes; `tolerances` says for each of
    its top-level keys by how much a number may move before `make figures` reports it. `inputs` are
    files whose sha256 is noted. Each file is written under another name first and then renamed.
    Raises `ValueError` for a number without tolerance, or a tolerance without number.
    """
    if odd := set(numbers) ^ set(tolerances):
        raise ValueError(f"`numbers` and `tolerances` differ in {sorted(odd)}: give both for each.")
    sidecar = {
        "figure": name,
        "title": title,
        "notebook": notebook,
        "command": "make figures",
        "seed": seed,
        "inputs": {_name(p): hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in inputs},
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "numpy", "scipy", "matplotlib", "pasta-lib")},
        "numbers": _plain(numbers),
        "tolerances": dict(tolerances),
    }
    folder.mkdir(exist_ok=True)
    for kind in ["png", "svg"][: 2 if lines else 1]:
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        part = folder / f".{name}.{kind}.part"
        fig.savefig(part, format=kind, metadata=metadata)
        if not lines:
            with Image.open(part) as image:
                image.convert("RGB").quantize().save(part, "PNG", optimize=True)
        os.replace(part, folder / f"{name}.{kind}")
    part = folder / f".{name}.json.part"
    part.write_text(json.dumps(sidecar, indent=1) + "\n")
    os.replace(part, folder / f"{name}.json")


def _name(path: str | Path) -> str:
    """Relative to the repository where it is in it."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _plain(value):
    """Numbers as JSON has them: arrays to lists, ten significant digits."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    return float(f"{value:.10g}") if isinstance(value, float) else value
