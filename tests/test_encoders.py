"""CLIP embeddings: the same code for the miniature and a full-size name; the cache."""

import io
import json
import re
import shutil
import sqlite3
import warnings
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pasta_lib.encoders import ClipEncoder, EncoderConfig
from pasta_lib.hub import CLIP_VIT_H_14, CLIP_VIT_L_14
from pasta_lib.world.weights import WORLD_DIR

TOKENIZER = WORLD_DIR / "text_to_image" / "tokenizer"


TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 32, "vocab_size": 0, "width": 32, "heads": 2, "layers": 1,
        "hf_tokenizer_name": "local",
    },
}  # fmt: skip


def save_clip(folder: Path, model: dict, seed: int) -> str:
    """A random open_clip model in the format that the library, and the hub, keep models in."""
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def save_tiny_clip(folder: Path, seed: int = 0) -> str:
    """One of the miniature's kind, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in TOKENIZER.glob("*.json"):
        shutil.copy(file, folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    text = TINY["text_cfg"] | {"vocab_size": len(vocabulary)}
    return save_clip(folder, TINY | {"text_cfg": text}, seed)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), np.uint8)


def test_embeddings_are_open_clips_own(tiny_folder, pictures):
    encoder = ClipEncoder(EncoderConfig(tiny_folder, batch_size=3))
    image, text = encoder.encode_images(pictures), encoder.encode_texts(["a cat", "two foxes"])
    assert image.shape == (7, 16)
    assert text.shape == (2, 16)
    assert image.dtype == np.float32
    assert np.allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    pixels = torch.stack([encoder.preprocess(Image.fromarray(p)) for p in pictures])
    expected = torch.nn.functional.normalize(encoder.model.encode_image(pixels), dim=1)
    assert np.abs(image - expected.numpy()).max() < 1e-5
    with torch.no_grad():
        tokens = encoder.tokenizer(["two foxes"])
        expected = torch.nn.functional.normalize(encoder.model.encode_text(tokens), dim=1)
    assert np.abs(text[1] - expected.numpy()).max() < 1e-5


def test_arrays_pil_and_files_are_the_same_picture(tiny_folder, pictures):
    encoder = ClipEncoder(EncoderConfig(tiny_folder))
    file = io.BytesIO()
    Image.fromarray(pictures[0]).save(file, "PNG")
    three = encoder.encode_images([pictures[0], Image.fromarray(pictures[0]), file.getvalue()])
    assert np.abs(three - three[0]).max() < 1e-5


def test_cache_computes_each_content_once(tiny_folder, pictures, tmp_path):
    config = EncoderConfig(tiny_folder, batch_size=2, cache=str(tmp_path))
    first = ClipEncoder(config).encode_images(pictures[[0, 1, 2, 0]])
    again, seen = ClipEncoder(config), []
    again.model.visual.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    second = again.encode_images(pictures[[2, 1, 3, 0]])
    assert len(seen) == 1  # only picture 3 was new
    assert np.abs(second[[3, 1, 0]] - first[:3]).max() == 0
    rows = sqlite3.connect(tmp_path / "embeddings.sqlite").execute("select count(*) from embedding")
    assert rows.fetchone()[0] == 4


def test_cache_tells_models_apart_by_content_not_by_place(tmp_path):
    cache = str(tmp_path / "cache")

    def embed(name: str) -> np.ndarray:
        return ClipEncoder(EncoderConfig(name, cache=cache)).encode_texts(["a cat"])

    name = save_tiny_clip(tmp_path / "clip", seed=0)
    first = embed(name)
    assert save_tiny_clip(tmp_path / "clip", seed=1) == name  # other weights at the same place
    other = embed(name)
    assert np.abs(other - first).max() > 0.01
    fresh = ClipEncoder(EncoderConfig(name)).encode_texts(["a cat"])
    assert np.abs(other - fresh).max() < 1e-6
    file = tmp_path / "clip" / "tokenizer.json"  # other words at the same place
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["cat</w>"], vocabulary["fox</w>"] = vocabulary["fox</w>"], vocabulary["cat</w>"]
    file.write_text(json.dumps(words))
    assert np.abs(embed(name) - other).max() > 0.01
    moved = save_tiny_clip(tmp_path / "elsewhere", seed=0)  # the same content at another place
    encoder = ClipEncoder(EncoderConfig(moved, cache=cache))
    encoder.model = None  # would fail if it had to compute
    assert (encoder.encode_texts(["a cat"]) == first).all()


def test_pictures_with_equal_bytes_but_another_meaning_are_told_apart(tiny_folder, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
    grey, palette = Image.fromarray(noise), Image.fromarray(noise, "L")
    palette.putpalette(np.random.default_rng(2).integers(0, 256, 768, np.uint8).tobytes())
    rgb = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    hsv = Image.frombytes("HSV", (64, 64), rgb.tobytes())
    assert np.array_equal(grey, palette) and np.array_equal(hsv, rgb)
    images = [grey, palette, rgb, hsv]
    together = ClipEncoder(EncoderConfig(tiny_folder, cache=str(tmp_path))).encode_images(images)
    for i, image in enumerate(images):
        alone = ClipEncoder(EncoderConfig(tiny_folder)).encode_images([image])[0]
        assert np.abs(together[i] - alone).max() < 1e-5
        assert np.abs(np.delete(together, i, 0) - alone).max(1).min() > 1e-3


def test_full_size_architecture_runs_through_the_same_code(pictures, tmp_path):
    """ViT-B-32 with random weights, saved as the hub has it: nothing is downloaded."""
    name = save_clip(tmp_path, open_clip.get_model_config("ViT-B-32"), seed=0)
    encoder = ClipEncoder(EncoderConfig(name, batch_size=4))
    assert encoder.encode_images(pictures[:2]).shape == (2, 512)
    assert encoder.encode_texts(["a photo of a cat"]).shape == (1, 512)


def test_a_hub_model_is_fetched_by_its_revision_without_pickles(tiny_folder, monkeypatch):
    """The network stands in: what the hub would give is a folder that is here already."""
    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision))
        assert not any(fnmatch("open_clip_pytorch_model.bin", p) for p in allow_patterns)
        assert any(fnmatch("open_clip_config.json", p) for p in allow_patterns)
        return tiny_folder.removeprefix("local-dir:")

    monkeypatch.setattr("pasta_lib.encoders.snapshot_download", fetch)
    encoder = ClipEncoder(replace(CLIP_VIT_H_14, device="cpu"))
    assert asked == [("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", CLIP_VIT_H_14.revision)]
    expected = ClipEncoder(EncoderConfig(tiny_folder)).encode_texts(["a cat"])
    assert np.abs(encoder.encode_texts(["a cat"]) - expected).max() < 1e-6


@pytest.mark.parametrize("config", [CLIP_VIT_H_14, CLIP_VIT_L_14])
def test_hub_models_need_a_revision(config):
    assert re.fullmatch("[0-9a-f]{40}", config.revision)
    with pytest.raises(ValueError, match="needs a revision"):
        ClipEncoder(replace(config, revision=None))


@pytest.mark.parametrize("name", ["ViT-H-14", "ViT-B-32", "minature", "local-dir"])
def test_names_without_weights_are_refused(name):
    with pytest.raises(ValueError, match=rf"'{name}' names no weights; expected 'miniature'"):
        ClipEncoder(EncoderConfig(name))


def test_a_folder_without_weights_or_with_pickled_ones_is_refused(tmp_path):
    name = save_tiny_clip(tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    torch.save(load_file(weights), tmp_path / "open_clip_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"holds no open_clip_model\.safetensors"):
        ClipEncoder(EncoderConfig(name))


def test_nothing_gives_no_embeddings(tiny_folder):
    encoder = ClipEncoder(EncoderConfig(tiny_folder))
    for empty in (encoder.encode_images([]), encoder.encode_texts([])):
        assert empty.shape == (0, 16)
        assert empty.dtype == np.float32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\xff\xd8 no jpeg", "image 1 of 2"),
        (np.zeros((64, 64), np.uint8), r"image 1 of 2 .* expected uint8 \[H, W, 3\]"),
        (np.zeros((64, 64, 3), np.float32), "image 1 of 2"),
        (None, "image 1 of 2"),
        ("fox.png", "image 1 of 2"),
    ],
)
def test_what_is_no_picture_is_named(tiny_folder, pictures, bad, message):
    with pytest.raises(ValueError, match=message):
        ClipEncoder(EncoderConfig(tiny_folder)).encode_images([pictures[0], bad])


@pytest.mark.parametrize("bad", ["", " \n", None, 3])
def test_what_is_no_text_is_named(tiny_folder, bad):
    with pytest.raises(ValueError, match="text 1 of 3 is empty or no string"):
        ClipEncoder(EncoderConfig(tiny_folder)).encode_texts(["a cat", bad, "a fox"])


@pytest.mark.parametrize("full_size", [False, True])
def test_texts_longer_than_the_model_reads_are_named_once(full_size, tiny_folder, tmp_path):
    small = open_clip.get_model_config("ViT-B-32")
    small["vision_cfg"]["layers"] = small["text_cfg"]["layers"] = 1
    name = save_clip(tmp_path, small, seed=0) if full_size else tiny_folder
    encoder = ClipEncoder(EncoderConfig(name, batch_size=2, cache=str(tmp_path / "cache")))
    limit = 77 if full_size else 32
    fitting = " ".join(["cat"] * (limit - 2))  # with a token before and one after
    words = ["a cat", fitting, f"{fitting} cat", "two foxes", f"{fitting} !!!", f"{fitting} cat"]
    for _ in range(2):  # also when they are remembered
        with pytest.warns(UserWarning, match=rf"of 3 of 6 texts.*{limit} tokens.*is text 2"):
            vectors = encoder.encode_texts(words)
    assert encoder.overlong(words).tolist() == [False, False, True, False, True, True]
    assert np.abs(vectors[2] - vectors[4]).max() < 1e-6  # it is true that the ends are not read
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_texts(words[:2])


def test_one_string_is_not_a_list(tiny_folder):
    with pytest.raises(ValueError, match="list of texts"):
        ClipEncoder(EncoderConfig(tiny_folder)).encode_texts("a cat")
