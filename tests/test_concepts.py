"""Words read off vectors: planted ones are found, and nothing is learnt by heart."""

import numpy as np
import pytest
import torch

from pasta_lib.choices import BadData
from pasta_lib.concepts import Concepts, fit_concepts, load_concepts, save_concepts, vocabulary
from pasta_lib.encoders import ClipEncoder
from pasta_lib.world.bank import load_bank
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.raters import held_out_prompts
from pasta_lib.world.weights import WORLD_DIR

WORDS = ["blue", "fox", "owl", "red"]


def captioned(n, seed):
    """Vectors in which words are packed: "red" and "blue" lie on one line, and a fox points
    another way if it is red. No linear map tells fox from owl."""
    rng = np.random.default_rng(seed)
    fox, red = rng.integers(2, size=(2, n)).astype(bool)
    side, along = np.where(fox == red, 1.0, -1.0), np.where(red, 1.0, -1.0)
    vectors = np.stack([along, side, rng.normal(size=n)], 1) + 0.2 * rng.normal(size=(n, 3))
    texts = [
        f"A {'red' if r else 'blue'} {'fox' if f else 'owl'}!"
        for f, r in zip(fox, red, strict=True)
    ]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), texts, fox, red


def test_a_vocabulary_is_what_occurs_often():
    texts = ["A red fox", "a red, red owl", "A Fox.", "blue"]
    assert vocabulary(texts, 2) == ["a", "fox", "red"]
    assert vocabulary(texts, 1) == ["a", "blue", "fox", "owl", "red"]


def test_planted_words_are_read_off_new_vectors():
    vectors, texts, _, _ = captioned(4000, 0)
    concepts = fit_concepts(vectors, texts, WORDS, seed=0, epochs=6, progress=False)
    fresh, _, fox, red = captioned(2000, 1)
    with torch.no_grad():
        p = concepts.probability(torch.as_tensor(fresh, dtype=torch.float32)).numpy()
    assert ((p[:, 1] > 0.5) == fox).mean() > 0.97 and ((p[:, 3] > 0.5) == red).mean() > 0.97
    assert p[:, 0] + p[:, 3] == pytest.approx(np.ones(2000), abs=0.2)
    linear = np.linalg.lstsq(np.c_[fresh, np.ones(2000)], fox, rcond=None)[0]
    assert ((np.c_[fresh, np.ones(2000)] @ linear > 0.5) == fox).mean() < 0.6


def test_what_stands_beside_a_vector():
    vectors, texts, _, _ = captioned(500, 0)
    concepts = fit_concepts(vectors, texts, WORDS, seed=0, n_together=3, epochs=2, progress=False)
    some = torch.as_tensor(vectors[:10], dtype=torch.float32).reshape(2, 5, 3)
    with torch.no_grad():
        out, p = concepts(some), concepts.probability(some)
    assert out.shape == (2, 5, 3 + 4 + 3) and torch.equal(out[..., :3], some)
    assert torch.allclose(out[..., 3:7] * concepts.scale, p, atol=1e-6)
    both = out[..., 3:7] @ concepts.together + concepts.together_bias
    assert torch.allclose(out[..., 7:], torch.nn.functional.gelu(both), atol=1e-6)


def test_the_same_seed_gives_the_same_concepts():
    vectors, texts, _, _ = captioned(300, 0)
    torch.manual_seed(1)
    a = fit_concepts(vectors, texts, WORDS, seed=3, epochs=1, progress=False)
    state = torch.get_rng_state()
    b = fit_concepts(vectors, texts, WORDS, seed=3, epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are used up
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])


def test_concepts_are_read_back_in_half_precision(tmp_path):
    path = tmp_path / "concepts.safetensors"
    concepts = Concepts(3, 4, 2, hidden=(8, 6))
    save_concepts(concepts, WORDS, path)
    again, words = load_concepts(path)
    assert words == WORDS and list(tmp_path.iterdir()) == [path]
    some = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(again(some), concepts(some), atol=0.02)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadData, match="holds no concepts"):
        load_concepts(path)


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_shipped_concepts_read_held_out_prompts(side):
    """Of pictures drawn from them, and of the prompts themselves: which words were said."""
    concepts, words = load_concepts(
        WORLD_DIR.parent / "user_model" / f"concepts_{side}.safetensors"
    )
    members = np.flatnonzero(held_out_prompts(0))
    texts = [bank_prompts()[m] for m in members]
    if side == "image":
        vectors = load_bank().embeddings(members)[:, 0]
    else:
        vectors = ClipEncoder().encode_texts(texts)
    p = concepts.probability(torch.as_tensor(vectors)).numpy()
    said = np.array([[w in text.lower().replace(",", "").split() for w in words] for text in texts])
    assert p[said].mean() > 0.75 and p[~said].mean() < 0.02
    likelier = p[said].mean() / p[~said].mean()
    assert likelier > 50
