"""Prompts to pictures, through a `diffusers` text-to-image pipeline.

The miniature model is the default; SDXL is the same call with another configuration
(`pasta_lib.hub`). Meant are the pipelines whose latents are a picture of `in_channels` by
`sample_size` by `sample_size`: U-Nets (Stable Diffusion 1 and 2, SDXL; tested with tiny ones in
their formats) and, untested, transformers that keep this form (Stable Diffusion 3, PixArt); not
those that pack latents into tokens first (Flux). Every picture's noise is drawn on the CPU from the
picture's own seed, so that a prompt and a seed name one picture, whatever the batch it is drawn in.

The miniature's autoencoder, denoiser and scheduler are classes of this package, which `diffusers`
finds only where they are imported already. So `import pasta_lib.generator` comes first, and then a
bare `DiffusionPipeline.from_pretrained("data/world/text_to_image")` loads it too.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from pasta_lib.world import autoencoder, denoiser, scheduler  # noqa: F401 - so diffusers finds them
from pasta_lib.world.weights import require

MINIATURE = "miniature"
MAX_PROMPT = 2_000  # characters, far more than CLIP's text encoders read
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class GeneratorConfig:
    """Which model draws, and how. The defaults are the miniature's fast setting (ours).

    Raises ValueError for settings that draw nothing, such as no steps.
    """

    model: str = MINIATURE  # or a folder, or a hub model's id with its revision (pasta_lib.hub)
    revision: str | None = None  # of a hub model: a commit, so that it never changes
    steps: int = 6
    guidance: float = 2.0  # classifier-free guidance scale; 1 is without
    batch_size: int = 16
    device: str = "cpu"
    dtype: str = ""  # one of DTYPES; empty: float16 on a GPU, else float32

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int) and n >= 1 for n in (self.steps, self.batch_size))
        if not whole or not math.isfinite(self.guidance):
            raise ValueError(
                f"steps and batch_size are whole numbers from 1, guidance is a number: {self}"
            )
        if self.dtype and self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(DTYPES)}, or ''")


def load_pipeline(config: GeneratorConfig) -> DiffusionPipeline:
    """The pipeline on its device; weights from safetensors only, never from a pickle.

    Raises WeightsError where the miniature's files are not whole, ValueError for a hub model
    without a revision, OSError (diffusers') where a model cannot be found or has no safetensors.
    """
    source = require("text_to_image") if config.model == MINIATURE else config.model
    if not Path(source).is_dir() and config.revision is None:
        raise ValueError(
            f"model {source!r} is no folder here, and a hub model needs a revision, the commit "
            "that is meant: see pasta_lib.hub"
        )
    dtype = config.dtype or ("float32" if config.device == "cpu" else "float16")
    pipeline = DiffusionPipeline.from_pretrained(
        source, revision=config.revision, dtype=getattr(torch, dtype), use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(config.device)


def generate(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: GeneratorConfig = GeneratorConfig(),
    progress: bool = True,
) -> np.ndarray:
    """Draw one picture for each prompt and its seed, a whole number from 0: uint8 `[N, H, W, 3]`.

    A pipeline draws something for any words, also for those it was never taught; which words the
    miniature knows, `world.captions.parse` says. Warns of a prompt with more tokens than the
    pipeline reads, and draws what it does read. Raises ValueError for a prompt that is empty,
    overlong or no string, for a seed that is no whole number, and where prompts and seeds are not
    as many.
    """
    _check(prompts, seeds)
    _warn_of_unread_words(pipeline, prompts)
    starts = range(0, len(prompts), config.batch_size)
    parts = []
    for start in tqdm(starts, desc="drawing", unit="batch", disable=not progress):
        rows = slice(start, start + config.batch_size)
        generators = [torch.Generator().manual_seed(int(s)) for s in seeds[rows]]
        pictures = pipeline(
            list(prompts[rows]),
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            latents=_noise(pipeline, generators),
            generator=generators,  # for schedulers that add noise on the way
            output_type="np",
        ).images
        parts.append((pictures * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def _noise(pipeline: DiffusionPipeline, generators: list[torch.Generator]) -> torch.Tensor:
    """Standard normal latents `[B, C, h, w]`, one generator a picture, at the model's own size."""
    model = getattr(pipeline, "unet", None) or pipeline.transformer
    side = model.config.sample_size
    shape = (model.config.in_channels, side, side)
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
    return noise.to(pipeline.device, model.dtype)


def _check(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    if isinstance(prompts, str):
        raise ValueError("prompts is one string; pass a list of prompts, one for each picture")
    if len(prompts) != len(seeds) or not len(prompts):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; give one seed a prompt")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(
                f"prompt {i} is empty or no string: {prompt!r}; write what the picture shows"
            )
        if len(prompt) > MAX_PROMPT:
            raise ValueError(
                f"prompt {i} has {len(prompt):,} characters, at most {MAX_PROMPT:,} are accepted "
                "(CLIP's text encoders read the first 77 tokens or fewer): shorten it"
            )
        if not _is_seed(seeds[i]):
            raise ValueError(f"seed {i} is {seeds[i]!r}; expected a whole number from 0 to 2⁶³ - 1")


def _is_seed(value: object) -> bool:
    try:
        return 0 <= index(value) < 2**63
    except TypeError:
        return False


def _warn_of_unread_words(pipeline: DiffusionPipeline, prompts: Sequence[str]) -> None:
    tokenizer = pipeline.tokenizer
    limit = tokenizer.model_max_length
    for i, tokens in enumerate(tokenizer(list(prompts), verbose=False).input_ids):
        if len(tokens) > limit:
            unread = tokenizer.decode(tokens[limit - 1 : -1])  # the last token only ends the text
            warnings.warn(
                f"prompt {i} has {len(tokens)} tokens, of which the model reads {limit}; "
                f"not read: {unread!r}",
                stacklevel=3,
            )
