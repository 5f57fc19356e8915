"""The maker of the ceiling: pairs and rankings by brute force, chunks, and what was shipped."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from pasta_lib.world import best_possible as best
from pasta_lib.world import people, raters
from pasta_lib.world.bank import load_bank, rows_of
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.people import picture_values
from pasta_lib.world.rater_files import RATERS_DIR, read_pairs, read_rankings
from pasta_lib.world.reachable import reachable

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "makers"))
import make_best_possible as maker


@pytest.fixture(scope="module")
def world():
    law = people.draw_law(0)
    x = people.perceived(load_bank()).reshape(-1, people.WIDTH)
    return law, people.draw_population(law, raters.PEOPLE, 0), x


def own_values(world, who, prompt, names):
    _, population, x = world
    asked_for = reachable()[[bank_prompts().index(prompt)]]
    return picture_values(population, np.array([who]), x[rows_of(names)][None], asked_for)[0]


def test_who_knows_a_person_judges_pairs_as_they_do(world):
    law, population, x = world
    ids, rows = np.array(["3200", "3456"], object), read_pairs("test")
    pairs = maker.shown_pairs(rows, ids, law, x)
    p = maker.judged_pairs(law, maker.secret_particles(population, ids, law), pairs)
    assert (pairs.row >= 0).sum() == 48
    for u, person in enumerate(ids.astype(int)):
        for r in range(24):
            n = int(pairs.row[u, r])
            assert rows.person[n] == str(person)
            a, b = own_values(world, person, rows.prompt[n], rows.images[n, :, 0])
            steady, near = population.steadiness[person], population.indifference[person]
            second, first = (expit(steady * (gap - near)) for gap in (b - a, a - b))
            want = [first, 1 - first - second, second]
            assert p[u, r].numpy() == pytest.approx(want, abs=3e-3)
            assert pairs.told[u, r].tolist() == rows.target[n].tolist()


def test_who_knows_a_person_expects_their_ranks(world):
    law, population, x = world
    rankings = read_rankings()
    ids = np.array(["3300"], object)
    ranked = maker.shown_rankings(rankings, ids, law, x)
    ranks = maker.expected_ranks(law, maker.secret_particles(population, ids, law), ranked)
    n = int(ranked.row[0, 0])
    v = own_values(world, 3300, rankings.prompt[n], rankings.images[n])
    steady = population.steadiness[3300]
    want = [1 + sum(expit(steady * (v[j] - v[i])) for j in range(5) if j != i) for i in range(5)]
    assert ranks[0, 0].numpy() == pytest.approx(want, abs=5e-3)
    mine = list(rankings.person[n]).index("3300")
    assert ranked.told[0, 0].tolist() == rankings.ranks[n, mine].tolist()


def test_chunks_are_made_once_and_make_no_difference(world, tmp_path, monkeypatch):
    law, population, x = world
    config = maker.BestConfig(particles=20, moves=1, chunk=2, people=4, build=str(tmp_path))
    answers, ids = best.answers_of(maker.test_turns(config, population, x), law, x)
    assert len(ids) == 4
    whole = maker.predicted(config, law, answers, None, None, 0)
    files = sorted((tmp_path / "0").iterdir())
    assert len(files) == 2
    files[1].unlink()
    again = maker.predicted(config, law, answers, None, None, 0)
    assert torch.equal(again["pick"], whole["pick"])

    def no(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(best, "predict", no)
    assert torch.equal(maker.predicted(config, law, answers, None, None, 0)["pick"], whole["pick"])
    assert torch.allclose(whole["pick"].sum(2), torch.ones(whole["pick"].shape[:2]), atol=1e-5)


def test_what_is_shipped_is_sane():
    """Whoever knows a person does better than who has their answers, who does better than chance;
    and the Monte Carlo error is as small as promised."""
    shipped = json.loads((RATERS_DIR / "best_possible.json").read_text())
    assert set(shipped) == {"0", "1", "2"}
    for each in shipped.values():
        same, secret = each["same_information"], each["secret_taste"]
        assert same["monte_carlo_se"] <= 0.002
        names = ["choice_accuracy", "cross_turn_accuracy"]
        for name in [*names, "pickapic_accuracy", "hps_spearman"]:
            if name in same:
                assert same[name]["value"] < secret[name]["value"]
        assert 0.25 < same["choice_accuracy"]["value"] < 0.7
        assert 0.68 <= secret["choice_accuracy"]["value"] <= 0.72
        after = list(same["adjusted_rand_index_after"].values())
        assert after[0] < 0.2 and after[-1] > 0.9 and (np.diff(after) > -0.02).all()
    assert pd.notna(shipped["0"]["same_information"]["hps_spearman"]["value"])
