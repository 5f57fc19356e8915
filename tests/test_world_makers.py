"""The makers: exact components, and training that resumes where it stopped, at a tiny size."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

MAKERS = Path(__file__).resolve().parents[1] / "data" / "makers"
sys.path.insert(0, str(MAKERS))  # the makers are scripts, not a package

from common import TrainConfig, fit, step_rng  # noqa: E402
from make_clip import near_misses  # noqa: E402
from make_eye import targets, wear  # noqa: E402
from make_tokenizer import learn  # noqa: E402

from pasta_lib.world.autoencoder import PatchAutoencoder  # noqa: E402
from pasta_lib.world.renderer import render_seeded  # noqa: E402
from pasta_lib.world.scenes import (  # noqa: E402
    COLOUR,
    COUNT,
    SECOND,
    STYLE,
    STYLE_NAMES,
    is_held_out,
    sample_scenes,
)

quiet = pytest.mark.filterwarnings("ignore")


class _Regression:
    """Learn y = 2x from noisy draws."""

    def __call__(self, model, rng, generator):
        x = torch.from_numpy(rng.standard_normal((16, 4)).astype(np.float32))
        y = 2 * x + 0.1 * torch.randn(x.shape, generator=generator)
        loss = (model(x) - y).square().mean()
        return loss, {"double": 2 * loss.detach()}


def _train(folder, **changes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    config = TrainConfig(
        steps=60, lr=1e-2, warmup=5, ema=0.9, log_every=10, checkpoint_every=7,
        folder=str(folder), curve=str(folder / "curve.csv"), **changes,
    )  # fmt: skip
    curve = folder / "curve.csv"
    state = fit(model, _Regression(), config).state_dict()
    return state, curve.read_text() if curve.exists() else ""


@quiet
def test_resumed_training_equals_uninterrupted(tmp_path, capsys):
    whole, curve = _train(tmp_path / "whole")
    for _ in range(5):  # each piece is cut off at once, having taken at least one step
        _train(tmp_path / "pieces", max_seconds=1e-9)
    resumed, pieces = _train(tmp_path / "pieces")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    steps = [[line.split(",")[0] for line in text.splitlines()] for text in (curve, pieces)]
    assert steps[0] == steps[1] == ["step", *map(str, range(10, 61, 10))]


@quiet
def test_the_rate_falls_to_zero_and_the_loss_falls(tmp_path, capsys):
    _, curve = _train(tmp_path)
    losses = [float(line.split(",")[3]) for line in curve.splitlines()[1:]]
    assert losses[-1] < losses[0] / 2


def test_step_randomness_depends_on_seed_and_step_alone():
    first, again, other = (step_rng(*pair)[0].random() for pair in ((1, 5), (1, 5), (1, 6)))
    assert first == again != other


def test_components_are_numpys():
    images = render_seeded(sample_scenes(80, np.random.default_rng(0)), 0) * 2 - 1
    model = PatchAutoencoder.fit(images, latent_channels=64)
    latents = model.encode(images).latent_dist.sample()
    assert latents.shape == (80, 64, 8, 8)
    assert latents.square().mean().sqrt() == pytest.approx(1, abs=0.01)
    # the reconstruction is the projection on numpy's own leading singular vectors
    patches = (
        images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).numpy()
    )
    mean = patches.mean(0)
    top = np.linalg.svd(patches - mean, full_matrices=False)[2][:64]
    expected = (patches - mean) @ top.T @ top + mean
    again = model.decode(latents).sample
    got = again.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).numpy()
    assert np.abs(got - expected).max() < 2e-3


def test_near_misses_differ_in_one_attribute_and_stay_in_training():
    scenes = sample_scenes(2000, np.random.default_rng(1))
    others = near_misses(scenes, np.random.default_rng(2))
    assert ((scenes != others).sum(1) == 1).all()
    assert not is_held_out(others).any()
    assert (others[others[:, SECOND] >= 0][:, COUNT] == 1).all()
    changed = (scenes != others).mean(0)
    assert min(changed[COLOUR], changed[COUNT]) > 0.15


def test_eye_targets_by_hand():
    scenes = sample_scenes(500, np.random.default_rng(3))
    truth = targets(scenes, "cpu")
    assert (truth["count"].numpy() == scenes[:, COUNT] - 1).all()
    pencil = scenes[:, STYLE] == STYLE_NAMES.index("pencil sketch")
    assert (truth["colour"].numpy()[pencil] == -100).all()
    assert (truth["colour"].numpy()[~pencil] >= 0).all()
    assert (truth["second"].numpy()[scenes[:, SECOND] < 0] == 64).all()


def test_wear_keeps_shape_range_and_likeness():
    images = render_seeded(sample_scenes(60, np.random.default_rng(4)), 1)
    vae = PatchAutoencoder.fit(images * 2 - 1)
    worn = wear(images, vae, torch.Generator().manual_seed(0))
    assert worn.shape == images.shape
    assert worn.min() >= 0
    assert worn.max() <= 1
    gap = (worn - images).abs().mean((1, 2, 3))
    assert gap.min() > 0.002
    assert gap.max() < 0.12


def test_tokenizer_ends_with_the_highest_id_and_knows_every_byte():
    tokenizer = learn(["two white foxes on a night sky"] * 50, 700)
    ids = tokenizer("two white foxes").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    assert len(ids) == 5
    assert "ünïcode" in tokenizer.decode(tokenizer("ünïcode").input_ids)
