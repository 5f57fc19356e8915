"""Words read off vectors: planted ones are found, and nothing is learnt by heart."""

import numpy as np
import pytest
import torch

from pasta_lib.choices import BadData
from pasta_lib.concepts import (
    Concepts,
    fit_concepts,
    load_concepts,
    mentions,
    save_concepts,
    vocabulary,
)
from pasta_lib.encoders import ClipEncoder
from pasta_lib.world.bank import load_bank
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.raters import held_out_prompts
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import (
    BACKGROUND,
    BACKGROUND_NAMES,
    IDEA,
    STYLE,
    STYLE_NAMES,
    SUBJECT,
    idea_weights,
)
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
    assert mentions(texts, ["fox", "red"]).tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]


def test_planted_words_are_read_off_new_vectors():
    vectors, texts, _, _ = captioned(4000, 0)
    concepts = fit_concepts(vectors, mentions(texts, WORDS), seed=0, epochs=6, progress=False)
    fresh, _, fox, red = captioned(2000, 1)
    with torch.no_grad():
        p = concepts.probability(torch.as_tensor(fresh, dtype=torch.float32)).numpy()
    assert ((p[:, 1] > 0.5) == fox).mean() > 0.97 and ((p[:, 3] > 0.5) == red).mean() > 0.97
    assert p[:, 0] + p[:, 3] == pytest.approx(np.ones(2000), abs=0.2)
    linear = np.linalg.lstsq(np.c_[fresh, np.ones(2000)], fox, rcond=None)[0]
    assert ((np.c_[fresh, np.ones(2000)] @ linear > 0.5) == fox).mean() < 0.6


def test_what_stands_beside_a_vector():
    vectors, texts, _, _ = captioned(500, 0)
    labels = mentions(texts, WORDS)
    concepts = fit_concepts(vectors, labels, seed=0, epochs=2, progress=False)
    some = torch.as_tensor(vectors[:10], dtype=torch.float32).reshape(2, 5, 3)
    with torch.no_grad():
        out, p = concepts(some), concepts.probability(some)
    assert torch.equal(out, torch.cat([some, p], -1)) and p.shape == (2, 5, 4)
    assert torch.allclose(concepts.usual, torch.as_tensor(labels.mean(0)))


def test_what_is_unknown_teaches_nothing():
    """Half of the labels are gone; those that are left say "fox" half as often as they should."""
    vectors, texts, fox, _ = captioned(4000, 0)
    labels = mentions(texts, WORDS)
    labels[2000:] = np.nan
    labels[:2000, 0] = np.nan
    labels[2000:, 0] = mentions(texts[2000:], ["blue"])[:, 0]
    half = fit_concepts(vectors, labels, seed=0, epochs=6, progress=False)
    fresh, _, fox, red = captioned(2000, 1)
    p = half.probability(torch.as_tensor(fresh, dtype=torch.float32)).numpy()
    assert ((p[:, 1] > 0.5) == fox).mean() > 0.95 and ((p[:, 0] > 0.5) == ~red).mean() > 0.95
    assert half.usual[1].item() == pytest.approx(labels[:2000, 1].mean())
    labels[2000:] = 0  # "not there" is not "unknown"
    wrong = fit_concepts(vectors, labels[:, 1:], seed=0, epochs=6, progress=False)
    q = wrong.probability(torch.as_tensor(fresh, dtype=torch.float32)).numpy()
    assert q[fox, 0].mean() < 0.7 < p[fox, 1].mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, y: (v, y[:-1]), "500 vectors, but labels for 499"),
        (lambda v, y: (v, y + 0.5), "row 0, concept 0: expected 0 to 1"),
        (lambda v, y: (v, y * [1, 1, 0, 1]), "Concept 2 is in no row, or in all"),
        (lambda v, y: (v, np.where(y[:, :1] > 2, 0, y * [1, np.nan, 1, 1])), "Concept 1 is in no"),
    ],
)
def test_labels_that_are_refused(change, message):
    vectors, texts, _, _ = captioned(500, 0)
    texts[0] = "a blue fox"
    with pytest.raises(BadData, match=message):
        fit_concepts(*change(vectors, mentions(texts, WORDS)), seed=0, progress=False)


def test_the_same_seed_gives_the_same_concepts():
    vectors, texts, _, _ = captioned(300, 0)
    torch.manual_seed(1)
    a = fit_concepts(vectors, mentions(texts, WORDS), seed=3, epochs=1, progress=False)
    state = torch.get_rng_state()
    b = fit_concepts(vectors, mentions(texts, WORDS), seed=3, epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are used up
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])


def test_concepts_are_read_back_in_half_precision(tmp_path):
    path = tmp_path / "concepts.safetensors"
    concepts = Concepts(3, 4, hidden=(8, 6))
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
    """Of pictures drawn from them, and of the prompts themselves: what was said, and what not."""
    concepts, names = load_concepts(
        WORLD_DIR.parent / "user_model" / f"concepts_{side}.safetensors"
    )
    members = np.flatnonzero(held_out_prompts(0))
    if side == "image":
        vectors = load_bank().embeddings(members)[:, 0]
    else:
        vectors = ClipEncoder().encode_texts([bank_prompts()[m] for m in members])
    p = concepts.probability(torch.as_tensor(vectors)).numpy()
    scenes = reachable()[members]
    assert len(set(names)) == (96 if side == "image" else 88)  # categories too, or not
    subject = scenes[:, SUBJECT] >= 0
    found = p[subject, :64].argmax(1) == scenes[subject, SUBJECT]
    assert found.mean() > 0.85
    grounds = [f"{name} background" for name in BACKGROUND_NAMES]
    for column, words in ((STYLE, STYLE_NAMES), (BACKGROUND, grounds)):
        said = scenes[:, column] >= 0
        here = p[said][:, [names.index(w) for w in words]]
        assert (here.argmax(1) == scenes[said, column]).mean() > 0.9
    # An idea calls for some subjects alone, a picture of it shows one of them.
    idea = scenes[:, IDEA] >= 0
    meant = idea_weights()[SUBJECT][scenes[idea, IDEA]] > 0
    assert (p[idea, :64] * meant).sum(1).mean() > 0.8
    assert (p[idea, :64] * ~meant).sum(1).mean() < 0.25
    if side == "text":  # whichever of them it may be, each is likelier than usual
        assert np.median((p[idea, :64] / concepts.usual[:64].numpy())[meant]) > 2
