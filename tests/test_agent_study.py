"""The shipped results of agents: what is asked of them, and that they are what they say."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pasta_lib.agents import iql_agent
from pasta_lib.baselines import untrained
from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import bank_sessions
from pasta_lib.evaluation import Played, held_out_stage, perform, win_probability
from pasta_lib.simulator import fit_to_sessions
from pasta_lib.world import agent_study, people
from pasta_lib.world.agent_study import AGENTS_DIR
from pasta_lib.world.bank import load_bank
from pasta_lib.world.rater_files import read_turns, turns_of
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import IDEA

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "makers"))
import make_agents
from make_agents import AgentsConfig, Study, summary, what_came
from make_agents_from_few import FewConfig, StudyOfFew

POPULATIONS = (0, 1, 2)
RESULTS = {p: json.loads((AGENTS_DIR / f"results_{p}.json").read_text()) for p in POPULATIONS}
PASTA = {p: results["held_out"]["both-slate"] for p, results in RESULTS.items()}


@pytest.mark.parametrize("population", POPULATIONS)
def test_pasta_against_the_untrained_baseline(population):
    """(win - .5) / (the oracle's - .5) ≥ .60, both kinds of prompts pooled and apart."""
    for kind in ("all", "abstract", "concrete"):
        assert PASTA[population]["of_the_oracle"][kind]["value"] >= 0.6, kind
    assert PASTA[population]["of_the_oracle"]["all"]["low"] >= 0.6
    assert PASTA[population]["seeds"] == 5 and PASTA[population]["summed"]["n"] >= 1000


@pytest.mark.parametrize("population", POPULATIONS)
def test_pasta_against_those_who_know_less(population):
    against = PASTA[population]["wins_against"]
    assert against["history_baseline"]["low"] > 0.5
    assert against["greedy_one_type"]["value"] >= 0.6


@pytest.mark.parametrize("population", POPULATIONS)
def test_learning_adds_to_knowing_the_types(population):
    against = PASTA[population]["wins_against"]["greedy"]
    assert against["value"] >= 0.53 and against["low"] > 0.5


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_gap_to_the_oracle_is_closed(population):
    assert PASTA[population]["gap_closed"]["final"]["value"] >= 0.5
    assert PASTA[population]["gap_closed"]["summed"]["value"] >= 0.4


def test_the_critic_was_chosen_by_validation_people():
    validation = RESULTS[0]["validation"]
    critics = ("both-slate", "both-additive", "both-text")
    assert max(critics, key=lambda k: validation[k]["wins"]["all"]["value"]) == "both-slate"


def test_types_are_recognised_nearly_as_well_as_they_can_be():
    recognised = json.loads((AGENTS_DIR / "types_recognised.json").read_text())
    assert recognised.keys() == {"untrained", "greedy", "both/slate"}
    for by_turn in recognised.values():
        model, exact = (by_turn[who][-1]["value"] for who in ("user_model", "exact_posterior"))
        assert model >= 0.9 * exact


def test_agents_rank_alike_before_other_people():
    """Those that differ by more than training seeds do; `curious`, say, is too near to PASTA."""
    worlds = json.loads((AGENTS_DIR / "other_people.json").read_text())
    ranking = ("oracle", "both/slate", "greedy", "greedy_one_type", "history_baseline", "untrained")
    assert len(worlds) == 4
    for world in worlds.values():
        wins = [world[name]["win_rate"]["value"] for name in ranking]
        assert wins == sorted(wins, reverse=True)


def test_the_shipped_agent_earns_what_is_written():
    sight = agent_study.load_sight()
    reader = agent_study.load_reader(sight, agent_study.load_user_model(sight))
    raters = bank_sessions(turns_of(read_turns(), "train"))[0]
    fitted = fit_to_sessions(reader.column_worth, raters)  # from there, it stays
    assert float(fitted.log_tie) == pytest.approx(float(reader.column_worth.log_tie), abs=2e-3)
    assert fitted.loyalty == pytest.approx(reader.column_worth.loyalty, abs=2e-3)
    pasta = iql_agent(agent_study.load_pasta(reader), reader)
    stage = held_out_stage(people.draw_law(0), people.perceived(load_bank()), 0, 2000)
    plays = {"untrained": perform(untrained(0), stage), "both-slate": perform(pasta, stage)}
    tolerance = {"untrained": 2e-3, "both-slate": 0.03}  # of five trainings, one is shipped
    for name, play in plays.items():
        written = [turn["value"] for turn in RESULTS[0]["held_out"][name]["utility"]]
        assert play.utility.mean(0) == pytest.approx(written, abs=tolerance[name])
    wins = win_probability(plays["both-slate"], plays["untrained"], stage).mean()
    assert wins == pytest.approx(PASTA[0]["wins"]["all"]["value"], abs=0.01)


def test_a_summary_by_hand():
    """Two trainings of an agent and of a rival, ideas and things apart, against constants."""
    stage = held_out_stage(people.draw_law(0), np.zeros((9016, 4, 88), np.float32), 0, 400)
    stage.crowd.people.steadiness[:] = 2.0
    abstract = reachable()[stage.initial, IDEA] >= 0
    verdicts = np.tile([-9, 1, 1, -1, 0], (400, 1))

    def played(idea, thing):
        value = np.where(abstract, idea, thing)[:, None, None] * np.ones((1, 5, 4))
        return Played(value, verdicts)

    base = {"untrained": [played(0, 0)], "oracle": [played(2, 3)],
            "real-slate": [played(1, 1), played(0, 0.5)]}  # fmt: skip
    found = summary([played(1, 2), played(0.5, 1)], base, stage)

    def win(*gaps):
        return np.mean([1 / (1 + np.exp(-2.0 * gap)) for gap in gaps])

    share = abstract.mean()
    assert found["seeds"] == 2
    assert found["wins"]["abstract"]["value"] == pytest.approx(win(1, 0.5))
    assert found["wins"]["concrete"]["value"] == pytest.approx(win(2, 1))
    both = share * win(1, 0.5) + (1 - share) * win(2, 1)
    assert found["wins"]["all"]["value"] == pytest.approx(both)
    against = share * win(0, 0.5) + (1 - share) * win(1, 0.5)  # first meets first, second second
    assert found["wins_against"]["real-slate"]["value"] == pytest.approx(against)
    ahead = found["ahead_of"]["real-slate"]
    assert ahead["final"]["value"] == pytest.approx(share * 0.25 + (1 - share) * 0.75)
    assert ahead["summed"]["value"] == pytest.approx(5 * ahead["final"]["value"])
    for kind, mine, most in (("abstract", win(1, 0.5), win(2)), ("concrete", win(2, 1), win(3))):
        assert found["of_the_oracle"][kind]["value"] == pytest.approx((mine - 0.5) / (most - 0.5))
    gap = (share * 0.75 + (1 - share) * 1.5) / (share * 2 + (1 - share) * 3)
    assert found["gap_closed"]["final"]["value"] == pytest.approx(gap)
    assert found["versus"]["1"] == [1, 1, 0, 0] and found["versus"]["-1"] == [0, 0, 1, 0]
    oracle = summary(base["oracle"], base, stage)["wins_against"]["real-slate"]["value"]
    expected = share * win(1, 2) + (1 - share) * win(2, 2.5)  # one meets both trainings
    assert oracle == pytest.approx(expected)


def test_results_of_other_files_are_refused(tmp_path):
    study = Study(AgentsConfig(), tmp_path)
    played = {f"{where}.{what}": torch.zeros(1) for where in ("held_out", "validation")
              for what in ("value", "versus")}  # fmt: skip
    path = tmp_path / "greedy.safetensors"
    save_file(played, path, {"made": study.made("greedy")})
    study.try_out("greedy")  # is there: nothing is done
    assert list(what_came(study)) == ["greedy"]
    save_file(played, path, {"made": "otherwise"})
    for again in (lambda: study.try_out("greedy"), lambda: what_came(study)):
        with pytest.raises(BadData, match="made otherwise: remove"):
            again()


def test_a_fingerprint_holds_all_that_agents_are_made_from(tmp_path, monkeypatch):
    study = Study(AgentsConfig(), tmp_path)
    found = {study.made("both/slate/0"), study.made("both/additive/0"), study.made("greedy")}
    changes = {
        (make_agents, "spread_found"): lambda population: {"what": 0.1, "how": 0.1, "met": 0.1},
        (make_agents, "types_path"): lambda population, k: agent_study.types_path(1, k),
        (make_agents, "TextWorthConfig"): lambda: "otherwise",
        (make_agents, "TrajectoryConfig"): lambda: "otherwise",
        (make_agents, "BEHAVIOURS"): {"greedy": (None, 2.0, 11)},
        (make_agents, "USER_MODEL_DIR"): AGENTS_DIR,
        (Study, "raters_folder"): tmp_path,
    }
    (tmp_path / "sessions_0.parquet").write_bytes(b"others")
    for (where, name), other in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(where, name, other)
            found.add(Study(AgentsConfig(), tmp_path).made("greedy"))
    assert len(found) == 3 + len(changes)
    assert study.made("greedy") in found


def test_nobody_is_a_rater_and_a_simulated_user(tmp_path, monkeypatch):
    """Both are numbered from zero; together, each person's sessions are their own."""
    study = Study(AgentsConfig(), tmp_path)
    raters = study.raters.select(np.arange(9))
    study.raters, study.simulated = raters, raters.select(np.arange(3, 9))
    monkeypatch.setattr(make_agents, "expected_utility", lambda worth, sessions: sessions.chosen)
    study.reader = SimpleNamespace(column_worth=None)
    both, _ = study.data("both")
    assert (both.person[:9] == raters.person).all()
    assert not set(both.person[:9]) & set(both.person[9:])
    pairs = both.person[9:, None] == both.person[9:]
    assert (pairs == (raters.person[3:, None] == raters.person[3:])).all()
    assert (study.data("simulated")[0].person == raters.person[3:]).all()


def test_an_agent_of_few_sessions_writes_nothing_that_is_shipped(tmp_path):
    """It reads fewer people, and what it finds lies below its own folder."""
    study = StudyOfFew(FewConfig(build=str(tmp_path)), 300, 1)
    assert study.text_worth_path(8).is_relative_to(tmp_path)
    assert study.trajectories_folder.is_relative_to(tmp_path)
    assert len(study.raters.session) == 300 and len(study.people) == 100
    assert study.made("greedy") != StudyOfFew(FewConfig(build=str(tmp_path)), 300, 2).made("greedy")
