"""Draw four pictures of every reachable scene, and keep what CLIP and the eye see in them.

    python data/makers/make_bank.py                        # all of it; run again to go on
    python data/makers/make_bank.py --shard 0 --shards 2   # half of it, beside another process

Work is kept in chunks of 128 members; a chunk that exists is not drawn again. When every chunk is
there, they become data/world/bank.npy: 36,064 pictures.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import batches, configure
from tqdm.auto import tqdm

from pasta_lib.encoders import ClipEncoder, EncoderConfig
from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world.bank import BANK_CARD, BANK_FILE, PICTURES, bank_card, pack, prompts, seed_of
from pasta_lib.world.eye import load_eye
from pasta_lib.world.reachable import reachable
from pasta_lib.world.weights import WORLD_DIR, write_atomically, write_manifest


@dataclass(frozen=True)
class BankConfig:
    """How the bank is built."""

    shard: int = 0
    shards: int = 1
    chunk: int = 128  # members drawn and kept at a time: 512 pictures
    threads: int = 1  # CPU threads
    device: str = ""  # empty: the GPU where there is one
    folder: str = "/tmp/pasta-bank"  # chunks; not shipped
    members: int = 0  # stop after so many, for a trial; 0: all


def main() -> None:
    config = configure(BankConfig(), __doc__)
    torch.set_num_threads(config.threads)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    batch_size = 8 if device == "cpu" else 512  # 32 at a time leave the cache: 1.3 × as long
    drawing = GeneratorConfig(device=device, dtype="float32", batch_size=batch_size)
    card = bank_card()  # before anything is loaded: weights that change meanwhile are not its own
    folder = chunk_folder(config.folder, card)
    clip = ClipEncoder(EncoderConfig(device=device))
    draw_chunks(config, folder, load_pipeline(drawing), drawing, clip, load_eye(device))
    if not config.members:
        merge(config, folder, card)


def chunk_folder(root: str, card: dict) -> Path:
    """Chunks drawn otherwise lie elsewhere, so they can never be mixed."""
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    folder = Path(root) / digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def chunk_paths(config: BankConfig, folder: Path) -> dict[Path, range]:
    """The members of every chunk's file."""
    total = config.members or len(reachable())
    chunks = (range(rows.start, rows.stop) for rows in batches(total, config.chunk))
    return {folder / f"{chunk.start:05d}-{chunk.stop:05d}.npy": chunk for chunk in chunks}


def draw_chunks(
    config: BankConfig, folder: Path, pipeline, drawing: GeneratorConfig, clip: ClipEncoder, eye
) -> None:
    """Draw this shard's chunks that are not there yet."""
    mine = list(chunk_paths(config, folder).items())[config.shard :: config.shards]
    for path, members in tqdm(mine, desc="bank", unit="chunk"):
        if not path.exists():
            _save(path, draw(members, pipeline, drawing, clip, eye))


def draw(members, pipeline, drawing: GeneratorConfig, clip: ClipEncoder, eye) -> np.ndarray:
    """Records `[members, 4]`."""
    pairs = [(m, k) for m in members for k in range(PICTURES)]
    texts, seeds = [prompts()[m] for m, _ in pairs], [seed_of(m, k) for m, k in pairs]
    pictures = generate(pipeline, texts, seeds, drawing, progress=False)
    return pack(clip.encode_images(pictures), eye.read(pictures)).reshape(-1, PICTURES)


def merge(config: BankConfig, folder: Path, card: dict, world_dir: Path = WORLD_DIR) -> None:
    """Put the chunks together, once all are there."""
    paths = chunk_paths(config, folder)
    missing = [path for path in paths if not path.exists()]
    if missing:
        print(f"{len(missing)} of {len(paths)} chunks are still to be drawn")
        return
    _save(world_dir / BANK_FILE, np.concatenate([np.load(path) for path in paths]))
    write_atomically(world_dir / BANK_CARD, json.dumps(card, indent=1).encode() + b"\n")
    write_manifest([BANK_FILE, BANK_CARD], world_dir)


def _save(path: Path, records: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, records)
    write_atomically(path, content.getvalue())


if __name__ == "__main__":
    main()
