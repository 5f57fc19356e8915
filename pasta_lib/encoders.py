"""Pictures and texts to CLIP embeddings, in batches, remembered on disk by content.

Any `open_clip` model whose weights are in safetensors: the miniature by default, a hub model by id
and revision (`pasta_lib.hub`), or a folder. An embedding is computed once for each content and
model, wherever and in whichever order it is asked for.
"""

import hashlib
import io
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from tqdm.auto import tqdm

from pasta_lib.world.weights import require, sha256

MINIATURE = "miniature"
WEIGHTS = "open_clip_model.safetensors"
FILES = (WEIGHTS, "*.json", "*.txt")  # what decides a model's embeddings: weights, sizes, words


@dataclass(frozen=True)
class EncoderConfig:
    """Which CLIP encodes, and where its results are kept."""

    model: str = MINIATURE  # or hf-hub:<id>, or local-dir:<folder in open_clip's format>
    revision: str | None = None  # of a hub model: a commit, so that it never changes
    batch_size: int = 256
    device: str = "cpu"
    cache: str = ""  # folder of the cache; empty: nothing is kept


class ClipEncoder:
    """An open_clip model with its preprocessing, tokenizer and cache."""

    def __init__(self, config: EncoderConfig = EncoderConfig()) -> None:
        """Raises WeightsError where the miniature's files are not whole, ValueError where the
        configuration names no weights (open_clip would draw random ones and go on)."""
        folder = _folder(config)
        files = sorted(path for pattern in FILES for path in folder.glob(pattern))
        contents = "".join(f"{path.name} {sha256(path)}\n" for path in files)
        self.identity = f"open_clip {open_clip.__version__}\n{contents}"
        self.config = config
        name = f"local-dir:{folder}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            name, device=config.device
        )
        self.model.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.width = open_clip.get_model_config(name)["embed_dim"]

    def encode_images(self, images: Sequence, progress: bool = False) -> np.ndarray:
        """Unit-length embeddings, float32 `[N, D]`.

        `images`: uint8 arrays `[H, W, 3]` (or one array `[N, H, W, 3]`), PIL pictures, or the bytes
        of JPEG or PNG files. Raises ValueError naming the row of what is no picture.
        """

        def run(rows: list[int]) -> torch.Tensor:
            pixels = torch.stack([self.preprocess(_picture(images, row)) for row in rows])
            return self.model.encode_image(pixels.to(self.config.device), normalize=True)

        contents = (_image_content(images, row) for row in range(len(images)))
        return self._remembered("image", contents, run, progress)

    def encode_texts(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Unit-length embeddings of texts, float32 `[N, D]`.

        Warns, once a call, of texts with more tokens than the model reads; their ends are left out.
        Raises ValueError naming the row of a text that is empty or is not a string.
        """
        if isinstance(texts, str):
            raise ValueError("texts is one string; pass a list of texts")
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"text {row} of {len(texts)} is empty or no string: {text!r}")

        cut = np.flatnonzero(self.overlong(texts))
        if len(cut):
            warnings.warn(
                f"of {len(cut)} of {len(texts)} texts the end is not read, since the model reads "
                f"{self.tokenizer.context_length} tokens; the first is text {cut[0]}: "
                f"{texts[cut[0]][:60]!r} …",
                stacklevel=2,
            )

        def run(rows: list[int]) -> torch.Tensor:
            tokens = self.tokenizer([texts[row] for row in rows])
            return self.model.encode_text(tokens.to(self.config.device), normalize=True)

        return self._remembered("text", (text.encode() for text in texts), run, progress)

    def overlong(self, texts: Sequence[str]) -> np.ndarray:
        """Whether texts have more tokens than the model reads, bool `[N]`.

        With room for one token more, such a text's first end token stands in the last place.
        """
        room = self.tokenizer.context_length + 1
        end = self.tokenizer(["a"], context_length=room)[0, 2]
        parts = [np.zeros(0, bool)]
        for start in range(0, len(texts), self.config.batch_size):
            words = list(texts[start : start + self.config.batch_size])
            tokens = self.tokenizer(words, context_length=room)
            parts.append(((tokens == end).int().argmax(1) == room - 1).numpy())
        return np.concatenate(parts)

    def logit_scale(self) -> float:
        """The factor CLIP was trained to multiply cosines by."""
        return float(self.model.logit_scale.exp())

    def _remembered(
        self, kind: str, contents: Iterable[bytes], run: Callable, progress: bool
    ) -> np.ndarray:
        """Look every row up by content, compute what is new, keep it, return all in order."""
        prefix = f"{kind}\n{self.identity}\n".encode()
        keys = [hashlib.sha256(prefix + content).digest() for content in contents]
        with closing(_Cache(self.config.cache)) as cache:
            known = cache.get(set(keys))
            todo = list({key: row for row, key in enumerate(keys) if key not in known}.items())
            starts = range(0, len(todo), self.config.batch_size)
            for start in tqdm(starts, desc=f"{kind}s to CLIP", disable=not progress):
                batch = todo[start : start + self.config.batch_size]
                vectors = run([row for _, row in batch]).float().cpu().numpy()
                found = {key: vector for (key, _), vector in zip(batch, vectors, strict=True)}
                cache.put(found)
                known |= found
        return np.array([known[key] for key in keys], np.float32).reshape(-1, self.width)


def _folder(config: EncoderConfig) -> Path:
    """The folder of the model's files; a hub model's is fetched."""
    kind, colon, name = config.model.partition(":")
    if config.model == MINIATURE:
        folder = require("clip")
    elif kind + colon == "local-dir:":
        folder = Path(name)
    elif kind + colon == "hf-hub:" and config.revision:
        folder = Path(snapshot_download(name, revision=config.revision, allow_patterns=list(FILES)))
    elif kind + colon == "hf-hub:":
        raise ValueError(
            f"{config.model} needs a revision, a commit of the hub's; see pasta_lib.hub"
        )
    else:
        raise ValueError(
            f"model {config.model!r} names no weights; expected {MINIATURE!r}, 'hf-hub:<id>' with "
            "a revision (pasta_lib.hub has ViT-H-14 and ViT-L-14) or 'local-dir:<folder>'"
        )
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} holds no {WEIGHTS}, so its embeddings would be random; expected a folder "
            "as open_clip saves it, with weights in safetensors"
        )
    return folder


def _image_content(images: Sequence, row: int) -> bytes:
    """A file's own bytes, or the RGB values of anything else."""
    if isinstance(images[row], bytes):
        return b"file" + images[row]
    picture = _picture(images, row)
    return f"{picture.size}".encode() + picture.tobytes()


def _picture(images: Sequence, row: int) -> Image.Image:
    """One item as an RGB picture."""
    image = images[row]
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
        raise ValueError(
            f"image {row} of {len(images)} cannot be read as a picture: {error}"
        ) from error


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
