"""The table of data/README.md against the files: each listed, its digest and its size true."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
UNITS = {"bytes": (1, 0), "kB": (1e3, 0.5), "MB": (1e6, 0.05)}  # and the rounding
ROW = re.compile(
    r"^\| `(?P<path>[^`]+)` \((?:(?P<files>\d+) files, )?(?P<size>[\d.]+) (?P<unit>bytes|kB|MB)\) "
    r".*`(?P<sha>[0-9a-f]{64})` \|$"
)
ROWS = [m for line in (DATA / "README.md").read_text().splitlines() if (m := ROW.match(line))]


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def test_every_row_of_the_table_is_read():
    table = (DATA / "README.md").read_text().split("\n\n")[1].splitlines()[2:]
    assert len(ROWS) == len(table) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["path"])
def test_digest_and_size_are_those_of_the_file(row):
    files = files_of(DATA / row["path"])
    if row["files"]:
        assert len(files) == int(row["files"])
        assert sha256(*files) == row["sha"]
    else:  # of a folder, its weights or its vocabulary
        main = [p for p in files if p.suffix == ".safetensors" or p.name == "tokenizer.json"]
        assert sha256((files if len(files) == 1 else main)[0]) == row["sha"]
    unit, rounding = UNITS[row["unit"]]
    size = sum(p.stat().st_size for p in files) / unit
    assert abs(float(row["size"]) - size) <= 1.001 * rounding


def test_every_data_file_is_in_the_table_and_all_is_small_enough_to_carry():
    if not shutil.which("git"):
        pytest.skip("no git: which files are tracked can't be known")
    asked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip("no git repository: which files are tracked can't be known")
    tracked = [ROOT / name for name in asked.stdout.splitlines() if (ROOT / name).is_file()]
    listed = [DATA / row["path"] for row in ROWS]
    others = (
        "README.md",
        "manifest.json",
        "bank.json",
        "model_index.json",
        "scheduler_config.json",
    )
    for path in tracked:
        if DATA in path.parents and path.name not in others:
            beside = DATA / "makers", DATA / "world" / "logs"
            assert {*path.parents, path} & {*listed, *beside}, f"{path} is in no row"
    sizes = [path.stat().st_size for path in tracked]
    assert sum(sizes) <= 45e6
    assert max(sizes) <= 15e6
