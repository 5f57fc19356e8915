"""Pictures and texts to CLIP embeddings, in batches, remembered on disk by content.

Any `open_clip` model: the miniature by default, ViT-H-14 or ViT-B-32 by name. An embedding is
computed once for each content and model, wherever and in whichever order it is asked for.
"""

import hashlib
import io
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from tqdm.auto import tqdm

from pasta_lib.world.weights import read_manifest, require

MINIATURE = "miniature"


@dataclass(frozen=True)
class EncoderConfig:
    """Which CLIP encodes, and where its results are kept."""

    model: str = MINIATURE  # or an open_clip name such as ViT-H-14, or local-dir:<folder>
    pretrained: str | None = None  # open_clip's tag or a file of weights
    batch_size: int = 256
    device: str = "cpu"
    cache: str = ""  # folder of the cache; empty: nothing is kept


class ClipEncoder:
    """An open_clip model with its preprocessing, tokenizer and cache."""

    def __init__(self, config: EncoderConfig = EncoderConfig()) -> None:
        """Raises WeightsError where the miniature's files are not whole."""
        name = config.model
        self.identity = f"{name}|{config.pretrained}|{open_clip.__version__}"
        if name == MINIATURE:
            name = f"local-dir:{require('clip')}"
            self.identity += read_manifest()["clip/open_clip_model.safetensors"]
        self.config = config
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            name, pretrained=config.pretrained, device=config.device
        )
        self.model.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(name)

    def encode_images(self, images: Sequence, progress: bool = False) -> np.ndarray:
        """Unit-length embeddings, float32 `[N, D]`.

        `images`: uint8 arrays `[H, W, 3]` (or one array `[N, H, W, 3]`), PIL pictures, or the bytes
        of JPEG or PNG files. Raises ValueError naming the row of bytes that are no picture.
        """
        return self._remembered("image", images, _image_content, self._run_images, progress)

    def encode_texts(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Unit-length embeddings of texts, float32 `[N, D]`."""
        if isinstance(texts, str):
            raise ValueError("texts is one string; pass a list of texts")
        return self._remembered("text", texts, lambda t: t.encode(), self._run_texts, progress)

    def logit_scale(self) -> float:
        """The factor CLIP was trained to multiply cosines by."""
        return float(self.model.logit_scale.exp())

    def _run_images(self, images: list) -> torch.Tensor:
        pixels = torch.stack([self.preprocess(_to_pil(image)) for image in images])
        return self.model.encode_image(pixels.to(self.config.device), normalize=True)

    def _run_texts(self, texts: list[str]) -> torch.Tensor:
        return self.model.encode_text(self.tokenizer(texts).to(self.config.device), normalize=True)

    def _remembered(
        self, kind: str, items: Sequence, content: Callable, run: Callable, progress: bool
    ) -> np.ndarray:
        """Look every item up by content, compute what is new, keep it, return all in order."""
        prefix = f"{kind}|{self.identity}|".encode()
        try:
            keys = [hashlib.sha256(prefix + content(item)).digest() for item in items]
        except Exception as error:
            raise ValueError(
                f"an item of the {len(items)} {kind}s has no content: {error}"
            ) from error
        with closing(_Cache(self.config.cache)) as cache:
            known = cache.get(set(keys))
            new = {key: i for i, key in enumerate(keys) if key not in known}
            todo = list(new.items())
            starts = range(0, len(todo), self.config.batch_size)
            for start in tqdm(starts, desc=f"{kind}s to CLIP", disable=not progress):
                batch = todo[start : start + self.config.batch_size]
                try:
                    vectors = run([items[i] for _, i in batch]).float().cpu().numpy()
                except _NoPicture as error:
                    raise ValueError(_locate(items, batch, error)) from error
                found = {key: v for (key, _), v in zip(batch, vectors, strict=True)}
                cache.put(found)
                known |= found
        return np.stack([known[key] for key in keys])


class _NoPicture(ValueError):
    pass


def _locate(items: Sequence, batch: list[tuple[bytes, int]], error: Exception) -> str:
    for _, i in batch:
        try:
            _to_pil(items[i])
        except _NoPicture as cause:
            return f"image {i} of {len(items)} cannot be read as a picture: {cause}"
    return str(error)


def _image_content(image) -> bytes:
    if isinstance(image, bytes):
        return b"file" + image
    array = np.asarray(image)
    return repr(array.shape).encode() + array.tobytes()


def _to_pil(image) -> Image.Image:
    try:
        if isinstance(image, bytes):
            return Image.open(io.BytesIO(image)).convert("RGB")
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"expected uint8 [H, W, 3], got {array.dtype} {array.shape}")
        return Image.fromarray(array)
    except Exception as error:
        raise _NoPicture(str(error)) from error


class _Cache:
    """Vectors by key in one SQLite file; without a folder, nothing is kept."""

    def __init__(self, folder: str) -> None:
        self.database = None
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(Path(folder) / "embeddings.sqlite")
            self.database.execute(
                "create table if not exists embedding (key blob primary key, vector blob)"
            )

    def get(self, keys: set[bytes]) -> dict[bytes, np.ndarray]:
        if self.database is None:
            return {}
        found = {}
        ordered = list(keys)
        for start in range(0, len(ordered), 500):  # SQLite bounds the number of parameters
            some = ordered[start : start + 500]
            marks = ",".join("?" * len(some))
            query = f"select key, vector from embedding where key in ({marks})"
            found |= {k: np.frombuffer(v, "<f4") for k, v in self.database.execute(query, some)}
        return found

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        if self.database is not None:
            rows = [(k, v.astype("<f4").tobytes()) for k, v in vectors.items()]
            with self.database:
                self.database.executemany("insert or replace into embedding values (?, ?)", rows)

    def close(self) -> None:
        if self.database is not None:
            self.database.close()
