"""Figures and their sidecars; what `make figures` says has moved."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pasta_lib.plots import save_figure, use_theme

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from build import moved


def draw(folder: Path, name: str, **numbers):
    use_theme()
    figure, axis = plt.subplots()
    axis.plot([1, 2], [3, 4])
    source = folder / "input.txt"
    source.write_text("abc")
    save_figure(
        figure,
        name,
        title="a line",
        notebook="02_x",
        numbers=numbers,
        tolerances={key: 0.1 for key in numbers},
        inputs=[source],
        seed=1,
        folder=folder,
    )
    plt.close(figure)
    return json.loads((folder / f"{name}.json").read_text())


def test_numbers_are_saved_beside_the_picture(tmp_path):
    saved = draw(tmp_path, "fig", a={2: torch.tensor(1.5)}, b=np.arange(3), c=np.float64(1 / 3))
    assert saved["numbers"] == {"a": {"2": 1.5}, "b": [0, 1, 2], "c": 0.3333333333}
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    assert saved["inputs"] == {"input.txt": digest}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fig.json",
        "fig.png",
        "fig.svg",
        "input.txt",
    ]


def test_the_same_figure_is_the_same_file(tmp_path):
    draw(tmp_path, "fig", a=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    draw(tmp_path, "fig", a=1)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_number_without_tolerance_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"differ in \['b'\]"):
        save_figure(
            plt.figure(), "x", title="", notebook="", numbers={"b": 1}, tolerances={},
            folder=tmp_path,
        )  # fmt: skip
    plt.close("all")
    assert not list(tmp_path.iterdir())


def test_what_moved_is_named(tmp_path):
    old = draw(tmp_path, "fig", a={"x": [1.0, 2.0]}, n=5)
    assert moved(None, old) == "new"
    assert moved(old, draw(tmp_path, "fig", a={"x": [1.0, 2.05]}, n=5)) == "none"
    assert moved(old, draw(tmp_path, "fig", a={"x": [1.0, 2.2]}, n=5)) == "a.x[1]: 2.0 -> 2.2"
    assert "other entries" in moved(old, draw(tmp_path, "fig", a={"x": [1.0]}, n=5))
