"""Where the miniature world's files lie, and the check that they are whole.

`data/world/manifest.json` holds the sha256 of every file a maker wrote. Loading goes through
`require`, so a missing, truncated or foreign file is refused before a library stumbles over it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

WORLD_DIR = Path(__file__).resolve().parents[2] / "data" / "world"
MANIFEST = "manifest.json"
MEASURED = "evaluation.json"
UNFINISHED = ".tmp"


class WeightsError(RuntimeError):
    """A file of the miniature world is missing, damaged, or belongs to another set."""


def sha256(path: Path) -> str:
    """Hex digest of one file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(world_dir: Path = WORLD_DIR) -> dict[str, str]:
    """Digest by relative path. Raises WeightsError when the manifest is missing or unreadable."""
    path = Path(world_dir) / MANIFEST
    try:
        digests = json.loads(path.read_text())
        if not isinstance(digests, dict):
            raise ValueError("it holds no table")
        return digests
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}); expected the list of the world's files. Mend: "
            "`git checkout -- data/world`, or run the scripts in data/makers/ again."
        ) from error


def write_manifest(names: Sequence[str], world_dir: Path = WORLD_DIR) -> dict[str, str]:
    """Digest the files that one maker wrote, and keep what the manifest says of all others.

    `names`: files, or folders that stand for all in them, relative to `world_dir`; entries below
    them whose files are gone are dropped. Raises WeightsError for a name without a file.
    """
    world_dir = Path(world_dir)
    known = read_manifest(world_dir) if (world_dir / MANIFEST).exists() else {}
    digests = {k: v for k, v in known.items() if not _below(k, names)}
    for name in names:
        path = world_dir / name
        files = [p for p in (path, *path.rglob("*")) if p.is_file() and p.suffix != UNFINISHED]
        if not files:
            raise WeightsError(f"{path} does not exist: its maker wrote nothing")
        digests |= {p.relative_to(world_dir).as_posix(): sha256(p) for p in files}
    content = json.dumps(dict(sorted(digests.items())), indent=1)
    write_atomically(world_dir / MANIFEST, content.encode() + b"\n")
    return digests


def _below(file: str, names: Sequence[str]) -> bool:
    return any(file == name or file.startswith(name + "/") for name in names)


def require(name: str, world_dir: Path = WORLD_DIR) -> Path:
    """The path of a file, or of a folder, once every byte in it has been checked.

    `name` is relative to `world_dir`. Raises WeightsError naming the file and the mend.
    """
    world_dir = Path(world_dir)
    manifest = read_manifest(world_dir)
    names = [n for n in manifest if _below(n, [name])]
    mend = "Mend: `git checkout -- data/world`, or run its script in data/makers/ again."
    if not names:
        raise WeightsError(f"{world_dir / name} is not in {MANIFEST}, so it was never made. {mend}")
    for n in names:
        path = world_dir / n
        if not path.is_file():
            raise WeightsError(f"{path} is missing. {mend}")
        found = sha256(path)
        if found != manifest[n]:
            raise WeightsError(
                f"{path} is damaged or another version: {path.stat().st_size} bytes with sha256 "
                f"{found[:12]}…, expected {manifest[n][:12]}…. {mend}"
            )
    return world_dir / name


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, then rename, so that no reader ever sees half a file, nor two
    processes that write the same one each other's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
