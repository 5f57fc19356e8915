"""Draw four pictures of every reachable scene, and keep what CLIP and the eye see in them.

    python data/makers/make_bank.py                        # all of it; run again to go on
    python data/makers/make_bank.py --shard 0 --shards 2   # half of it, beside another process

Work is kept in chunks of 64 members; a chunk that exists is not drawn again. When every chunk is
there, they become data/world/bank.npy. About an hour on 2 CPU cores, a minute on a GPU.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import batches, configure
from tqdm.auto import tqdm

from pasta_lib.encoders import ClipEncoder, EncoderConfig
from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world.bank import (
    BANK_CARD,
    BANK_FILE,
    PICTURES,
    bank_card,
    models_fingerprint,
    pack,
    prompt_of,
    seed_of,
)
from pasta_lib.world.eye import load_eye
from pasta_lib.world.reachable import reachable
from pasta_lib.world.weights import WORLD_DIR, write_atomically, write_manifest

CHUNK = 64  # members


@dataclass(frozen=True)
class BankConfig:
    """How the bank is built."""

    shard: int = 0
    shards: int = 1
    threads: int = 1  # CPU threads
    device: str = ""  # empty: the GPU where there is one
    folder: str = "/tmp/pasta-bank"  # chunks; not shipped
    members: int = 0  # stop after so many, for a trial; 0: all


def main() -> None:
    config = configure(BankConfig(), __doc__)
    torch.set_num_threads(config.threads)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    drawing = GeneratorConfig(
        device=device, dtype="float32", batch_size=32 if device == "cpu" else 1024
    )
    folder = chunk_folder(config.folder)
    total = config.members or len(reachable())
    mine = [
        rows for i, rows in enumerate(batches(total, CHUNK)) if i % config.shards == config.shard
    ]
    pipeline, eye = load_pipeline(drawing), load_eye(device)
    clip = ClipEncoder(EncoderConfig(device=device))
    for rows in tqdm(mine, desc="bank", unit="chunk"):
        path = folder / f"{rows.start:05d}.npy"
        if not path.exists():
            records = draw(range(rows.start, rows.stop), pipeline, drawing, clip, eye)
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, records)
            temporary.replace(path)
    if total == len(reachable()):
        merge(folder, drawing)


def chunk_folder(root: str) -> Path:
    """Chunks drawn with other weights lie elsewhere, so they can never be mixed."""
    models = json.dumps(models_fingerprint(), sort_keys=True).encode()
    folder = Path(root) / hashlib.sha256(models).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def draw(members, pipeline, drawing: GeneratorConfig, clip: ClipEncoder, eye) -> np.ndarray:
    """Records `[members, 4]`."""
    pairs = [(m, k) for m in members for k in range(PICTURES)]
    prompts, seeds = [prompt_of(m) for m, _ in pairs], [seed_of(m, k) for m, k in pairs]
    pictures = generate(pipeline, prompts, seeds, drawing, progress=False)
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 255
    return pack(clip.encode_images(pictures), eye.read(pixels)).reshape(-1, PICTURES)


def merge(folder: Path, drawing: GeneratorConfig) -> None:
    """Put the chunks together, once all are there."""
    paths = [folder / f"{rows.start:05d}.npy" for rows in batches(len(reachable()), CHUNK)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        print(f"{len(missing)} of {len(paths)} chunks are still to be drawn")
        return
    temporary = WORLD_DIR / "bank.tmp.npy"
    np.save(temporary, np.concatenate([np.load(path) for path in paths]))
    temporary.replace(WORLD_DIR / BANK_FILE)
    card = json.dumps(bank_card(drawing) | {"members": len(reachable())}, indent=1)
    write_atomically(WORLD_DIR / BANK_CARD, card.encode())
    write_manifest()


if __name__ == "__main__":
    main()
