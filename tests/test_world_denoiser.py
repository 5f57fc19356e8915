"""The miniature's denoiser: against the same computation written out, and as a UNet."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from torch.distributions import Normal

from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.denoiser import SCHEDULE, PatchTransformer, posterior
from pasta_lib.world.sketch import moved


@pytest.fixture(scope="module")
def model():
    model = small()
    with torch.no_grad():  # nothing may stay zero, and prompts shall have several meanings
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        model.sketch.meanings.things.normal_()
        model.sketch.meanings.logits.weight.mul_(4)
    return model


def small():
    torch.manual_seed(0)
    sizes = dict(sample_size=4, in_channels=6, text_width=8, looks=(2, 3), width=16, heads=2)
    return PatchTransformer(**sizes, patch=4, detail=8).eval()


def inputs(batch=3):
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, 6, 4, 4, generator=generator)
    return noisy, torch.tensor([7, 500, 999][:batch]), torch.randn(batch, 5, 8, generator=generator)


def by_hand(m, noisy, times, text):
    """One picture at a time, attention by torch's own function."""
    out = []
    for sample, t, states in zip(noisy, times, text, strict=True):
        wave = get_timestep_embedding(t[None], 16, flip_sin_to_cos=True, downscale_freq_shift=0)
        c = m.time.linear_2(F.silu(m.time.linear_1(wave))) + m.text(states[-1:])
        signal = DDPMScheduler(**SCHEDULE).alphas_cumprod[t]
        mean, deviation = posterior_by_hand(m, sample, states[-1], signal)
        x = m.project_in(torch.cat([sample, mean, deviation]).reshape(18, 16).T) + m.position
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
        guess = mean + x.T.reshape(6, 4, 4) * deviation
        noise = (sample - signal**0.5 * guess) / (1 - signal) ** 0.5
        out.append(guess + deviation * retouch_by_hand(m.retouch, noise, guess, c[0]))
    return torch.stack(out)


def retouch_by_hand(r, noise, guess, c):
    """Cells to points by einsum, and back; the residual blocks from their parts."""

    def points(latents):  # colours, two by two points of each, rows, columns
        cells = torch.einsum("pc,chw->phw", r.to_points, latents).view(3, 4, 4, 4, 4)
        picture = cells.permute(0, 3, 1, 4, 2).reshape(3, 16, 16)  # [colour, row, column]
        return picture.view(3, 8, 2, 8, 2).permute(0, 2, 4, 1, 3).reshape(12, 8, 8)

    x = F.conv2d(torch.cat([points(noise), points(guess)])[None], *own(r.conv_in), padding=1)
    for block in r.resnets:
        h = F.silu(F.group_norm(x, 8, *own(block.norm1), eps=1e-6))
        h = F.conv2d(h, *own(block.conv1), padding=1)
        scale, shift = block.time_emb_proj(F.silu(c)).view(2, 1, 8, 1, 1)
        h = F.silu(F.group_norm(h, 8, *own(block.norm2), eps=1e-6) * (1 + scale) + shift)
        x = x + F.conv2d(h, *own(block.conv2), padding=1)
    x = F.conv2d(F.silu(x), *own(r.conv_out), padding=1)[0]
    picture = x.view(3, 2, 2, 8, 8).permute(0, 3, 1, 4, 2).reshape(3, 16, 16)
    cells = picture.view(3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3).reshape(48, 4, 4)
    return torch.einsum("cp,phw->chw", r.to_cells, cells)


def own(layer):
    return layer.weight, layer.bias


def posterior_by_hand(m, x, words, signal):
    """Every meaning, every place, one after the other."""
    weights, means, squares = [], [], []
    chances = m.sketch.meanings.logits(words).softmax(0)
    kept = [k for k, p in enumerate(chances) if p >= min(0.02, chances.max())]
    for k in kept:
        meant = words if k == 0 else m.sketch.meanings.things[k - 1]
        ground, subjects = sketch_by_hand(m.sketch, x, signal, words, meant)
        for down in (0, 1):
            for right in (0, 1):
                still = F.pad(subjects, (1, 0, 1, 0))
                sketch, log_variance = ground + still[:, :, 1 - down :, 1 - right :][..., :4, :4]
                spread = log_variance.clamp(-7, 2).exp()
                noisy = Normal(signal.sqrt() * sketch, (signal * spread + 1 - signal).sqrt())
                weights.append(chances[k].log() + noisy.log_prob(x).sum())
                precision = 1 / spread + signal / (1 - signal)  # they add up
                means.append((sketch / spread + signal.sqrt() * x / (1 - signal)) / precision)
                squares.append(means[-1] ** 2 + 1 / precision)
    assert len(kept) > 1
    weights = torch.stack(weights).softmax(0)
    mean, square = (
        sum(w * v for w, v in zip(weights, values, strict=True)) for values in (means, squares)
    )
    return mean, (square - mean**2).sqrt()


def sketch_by_hand(sketch, x, signal, words, meant):
    d, s = sketch.draw, sketch.style
    drawing = d[4](F.silu(d[2](F.silu(d[0](meant))))).view(6, 4, 4)
    look = look_by_hand(s, x, signal, words)
    m1, b1, m2, b2 = s.modulate[2](F.silu(s.modulate[0](look))).view(4, -1, 1, 1)
    h = F.conv2d(drawing[None], s.around.weight, s.around.bias, padding=1)[0]
    h = F.silu(h * (1 + m1) + b1)
    h = F.silu(F.conv2d(h[None], s.mix.weight, s.mix.bias)[0] * (1 + m2) + b2)
    subjects = F.conv2d(h[None], s.out.weight, s.out.bias)[0].view(2, 6, 4, 4)
    ground, log_variance, _ = ground_by_hand(s, look)
    return torch.stack([ground, log_variance]), subjects


def ground_by_hand(s, look):
    code = F.silu(s.compress[2](F.silu(s.compress[0](look))))
    channel, cell = s.by_channel(code).view(2, 6, 1, 1), s.by_cell(code).view(2, 1, 4, 4)
    return s.ground(code).view(6, 4, 4), *(channel + cell).clamp(-7, 2)


def look_by_hand(s, x, signal, words):
    """Every style with every background: said, or else usual; and seen in the noisy picture."""
    reading, usual = s.read(words), s.usual(words)
    styles, backgrounds = reading[:3].softmax(0), reading[3:].softmax(0)
    belief = torch.zeros(2, 3)
    for i in range(2):
        for j in range(3):
            style = styles[1 + i] + styles[0] * usual[:2].softmax(0)[i]
            background = backgrounds[1 + j] + backgrounds[0] * usual[2:].softmax(0)[j]
            look = torch.cat([torch.eye(2)[i], torch.eye(3)[j]])
            ground, _, log_variance = ground_by_hand(s, look)
            deviation = (signal * log_variance.exp() + 1 - signal).sqrt()
            likely = Normal(signal.sqrt() * ground, deviation).log_prob(x).sum()
            belief[i, j] = (style * background).log() + likely
    belief = belief.flatten().softmax(0).view(2, 3)
    return torch.cat([belief.sum(1), belief.sum(0)])


@torch.no_grad()
def test_forward_is_the_equations(model):
    until_retouched = copy.deepcopy(model)
    nn.init.zeros_(until_retouched.retouch.conv_out.weight)
    nn.init.zeros_(until_retouched.retouch.conv_out.bias)
    for m, rounding in ((until_retouched, 1e-5), (model, 1e-4)):
        assert torch.allclose(m(*inputs()).sample, by_hand(m, *inputs()), atol=rounding)


@torch.no_grad()
def test_retouching_is_the_equations(model):
    """In double precision, since its normalisation makes rounding larger."""
    retouch = copy.deepcopy(model.retouch).double()
    generator = torch.Generator().manual_seed(4)
    noise, guess, condition = (
        torch.randn(2, *shape, generator=generator).double()
        for shape in ((6, 4, 4), (6, 4, 4), (16,))
    )
    parts = zip(noise, guess, condition, strict=True)
    want = torch.stack([retouch_by_hand(retouch, *part) for part in parts])
    assert torch.allclose(retouch(noise, guess, condition), want, rtol=0, atol=1e-9)


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
    elsewhere = copy.deepcopy(model)
    elsewhere.position.copy_(model.position.flip(0))
    assert (elsewhere(noisy, times, text).sample - base).abs().max() > 1e-2
    assert (model(noisy, times - 5, text).sample - base).abs().max() > 1e-3
    early, late = text.clone(), text.clone()
    early[:, 0] += 1
    late[:, -1] += 1
    assert torch.equal(model(noisy, times, early).sample, base)  # read through attention, not here
    assert (model(noisy, times, late).sample - base).abs().max() > 1e-2


@torch.no_grad()
def test_untrained_it_says_what_bayes_rule_says_of_the_sketches():
    fresh = small()
    noisy, times, text = inputs()
    signal = DDPMScheduler(**SCHEDULE).alphas_cumprod[times].view(-1, 1, 1, 1)
    mean, _ = posterior(noisy, signal, *fresh.sketch(text[:, -1], noisy, signal))
    assert torch.allclose(fresh(noisy, times, text).sample, mean, atol=1e-6)
    assert not torch.equal(mean, noisy)


@torch.no_grad()
def test_half_precision_weighs_the_sketches_alike(model):
    """Sketches so large that their energies would drown in sixteen bits."""
    large = copy.deepcopy(model)
    large.sketch.style.out.weight[:6] *= 30
    large.sketch.style.ground.weight *= 30
    noisy, _, text = inputs()
    times = torch.tensor([700] * 3)
    want = large(noisy, times, text).sample
    got = large.bfloat16()(noisy.bfloat16(), times, text.bfloat16()).sample
    assert got.dtype == torch.bfloat16
    assert (got - want).abs().max() < 0.05 * want.abs().max()


def test_it_trains_under_autocast(model):
    tuned = copy.deepcopy(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        tuned(*inputs()).sample.square().mean().backward()
    aside = ("sketch.style.read", "sketch.style.usual")  # looks are taken as they are
    gradients = {n: p.grad for n, p in tuned.named_parameters() if not n.startswith(aside)}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    for through_match in ("sketch.draw.0.weight", "sketch.meanings.logits.weight"):
        assert gradients[through_match].abs().max() > 0


def test_posterior_of_two_prompts_is_torchs_mixture():
    """Weights by torch's normal distribution: two prompts with three meanings and with one."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    signal = torch.tensor([0.2, 0.05]).view(2, 1, 1, 1)
    sketches, log_variance = draw(4, 4, 3, 2, 2), 0.5 * draw(4, 4, 3, 2, 2) - 1
    rows, prior = torch.tensor([1, 0, 1, 1]), torch.tensor([0.5, 1.0, 0.2, 0.3])
    sample = signal.sqrt() * sketches[[1, 2], [3, 0]] + (1 - signal).sqrt() * draw(2, 3, 2, 2)
    mean, deviation = posterior(sample, signal, rows, prior.log(), sketches, log_variance)
    for b in (0, 1):
        own, spread = sketches[rows == b].flatten(0, 1), log_variance[rows == b].flatten(0, 1).exp()
        seen = Normal(signal[b].sqrt() * own, (signal[b] * spread + 1 - signal[b]).sqrt())
        likely = seen.log_prob(sample[b]).sum((1, 2, 3))
        weight = (likely + prior[rows == b].log().repeat_interleave(4)).softmax(0)
        assert 0.2 < weight.max() < 0.999  # a test of a foregone conclusion would show little
        gain = signal[b].sqrt() * spread / seen.variance
        each = own + gain * (sample[b] - seen.mean)
        want = torch.einsum("n,nchw->chw", weight, each)
        left = spread * (1 - signal[b]) / seen.variance
        square = torch.einsum("n,nchw->chw", weight, each**2 + left)
        assert torch.allclose(mean[b], want, atol=1e-5)
        assert torch.allclose(deviation[b], (square - want**2).sqrt(), atol=1e-4)


def test_posterior_of_one_number_by_brute_force():
    """Prior times likelihood on a fine grid of clean values, for mixtures of two Gaussians."""
    clean = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    for share in (1e-6, 0.3, 0.97):
        sample, signal = torch.randn(1, 1, 1, 1, generator=generator), torch.tensor([[[[share]]]])
        sketches = torch.randn(2, 1, 1, 1, 1, generator=generator).expand(2, 4, 1, 1, 1)
        log_variance = torch.randn(2, 1, 1, 1, 1, generator=generator).expand(2, 4, 1, 1, 1)
        prior = torch.tensor([0.3, 0.7])
        both = torch.zeros(2, dtype=torch.int64)
        mean, deviation = posterior(sample, signal, both, prior.log(), sketches, log_variance)
        density = sum(
            p * Normal(m, v.exp().sqrt()).log_prob(clean).exp()
            for p, m, v in zip(
                prior.double(), sketches[:, 0].flatten().double(),
                log_variance[:, 0].flatten().double(), strict=True,
            )
        )  # fmt: skip
        noise = Normal(share**0.5 * clean, (1 - share) ** 0.5)
        weight = density * noise.log_prob(sample.double().flatten()).exp()
        weight /= weight.sum()
        want = (weight * clean).sum()
        assert mean.item() == pytest.approx(want.item(), abs=1e-4)
        left = (weight * (clean - want).square()).sum().sqrt()
        assert deviation.item() == pytest.approx(left.item(), abs=1e-4)


@torch.no_grad()
def test_what_is_said_is_not_asked_of_the_picture_and_what_is_open_is():
    style = small().sketch.style
    style.ground.weight.mul_(40)
    said = torch.tensor([[-30.0, 30, -30, -30, 30, -30, -30]])  # the first style and background
    unsaid = torch.tensor([[30.0, -30, -30, 30, -30, -30, -30]])
    ground = style.grounds(torch.tensor([[0.0, 1, 0, 0, 1]]))[0]  # of the second and third
    for reading, signal, want in (
        (said, 0.999, [1, 0, 1, 0, 0]),
        (unsaid, 0.999, [0, 1, 0, 0, 1]),
        (unsaid, 1e-9, [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]),
    ):
        nn.init.zeros_(style.read.weight)
        style.read.bias.copy_(reading[0])
        nn.init.zeros_(style.usual.weight)
        nn.init.zeros_(style.usual.bias)
        look = style.resolve(torch.zeros(1, 8), ground, torch.tensor([[[[signal]]]]))
        assert look[0].tolist() == pytest.approx(want, abs=1e-3)


@torch.no_grad()
def test_retouching_sees_the_points_that_the_autoencoder_shows():
    """With the autoencoder's own bases: what it decodes, and back to the same latents."""
    vae = PatchAutoencoder.fit(torch.rand(40, 3, 16, 16) * 2 - 1, latent_channels=64)
    retouch = PatchTransformer(width=16, layers=1, heads=2).retouch
    retouch.to_points.copy_(vae.inverse)
    retouch.to_cells.copy_(vae.projection)
    latents = torch.randn(2, 64, 2, 2)
    picture = vae.decode(latents).sample - vae.decode(torch.zeros_like(latents)).sample
    assert torch.allclose(retouch.points(latents), F.pixel_unshuffle(picture, 2), atol=1e-4)
    assert torch.allclose(retouch.cells(retouch.points(latents)), latents, atol=1e-4)


def test_moved_by_one_cell():
    x = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    assert moved(x)[0, :, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[0, 1, 2], [0, 4, 5]],
        [[0, 0, 0], [1, 2, 3]],
        [[0, 0, 0], [0, 1, 2]],
    ]


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PatchTransformer.from_pretrained(tmp_path)
    assert torch.equal(again(*inputs()).sample, model(*inputs()).sample)
    assert not list(tmp_path.glob("*.bin"))
