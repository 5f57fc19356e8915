"""Simulated sessions on disk: the same after an interruption, none twice, none lost."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pasta_lib.baselines import untrained
from pasta_lib.choices import BadData
from pasta_lib.sessions import begin, play
from pasta_lib.simulator import ColumnWorth, draw_users
from pasta_lib.trajectories import TrajectoryConfig, read_trajectories, write_trajectories
from pasta_lib.world.reachable import reachable

CONFIG = TrajectoryConfig(sessions=230, shard=50, seed=3, model="miniature")
INITIAL = np.array([4, 90, 700])


@pytest.fixture(scope="module")
def users():
    g = torch.Generator().manual_seed(0)
    row = np.full(len(reachable()), -1)
    row[INITIAL] = np.arange(3)
    table = torch.randn(3, len(reachable()), 2, generator=g)
    log_prior = torch.tensor([0.6, 0.4]).double().log()
    return draw_users(ColumnWorth(table, row, log_prior, torch.tensor(0.0)), 230, CONFIG.seed)


STARTS = INITIAL[np.arange(230) % 3]
AGENTS = {"untrained": untrained(1), "another": untrained(2)}


def contents(folder):
    return {p.name: pq.read_table(p).to_pylist() for p in sorted(folder.glob("*.parquet"))}


def test_an_interrupted_simulation_goes_on_to_the_same_files(users, tmp_path):
    write_trajectories(tmp_path / "whole", users, AGENTS, STARTS, CONFIG, progress=False)
    calls = []

    def interrupted(sessions, candidates):
        calls.append(len(sessions.session))
        if len(calls) == 8:  # in the middle of the second of its shards
            raise KeyboardInterrupt
        return AGENTS["another"](sessions, candidates)

    broken = AGENTS | {"another": interrupted}
    with pytest.raises(KeyboardInterrupt):
        write_trajectories(tmp_path / "parts", users, broken, STARTS, CONFIG, progress=False)
    with pytest.raises(BadData, match="3 of 5 shards"):
        read_trajectories(tmp_path / "parts")
    write_trajectories(tmp_path / "parts", users, AGENTS, STARTS, CONFIG, progress=False)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    ids = [row["session_id"] for rows in contents(tmp_path / "parts").values() for row in rows]
    assert len(ids) == 230 * 5 and len(set(ids)) == 230


def test_other_users_are_not_mixed_in(users, tmp_path):
    far = replace(users, own=torch.randn(230, 2), shown=torch.rand(len(users.worth.row), 2))
    write_trajectories(tmp_path, far, AGENTS, STARTS, CONFIG, progress=False)
    others = (users, replace(far, own=1.1 * far.own), replace(far, shown=far.shown.flip(0)),
              replace(far, kind=1 - far.kind), replace(far, seed=4),
              replace(far, worth=replace(far.worth, loyalty=0.1)))  # fmt: skip
    for other in others:
        with pytest.raises(BadData, match="made with other users"):
            write_trajectories(tmp_path, other, AGENTS, STARTS, CONFIG, progress=False)
    write_trajectories(tmp_path / "plain", users, AGENTS, STARTS, CONFIG, progress=False)
    assert contents(tmp_path) != contents(tmp_path / "plain")


def test_what_is_read_is_what_was_played(users, tmp_path):
    write_trajectories(tmp_path, users, AGENTS, STARTS, CONFIG, progress=False)
    back = read_trajectories(tmp_path)
    number = np.arange(230)
    for name, turn in (("untrained", 0), ("another", 1)):
        mine = number // 50 % 2 == turn
        start = begin(number[mine], number[mine], STARTS[number[mine]])
        played = play(start, AGENTS[name], users, CONFIG.seed)
        for part in ("initial", "member", "wording", "category", "chosen", "versus_last"):
            assert (getattr(back, part)[mine] == getattr(played, part)).all(), part
    first = contents(tmp_path)["trajectories-00001.parquet"][0]
    assert (first["source"], first["agent"], first["session_id"]) == (
        "simulated", "another", "s0-50")  # fmt: skip


def test_other_settings_are_not_mixed_in(users, tmp_path):
    write_trajectories(tmp_path, users, AGENTS, STARTS, CONFIG, progress=False)
    for other in (replace(CONFIG, seed=4), replace(CONFIG, made="of other texts")):
        with pytest.raises(BadData, match=r"other (seed|made)"):
            write_trajectories(tmp_path, users, AGENTS, STARTS, other)
    assert "nobody was asked" in json.loads((tmp_path / "card.json").read_text())["source"]
