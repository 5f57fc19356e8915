"""Towers that are fitted with the heads: at the start zero-shot CLIP, and that they do learn."""

import copy
import warnings

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pasta_lib.choices import ChoiceData
from pasta_lib.clip_utility import ClipUtility
from pasta_lib.concepts import Concepts
from pasta_lib.em import EMConfig, fit_user_types
from pasta_lib.encoders import ClipEncoder
from pasta_lib.simulator import utilities_of_columns
from pasta_lib.towers import PixelTower, TokenTower, Towers
from pasta_lib.user_types import UserTypes
from pasta_lib.world.renderer import render_seeded
from pasta_lib.world.scenes import sample_scenes
from pasta_lib.world.weights import WORLD_DIR

CONFIG = EMConfig(wave=1, min_waves=1, max_waves=1, confirmations=1, max_passes=6, ridge=1e-8,
                  learning_rate=3e-3, batch=100)  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    folder = f"local-dir:{WORLD_DIR / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(folder)
    return model.eval(), preprocess, open_clip.get_tokenizer(folder)


def towers(model, n_types):
    usual = torch.full((3,), 0.5)
    heads = ClipUtility(64, usual, usual, n_types, model.logit_scale.exp().item())
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    image = torch.nn.Sequential(PixelTower(one, 64), Concepts(64, 3, hidden=(8, 8)))
    text = torch.nn.Sequential(TokenTower(other), Concepts(64, 3, hidden=(8, 8)))
    return Towers(image, text, heads)


@pytest.fixture(scope="module")
def data(clip):
    """Choices among pictures, as pixels and tokens: everybody picks the brighter picture."""
    _, preprocess, tokenizer = clip
    pictures = render_seeded(sample_scenes(24, np.random.default_rng(0)), 0)
    bytes_ = (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in bytes_])
    items = torch.randint(24, (200, 2, 1), generator=torch.Generator().manual_seed(0))
    bright = pixels.mean((1, 2, 3))[items[..., 0]]
    texts = ["a fox", "two owls, neon"]
    data = ChoiceData.from_arrays(
        items=items, table=pixels.flatten(1), context=torch.arange(200) % 2,
        context_table=tokenizer(texts).float(), person=np.arange(200) % 10,
        target=bright.argmax(1),
    )  # fmt: skip
    return data, bytes_, texts


def test_untrained_towers_are_zero_shot_clip(clip, data):
    choices, pictures, texts = data
    model = towers(clip[0], 2)
    types = UserTypes.of(model, torch.full((2,), 0.5).log(), choices, None)
    encoder = ClipEncoder()
    cosine = encoder.encode_images(pictures) @ encoder.encode_texts(texts).T
    both = cosine[choices.items[..., 0], choices.context[:, None]]
    want = (encoder.logit_scale() * torch.as_tensor(both)).softmax(1)
    assert types.predict(choices).numpy() == pytest.approx(want.numpy(), abs=2e-3)


def test_towers_learn_what_frozen_heads_are_not_shown(clip, data):
    choices, _, _ = data
    model = towers(clip[0], 1)
    before = UserTypes.of(model, torch.zeros(1), choices, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EM used all")
        types = fit_user_types(choices, model, 1, seed=0, config=CONFIG, progress=False)
    assert types.log_likelihood > before.log_likelihood + 20
    moved = {
        name.split(".")[0]
        for (name, new), old in zip(
            types.utility.named_parameters(), model.parameters(), strict=True
        )
        if not torch.equal(new, old)
    }
    assert moved == {"image", "text", "heads"}


def test_columns_are_worth_what_types_say_of_them_by_the_best_share_too():
    usual = torch.full((3,), 0.5)
    heads = ClipUtility(4, usual, usual, 2, 1.0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        heads.likes.copy_(torch.randn(heads.likes.shape, generator=g))
        heads.tenth_log_share.fill_(-0.11)  # a third of the pictures counts
    pictures, prompts = torch.rand(5, 4, 7, generator=g), torch.rand(2, 7, generator=g)
    types, plain = (
        UserTypes(u.requires_grad_(False), torch.arange(2), torch.full((2,), 0.5).log(), 0.0, 1, 1,
                  None)
        for u in (Towers(torch.nn.Identity(), torch.nn.Identity(), heads), heads)
    )  # fmt: skip
    worth = utilities_of_columns(types, pictures, prompts)
    assert torch.equal(worth, utilities_of_columns(plain, pictures, prompts))
    data = ChoiceData.from_arrays(
        items=torch.arange(20).reshape(1, 5, 4), table=pictures.flatten(0, 1),
        context=torch.zeros(1, dtype=torch.long), context_table=prompts[:1],
        target=torch.zeros(1, dtype=torch.long), person=[0],
    )  # fmt: skip
    assert worth[0].numpy() == pytest.approx(types.column_utilities(data)[0].numpy(), abs=1e-5)
