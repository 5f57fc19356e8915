"""DDIM whose last step begins from half of the noise."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world import scheduler
from pasta_lib.world.denoiser import SCHEDULE
from pasta_lib.world.scheduler import LAST_NOISE, QuietDDIMScheduler
from pasta_lib.world.weights import require


def both(n_steps: int, **changes) -> tuple[QuietDDIMScheduler, DDIMScheduler]:
    pair = QuietDDIMScheduler(**SCHEDULE | changes), DDIMScheduler(**SCHEDULE | changes)
    for one in pair:
        one.set_timesteps(n_steps)
    return pair


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).unbind()


@pytest.mark.parametrize("n_steps", [2, 6, 7, 50])
def test_only_the_step_before_the_last_differs_from_ddim(n_steps):
    quiet, plain = both(n_steps)
    sample, guess = tensors()
    differs = [
        not torch.equal(*(one.step(guess, t, sample).prev_sample for one in (quiet, plain)))
        for t in plain.timesteps
    ]
    assert differs == [False] * (n_steps - 2) + [True, False]


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_half_of_the_noise_is_left_before_the_last_step(kind):
    """By hand, from the schedule's own definition; times 332 and 166 are its last two of six."""
    noise_added = DDIMScheduler(**SCHEDULE).betas.double()
    signal = (1 - noise_added).cumprod(0).sqrt()
    quiet, _ = both(6, prediction_type=kind)
    assert quiet.timesteps[-2:].tolist() == [332, 166]
    clean, noise = (x.double() for x in tensors())
    spread = (1 - signal**2).sqrt()
    told = {
        "sample": clean,
        "epsilon": noise,
        "v_prediction": signal[332] * noise - spread[332] * clean,
    }
    out = quiet.step(told[kind], 332, signal[332] * clean + spread[332] * noise)
    expected = signal[166] * clean + 0.5 * spread[166] * noise
    torch.testing.assert_close(out.prev_sample, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.pred_original_sample, clean, atol=1e-5, rtol=1e-5)


def test_noise_added_on_the_way_is_halved_with_it():
    quiet, plain = both(6)
    sample, guess = tensors()
    prev = [
        one.step(guess, 332, sample, 1.0, generator=torch.Generator().manual_seed(5)).prev_sample
        for one in (quiet, plain)
    ]
    signal = plain.alphas_cumprod[166].sqrt() * guess
    torch.testing.assert_close(prev[0] - signal, LAST_NOISE * (prev[1] - signal))
    generator = torch.Generator().manual_seed(5)
    as_tuple = quiet.step(guess, 332, sample, 1.0, generator=generator, return_dict=False)
    assert torch.equal(as_tuple[0], prev[0]) and torch.equal(as_tuple[1], guess)


def test_with_all_of_the_noise_it_is_ddim(monkeypatch):
    monkeypatch.setattr(scheduler, "LAST_NOISE", 1.0)
    quiet, plain = both(6)
    sample, guess = tensors()
    for t in plain.timesteps:
        got, want = (one.step(guess, t, sample).prev_sample for one in (quiet, plain))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("n_steps", [6, 61])  # of 61 by rounding, DDIM's trailing times end below 0
def test_where_noise_is_left_it_is_halved_by_any_spacing_and_else_it_is_ddim(spacing, n_steps):
    quiet, plain = both(n_steps, timestep_spacing=spacing)
    sample, guess = tensors()
    t = plain.timesteps[-2]
    got, want = (one.step(guess, t, sample).prev_sample for one in (quiet, plain))
    before = t - 1000 // n_steps
    if before < 0:
        assert torch.equal(got, want)
    else:
        signal = plain.alphas_cumprod[before].sqrt() * guess
        torch.testing.assert_close(got - signal, 0.5 * (want - signal), atol=1e-6, rtol=1e-4)


def test_a_single_step_is_ddims():
    quiet, plain = both(1)
    sample, guess = tensors()
    got, want = (one.step(guess, plain.timesteps[0], sample)[0] for one in (quiet, plain))
    assert torch.equal(got, want)


def test_shipped_pipeline_draws_by_it_and_gives_plain_ddim_back():
    require("text_to_image")
    config = GeneratorConfig()
    pipeline = load_pipeline(config)
    assert type(pipeline.scheduler) is QuietDDIMScheduler
    prompts = ["two white foxes, watercolour, on a night sky", "a fox, neon, at night"] * 2
    quiet = generate(pipeline, prompts, range(4), config, progress=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    assert {k: pipeline.scheduler.config[k] for k in SCHEDULE} == SCHEDULE
    plain = generate(pipeline, prompts, range(4), config, progress=False)
    apart = np.abs(quiet.astype(int) - plain).mean((1, 2, 3))
    assert (apart > 0.3).all() and (apart < 5).all()  # the same picture, nearly
