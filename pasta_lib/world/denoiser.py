"""The miniature's denoiser: a small transformer on the latents, one token a cell.

What a picture shows at a place depends on the place and on the caption; convolutions must count
their way in from the border, tokens know where they are. (A U-Net of the same size was tried: after
16,000 pictures, both trained with AdamW, its loss was .67 and the transformer's .56.) After Peebles
& Xie (2023), "Scalable diffusion models with transformers": time and caption set scale, shift and
gate of every block (adaLN-Zero). Ours: the caption also gives a plain sketch of its subjects, of
which every token sees its surroundings beside the noise.
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
        width: int = 256,
        layers: int = 3,
        heads: int = 4,
        time_cond_proj_dim: int | None = None,  # pipelines ask for it; not used
    ) -> None:
        super().__init__()
        self.project_in = nn.Linear(in_channels, width)
        self.position = nn.Parameter(0.5 * torch.randn(sample_size**2, width))
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.text = nn.Linear(text_width, width)
        self.sketch = Sketch(text_width, sample_size, in_channels)
        self.project_sketch = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.project_out = nn.Linear(width, in_channels)
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
        condition = time + self.text(words)
        sketch = self.project_sketch(self.sketch(words)).flatten(2).mT
        x = self.project_in(sample.flatten(2).mT) + sketch + self.position
        for block in self.blocks:
            x = block(x, condition)
        x = self.project_out(self.norm_out(x, condition)).mT.unflatten(2, sample.shape[2:])
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)


class Sketch(nn.Sequential):
    """What the words say of every cell: text `[B, text_width]` → `[B, channels, side, side]`.

    Cheap to compute, since it is done once a picture and not once a cell, and much to remember
    with: what things look like is learnt here, by `data/makers/make_sketch.py`.
    """

    def __init__(self, text_width: int, side: int, channels: int, width: int = 512) -> None:
        super().__init__(
            nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, channels * side**2), nn.Unflatten(1, (channels, side, side)),
        )  # fmt: skip


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
