"""Prompts to pictures: one code path for the miniature and for SDXL's real format."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pasta_lib import encoders, generator
from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.hub import SDXL
from pasta_lib.world import captions
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.denoiser import SCHEDULE, PatchTransformer
from pasta_lib.world.eye import load_eye
from pasta_lib.world.scenes import from_array, sample_scenes
from pasta_lib.world.scheduler import QuietDDIMScheduler
from pasta_lib.world.weights import WORLD_DIR, WeightsError, require

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


def tiny_vae():
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip


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
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(), text_encoder=first, text_encoder_2=second, tokenizer=tokenizer,
        tokenizer_2=tokenizer_2, unet=unet, scheduler=EulerDiscreteScheduler(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sdxl")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory):
    """A tiny random Stable Diffusion 1, in its real format."""
    torch.manual_seed(0)
    text, tokenizer = tiny_text(CLIPTextModel, 16)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(), text_encoder=text, tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(steps_offset=1, skip_prk_steps=True),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sd")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def patch_folder(tmp_path_factory):
    """A tiny random pipeline of the miniature's own kind, saved."""
    torch.manual_seed(0)
    text, tokenizer = tiny_text(CLIPTextModel, 16)
    unet = PatchTransformer(text_width=16, width=16, layers=1, heads=2)
    torch.nn.init.normal_(unet.project_out.weight)
    torch.nn.init.normal_(unet.retouch.conv_out.weight)
    unet.sketch.meanings.things.normal_()
    unet.sketch.meanings.logits.weight.data.mul_(20)  # prompts with several meanings
    pipeline = StableDiffusionPipeline(
        vae=PatchAutoencoder.fit(torch.rand(40, 3, 64, 64) * 2 - 1), text_encoder=text,
        tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=QuietDDIMScheduler(**SCHEDULE), requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("patch")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "side"), [("sd_folder", 32), ("sdxl_folder", 32), ("patch_folder", 64)]
)
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
    strong = generate(pipeline, prompts[1:2], [2], replace(config, guidance=30.0), progress=False)
    assert np.abs(pictures[1].astype(int) - strong[0]).max() > 8


def test_no_second_code_path_for_the_miniature():
    """The modules name no class of models, ask none in the usual ways what it is, and know the
    miniature by nothing but its folder. (`getattr`: a denoiser is called `unet` or `transformer`.)
    """
    for module, named, asked in ((generator, 3, 2), (encoders, 4, 0)):
        code = ast.unparse(_without_docstrings(ast.parse(inspect.getsource(module))))
        asks = ("hasattr", " type(", "__class__", "_class_name", "isinstance(pipeline",
                "isinstance(model", "isinstance(self")  # fmt: skip
        for name in ("XL", "StableDiffusion", "Patch", *asks):
            assert name not in code, name
        # its definition, the default, its checked folder; in one an error's words
        assert code.count("MINIATURE") == named
        assert code.count("getattr") == asked  # the denoiser, and torch's dtype


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        (["a cat", ""], [1, 2], "prompt 1 is empty"),
        (["a cat", "  "], [1, 2], "prompt 1 is empty"),
        (["x" * 10_000], [1], "10,000 characters"),
        (["a cat"], [1, 2], "1 prompts and 2 seeds"),
        ([], [], "0 prompts"),
        ("a cat", [1, 2, 3, 4, 5], "one string"),
        (["a cat", None], [1, 2], "prompt 1 is empty or no string: None"),
        ([b"a cat"], [1], "prompt 0 is empty or no string"),
        (["a cat"], [1.7], "seed 0 is 1.7; expected a whole number"),
        (["a cat", "a fox"], [1, -1], "seed 1 is -1"),
        (["a cat"], ["7"], "seed 0 is '7'"),
        (["a cat"], [2**70], "seed 0 is 1180591620717411303424"),
    ],
)
def test_bad_prompts_are_refused_before_anything_is_drawn(prompts, seeds, message):
    with pytest.raises(ValueError, match=message):
        generate(None, prompts, seeds)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps and batch_size are whole numbers from 1"),
        ({"steps": 2.5}, "steps and batch_size are whole numbers from 1"),
        ({"batch_size": 0}, "steps and batch_size are whole numbers from 1"),
        ({"guidance": float("nan")}, "guidance is a number"),
        ({"dtype": "float8"}, "'float8': expected one of float32, float16, bfloat16"),
    ],
)
def test_settings_that_draw_nothing_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**bad)


def test_a_prompt_longer_than_the_model_reads_is_drawn_with_a_warning(patch_folder):
    config = GeneratorConfig(model=patch_folder, steps=2)
    pipeline = load_pipeline(config)
    words = "a fox on a night sky, " * 6
    prompts = ["an owl", words + "watercolour", words + "neon"]
    with pytest.warns(UserWarning, match="not read") as warned:
        pictures = generate(pipeline, prompts, [1, 2, 2], config, progress=False)
    messages = [str(w.message) for w in warned]
    assert [m.split(" ")[1] for m in messages] == ["1", "2"]  # not prompt 0
    tokens = len(pipeline.tokenizer(prompts[1]).input_ids)
    assert f"prompt 1 has {tokens} tokens, of which the model reads 32" in messages[0]
    assert messages[0].endswith("watercolour'") and messages[1].endswith("neon'")
    assert (pictures[1] == pictures[2]).all()  # it is true that the last words are not read
    # exactly what is named is missing: a prompt without it gives the same picture
    unread = re.search("not read: '(.*)'$", messages[0])[1]
    kept = pipeline.tokenizer(prompts[1]).input_ids[1:-1]
    dropped = pipeline.tokenizer(unread).input_ids[1:-1]
    assert kept[30:] == dropped


def test_captions_are_short_enough_to_be_read_whole():
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    rng = np.random.default_rng(3)
    written = [captions.write(s, rng) for s in from_array(sample_scenes(3000, rng))]
    assert max(map(len, tokenizer(written).input_ids)) <= tokenizer.model_max_length


def test_a_hub_model_needs_its_revision_and_a_folder_needs_none(patch_folder):
    assert re.fullmatch("[0-9a-f]{40}", SDXL.revision)
    with pytest.raises(ValueError, match=r"stable-diffusion-xl-base-1\.0' is no folder.*revision"):
        load_pipeline(replace(SDXL, revision=None))
    with pytest.raises(ValueError, match="is no folder here"):
        load_pipeline(GeneratorConfig(model=patch_folder + "-mistyped"))
    load_pipeline(GeneratorConfig(model=patch_folder))


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_pickled_weights_are_refused(part, sdxl_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(sdxl_folder, folder)
    weights = folder / f"{part}.safetensors"
    name = "pytorch_model.bin" if part.startswith("text") else "diffusion_pytorch_model.bin"
    torch.save(load_file(weights), weights.with_name(name))
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_pipeline(GeneratorConfig(model=str(folder)))


def test_diffusers_alone_loads_the_miniature_after_the_documented_import():
    try:
        folder = require("text_to_image")
        require("text_to_image/unet")
    except WeightsError as error:
        pytest.skip(str(error))
    code = f"""
import pasta_lib.generator
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained({str(folder)!r})
print(type(pipeline.unet).__name__, type(pipeline.vae).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["PatchTransformer", "PatchAutoencoder"], done.stderr


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_loads_without_a_gpu_and_holds_the_same_weights(dtype, patch_folder):
    """As `load_pipeline` does for a GPU: first on the CPU, which can't do all in half."""
    whole, half = (
        load_pipeline(GeneratorConfig(model=patch_folder, dtype=d)) for d in ("float32", dtype)
    )
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(whole, part).state_dict()
        for name, value in getattr(half, part).state_dict().items():
            assert value.dtype == getattr(torch, dtype), name
            assert torch.equal(value, expected[name].to(value.dtype)), name


WORDS = ("two white foxes, watercolour", "happiness", "a rocket at sunset, neon", "a quiet evening")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_miniature_draws_the_same_in_half_precision(dtype):
    whole, half = (
        generate(load_pipeline(config), WORDS, range(4), config, progress=False)
        for config in (GeneratorConfig(), GeneratorConfig(dtype=dtype))
    )
    assert np.abs(whole.astype(int) - half).max() <= 16
    assert (load_eye().read(whole).labels() == load_eye().read(half).labels()).all()


def test_a_prompt_and_a_seed_are_one_picture_of_the_miniature_whatever_the_batch():
    pipeline, words = load_pipeline(GeneratorConfig()), WORDS * 3
    together, alone, by_five = (
        generate(pipeline, words, range(12), GeneratorConfig(batch_size=b), progress=False)
        for b in (12, 1, 5)
    )
    assert np.abs(together.astype(int) - alone).max() <= 8
    assert np.abs(together.astype(int) - by_five).max() <= 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(not (WORLD_DIR / "text_to_image" / "unet").exists(), reason="not made yet")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_eye_reads_the_same_from_a_gpus_pictures(dtype):
    scenes = sample_scenes(400, np.random.default_rng(8))
    prompts = [captions.write(scene) for scene in from_array(scenes)]
    labels = []
    for config in (
        GeneratorConfig(),
        GeneratorConfig(device="cuda", dtype=dtype, batch_size=200),
    ):
        pictures = generate(load_pipeline(config), prompts, range(400), config, progress=False)
        labels.append(load_eye().read(pictures).labels())
    assert (labels[0] == labels[1]).mean(0).min() >= 0.99
