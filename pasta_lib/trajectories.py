"""Trajectories of simulated users on disk: shards of sessions, in the schema of the raters'.

A shard is one agent's, agents taking turns; what a session holds hangs on its number, the seed and
the agent. Each shard is written whole or not at all, so an interrupted run goes on with the next
one: no session twice, none lost. A card beside them says how they were made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import bank_sessions, read_sessions, session_table
from pasta_lib.sessions import Agent, Sessions, begin, joined, play
from pasta_lib.simulator import SimulatedUsers
from pasta_lib.world.rater_files import whole
from pasta_lib.world.weights import write_atomically

CARD = "card.json"


@dataclass(frozen=True)
class TrajectoryConfig:
    """What is simulated. Each simulated person sits in one session. `made` names all that agents
    are made from, if that may change while their names stay."""

    sessions: int = 60_000
    shard: int = 5_000  # sessions a file
    seed: int = 0
    population: str = "0"  # whose user model it is; begins the names of sessions
    model: str = ""  # generator and encoder, as the raters' files name them
    made: str = ""


def write_trajectories(
    folder: str | Path,
    users: SimulatedUsers,
    agents: dict[str, Agent],
    initial: np.ndarray,
    config: TrajectoryConfig = TrajectoryConfig(),
    *,
    progress: bool = True,
) -> None:
    """Play sessions of simulated users and write them to `folder`, or go on where that stopped.

    `users`: as many as sessions; `agents` by name; `initial` `[sessions]`, the members from which
    they begin. Raises `BadData` where `folder` holds trajectories that were made otherwise.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = dataclasses.asdict(config) | {
        "agents": list(agents),
        "source": "simulated: the user model plays people; nobody was asked",
        "users and prompts": _digest(users, initial),
    }
    path = folder / CARD
    if path.exists() and (found := json.loads(path.read_text())) != card:
        changed = [k for k in card if found.get(k) != card[k]]
        raise BadData(
            f"{folder} holds trajectories that were made with other {', '.join(changed)}: remove "
            "it, or write to another folder."
        )
    if not path.exists():
        write_atomically(path, json.dumps(card, indent=1).encode() + b"\n")
    starts = range(0, config.sessions, config.shard)
    for i, start in enumerate(tqdm(starts, disable=not progress, unit="shard")):
        shard = folder / f"trajectories-{i:05}.parquet"
        if shard.exists():
            continue
        name = list(agents)[i % len(agents)]
        number = np.arange(start, min(start + config.shard, config.sessions))
        sessions = begin(number, number, initial[number])
        sessions = play(sessions, agents[name], users, config.seed)
        table = session_table(
            sessions, source="simulated", agent=name, population=f"s{config.population}",
            model=config.model, began="2026-03-01",
        )  # fmt: skip
        part = shard.with_suffix(f".{os.getpid()}.part")  # several processes may be at it
        pq.write_table(table, part, compression="zstd")
        part.replace(shard)


def read_trajectories(folder: str | Path) -> Sessions:
    """All of a folder's sessions, one person each. Raises `BadData` if shards are missing."""
    folder = Path(folder)
    card = json.loads((folder / CARD).read_text())
    paths = sorted(folder.glob("trajectories-*.parquet"))
    expected = -(-card["sessions"] // card["shard"])
    if len(paths) != expected:
        raise BadData(
            f"{folder} has {len(paths)} of {expected} shards: run what writes it again, it goes on."
        )
    sessions = joined([bank_sessions(whole(read_sessions, path))[0] for path in paths])
    number = np.arange(len(sessions.session))
    if len(number) != card["sessions"]:
        raise BadData(f"{folder} has {len(number)} whole sessions of {card['sessions']}.")
    return dataclasses.replace(sessions, session=number, person=number)


def _digest(users: SimulatedUsers, initial: np.ndarray) -> str:
    """Of where simulated users begin, who they are, and how they choose."""
    worth = users.worth
    numbers = f"{worth.loyalty:.6f} {float(worth.log_tie):.6f} {users.seed}"
    digest = hashlib.sha256(numbers.encode())
    deviations = () if users.own is None else (users.own.numpy(), users.shown.numpy())
    for part in (worth.table.numpy(), worth.row, users.kind, initial, *deviations):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
