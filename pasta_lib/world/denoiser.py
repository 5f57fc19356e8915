"""The miniature's denoiser: sketches from the words, matched with the noisy picture, and finished.

The words give a few sketches of what the picture may show, and where (`pasta_lib.world.sketch`).
The noisy picture says which of them it is, and what it shows beside that is believed as far as
noise allows: Bayes' rule for a mixture of Gaussians. A small transformer, one token a cell, adds
what lies elsewhere in the picture: stars and hills, and what the sketch got wrong. Its blocks are
those of Peebles & Xie (2023), "Scalable diffusion models with transformers": time and caption set
scale, shift and gate (adaLN-Zero). A convolutional network adds what is finer than a cell: edges,
grain, washes. What both add is scaled to what is left to find at each time, as in Karras et al.
(2022), "Elucidating the design space of diffusion-based generative models", there around zero, here
around what Bayes' rule says. The sketches are ours.
It is called as `diffusers.UNet2DConditionModel` is, so pipelines and training scripts treat it as
one.
"""

from functools import cache

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from pasta_lib.world.sketch import Sketch, log_density

SCHEDULE = dict(  # of the noise, as `diffusers` schedulers take it
    num_train_timesteps=1000,
    beta_schedule="linear",  # much time at high noise, where it is decided what a prompt will mean
    prediction_type="sample",  # 64 numbers a token: naming the noise would fill a narrow network
    rescale_betas_zero_snr=True,  # sampling starts from pure noise, so training must see it
    timestep_spacing="trailing",
    clip_sample=False,
    steps_offset=1,
)


class PatchTransformer(ModelMixin, ConfigMixin):
    """Noisy latents `[B, C, H, W]`, times `[B]`, text states `[B, L, text_width]` → `[B, C, H, W]`.

    Of the text it reads the last position: after causal attention that has seen every word. The
    output is the clean picture, `prediction_type="sample"`; times mean those of `SCHEDULE`,
    whatever scheduler a pipeline holds. `sketch` is taught beforehand and meant to stay as it is.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 64,
        text_width: int = 128,
        looks: tuple[int, int] = (6, 8),  # styles and backgrounds
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        patch: int = 8,  # picture points a cell, each way
        detail: int = 48,  # channels of the convolutional network
        time_cond_proj_dim: int | None = None,  # pipelines ask for it; not used
    ) -> None:
        super().__init__()
        self.sketch = Sketch(text_width, sample_size, in_channels, tuple(looks))
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.text = nn.Linear(text_width, width)
        self.project_in = nn.Linear(3 * in_channels, width)
        self.position = nn.Parameter(0.5 * torch.randn(sample_size**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.project_out = nn.Linear(width, in_channels)
        self.retouch = Retouch(in_channels, patch, width, detail)
        for block in self.blocks:  # adaLN-Zero: each starts as the identity
            nn.init.zeros_(block.norm.linear.weight)
            nn.init.zeros_(block.norm.linear.bias)
        for last in (self.project_out, self.retouch.conv_out):
            nn.init.zeros_(last.weight)  # and the whole as what Bayes' rule says
            nn.init.zeros_(last.bias)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict | None = None,
        added_cond_kwargs: dict | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple:
        """The clean picture; the last three before `return_dict` are there for the pipelines that
        pass them."""
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        words = encoder_hidden_states[:, -1]
        # Bayes' rule adds up thousands of squares: in float32, whatever the model's precision.
        signal = signal_share().to(sample.device)[timestep.long()].view(-1, 1, 1, 1)
        rows, *sketches = self.sketch(words, sample, signal)
        mean, deviation = posterior(sample.float(), signal, rows, *(s.float() for s in sketches))
        x = torch.cat([sample, mean.to(sample), deviation.to(sample)], 1)
        x = self.project_in(x.flatten(2).mT) + self.position
        condition = self.time(self.frequencies(timestep).to(sample.dtype)) + self.text(words)
        for block in self.blocks:
            x = block(x, condition)
        x = self.project_out(self.norm_out(x, condition)).mT.unflatten(2, sample.shape[2:])
        guess = mean + deviation * x
        noise = (sample - signal.sqrt() * guess) / (1 - signal).sqrt()
        x = self.retouch(noise.to(sample), guess.to(sample), condition)
        x = (guess + deviation * x).to(sample.dtype)
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)


@cache
def signal_share() -> Tensor:
    """Share of the signal in the variance of a noisy picture at every time, `[1000]`: what the
    schedulers call `alphas_cumprod`."""
    return DDPMScheduler(**SCHEDULE).alphas_cumprod


def posterior(
    sample: Tensor,
    signal: Tensor,
    rows: Tensor,
    log_weight: Tensor,
    sketches: Tensor,
    log_variance: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the clean picture, given the noisy one: each `[B, C, H, W]`.

    The noisy `sample` `[B, C, H, W]` is √`signal` times the clean picture plus Gaussian noise of
    variance 1 − `signal` `[B, 1, 1, 1]`. The clean picture comes from a mixture of Gaussians: of N
    sketched meanings, which belong to prompts `rows` `[N]` and have prior `log_weight` `[N]`, each
    as likely in one of four places, with means `sketches` and variances exp(`log_variance`), both
    `[N, 4, C, H, W]`. Bayes' rule, exact for such a mixture. Neighbouring cells err together, which
    the mixture ignores, so it is surer than it should be.
    """
    spread, signal = log_variance.exp(), signal[rows, None]
    variance = (1 - signal) + signal * spread
    gap = sample[rows, None] - signal.sqrt() * sketches
    fit = log_weight[:, None] + log_density(gap, variance)
    best = torch.full_like(sample[:, 0, 0, 0], -torch.inf)
    best = best.scatter_reduce(0, rows, fit.amax(1), "amax").detach()
    weight = (fit - best[rows, None]).exp()
    total = torch.zeros_like(best).index_add(0, rows, weight.sum(1))
    weight = (weight / total[rows, None])[:, :, None, None, None]

    def mixed(x: Tensor) -> Tensor:
        return torch.zeros_like(sample).index_add(0, rows, (weight * x).sum(1))

    means = sketches + signal.sqrt() * spread / variance * gap
    mean = mixed(means)
    left = mixed(spread * (1 - signal) / variance + (means - mean[rows, None]).square())
    return mean, left.sqrt()


class Block(nn.Module):
    """Attention and a two-layer network, modulated by the condition. `[B, T, width]` in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = AdaLayerNormZero(width)
        # Plain matrix products: their backward pass is several times faster on a CPU.
        self.attention = Attention(
            width, heads=heads, dim_head=width // heads, bias=True, processor=AttnProcessor()
        )
        self.norm_ff = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.ff = nn.Sequential(nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        normed, gate, shift, scale, gate_ff = self.norm(x, emb=condition)
        x = x + gate[:, None] * self.attention(normed)
        normed = self.norm_ff(x) * (1 + scale[:, None]) + shift[:, None]
        return x + gate_ff[:, None] * self.ff(normed)


class Retouch(nn.Module):
    """What is finer than a cell: residual convolutions over the picture's points, two by two.

    `to_points` `[3 · patch², C]` and `to_cells` `[C, 3 · patch²]` lead from cells to their points
    and back. The maker takes them from the autoencoder; they stay as they are.
    """

    def __init__(
        self, channels: int, patch: int, condition_width: int, width: int, layers: int = 4
    ) -> None:
        super().__init__()
        self.patch = patch
        basis = nn.init.orthogonal_(torch.empty(3 * patch**2, channels, dtype=torch.float32))
        self.register_buffer("to_points", basis)
        self.register_buffer("to_cells", basis.mT.clone())
        self.conv_in = nn.Conv2d(2 * 12, width, 3, padding=1)
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                in_channels=width,
                temb_channels=condition_width,
                groups=8,
                time_embedding_norm="scale_shift",
            )
            for _ in range(layers)
        )
        self.conv_out = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, noise: Tensor, guess: Tensor, condition: Tensor) -> Tensor:
        """The noise and the clean picture as guessed so far, both `[B, C, H, W]`, as the result."""
        x = self.conv_in(torch.cat([self.points(noise), self.points(guess)], 1))
        for resnet in self.resnets:
            x = resnet(x, condition)
        return self.cells(self.conv_out(F.silu(x)))

    def points(self, latents: Tensor) -> Tensor:
        """`[B, 12, H · patch / 2, W · patch / 2]`: the colours of two by two points."""
        points = F.conv2d(latents, self.to_points[:, :, None, None])
        return F.pixel_unshuffle(F.pixel_shuffle(points, self.patch), 2)

    def cells(self, points: Tensor) -> Tensor:
        """Latents `[B, C, H, W]` of points arranged as `points` arranges them."""
        points = F.pixel_unshuffle(F.pixel_shuffle(points, 2), self.patch)
        return F.conv2d(points, self.to_cells[:, :, None, None])
