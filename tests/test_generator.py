"""Prompts to pictures: one code path for the miniature and for SDXL's real format."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.weights import WORLD_DIR

# diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 frowns upon
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TOKENIZER = WORLD_DIR / "text_to_image" / "tokenizer"


def tiny_text(kind, width: int):
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=width, max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return kind(config), tokenizer


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    """A tiny random SDXL, saved in its real format."""
    torch.manual_seed(0)
    first, tokenizer = tiny_text(CLIPTextModel, 16)
    second, tokenizer_2 = tiny_text(CLIPTextModelWithProjection, 16)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1,
        cross_attention_dim=32, attention_head_dim=(2, 4), norm_num_groups=4,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=tokenizer,
        tokenizer_2=tokenizer_2, unet=unet, scheduler=EulerDiscreteScheduler(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sdxl")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def patch_folder(tmp_path_factory):
    """A tiny random pipeline of the miniature's own kind, saved."""
    torch.manual_seed(0)
    text, tokenizer = tiny_text(CLIPTextModel, 16)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=64, out_channels=64, block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
        addition_embed_type="text", addition_embed_type_num_heads=2,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=PatchAutoencoder.fit(torch.rand(40, 3, 64, 64) * 2 - 1), text_encoder=text,
        tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(
            prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1,
            clip_sample=False,
        ),
        requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("patch")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "side"), [("sdxl_folder", 32), ("patch_folder", 64)])
def test_one_code_path_draws_with_either(kind, side, request):
    config = GeneratorConfig(model=request.getfixturevalue(kind), steps=2, batch_size=3)
    pipeline = load_pipeline(config)
    prompts = ["a cat", "two foxes, neon", "love", "an owl"]
    pictures = generate(pipeline, prompts, [1, 2, 3, 4], config, progress=False)
    assert pictures.shape == (4, side, side, 3)
    assert pictures.dtype == np.uint8
    # the same prompt and seed give the same picture, alone and in another order
    again = generate(pipeline, prompts[::-1], [4, 3, 2, 1], config, progress=False)[::-1]
    alone = generate(pipeline, prompts[1:2], [2], config, progress=False)[0]
    assert np.abs(pictures.astype(int) - again).max() <= 8
    assert np.abs(pictures[1].astype(int) - alone).max() <= 8
    # another seed, another picture; another guidance, another picture
    other = generate(pipeline, prompts[1:2], [5], config, progress=False)[0]
    assert np.abs(pictures[1].astype(int) - other).max() > 8


def test_no_second_code_path_for_the_miniature():
    """The module names no pipeline class and asks for no model by name but its folder."""
    import inspect

    import pasta_lib.generator as module

    source = inspect.getsource(module)
    assert "XL" not in source.replace("SDXL", "")
    assert "StableDiffusion" not in source
    assert source.count("MINIATURE") == 3  # its definition, the default, its checked folder


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        (["a cat", ""], [1, 2], "prompt 1 is empty"),
        (["a cat", "  "], [1, 2], "prompt 1 is empty"),
        (["x" * 10_000], [1], "10,000 characters"),
        (["a cat"], [1, 2], "1 prompts and 2 seeds"),
        ([], [], "0 prompts"),
        ("a cat", [1, 2, 3, 4, 5], "one string"),
    ],
)
def test_bad_prompts_are_refused_before_anything_is_drawn(prompts, seeds, message):
    with pytest.raises(ValueError, match=message):
        generate(None, prompts, seeds)
