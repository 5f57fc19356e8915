"""The user model on CLIP's vectors: zero-shot at the start, ties, ratings, and planted types."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.clip_utility import ClipUtility, fit_clip_types, fit_common, revealed
from pasta_lib.concepts import called_for
from pasta_lib.em import EMConfig, fit_user_types
from pasta_lib.em_steps import cut
from pasta_lib.panel import Panel
from pasta_lib.user_model import (
    choice_log_probabilities,
    column_utility,
    parameter_vector,
    rating_log_likelihood,
    share_of_items,
    stacked,
)
from pasta_lib.user_types import UserTypes, load_types, save_types

D, C = 6, 5  # CLIP's numbers, concepts; prompts call for all but the last
USUAL = torch.tensor([0.2, 0.5, 0.1, 0.3, 0.4])
PAIRS = torch.tensor([[0, 0, 3], [1, 4, 2]])


def unit(generator, *shape):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def pictures(generator, *shape):
    """CLIP's vector and probabilities."""
    return torch.cat([unit(generator, *shape, D), torch.rand(*shape, C, generator=generator)], -1)


def untrained(n_types, scale=20.0):
    return ClipUtility(D, USUAL, USUAL[:-1], n_types, scale, PAIRS)


def prompts(generator, *shape):
    return pictures(generator, *shape)[..., :-1]


def some_data(seed=0, n=40, columns=3, images=2, people=8, **kwargs):
    g = torch.Generator().manual_seed(seed)
    arrays = {
        "items": torch.randint(30, (n, columns, images), generator=g),
        "table": pictures(g, 30),
        "context": torch.randint(5, (n,), generator=g),
        "context_table": prompts(g, 5),
        "person": torch.randint(people, (n,), generator=g).numpy(),
        "target": torch.randint(columns, (n,), generator=g),
    }
    return ChoiceData.from_arrays(**arrays | kwargs)


def shaken(n_types=3, seed=1):
    model = untrained(n_types)
    with torch.no_grad():
        g = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model


def types_of(model, data, k):
    return UserTypes.of(model, torch.full((k,), 1 / k).log(), data, None)


@pytest.mark.parametrize("images", [1, 2])
def test_untrained_it_is_zero_shot_clip(images):
    data = some_data(images=images)
    types = types_of(untrained(3), data, 3)
    image, text = data.features()[..., :D], data.context_table[data.context, :D]
    cosine = torch.einsum("nlmd,nd->nlm", image, text)
    want = (20 * cosine.mean(2)).softmax(1)
    assert torch.allclose(types.predict(data), want.double(), atol=1e-5)


def test_a_score_is_the_equation():
    model = shaken()
    g = torch.Generator().manual_seed(2)
    image, text = pictures(g, 3, 5, 2), prompts(g, 5, 1)
    got, met = model(image, text), model.meets(image, text)
    deviation = lambda p: 3 * (p * (1 - p)) ** 0.5  # noqa: E731
    for at in np.ndindex(3, 5, 2):
        i, shown = image[at][:D], image[at][D:]
        t, asked = text[at[1], 0, :D], text[at[1], 0, D:]
        c = shown / deviation(USUAL)
        more = [max(0.0, (p - u).item()) for p, u in zip(asked, USUAL, strict=False)]
        q = torch.tensor(
            [m / p.item() / max(0.3, sum(more)) for m, p in zip(more, asked, strict=True)]
        )
        for k in range(3):
            asking = model.scale() * (i @ t) + model.insists[k] @ (c[:-1] * q)
            want = asking + model.likes[k] @ c
            for pair, (v, w) in enumerate(PAIRS.T.tolist()):
                unit = deviation(USUAL[v] * USUAL[w])
                want = want + model.likes_together[k, pair] * shown[v] * shown[w] / unit
            assert got[at][k].item() == pytest.approx(want.item(), abs=1e-4)
            assert met[at][k].item() == pytest.approx(asking.item(), abs=1e-4)
    assert model.scale().item() != pytest.approx(20.0)


def test_a_prompt_that_asks_for_nothing_leaves_all_as_it_is():
    model = shaken()
    g = torch.Generator().manual_seed(2)
    image, text = pictures(g, 3, 5, 2), prompts(g, 5, 1)
    text[..., D:] = USUAL[:-1] * torch.tensor([0.0, 0.1, 1.0, 0.9])
    with torch.no_grad():
        before = model(image, text)
        model.insists.add_(1.0)
    assert torch.equal(model(image, text), before)


def test_a_picture_just_like_the_prompt_meets_all_of_it():
    """Of a prompt that names two things, and of one that may be either of four."""
    usual = torch.full((8,), 0.05)
    named = torch.tensor([1.0, 1.0] + 6 * [0.05])
    idea = torch.tensor(4 * [0.25] + 4 * [0.05])
    for asked in (named, idea):
        q = called_for(asked, usual)
        assert (asked * q).sum().item() == pytest.approx(1)
        assert (q > 0).tolist() == (asked > 0.05).tolist()
    assert called_for(named, usual)[:2].tolist() == pytest.approx([0.5, 0.5])
    assert called_for(idea, usual)[:4].tolist() == pytest.approx([1.0] * 4)
    assert called_for(usual * 1.01, usual).max() < 0.05  # next to nothing is no wish


def test_types_that_begin_alike():
    one = shaken(1)
    three = one.repeated(3)
    g = torch.Generator().manual_seed(2)
    image, text = pictures(g, 3, 5, 2), prompts(g, 5, 1)
    assert torch.allclose(three(image, text), one(image, text).expand(3, 5, 2, 3), atol=1e-6)
    assert torch.equal(three.log_tie, one.log_tie)


def test_copies_in_a_batch_are_as_if_alone():
    model, other = shaken(seed=1), shaken(seed=2)
    g = torch.Generator().manual_seed(2)
    image, text = pictures(g, 3, 5, 2), prompts(g, 5, 1)
    rows = torch.stack([parameter_vector(m) for m in (model, other)])
    got = stacked(model)(rows, image, text)
    for r, m in enumerate((model, other)):
        assert torch.allclose(got[..., r, :], m(image, text), atol=1e-5)


def test_a_tie_is_davidsons_by_hand():
    utility = torch.tensor([[[1.0], [2.0]], [[0.0], [2.0]]])  # [L, B, K]
    p = choice_log_probabilities(utility, torch.tensor(math.log(0.5))).exp()
    a, b, nu = math.e, 1.0, 0.5
    whole = a + b + nu * (a * b) ** 0.5
    want = [a / whole, b / whole, nu * (a * b) ** 0.5 / whole]
    assert p[:, 0, 0].tolist() == pytest.approx(want)
    assert p[:, 1, 0].tolist() == pytest.approx([0.4, 0.4, 0.2])


def test_a_rating_is_a_gaussian_by_scipy():
    utility = torch.tensor([[[0.5, -1.0], [2.0, 0.0]]])
    terms, rating = torch.tensor([0.2, math.log(2.0), math.log(1.5)]), torch.tensor([1.0, -3.0])
    got = rating_log_likelihood(utility, rating, terms)
    want = norm.logpdf(rating[:, None], 0.2 + 2 * utility[0], 1.5)
    assert got.numpy() == pytest.approx(want, abs=1e-5)
    both = rating_log_likelihood(utility[:, :, None], rating, torch.stack([terms, terms + 1]))
    assert both.shape == (2, 2, 2) and torch.allclose(both[:, 0], got)
    assert not torch.allclose(both[:, 1], got)


def a_panel():
    judged = some_data(1, columns=2, people=5, target=np.tile([[1.0, 0], [0, 0]], (20, 1)),
                       tie=np.tile([0.0, 1.0], 20))  # fmt: skip
    rated = some_data(2, columns=1, images=1, people=9, target=None, rating=np.linspace(-1, 1, 40))
    return Panel.of(some_data(0, people=7), judged, rated)


def test_a_persons_likelihood_is_that_of_all_they_did():
    panel = a_panel()
    types = types_of(shaken(), panel, 3)
    assert panel.n_people == 9 and panel.n_observations == 120
    total = np.zeros((9, 3))
    for part in panel.parts:
        each = types.observation_log_likelihood(part).numpy()
        for row, person in zip(each, part.person_ids[part.person], strict=True):
            total[list(panel.person_ids).index(person)] += row
    want = total - np.log(3)
    evidence = np.logaddexp.reduce(want, axis=1)
    assert types.person_log_likelihood(panel).numpy() == pytest.approx(evidence)
    assert types.posterior(panel).numpy() == pytest.approx(np.exp(want - evidence[:, None]))
    again = Panel.of(*reversed(panel.parts))  # the order of the parts does not matter
    order = [list(again.person_ids).index(p) for p in panel.person_ids]
    assert torch.allclose(types.posterior(again)[order], types.posterior(panel))
    some = panel.select_people([1, 4, 8])
    assert some.person_ids.tolist() == panel.person_ids[[1, 4, 8]].tolist()
    assert torch.allclose(types.posterior(some), types.posterior(panel)[[1, 4, 8]])


def test_blocks_of_a_panel_hold_everybody_once():
    panel = a_panel()
    cuts = list(panel.blocks(15))
    assert len(cuts) > 3
    for i, part in enumerate(panel.parts):
        rows = [n for all_rows, _ in cuts for n in range(*all_rows[i].indices(10**6))]
        assert rows == list(range(part.n_observations))
    for rows, people in cuts:
        for part, here in zip(panel.parts, rows, strict=True):
            assert ((part.person[here] >= people.start) & (part.person[here] < people.stop)).all()


CONFIG = EMConfig(wave=1, min_waves=1, max_waves=2, confirmations=1, max_passes=200,
                  tolerance=1e-4, accelerate=False, learning_rate=0.02, batch=500)  # fmt: skip


def planted(n_people=120, each=20, seed=0, best=False):
    """Two types: one likes what shows the first concept, the other what does not; both want to see
    the second where it was asked for. A column is worth its mean picture, or its best."""
    g = torch.Generator().manual_seed(seed)
    table, context = pictures(g, 200), prompts(g, 12)
    person = np.repeat(np.arange(n_people), each)
    kind = np.arange(n_people) % 2
    items = torch.randint(200, (len(person), 4, 2), generator=g)
    row = torch.randint(12, (len(person),), generator=g)
    shown, asked = table[items], context[row]
    utility = 4 * torch.einsum("nlmd,nd->nlm", shown[..., :D], asked[:, :D])
    liked = torch.tensor([4.0, -4.0])[kind[person]]
    utility = utility + liked[:, None, None] * shown[..., D]
    wanted = called_for(asked[:, D:], USUAL[:-1])[:, 1]
    utility = utility + 6 * shown[..., D + 1] * wanted[:, None, None]
    utility = utility.amax(2) if best else utility.mean(2)
    gumbel = -torch.log(-torch.log(torch.rand(utility.shape, generator=g)))
    data = ChoiceData.from_arrays(items=items, table=table, context=row, context_table=context,
                                  person=person, target=(utility + gumbel).argmax(1))  # fmt: skip
    return data, kind, utility


def mean_log(p, data):
    return p[torch.arange(len(p)), data.target.argmax(1)].log().mean()


def test_em_finds_planted_types_and_their_tastes():
    data, kind, _ = planted()
    types = fit_user_types(data, untrained(2, 4.0), 2, seed=0, config=CONFIG, progress=False)
    found = types.posterior(data).argmax(1).numpy() == kind
    assert max(found.mean(), 1 - found.mean()) > 0.97
    fresh, _, truth = planted(seed=1)
    gamma = torch.nn.functional.one_hot(torch.as_tensor(kind), 2).double()
    p = types.predict(fresh, gamma if found.mean() > 0.5 else gamma.flip(1))
    assert mean_log(p, fresh) == pytest.approx(float(mean_log(truth.softmax(1), fresh)), abs=0.03)
    zero_shot = types_of(untrained(2, 4.0), fresh, 2).predict(fresh)
    assert mean_log(zero_shot, fresh) < mean_log(truth.softmax(1), fresh) - 0.1
    with torch.no_grad():  # what showing the first concept adds, to each type
        both = torch.zeros(2, D + C)
        both[:, D:] = 0.5  # beside what else pictures show
        both[:, D] = torch.tensor([0.0, 1.0])
        nothing, it = types.utility(both, fresh.context_table[:1])
    assert sorted((it - nothing).tolist()) == pytest.approx([-4, 4], abs=0.6)


def test_types_are_found_from_what_all_have_in_common():
    data, kind, _ = planted()
    common = fit_common(data, untrained(1, 4.0), seed=0, progress=False)
    one = fit_clip_types(data, common, 1, seed=0, progress=False)
    config = replace(CONFIG, max_passes=60)
    two = fit_clip_types(data, common, 2, seed=0, config=config, progress=False)
    assert one.n_types == 1 and two.log_likelihood > one.log_likelihood + 100
    found = (two.posterior(data).argmax(1).numpy() == kind).mean()
    assert max(found, 1 - found) > 0.95


def test_what_people_revealed_is_the_gradient_of_their_tastes():
    """Of the log-likelihood in a_k, person by person, where nothing else has a say."""
    panel = a_panel()
    model = untrained(1)
    with torch.no_grad():
        model.tenth_log_scale.fill_(-10.0)
        model.log_tie.fill_(-50.0)  # a tie that nobody expects says nothing
    for u in range(panel.n_people):
        parts = [p for p in panel.select_people([u]).parts if p.n_observations and p.rating is None]
        model.zero_grad()
        total = 0 * model.likes.sum()
        for part in parts:
            block = cut(part, slice(0, part.n_observations), slice(0, part.n_people))
            utility = block.utility(model, dict(model.named_parameters()))
            vote = block.share[: len(utility)]
            total = total + (vote * utility[..., 0].log_softmax(0)).sum()
        total.backward()
        got = revealed(panel, model)[u]
        assert torch.allclose(got, model.likes.grad[0], atol=1e-4)


def test_types_are_read_back_as_they_were_written(tmp_path):
    data, path = some_data(), tmp_path / "types.safetensors"
    types = types_of(shaken(), data, 3)
    save_types(types, path)
    again = load_types(path, untrained(3))
    assert torch.equal(again.predict(data), types.predict(data))
    assert again.log_likelihood == types.log_likelihood and again.n_people == types.n_people
    with pytest.raises(BadData, match="no types of this utility"):
        load_types(path, untrained(2))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadData, match="no types of this utility"):
        load_types(path, untrained(3))


def test_what_came_before_is_all_that_is_known():
    """Against a loop over observations; times are shuffled between the parts."""
    picks, judged = some_data(0, people=4), some_data(1, columns=2, people=4)
    rng = np.random.default_rng(0)
    when = rng.permutation(80)
    times = []
    for part, of in ((picks, when[:40]), (judged, when[40:])):
        times.append(np.concatenate([np.sort(of[part.person == u]) for u in range(part.n_people)]))
    types = types_of(shaken(), picks, 3)
    got = types.posterior_before([picks, judged], times)
    each = [types.observation_log_likelihood(part) for part in (picks, judged)]
    for p, part in enumerate((picks, judged)):
        for n in range(40):
            total = types.log_prior.clone()
            for q, other in enumerate((picks, judged)):
                same = other.person_ids[other.person] == part.person_ids[part.person[n]]
                earlier = torch.as_tensor(same & (times[q] < times[p][n]))
                total = total + each[q][earlier].sum(0)
            assert torch.allclose(got[p][n], total.softmax(0), atol=1e-6)
    known = types.predict_each(picks, got[0])
    log_p = types.log_probabilities(picks).double().exp()
    assert torch.allclose(known, (got[0][:, None] * log_p).sum(2), atol=1e-9)


def test_a_fit_goes_on_from_its_checkpoint(tmp_path):
    panel, path = a_panel(), tmp_path / "fit.safetensors"
    short = EMConfig(**vars(CONFIG) | {"max_passes": 6, "max_waves": 1})

    def fit(checkpoint=None):
        with pytest.warns(UserWarning, match="before it came to rest"):
            return fit_user_types(panel, untrained(2, 10.0), 2, seed=0, config=short,
                                  checkpoint=checkpoint, progress=False)  # fmt: skip

    whole = fit(path)
    with pytest.raises(BadData, match="another fit"):
        fit_user_types(a_panel().select_people(range(5)), untrained(2, 10.0), 2,
                       seed=0, config=short, checkpoint=path, progress=False)  # fmt: skip
    assert torch.equal(fit(path).posterior(panel), whole.posterior(panel))
    assert torch.equal(fit().posterior(panel), whole.posterior(panel))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rating": np.zeros(40)}, "either `target` or `rating`"),
        (
            {"target": None, "rating": np.full(40, np.nan), "columns": 1},
            "a rating that is no number",
        ),
        ({"target": None, "rating": np.zeros(40)}, "a rating of other than one"),
        ({"tie": np.full(40, 0.5)}, "does not sum to 1"),
        ({"tie": np.zeros(39)}, r"`tie` must be \[40\]"),
        ({"context": np.full(40, 5)}, "a context outside its table"),
        ({"context_table": None}, "together with the `context_table`"),
    ],
)
def test_data_that_are_refused(change, message):
    with pytest.raises(BadData, match=message):
        some_data(**change)


def test_a_column_is_the_mean_of_its_best_pictures():
    scores = torch.tensor([1.0, 9, 2, 5, 99]).reshape(1, 1, 5, 1)
    mask = torch.tensor([[[True, True, True, True, False]]])
    worth = lambda *share: column_utility(scores, mask, *share).item()  # noqa: E731
    assert worth() == worth(torch.tensor(1.0)) == 4.25
    assert worth(torch.tensor(1 / 3)) == pytest.approx(7)  # the two best
    assert worth(torch.tensor(0.5)) == pytest.approx((9 + 5 + 0.5 * 2) / 2.5)
    assert worth(torch.tensor(1e-6)) == pytest.approx(9, abs=1e-4)
    alike = column_utility(torch.full((1, 1, 3, 1), 2.0), mask[..., :3], torch.tensor(0.4))
    assert alike.item() == pytest.approx(2)  # of equals the first counts


def test_a_column_by_sorting():
    """Against numpy, with columns of one to four pictures, whatever the absent ones are worth."""
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(3, 50, 4, 2)), 1)  # with ties
    mask = np.arange(4) < rng.integers(1, 5, size=(3, 50, 1))
    for share in (0.01, 0.2, 1 / 3, 0.7, 1.0):
        there = torch.as_tensor(mask)
        junk = torch.as_tensor(scores).where(there[..., None], 1e30)
        got = column_utility(junk, there, torch.tensor(share, dtype=torch.float64))
        for at in np.ndindex(3, 50, 2):
            some = np.sort(scores[at[0], at[1], mask[at[:2]], at[2]])[::-1]
            count = 1 + share * (len(some) - 1)
            weight = np.clip(count - np.arange(len(some)), 0, 1) / count
            assert got[at].item() == pytest.approx(weight @ some)


def test_a_share_for_each_restart_and_no_nan():
    """A column that is not there is worth -inf, and teaches nothing."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 2, 2, 5, generator=g, requires_grad=True)  # [L, B, M, R, K]
    mask = torch.ones(3, 4, 2, dtype=torch.bool)
    mask[2, 1], mask[0, 0, 1] = False, False
    share = torch.tensor([[0.5], [0.1]])
    got = column_utility(scores, mask, share)
    for r in range(2):
        alone = column_utility(scores[..., r, :], mask, share[r, 0])
        assert torch.allclose(got[..., r, :], alone, atol=1e-6)
    assert got[2, 1].isneginf().all() and got[0, 0].tolist() == scores[0, 0, 0].tolist()
    got.softmax(0).square().sum().backward()
    assert scores.grad.isfinite().all() and (scores.grad[2, 1] == 0).all()


def test_em_learns_how_much_the_best_picture_counts():
    """Columns that are worth their best picture, against those that are worth the mean."""
    share = {}
    for best in (True, False):
        data, _, _ = planted(best=best)
        types = fit_user_types(data, untrained(2, 4.0), 2, seed=0, config=CONFIG, progress=False)
        share[best] = share_of_items(types.utility.tenth_log_share).item()
    assert share[True] < 0.2 and share[False] > 0.7
