"""CLIP embeddings: the same code for the miniature and a full-size name; the cache."""

import io
import json
import shutil
import sqlite3

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pasta_lib.encoders import ClipEncoder, EncoderConfig
from pasta_lib.world.weights import WORLD_DIR

TOKENIZER = WORLD_DIR / "text_to_image" / "tokenizer"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A tiny random open_clip model in the miniature's format."""
    folder = tmp_path_factory.mktemp("clip")
    for file in TOKENIZER.glob("*.json"):
        shutil.copy(file, folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    model = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
        },
        "text_cfg": {"context_length": 32, "vocab_size": len(vocabulary), "width": 32, "heads": 2,
                     "layers": 1, "hf_tokenizer_name": "local"},
    }  # fmt: skip
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


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


def test_cache_computes_each_content_once(tiny_folder, pictures, tmp_path, monkeypatch):
    config = EncoderConfig(tiny_folder, batch_size=2, cache=str(tmp_path))
    encoder = ClipEncoder(config)
    first = encoder.encode_images(pictures[[0, 1, 2, 0]])
    seen = []
    run = ClipEncoder._run_images
    monkeypatch.setattr(ClipEncoder, "_run_images", lambda s, x: (seen.extend(x), run(s, x))[1])
    again = ClipEncoder(config).encode_images(pictures[[2, 1, 3, 0]])
    assert len(seen) == 1  # only picture 3 was new
    assert np.abs(again[[3, 1, 0]] - first[:3]).max() == 0
    rows = sqlite3.connect(tmp_path / "embeddings.sqlite").execute("select count(*) from embedding")
    assert rows.fetchone()[0] == 4


def test_cache_tells_models_apart(tiny_folder, tmp_path):
    encoder = ClipEncoder(EncoderConfig(tiny_folder, cache=str(tmp_path)))
    kept = encoder.encode_texts(["a cat"])
    encoder.identity += "another"
    with torch.no_grad():
        encoder.model.text_projection.mul_(-1)
    assert np.abs(encoder.encode_texts(["a cat"]) - kept).max() > 0.01


def test_full_size_architecture_runs_through_the_same_code(pictures):
    """ViT-B-32 with random weights: nothing is downloaded."""
    encoder = ClipEncoder(EncoderConfig("ViT-B-32", batch_size=4))
    assert encoder.encode_images(pictures[:2]).shape == (2, 512)
    assert encoder.encode_texts(["a photo of a cat"]).shape == (1, 512)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\xff\xd8 no jpeg", "image 1 of 2"),
        (np.zeros((64, 64), np.uint8), r"image 1 of 2 .* expected uint8 \[H, W, 3\]"),
        (np.zeros((64, 64, 3), np.float32), "image 1 of 2"),
    ],
)
def test_what_is_no_picture_is_named(tiny_folder, pictures, bad, message):
    with pytest.raises(ValueError, match=message):
        ClipEncoder(EncoderConfig(tiny_folder)).encode_images([pictures[0], bad])


def test_one_string_is_not_a_list(tiny_folder):
    with pytest.raises(ValueError, match="list of texts"):
        ClipEncoder(EncoderConfig(tiny_folder)).encode_texts("a cat")
