"""The miniature's denoiser: against the same computation written out, and as a UNet."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding

from pasta_lib.world.denoiser import PatchTransformer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = PatchTransformer(
        sample_size=4, in_channels=6, text_width=8, width=16, layers=2, heads=2
    ).eval()
    with torch.no_grad():  # nothing may stay zero
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def inputs(batch=3):
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, 6, 4, 4, generator=generator)
    return noisy, torch.tensor([7, 500, 999][:batch]), torch.randn(batch, 5, 8, generator=generator)


def by_hand(m, noisy, times, text):
    """One picture at a time, attention by torch's own function."""
    out = []
    for x, t, states in zip(noisy, times, text, strict=True):
        wave = get_timestep_embedding(t[None], 16, flip_sin_to_cos=True, downscale_freq_shift=0)
        c = m.time.linear_2(F.silu(m.time.linear_1(wave))) + m.text(states[-1:])
        h = F.silu(m.sketch[2](F.silu(m.sketch[0](states[-1]))))
        around = F.unfold(m.sketch[4](h).view(1, 6, 4, 4), 3, padding=1)[0].T
        sketch = around @ m.project_sketch.weight.flatten(1).T
        x = m.project_in(x.reshape(6, 16).T) + sketch + m.position
        for block in m.blocks:
            parts = block.norm.linear(F.silu(c)).view(6, 16)
            shift, scale, gate, shift_ff, scale_ff, gate_ff = parts
            h = F.layer_norm(x, (16,), eps=1e-6) * (1 + scale) + shift
            q, k, v = (
                layer(h).view(1, 16, 2, 8).transpose(1, 2)
                for layer in (block.attention.to_q, block.attention.to_k, block.attention.to_v)
            )
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(16, 16)
            x = x + gate * block.attention.to_out[0](h)
            h = F.layer_norm(x, (16,), eps=1e-6) * (1 + scale_ff) + shift_ff
            x = x + gate_ff * block.ff[2](F.relu(block.ff[0](h)))
        scale, shift = m.norm_out.linear(F.silu(c)).view(2, 16)
        x = m.project_out(F.layer_norm(x, (16,), eps=1e-6) * (1 + scale) + shift)
        out.append(x.T.reshape(6, 4, 4))
    return torch.stack(out)


@torch.no_grad()
def test_forward_is_the_equations(model):
    assert torch.allclose(model(*inputs()).sample, by_hand(model, *inputs()), atol=1e-5)


@torch.no_grad()
def test_it_is_called_as_a_unet_is(model):
    noisy, _, text = inputs()
    each = model(noisy, torch.tensor([500] * 3), text).sample
    plain = model(noisy, 500, encoder_hidden_states=text, return_dict=False)[0]
    pipelines = model(
        noisy, torch.tensor(500), encoder_hidden_states=text, timestep_cond=None,
        cross_attention_kwargs=None, added_cond_kwargs=None, return_dict=False,
    )[0]  # fmt: skip
    assert torch.equal(each, plain)
    assert torch.equal(each, pipelines)


@torch.no_grad()
def test_place_time_and_caption_matter_and_the_order_of_pictures_does_not(model):
    noisy, times, text = inputs()
    base = model(noisy, times, text).sample
    order = torch.tensor([2, 0, 1])
    ordered = model(noisy[order], times[order], text[order]).sample
    assert torch.allclose(ordered, base[order], atol=1e-5)
    turned = model(noisy.flip(3), times, text).sample.flip(3)
    assert (turned - base).abs().max() > 0.1  # without positions these would be equal
    assert (model(noisy, times - 5, text).sample - base).abs().max() > 1e-3
    early, late = text.clone(), text.clone()
    early[:, 0] += 1
    late[:, -1] += 1
    assert torch.equal(model(noisy, times, early).sample, base)  # read through attention, not here
    assert (model(noisy, times, late).sample - base).abs().max() > 1e-2


def test_untrained_it_predicts_the_same_for_every_caption(model):
    fresh = PatchTransformer(sample_size=4, in_channels=6, text_width=8, width=16, heads=2)
    noisy, times, text = inputs()
    assert torch.equal(fresh(noisy, times, text).sample, fresh(noisy, times, -text).sample)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PatchTransformer.from_pretrained(tmp_path)
    assert torch.equal(again(*inputs()).sample, model(*inputs()).sample)
    assert not list(tmp_path.glob("*.bin"))
