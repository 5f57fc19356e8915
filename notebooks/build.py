"""Run the notebooks in order, rebuild `figures/`, and say which numbers moved.

python notebooks/build.py [02 ...]      all notebooks, or those whose names begin so
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

ROOT = Path(__file__).parents[1]
# nbstripout: what a saved notebook must not carry
KEEP = ["--keep-output", "--keep-count", "--keep-id"]
WIDGET = "application/vnd.jupyter.widget-view+json"
STRIP = ["--extra-keys", "metadata.kernelspec metadata.language_info.version"]


def main(wanted: list[str]) -> int:
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if wanted:
        notebooks = [p for p in notebooks if p.name.startswith(tuple(wanted))]
    if not notebooks:
        print(f"No notebook's name begins with {' or '.join(wanted)}.")
        return 1
    before, rows = read_sidecars(), []
    for number, path in enumerate(notebooks, start=1):
        print(f"[{number}/{len(notebooks)}] {path.name} ...", flush=True)
        start = time.time()
        try:
            run(path)
        except (CellControlSignal, DeadKernelError) as error:  # failed, too slow, or killed
            print(f"{path.name} stopped:\n{error}")
            return 1
        seconds = time.time() - start
        print(f"[{number}/{len(notebooks)}] {path.name} took {seconds:.0f} s", flush=True)
        after = read_sidecars()
        rows += [
            (name, seconds, moved(before.get(name), sidecar))
            for name, sidecar in sorted(after.items())
            if sidecar["notebook"] == path.stem
        ]
    print(f"\n{'figure':32} {'path':44} {'seconds':>8}  numbers that moved")
    for name, seconds, changes in rows:
        print(f"{name:32} {f'figures/{name}.png':44} {seconds:8.0f}  {changes}")
    print("(seconds of the notebook that draws it; moved = by more than the sidecar's tolerance)")
    return 0


def run(path: Path) -> None:
    """Execute a notebook from top to bottom and save it, outputs and all, without traces of the
    machine."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": path.parent}})
    client.execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps
        if cell.cell_type == "code":  # live bars, which nobody can see once saved
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)
    subprocess.run([sys.executable, "-m", "nbstripout", *KEEP, *STRIP, str(path)], check=True)


def read_sidecars() -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in (ROOT / "figures").glob("*.json")}


def moved(old: dict | None, new: dict) -> str:
    """Which numbers differ by more than their tolerance, in words."""
    if old is None:
        return "new"
    changes = []
    for key, tolerance in new["tolerances"].items():
        then, now = flat(old["numbers"].get(key)), flat(new["numbers"][key])
        if then.keys() != now.keys():
            changes.append(f"{key} (other entries)")
            continue
        for place, value in now.items():
            was = then[place]
            same = was == value
            if not same and isinstance(value, int | float) and isinstance(was, int | float):
                same = abs(value - was) <= tolerance
            if not same:
                changes.append(f"{key}{place}: {was} -> {value}")
    return "none" if not changes else "; ".join(changes[:3]) + (" ..." if len(changes) > 3 else "")


def flat(value, place: str = "") -> dict[str, object]:
    """{place: leaf} of nested dictionaries and lists."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{place}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, x in enumerate(value) for k, v in flat(x, f"{place}[{i}]").items()}
    return {place: value}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
