"""Simulated sessions: how long they take, and whether that grows with their number.

    python tests/benchmarks/bench_simulator.py [--sessions 30000]

Five turns, 25 candidates, K = 8, the untrained agent, bank scores, nothing written. Prints; asserts
nothing.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from pasta_lib.baselines import untrained
from pasta_lib.sessions import begin, play
from pasta_lib.simulator import draw_users
from pasta_lib.world.agent_study import (
    load_sight,
    load_user_model,
    training_prompts,
    worth_of_columns,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=30_000)
    most = parser.parse_args().sessions
    start = time.perf_counter()
    sight = load_sight()
    print(f"texts read, bank opened: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    worth = worth_of_columns(sight, load_user_model(sight), progress=False)
    print(f"worth of {worth.table.shape[0]} x {worth.table.shape[1]} columns to "
          f"{worth.n_types} types: {time.perf_counter() - start:.1f} s")  # fmt: skip
    seconds = []
    for n in (most // 10, most):
        number = np.arange(n)
        users = draw_users(worth, n, 0)
        sessions = begin(number, number, training_prompts(n, 0))
        start = time.perf_counter()
        play(sessions, untrained(0), users, 0)
        seconds.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{n:8,} sessions: {seconds[-1]:6.2f} s, peak memory so far {memory:,.0f} MB")
    print(f"ten times the sessions took {seconds[1] / seconds[0]:.1f} times as long")


if __name__ == "__main__":
    main()
