"""The audit of the rater's eye: generated pictures, labelled by looking at them.

    python data/makers/make_audit.py --folder audit           # draws the sheets and a blank table
    python data/makers/make_audit.py --folder audit --score   # after labels.csv has been filled in

The sheets show numbered pictures and nothing else; what was asked for and what the eye read lie in
key.csv, which the person who labels does not open. In labels.csv each picture gets a subject and a
style in the vocabulary's words (and, where they wish, colour, background, count), or "cannot tell".
Scoring writes data/world/audit.csv, which is shipped, and the agreement into evaluation.json.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import batches, configure
from evaluate_world import CONTROL, OUT, drawn, share, to_pixels
from PIL import Image, ImageDraw

from pasta_lib.generator import GeneratorConfig
from pasta_lib.world.eye import load_eye
from pasta_lib.world.scenes import ATTRIBUTES, from_array, sample_scenes
from pasta_lib.world.weights import WORLD_DIR, write_atomically

CANNOT_TELL = "cannot tell"
SEED = 9 * CONTROL


@dataclass(frozen=True)
class AuditConfig:
    """Which pictures are audited."""

    folder: str = "audit"
    pictures: int = 200
    on_a_sheet: int = 20
    zoom: int = 4  # screen pixels a picture pixel
    score: bool = False


def draw(config: AuditConfig, folder: Path) -> None:
    """Sheets, the key, and the table to fill in."""
    scenes = sample_scenes(config.pictures, np.random.default_rng(SEED), held_out=None)
    pictures = drawn(scenes, GeneratorConfig(), SEED)
    for sheet, rows in enumerate(batches(len(pictures), config.on_a_sheet)):
        _sheet(pictures[rows], rows.start, config.zoom).save(folder / f"sheet{sheet:02d}.png")
    labels = from_array(load_eye().read(to_pixels(pictures)).labels())
    blank = dict.fromkeys(ATTRIBUTES, "")
    _write(folder / "labels.csv", [{"picture": i} | blank for i in range(len(labels))])
    _write(folder / "key.csv", [
        {"picture": i, "seed": SEED + i}
        | {f"asked_{a}": getattr(asked, a) for a in ATTRIBUTES}
        | {f"eye_{a}": getattr(seen, a) for a in ATTRIBUTES}
        for i, (asked, seen) in enumerate(zip(from_array(scenes), labels, strict=True))
    ])  # fmt: skip


def _sheet(pictures: np.ndarray, first: int, zoom: int, columns: int = 5) -> Image.Image:
    side = 64 * zoom
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + 12), rows * (side + 26)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x, y = (i % columns) * (side + 12), (i // columns) * (side + 26)
        large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(large, (x, y + 18))
        pen.text((x, y + 2), str(first + i), fill="black", font_size=14)
    return sheet


def score(folder: Path) -> dict:
    """Of the pictures one could tell, the share on which eye and label agree; and the others."""
    labels, key = _read(folder / "labels.csv"), _read(folder / "key.csv")
    if [row["picture"] for row in labels] != [row["picture"] for row in key]:
        raise ValueError(f"{folder}/labels.csv and key.csv list different pictures")
    rows = [
        asked | {f"label_{a}": label[a].strip().lower() for a in ATTRIBUTES}
        for asked, label in zip(key, labels, strict=True)
    ]
    _write(WORLD_DIR / "audit.csv", rows)
    result = {}
    for a in ATTRIBUTES:
        given = [row for row in rows if row[f"label_{a}"]]
        told = [row for row in given if row[f"label_{a}"] != CANNOT_TELL]
        if told:
            agree = [row[f"label_{a}"] == row[f"eye_{a}"] for row in told]
            result[a] = share(np.array(agree)) | {"cannot_tell": 1 - len(told) / len(given)}
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    write_atomically(OUT, json.dumps(known | {"audit": result}, indent=1).encode() + b"\n")
    return result


def _read(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    config = configure(AuditConfig(), __doc__)
    torch.set_num_threads(1)
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if config.score:
        print(json.dumps(score(folder), indent=1))
    else:
        draw(config, folder)


if __name__ == "__main__":
    main()
