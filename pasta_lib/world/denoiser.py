"""The miniature's denoiser: sketches from the words, matched with the noisy picture, and finished.

The words give a few sketches of what the picture may show, and where (`pasta_lib.world.sketch`).
The noisy picture says which of them it is: their mean, weighted by Bayes' rule for Gaussian noise,
is the best guess that the sketches allow, and what the noisy picture shows beside it is believed as
far as noise allows. A small transformer, one token a cell, adds the rest: stars and hills, grain,
washes, and what the sketch got wrong. Its blocks are those of Peebles & Xie (2023), "Scalable
diffusion models with transformers": time and caption set scale, shift and gate (adaLN-Zero). Its
output is scaled to what is left to find at each time, as in Karras et al. (2022), "Elucidating the
design space of diffusion-based generative models", there around zero, here around the guess. The
sketches and their matching are ours.
It is called as `diffusers.UNet2DConditionModel` is, so pipelines and training scripts treat it as
one.
"""

from functools import cache

import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from pasta_lib.world.sketch import Sketch

SCHEDULE = dict(  # of the noise, as `diffusers` schedulers take it
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
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
        readings: tuple[int, ...] = (7, 9),  # classes: styles and backgrounds, and "not said"
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        time_cond_proj_dim: int | None = None,  # pipelines ask for it; not used
    ) -> None:
        super().__init__()
        self.sketch = Sketch(text_width, sample_size, in_channels, tuple(readings))
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.text = nn.Linear(text_width, width)
        self.project_in = nn.Linear(2 * in_channels, width)
        self.position = nn.Parameter(0.5 * torch.randn(sample_size**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.project_out = nn.Linear(width, in_channels)
        for block in self.blocks:  # adaLN-Zero: each starts as the identity
            nn.init.zeros_(block.norm.linear.weight)
            nn.init.zeros_(block.norm.linear.bias)
        nn.init.zeros_(self.project_out.weight)  # and the whole as what Bayes' rule says
        nn.init.zeros_(self.project_out.bias)

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
        rows, log_weight, sketches = self.sketch(words, sample, timestep)
        # Bayes' rule adds up thousands of squares: in float32, whatever the model's precision.
        signal = _signal().to(sample.device)[timestep.long()].view(-1, 1, 1, 1)
        noisy, spread = sample.float(), self.sketch.spread.float()
        guess = match(noisy, signal, spread, rows, log_weight.float(), sketches.float())
        mean, deviation = believe(noisy, signal, spread, guess)
        x = torch.cat([noisy, guess], 1).to(sample.dtype)
        x = self.project_in(x.flatten(2).mT) + self.position
        condition = self.time(self.frequencies(timestep).to(sample.dtype)) + self.text(words)
        for block in self.blocks:
            x = block(x, condition)
        x = self.project_out(self.norm_out(x, condition)).mT.unflatten(2, sample.shape[2:])
        x = (mean + deviation * x).to(sample.dtype)
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)


@cache
def _signal() -> Tensor:
    """Share of the signal in the variance of a noisy picture at every time, `[1000]`: what the
    schedulers call `alphas_cumprod`."""
    return DDPMScheduler(**SCHEDULE).alphas_cumprod


def match(
    sample: Tensor,
    signal: Tensor,
    spread: Tensor,
    rows: Tensor,
    log_weight: Tensor,
    sketches: Tensor,
) -> Tensor:
    """The mean of each prompt's sketches, given the noisy picture. `[B, C, H, W]`

    A clean picture is a sketch plus Gaussian noise of variance `spread` `[C]`; the noisy `sample`
    `[B, C, H, W]` is √`signal` times that plus noise of variance 1 − `signal` `[B, 1, 1, 1]`.
    Bayes' rule weighs the N sketched meanings, of prior `log_weight` `[N]` and prompt `rows` `[N]`,
    in their places: `sketches` `[N, 4, C, H, W]`. Neighbouring cells err together, which this
    ignores, so it is surer than it should be.
    """
    variance = (1 - signal) + signal * spread.view(-1, 1, 1)
    gap = sample[rows, None] - signal.sqrt()[rows, None] * sketches
    fit = log_weight[:, None] - (gap.square() / variance[rows, None]).sum((2, 3, 4)) / 2
    best = torch.full_like(sample[:, 0, 0, 0], -torch.inf)
    best = best.scatter_reduce(0, rows, fit.amax(1), "amax").detach()
    weight = (fit - best[rows, None]).exp()
    total = torch.zeros_like(best).index_add(0, rows, weight.sum(1))
    weight = weight / total[rows, None]
    mean = (weight[:, :, None, None, None] * sketches).sum(1)
    return torch.zeros_like(sample).index_add(0, rows, mean)


def believe(sample: Tensor, signal: Tensor, spread: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the clean picture given `sample`, if it were `guess`
    `[B, C, H, W]` plus independent Gaussian noise of variance `spread` `[C]`: the Kalman update.
    `[B, C, H, W]` and `[B, C, 1, 1]`; `signal` as in `match`."""
    spread = spread.view(-1, 1, 1)
    variance = (1 - signal) + signal * spread
    mean = guess + signal.sqrt() * spread / variance * (sample - signal.sqrt() * guess)
    return mean, (spread * (1 - signal) / variance).sqrt()


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
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        normed, gate, shift, scale, gate_ff = self.norm(x, emb=condition)
        x = x + gate[:, None] * self.attention(normed)
        normed = self.norm_ff(x) * (1 + scale[:, None]) + shift[:, None]
        return x + gate_ff[:, None] * self.ff(normed)
