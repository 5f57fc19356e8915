"""The audit of the rater's eye: generated pictures, labelled by looking at them.

    python data/makers/make_audit.py --folder audit           # draws the sheets and a blank table
    python data/makers/make_audit.py --folder audit --score   # after labels.csv has been filled in

The sheets show numbered pictures and nothing else; what was asked for and what the eye read lie in
key.csv, which the person who labels does not open. In labels.csv each picture gets a subject (the
larger, where there are two) and a style, in the vocabulary's words or any wording of a caption, or
"cannot tell"; colour, background and count may stay blank. Scoring writes data/world/audit.csv,
which is shipped, and the agreement into evaluation.json. It refuses pictures of other weights.
"""

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import batches, configure
from evaluate_world import CONTROL, drawn, models, needed, record, share, worded
from PIL import Image, ImageDraw

from pasta_lib.generator import GeneratorConfig
from pasta_lib.world.eye import load_eye
from pasta_lib.world.scenes import ATTRIBUTES, COUNT, VALUES, sample_scenes
from pasta_lib.world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    STYLES,
    STYLES_WITHOUT_COLOUR,
    SUBJECTS,
)
from pasta_lib.world.weights import WORLD_DIR

CANNOT_TELL = "cannot tell"
ASKED = ("subject", "style")  # what every picture must be labelled with
SEED = 9 * CONTROL


@dataclass(frozen=True)
class AuditConfig:
    """Which pictures are audited."""

    folder: str = "audit"
    pictures: int = 200
    on_a_sheet: int = 20
    zoom: int = 4  # screen pixels a picture pixel
    score: bool = False


def main() -> None:
    config = configure(AuditConfig(), __doc__)
    torch.set_num_threads(1)
    folder = Path(config.folder)
    if config.score:
        print(json.dumps(score(folder), indent=1))
    else:
        draw(config, folder)


def draw(config: AuditConfig, folder: Path) -> None:
    """Sheets, the key, and the table to fill in; FileExistsError where it is there already."""
    if (folder / "labels.csv").exists():
        raise FileExistsError(f"{folder}/labels.csv is there already: score it, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    drawn_by = {"models": fingerprint(models())}
    scenes = sample_scenes(config.pictures, np.random.default_rng(SEED), held_out=None)
    prompts = worded(scenes, SEED)
    pictures = drawn(prompts, GeneratorConfig(), SEED)
    for sheet, rows in enumerate(batches(len(pictures), config.on_a_sheet)):
        _sheet(pictures[rows], rows.start, config.zoom).save(folder / f"sheet{sheet:02d}.png")
    asked, seen = words(scenes), words(load_eye().read(pictures).labels())
    blank = dict.fromkeys(ATTRIBUTES, "")
    _write(folder / "key.csv", [
        {"picture": i, "seed": SEED + i, "prompt": prompts[i]} | drawn_by
        | {f"asked_{a}": asked[i][a] for a in ATTRIBUTES}
        | {f"eye_{a}": seen[i][a] for a in ATTRIBUTES}
        for i in range(len(pictures))
    ])  # fmt: skip
    _write(folder / "labels.csv", [{"picture": i} | drawn_by | blank for i in range(len(pictures))])


def fingerprint(now: dict) -> str:
    """Twelve letters for what drew the pictures and read them."""
    content = json.dumps(needed("audit", now), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def words(scenes: np.ndarray) -> list[dict[str, str]]:
    """The five attributes in the vocabulary's words, from codes `[B, 7]`. What an eye reads need
    not be a `Scene` (two foxes and an owl): each attribute stands alone."""
    return [
        {a: str(values[row[c] - (c == COUNT)]) for a, (c, values) in VALUES.items()}
        for row in scenes.tolist()
    ]


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


def score(folder: Path, world_dir: Path = WORLD_DIR) -> dict:
    """Agreement of eye and labels; writes the table to ship and the section of evaluation.json.

    Raises ValueError, with the picture's number, for a label that is missing or no word of this
    world, and for pictures that were drawn or read by other weights than those now there.
    """
    labels, key = _read(folder / "labels.csv"), _read(folder / "key.csv")
    now = models(world_dir)
    if [(r["picture"], r["models"]) for r in labels] != [(r["picture"], r["models"]) for r in key]:
        raise ValueError(f"{folder}/labels.csv and key.csv list different pictures")
    if {row["models"] for row in key} != {fingerprint(now)}:
        raise ValueError(
            f"the pictures in {folder} are of other weights than those in {world_dir}: draw them "
            "again into a new folder, and label those"
        )
    rows = [k | _canonical(label) for k, label in zip(key, labels, strict=True)]
    result = agreement(rows)
    _write(world_dir / "audit.csv", rows)
    record("audit", result, now, world_dir)
    return result


def agreement(rows: list[dict]) -> dict:
    """By attribute, the share of pictures one could tell on which eye and label agree, and the
    share that one could not tell. Colour does not count in a style that shows none."""
    out = {}
    for a in ATTRIBUTES:
        given = [row for row in rows if row[f"label_{a}"]]
        if a == "colour":
            given = [row for row in given if row["label_style"] not in STYLES_WITHOUT_COLOUR]
        told = [row for row in given if row[f"label_{a}"] != CANNOT_TELL]
        if told:
            agree = [row[f"label_{a}"] == row[f"eye_{a}"] for row in told]
            cannot = [row[f"label_{a}"] == CANNOT_TELL for row in given]
            out[a] = share(np.array(agree)) | {"cannot_tell": share(np.array(cannot))}
    return out


def _canonical(label: dict) -> dict:
    """A row of labels.csv in the vocabulary's own words."""
    out = {}
    for a in ATTRIBUTES:
        text = " ".join(label[a].lower().split())
        known = spellings(a) | {CANNOT_TELL: CANNOT_TELL} | ({} if a in ASKED else {"": ""})
        if text not in known:
            trouble = f"{label[a]!r} is no {a} of this world" if text else f"the {a} is blank"
            values = ", ".join(map(str, VALUES[a][1]))
            raise ValueError(
                f"labels.csv, picture {label['picture']}: {trouble}; write {CANNOT_TELL!r} or one "
                f"of: {values}"
            )
        out[f"label_{a}"] = known[text]
    return out


def spellings(attribute: str) -> dict[str, str]:
    """Every way to write a value of an attribute, in small letters → its canonical name."""
    wordings = {
        "subject": {k: [form for pair in s.wordings for form in pair] for k, s in SUBJECTS.items()},
        "colour": COLOURS, "style": STYLES, "background": BACKGROUNDS, "count": COUNTS,
    }[attribute]  # fmt: skip
    known = {form.lower(): str(name) for name, forms in wordings.items() for form in forms}
    return known | {str(name): str(name) for name in wordings}


def _read(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
