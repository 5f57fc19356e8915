"""What the repository promises about itself: environment, figures, notebooks, sizes."""

import ast
import hashlib
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "open_clip_torch": "open-clip-torch"}
CONDA_NAMES |= {"playwright": "playwright-python"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SIDECARS = sorted((ROOT / "figures").glob("*.json"))


def test_environment_yml_asks_for_what_pyproject_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {}
    for line in project["dependencies"] + project["optional-dependencies"]["test"]:
        name, pin = re.fullmatch(r"([\w-]+)==(\d+\.\d+)\.\*", line).groups()
        wanted[CONDA_NAMES.get(name, name)] = pin
    text = (ROOT / "environment.yml").read_text()
    found = yaml.safe_load(text)
    lines = [line for line in found["dependencies"] if isinstance(line, str)]
    pins = dict(line.split("=") for line in lines if re.search(r"[^>]=", line))
    assert pins == wanted
    assert f"python{project['requires-python']}" in lines
    assert found["channels"] == ["conda-forge"]
    listed = [line for line in text.splitlines() if re.match(r"  - \w", line)]
    for line in listed:
        if line.strip() not in ("- conda-forge", "- pip:"):
            assert "#" in line, f"no reason given: {line}"


def test_torch_and_torchvision_fit_together():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_the_clone_is_small():
    sizes = {p: p.stat().st_size for p in tracked()}
    assert sum(sizes.values()) <= 45e6
    assert max(sizes.values()) <= 15e6


def test_no_pickle_is_tracked_or_loaded():
    for path in tracked():
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".ckpt"}, path
        if path.suffix == ".py" and path != Path(__file__):
            assert "torch.load(" not in path.read_text(), path


@pytest.mark.parametrize("path", SIDECARS, ids=lambda p: p.stem)
def test_sidecars_are_whole_and_true_to_their_inputs(path):
    sidecar = json.loads(path.read_text())
    assert sidecar["figure"] == path.stem
    assert path.with_suffix(".png").is_file()
    assert (ROOT / "notebooks" / f"{sidecar['notebook']}.ipynb").is_file()
    assert set(sidecar["tolerances"]) == set(sidecar["numbers"])
    for name, digest in sidecar["inputs"].items():
        assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest, name


def test_every_picture_has_a_sidecar():
    assert {p.stem for p in (ROOT / "figures").glob("fig*.png")} == {p.stem for p in SIDECARS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_saved_executed_and_readable(path):
    notebook = json.loads(path.read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    assert "widgets" not in notebook["metadata"]
    for cell in cells:
        source = "".join(cell["source"])
        assert len([line for line in source.splitlines() if line.strip()]) <= 25, source
        assert not re.search(r"sys\.path|^\s*[!%]", source, re.MULTILINE), source
        classes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)]
        assert all(c.name == "Config" for c in classes), source
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert not re.search(r"/(home|root|tmp|Users)/\w", json.dumps(output)), source
