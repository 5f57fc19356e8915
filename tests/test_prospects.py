"""What follows a pick: read off sessions in which it is known."""

import itertools

import numpy as np
import pytest
import torch

from pasta_lib.histories import Reader
from pasta_lib.prospects import fit_prospects, what_follows
from pasta_lib.sessions import NONE, UNJUDGED, Sessions
from pasta_lib.simulator import ColumnWorth
from pasta_lib.text_worth import TextWorth

MEMBERS, K, TURNS, STEP = 10, 2, 5, (1, 3)  # of 8 and 9, each type loves one, and says so at once


@pytest.fixture(scope="module")
def reader():
    g = torch.Generator().manual_seed(0)
    table = torch.randn(1, MEMBERS, K, generator=g)
    table[0, 8:] = torch.tensor([[20.0, -20.0], [-20.0, 20.0]])
    row = np.full(MEMBERS, -1)
    row[[3, 5]] = [0, 1]
    table = torch.cat([table, table + 4])  # of another prompt, all is worth four more
    worth = ColumnWorth(table, row, torch.tensor([0.5, 0.5]).double().log(), torch.tensor(0.0))
    features = torch.zeros(MEMBERS, 2, MEMBERS + 1)  # a wording more, that is said of nothing here
    features[:, 1, :MEMBERS] = torch.eye(MEMBERS)
    features[:, :, MEMBERS] = torch.rand(MEMBERS, 2, generator=g)
    return Reader(features, TextWorth(MEMBERS + 1, K).requires_grad_(False), worth)


def following(member, kind, times=1):
    return (member + times * np.array(STEP)[kind]) % 8


def told(n=16_000, seed=0):
    """After its first turn a slate is four times the same, and leads to one that hangs on it and on
    the type; after "none of these" to any."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(K, size=n)
    member, chosen = np.zeros((n, TURNS, 4), int), np.zeros((n, TURNS), int)
    member[:, 0] = [8, 9, 0, 1]
    chosen[:, 0] = kind
    for t in range(1, TURNS):
        after = following(member[:, t - 1, 0], kind)
        anything = (chosen[:, t - 1] == NONE) | (t == 1)
        member[:, t] = np.where(anything, rng.integers(8, size=n), after)[:, None]
        chosen[:, t] = np.where(rng.random(n) < 0.2, NONE, rng.integers(4, size=n))
    ids, nothing = np.arange(n), np.zeros_like(member)
    versus = np.full((n, TURNS), UNJUDGED)
    initial = np.where(ids % 2, 5, 3)
    sessions = Sessions(ids, ids, initial, member, nothing + 1, nothing, chosen, versus)
    return sessions, kind


def test_what_follows_a_pick_is_learnt_for_each_type(reader):
    """Each type by its own people, from picks alone, for any number of slates to come."""
    sessions, _ = told()
    found = fit_prospects(sessions, reader, seed=0, progress=False)
    usual = found.mean.unflatten(0, (-1, K)).numpy()
    for n, prompt in itertools.product((1, 2, 3), (0, 1)):
        table, text = reader.column_worth.table[prompt].numpy(), reader.features[:8, 1][None, None]
        some = sessions.select(np.array([prompt]))
        got = what_follows(found, reader, some, text, [n])[0, 0].numpy() / n + usual[n - 1]
        for k in range(K):
            path = [following(np.arange(8), k, j + 1) for j in range(n)]
            # a pick of nothing in between leads anywhere: one in five of what follows later
            chance = 0.8 ** np.arange(n)
            anywhere = table[:8, k].mean()
            want = sum(
                c * table[m, k] + (1 - c) * anywhere for c, m in zip(chance, path, strict=True)
            )
            assert got[:, k] == pytest.approx(want / n, abs=0.12), (n, k)


def test_of_turns_and_sessions_each_its_own(reader):
    """Texts `[S, T, C]` in turns with 3, 1 and no slates to come."""
    sessions, _ = told(2)
    model = TextWorth(MEMBERS + 1, (TURNS - 1) * K)
    model.mean = torch.arange(8.0)
    model.requires_grad_(False)
    text = torch.rand(2, 3, 4, MEMBERS + 1)
    got = what_follows(model, reader, sessions, text, [3, 1, 0])
    prompt = reader.features[torch.as_tensor(sessions.initial), 0]
    for s, c in ((0, 0), (1, 3)):
        every = (model(prompt[s], text[s, :, c]) - model.mean).reshape(3, 4, K)
        assert torch.allclose(got[s, 0, c], 3 * every[0, 2], atol=1e-5)
        assert torch.allclose(got[s, 1, c], every[1, 0], atol=1e-5)
    assert (got[:, 2] == 0).all() and got.shape == (2, 3, 4, K)
    with pytest.raises(ValueError, match="too long"):
        what_follows(model, reader, sessions, text, [1, 0, -1])
