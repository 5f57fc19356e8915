"""The shipped models and files: whole, loadable in their libraries' own way, and good enough."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import DiffusionPipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data" / "makers"))

from evaluate_world import worded, zero_shot

from pasta_lib.encoders import ClipEncoder
from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world import weights
from pasta_lib.world.bank import RECORD, bank_card, load_bank, pack, prompts, seed_of
from pasta_lib.world.eye import HEADS, Reading, load_eye, right
from pasta_lib.world.reachable import reachable
from pasta_lib.world.renderer import render_seeded
from pasta_lib.world.scenes import SUBJECT_NAMES, Scene, sample_scenes, to_array
from pasta_lib.world.weights import (
    WORLD_DIR,
    WeightsError,
    read_manifest,
    require,
    write_atomically,
    write_manifest,
)


@pytest.fixture(scope="module")
def held_out():
    """Held-out scenes and their renders."""
    scenes = sample_scenes(300, np.random.default_rng(11), held_out=True)
    return scenes, render_seeded(scenes, 12)


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def small_world(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"weights" * 100)
    (tmp_path / "eye.safetensors").write_bytes(b"eye" * 100)
    write_manifest(["clip", "eye.safetensors"], tmp_path)
    return tmp_path


def test_whole_files_are_found(small_world):
    assert require("eye.safetensors", small_world).read_bytes() == b"eye" * 100
    assert require("clip", small_world) == small_world / "clip"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: p.unlink(), r"eye\.safetensors is missing\. Mend: `git checkout"),
        (lambda p: p.write_bytes(b"eye"), r"damaged or another version: 3 bytes.*Mend"),
        (lambda p: p.write_bytes(b"EYE" * 100), r"damaged or another version: 300 bytes"),
    ],
)
def test_missing_truncated_and_foreign_files_are_refused(small_world, harm, message):
    harm(small_world / "eye.safetensors")
    with pytest.raises(WeightsError, match=message):
        require("eye.safetensors", small_world)
    require("clip", small_world)  # the others are still good


def test_a_damaged_part_of_a_folder_is_refused(small_world):
    (small_world / "clip" / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        require("clip", small_world)


def test_unlisted_files_and_lost_manifests_are_refused(small_world):
    with pytest.raises(WeightsError, match="never made"):
        require("bank.npy", small_world)
    for no_table in ("{", "null"):
        (small_world / weights.MANIFEST).write_text(no_table)
        with pytest.raises(WeightsError, match="cannot be read"):
            require("clip", small_world)


def test_a_maker_answers_for_its_own_files_alone(small_world):
    before = read_manifest(small_world)
    (small_world / "eye.safetensors").write_bytes(b"half of another maker's")
    (small_world / "clip" / "model.safetensors").rename(small_world / "clip" / "new.safetensors")
    (small_world / "clip" / "open.safetensors.tmp").write_bytes(b"not ready")
    (small_world / "clipped.json").write_text("another's")
    after = write_manifest(["clip"], small_world)
    assert after == read_manifest(small_world)
    assert set(after) == {"clip/new.safetensors", "eye.safetensors"}
    assert after["eye.safetensors"] == before["eye.safetensors"]
    with pytest.raises(WeightsError, match=r"eye\.safetensors is damaged"):
        require("eye.safetensors", small_world)
    with pytest.raises(WeightsError, match=r"bank\.npy does not exist"):
        write_manifest(["clip", "bank.npy"], small_world)


def test_the_shipped_manifest_is_true_and_small_enough():
    listed = read_manifest()
    for name in listed:
        require(name)
    sizes = {name: (WORLD_DIR / name).stat().st_size for name in listed}
    assert sum(sizes.values()) <= 25e6
    assert max(sizes.values()) <= 15e6


def shipped(name: str) -> Path:
    """The checked path of a file or folder; skips only while the manifest does not list it yet."""
    if not any(n == name or n.startswith(name + "/") for n in read_manifest()):
        pytest.skip(f"data/world/{name} is not made yet: see data/makers/")
    return require(name)


# --- the eye ----------------------------------------------------------------------------------


def test_eye_reads_held_out_renders(held_out):
    scenes, pixels = held_out
    hits = right(load_eye().read(pixels).labels(), scenes)
    bars = {"subject": 0.95, "style": 0.97, "background": 0.96, "count": 0.94, "colour": 0.92}
    for attribute, bar in bars.items():  # the full bars, on 4,000, are in evaluation.json
        assert hits[attribute].mean() >= bar, attribute


def test_eye_gives_probabilities_whatever_the_batch(held_out):
    _, pixels = held_out
    eye = load_eye()
    whole, pieces = eye.read(pixels[:20]), eye.read(pixels[:20], batch_size=3)
    for name, values in HEADS.items():
        p = getattr(whole, name)
        assert p.shape == (20, values)
        assert torch.allclose(p.sum(1), torch.ones(20), atol=1e-5)
        assert torch.allclose(p, getattr(pieces, name), atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [torch.rand(2, 3, 32, 32), torch.rand(3, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)],
)
def test_eye_refuses_what_is_no_picture(bad):
    with pytest.raises(ValueError, match="the eye reads float pictures"):
        load_eye().read(bad)


def test_right_by_hand():
    scenes = to_array([
        Scene("cat", "red", "flat", "night", 2),
        Scene("fox", "blue", "pencil sketch", "snow", 1),
        Scene.of_idea("love", "neon"),
    ])  # fmt: skip
    labels = to_array([
        Scene("cat", "blue", "flat", "snow", 2),
        Scene("owl", "red", "pencil sketch", "snow", 1),
        Scene("heart", "natural", "neon", "pink", 1),
    ])  # fmt: skip
    hits = right(labels, scenes)
    assert hits["subject"].tolist() == [True, False]  # an idea asks for no subject
    assert hits["colour"].tolist() == [False]  # neither the pencil's nor the idea's
    assert hits["style"].tolist() == [True, True, True]
    assert hits["background"].tolist() == [False, True]
    assert hits["count"].tolist() == [True, True]


# --- CLIP -------------------------------------------------------------------------------------


CLIP_WEIGHTS = "clip/open_clip_model.safetensors"


def test_clip_loads_in_open_clips_own_way():
    folder = f"local-dir:{shipped(CLIP_WEIGHTS).parent}"
    model, _, _ = open_clip.create_model_and_transforms(folder)
    tokenizer = open_clip.get_tokenizer(folder)
    assert model.encode_text(tokenizer(["a cat"])).shape == (1, 64)
    assert model.visual.image_size in (64, (64, 64))


def test_clip_tells_every_value_of_every_attribute():
    shipped(CLIP_WEIGHTS)
    scenes = sample_scenes(200, np.random.default_rng(11), held_out=True, second=0)
    pictures = (render_seeded(scenes, 12) * 255).round().byte().movedim(1, -1).numpy()
    encoder = ClipEncoder()
    hits = zero_shot(encoder.encode_images(pictures), scenes, encoder.encode_texts)
    # about two standard errors of 200 below the bars, which evaluation.json is held to
    bars = {"subject": 0.85, "style": 0.92, "background": 0.92, "colour": 0.80, "count": 0.53}
    for attribute, bar in bars.items():
        assert hits[attribute].mean() >= bar, attribute


# --- text to image ----------------------------------------------------------------------------


@torch.no_grad()
def test_pipeline_loads_in_diffusers_own_way_and_guidance_is_by_the_book():
    """From the guess without words, `guidance` times as far as to the guess with them."""
    shipped("text_to_image/unet")
    pipeline = DiffusionPipeline.from_pretrained(WORLD_DIR / "text_to_image", dtype=torch.float32)
    assert pipeline.unet.config.in_channels == 64
    pipeline.set_progress_bar_config(disable=True)
    words, config = "a red balloon on a white background, flat", GeneratorConfig(guidance=3.0)
    (drawn,) = generate(pipeline, [words], [1], config, progress=False)
    with_, without = pipeline.encode_prompt(words, "cpu", 1, do_classifier_free_guidance=True)
    latents = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(1))
    pipeline.scheduler.set_timesteps(config.steps)
    for t in pipeline.scheduler.timesteps:
        guesses = [pipeline.unet(latents, t, text).sample for text in (without, with_)]
        velocity = guesses[0] + config.guidance * (guesses[1] - guesses[0])
        latents = pipeline.scheduler.step(velocity, t, latents).prev_sample
    pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample / 2 + 0.5
    by_hand = (pixels[0].clamp(0, 1) * 255).round().movedim(0, -1).int().numpy()
    assert np.abs(drawn.astype(int) - by_hand).max() <= 1
    (unguided,) = generate(pipeline, [words], [1], GeneratorConfig(guidance=1.0), progress=False)
    assert np.abs(drawn.astype(int) - unguided).mean() > 1


def test_generated_pictures_show_what_was_asked():
    """On 40 pictures of the fast setting; evaluation.json is held to the same bars, on 2,000."""
    shipped("text_to_image/unet")
    scenes = sample_scenes(40, np.random.default_rng(13))
    config = GeneratorConfig()
    pictures = generate(load_pipeline(config), worded(scenes, 14), range(40), config, False)
    hits = right(load_eye().read(pictures).labels(), scenes)
    for attribute, bar in {"subject": 0.85, "style": 0.9, "background": 0.9}.items():
        assert hits[attribute].mean() >= bar, attribute


# --- the bank ---------------------------------------------------------------------------------


def fake_reading(n: int) -> Reading:
    generator = torch.Generator().manual_seed(0)
    logits = {name: 3 * torch.randn(n, v, generator=generator) for name, v in HEADS.items()}
    return Reading(**{name: value.softmax(1) for name, value in logits.items()})


@pytest.fixture
def banked_world(small_world):
    """A whole bank of made-up readings, beside made-up weights."""
    members = len(reachable())
    few = pack(np.random.default_rng(0).standard_normal((40, 64)), fake_reading(40))
    records = np.resize(few, (members, 4))
    np.save(small_world / "bank.npy", records)
    (small_world / "bank.json").write_text(json.dumps(bank_card(small_world)))
    write_manifest(["bank.npy", "bank.json"], small_world)
    return small_world


def test_bank_keeps_what_was_packed(banked_world):
    bank = load_bank(banked_world)
    assert isinstance(bank.records, np.memmap)
    reading = fake_reading(40)
    assert bank.embeddings(np.array([0, 5])).shape == (2, 4, 64)
    p = bank.probability("style")[0, 1]
    assert np.abs(p - reading.style[1].numpy()).max() < 0.003
    top = reading.subject[1].topk(3)
    assert np.abs(bank.subject[0, 1][top.indices.numpy()] - top.values.numpy()).max() < 0.003
    assert np.abs(bank.subject.sum(-1) - 1).max() < 0.01


def test_bank_of_other_weights_is_refused(banked_world):
    (banked_world / "eye.safetensors").write_bytes(b"another eye")
    write_manifest(["eye.safetensors"], banked_world)
    with pytest.raises(WeightsError, match=r"other weights.*eye\.safetensors.*make_bank"):
        load_bank(banked_world)


def test_bank_of_another_shape_is_refused(banked_world):
    np.save(banked_world / "bank.npy", np.zeros((3, 4), RECORD))
    write_manifest(["bank.npy"], banked_world)
    with pytest.raises(WeightsError, match="shape"):
        load_bank(banked_world)


def test_bank_prompts_and_seeds_are_one_a_picture():
    assert prompts()[0] == f"a {SUBJECT_NAMES[0]}"
    assert len(set(prompts())) == len(reachable())
    seeds = {seed_of(m, k) for m in range(100) for k in range(4)}
    assert len(seeds) == 400
    assert RECORD.itemsize * 4 * len(reachable()) < 10e6


def test_shipped_bank_pictures_can_be_drawn_again():
    shipped("bank.npy")
    bank, config = load_bank(), GeneratorConfig(dtype="float32")
    members, pictures = np.array([5, 3000, 6000, 9000]), np.array([0, 1, 2, 3])
    texts = [prompts()[m] for m in members]
    seeds = [seed_of(m, k) for m, k in zip(members, pictures, strict=True)]
    drawn = generate(load_pipeline(config), texts, seeds, config, progress=False)
    vectors, reading = ClipEncoder().encode_images(drawn), load_eye().read(drawn)
    assert (vectors * bank.embeddings(members)[range(4), pictures]).sum(1).min() > 0.98
    for name in ("style", "background", "count"):
        kept = bank.probability(name)[members, pictures]
        assert np.abs(getattr(reading, name).numpy() - kept).max() < 0.1
    kept = bank.subject[members, pictures].argmax(1)
    assert (reading.subject.numpy()[range(4), kept] > 0.3).all()


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    path, replaced = tmp_path / "a.json", os.replace

    def and_meanwhile_another(source, target):
        with monkeypatch.context() as other:
            other.setattr(os, "replace", replaced)
            other.setattr(os, "getpid", lambda: -1)
            write_atomically(path, b"the other's")
        assert path.read_bytes() == b"the other's"
        replaced(source, target)

    monkeypatch.setattr(os, "replace", and_meanwhile_another)
    write_atomically(path, b"mine")
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]
