"""The miniature's denoiser: sketches from the words, matched with the noisy picture, and finished.

The words give a few sketches of what the picture may show, and where (`pasta_lib.world.sketch`).
The noisy picture says which of them it is: their mean, weighted by Bayes' rule for Gaussian noise,
is the best guess that the sketches allow. A small transformer, one token a cell, adds what they do
not know: stars and hills, grain, washes, and what the sketch got wrong. After Peebles & Xie (2023),
"Scalable diffusion models with transformers": time and caption set scale, shift and gate of every
block (adaLN-Zero). The rest is ours.
It is called as `diffusers.UNet2DConditionModel` is, so pipelines and training scripts treat it as
one.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from pasta_lib.world.sketch import Sketch


class PatchTransformer(ModelMixin, ConfigMixin):
    """Noisy latents `[B, C, H, W]`, times `[B]`, text states `[B, L, text_width]` → `[B, C, H, W]`.

    Of the text it reads the last position: after causal attention that has seen every word.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 64,
        text_width: int = 128,
        readings: tuple[int, ...] = (7, 9),  # styles and backgrounds that words can say, and "none"
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        time_cond_proj_dim: int | None = None,  # pipelines ask for it; not used
    ) -> None:
        super().__init__()
        self.sketch = Sketch(text_width, sample_size, in_channels, tuple(readings))
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.certainty = nn.Linear(width, 2)
        self.text = nn.Linear(text_width, width)
        self.project_in = nn.Linear(2 * in_channels, width)
        self.position = nn.Parameter(0.5 * torch.randn(sample_size**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.project_out = nn.Linear(width, in_channels)
        nn.init.constant_(self.certainty.bias, -3.0)
        for norm in [block.norm for block in self.blocks]:  # adaLN-Zero: each block starts as 1
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
        nn.init.zeros_(self.project_out.weight)

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
        """The scheduler's prediction target for `sample`; the last three before `return_dict`
        are there for the pipelines that pass them."""
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time = self.time(self.frequencies(timestep).to(sample.dtype))
        words = encoder_hidden_states[:, -1]
        guess = self.match(sample, time, *self.sketch(words, sample, timestep))
        x = self.project_in(torch.cat([sample, guess], 1).flatten(2).mT) + self.position
        condition = time + self.text(words)
        for block in self.blocks:
            x = block(x, condition)
        x = self.project_out(self.norm_out(x, condition)).mT.unflatten(2, sample.shape[2:])
        return UNet2DConditionOutput(sample=guess + x) if return_dict else (guess + x,)

    def match(
        self, sample: Tensor, time: Tensor, rows: Tensor, log_weight: Tensor, sketches: Tensor
    ) -> Tensor:
        """The mean of each prompt's `sketches` `[N, 4, C, H, W]` given `sample`, `[B, C, H, W]`.

        Under sample = α · sketch + Gaussian noise of variance s², a sketch's logarithmic weight
        grows by (α · ⟨sample, sketch⟩ − α² · |sketch|² / 2) / s². As a sketch is not the picture,
        s² holds more than the scheduler's noise: both factors are learnt for each time.
        """
        linear, square = self.certainty(time).exp()[rows].unbind(1)
        inner = torch.einsum("nchw,nkchw->nk", sample[rows], sketches)
        energy = sketches.square().sum((2, 3, 4)) / 2
        fit = log_weight[:, None] + linear[:, None] * inner - square[:, None] * energy
        best = torch.full_like(sample[:, 0, 0, 0], -torch.inf)
        best = best.scatter_reduce(0, rows, fit.amax(1), "amax").detach()
        weight = (fit - best[rows, None]).exp()
        total = torch.zeros_like(best).index_add(0, rows, weight.sum(1))
        weight = weight / total[rows, None]
        mean = torch.einsum("nk,nkchw->nchw", weight, sketches)
        return torch.zeros_like(sample).index_add(0, rows, mean)


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
