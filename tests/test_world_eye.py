"""The eye: what it accepts, what it returns, and whose weights it takes."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pasta_lib.world.eye import EYE_FILE, HEADS, load_eye
from pasta_lib.world.renderer import render_seeded
from pasta_lib.world.scenes import sample_scenes
from pasta_lib.world.weights import WORLD_DIR, WeightsError, sha256


@pytest.fixture(scope="module")
def pictures():
    """uint8 `[5, 64, 64, 3]`."""
    pixels = render_seeded(sample_scenes(5, np.random.default_rng(0)), 1)
    return (pixels * 255).round().byte().movedim(1, -1).numpy()


def test_bytes_and_floats_are_read_alike(pictures):
    frozen = pictures.copy()
    frozen.flags.writeable = False  # as a memory-mapped file is
    floats = torch.from_numpy(pictures).movedim(-1, 1).float() / 255
    expected = load_eye().read(floats)
    forms = (pictures, torch.from_numpy(pictures), frozen, floats.numpy(), floats.double())
    for form in forms:
        reading = load_eye().read(form)
        for name in HEADS:
            assert torch.allclose(getattr(reading, name), getattr(expected, name), atol=1e-5)
    assert (load_eye().read(pictures).labels() == expected.labels()).all()


@pytest.mark.parametrize(
    "shape", [(2, 3, 64, 64), (2, 32, 32, 3), (64, 64, 3), (2, 64, 64), (2, 64, 64, 4)]
)
def test_bytes_in_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"uint8 \[B, 64, 64, 3\], got torch.uint8"):
        load_eye().read(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("values", [torch.zeros(2, 64, 64, 3), torch.zeros(2, 3, 64, 64).long()])
def test_other_numbers_are_refused(values):
    with pytest.raises(ValueError, match="the eye reads float pictures"):
        load_eye().read(values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_readings_of_an_eye_on_a_gpu_are_on_the_cpu(pictures):
    here, there = load_eye().read(pictures), load_eye("cuda").read(pictures)
    assert there.subject.device.type == "cpu"
    assert torch.allclose(here.subject, there.subject, atol=0.01)
    assert (here.labels() == there.labels()).all()


@pytest.fixture
def copied_world(tmp_path):
    """A world of the eye alone, and a way to change its weights as a maker would."""
    shutil.copy(WORLD_DIR / EYE_FILE, tmp_path)

    def rewrite(change) -> None:
        weights = load_file(tmp_path / EYE_FILE)
        change(weights)
        save_file(weights, tmp_path / EYE_FILE)
        (tmp_path / "manifest.json").write_text(json.dumps({EYE_FILE: sha256(tmp_path / EYE_FILE)}))

    return tmp_path, rewrite


def test_a_whole_copy_reads_the_same(copied_world, pictures):
    folder, rewrite = copied_world
    rewrite(lambda weights: None)
    copy = load_eye(world_dir=folder).read(pictures)
    assert torch.equal(copy.subject, load_eye().read(pictures).subject)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update(renamed=w.pop("heads.bias")), "lacks.*heads.bias.*unknown.*renamed"),
        (lambda w: w.pop("temperature"), r"lacks \['temperature'\]"),
        (lambda w: w.pop("stem.1.running_var"), "lacks.*running_var.*make_eye"),
        (lambda w: w.update(more=torch.zeros(1)), "unknown.*more"),
    ],
)
def test_other_layers_are_refused(copied_world, change, message):
    folder, rewrite = copied_world
    rewrite(change)
    with pytest.raises(WeightsError, match=message):
        load_eye(world_dir=folder)
