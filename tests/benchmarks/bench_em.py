"""EM against a plain NumPy EM, side by side; and how time and memory grow with the data.

    python tests/benchmarks/bench_em.py [--seeds 10] [--largest 1000000]

Both stop the clock the moment their best log-likelihood reaches the golden value less 1e-3. NumPy
starts again and again, one random start after another; the library runs with its default settings.
Seeds alternate between the two, so that a busy machine slows both. Prints; asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy_em import NumpyEM

import pasta_lib.em as em
from pasta_lib.choices import ChoiceData
from pasta_lib.datasets.electricity import read_electricity
from pasta_lib.em_steps import NewtonStep
from pasta_lib.user_model import LinearUtility

GOLDEN = {5: -4028.3617, 8: -3839.3558}
PANEL = Path(__file__).parents[2] / "data" / "electricity.csv.gz"


def numpy_seconds(data: ChoiceData, n_types: int, seed: int, newton_steps: int):
    """(seconds to golden, starts)."""
    rng, goal = np.random.default_rng(seed), GOLDEN[n_types] - 1e-3
    start, starts, reached = time.perf_counter(), 0, -np.inf
    plain = NumpyEM(*_arrays(data))
    while reached < goal:
        reached, _ = plain.run(n_types, rng, goal, newton_steps)
        starts += 1
    return time.perf_counter() - start, starts


def library_seconds(
    data: ChoiceData, n_types: int, seed: int, config: em.EMConfig
) -> tuple[float, float]:
    """(seconds to golden, seconds until the whole search has ended)."""
    goal, start, reached = GOLDEN[n_types] - 1e-3, time.perf_counter(), []

    def watch(bar, search):
        if not reached and float(search["log_likelihood"].max()) >= goal:
            reached.append(time.perf_counter() - start)

    shown, em._show = em._show, watch
    try:
        utility = LinearUtility(6, n_types)
        em.fit_user_types(data, utility, n_types, seed=seed, config=config, progress=False)
    finally:
        em._show = shown
    return reached[0] if reached else float("inf"), time.perf_counter() - start


def time_to_golden(data: ChoiceData, seeds: int) -> None:
    threads = torch.get_num_threads()
    print(f"Seconds to the golden log-likelihood, {seeds} seeds, {threads} threads: median (mean)")
    for k in GOLDEN:
        textbook, one_step, library, plain = [], [], [], []
        for seed in range(seeds):
            textbook.append(numpy_seconds(data, k, seed, newton_steps=10))
            one_step.append(numpy_seconds(data, k, seed, newton_steps=1))
            library.append(library_seconds(data, k, seed, em.EMConfig()))
            plain.append(library_seconds(data, k, seed, em.EMConfig(accelerate=False)))
        ours = [first for first, _ in library]
        print(f"  K = {k}: library {_summary(ours)}, of {_summary(all_ for _, all_ in library)}")
        slow = [first for first, _ in plain]
        print(f"    without SQUAREM: {_summary(slow)}, of {_summary(all_ for _, all_ in plain)}")
        for name, runs in (("textbook M-step", textbook), ("one Newton step", one_step)):
            seconds, starts = zip(*runs, strict=True)
            ratio = statistics.median(seconds) / statistics.median(ours)
            of_means = np.mean(seconds) / np.mean(ours)
            print(
                f"    NumPy, {name}: {_summary(seconds)}, 1 start in {np.mean(starts):.1f} reaches "
                f"it; {ratio:.1f} ({of_means:.1f}) times the library's",
                flush=True,
            )


def _summary(seconds) -> str:
    seconds = list(seconds)
    return f"{statistics.median(seconds):.2f} ({np.mean(seconds):.2f}) s"


def time_of_a_pass(data: ChoiceData) -> None:
    print("Milliseconds for one EM pass of one restart (median of 15, taken in turns)")
    plain = NumpyEM(*_arrays(data))
    for k in GOLDEN:
        print(f"  K = {k}:", end="")
        rng = np.random.default_rng(0)
        for restarts in (1, 4, 16, 64):
            step = NewtonStep(data, k, 1e-8)
            member = torch.as_tensor(np.eye(k)[rng.integers(k, size=(data.n_people, restarts))])
            state = step.start(member)
            weight = state[0, k:].reshape(k, 6).numpy()
            numpy_ms, ours_ms = [], []
            for _ in range(15):
                t = time.perf_counter()
                plain.em_pass(weight, state[0, :k].numpy())
                numpy_ms.append((time.perf_counter() - t) * 1e3)
                t = time.perf_counter()
                step(state)
                ours_ms.append((time.perf_counter() - t) * 1e3 / restarts)
            ours = statistics.median(ours_ms)
            if restarts == 1:
                print(f"  NumPy {statistics.median(numpy_ms):.2f};  library", end="")
            print(f"  {ours:.2f} ({restarts} at once)", end="", flush=True)
        print()


def growth(largest: int) -> None:
    print(
        "Ten EM passes of 4 restarts, K = 4, 8 features, 4 alternatives, 20 observations a person"
    )
    print("  observations  seconds  microseconds/observation  peak memory above import, MB")
    n = 1000
    while n <= largest:
        subprocess.run([sys.executable, __file__, "--grow", str(n)], check=True)
        n *= 10


def _grow(n: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, 4, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (n,), generator=generator)
    data = ChoiceData.from_arrays(features, target=target, person=np.arange(n) // 20)
    step = NewtonStep(data, 4, 1e-8)
    member = torch.randint(4, (data.n_people, 4), generator=generator)
    state = step.start(torch.nn.functional.one_hot(member, 4).double())
    start = time.perf_counter()
    for _ in range(10):
        _, state = step(state)
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"  {n:12,}  {seconds:7.2f}  {seconds / n * 1e6:24.2f}  {peak:28.0f}", flush=True)


def _arrays(data: ChoiceData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return data.features().squeeze(2).numpy(), data.target.numpy(), data.person.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grow:
        _grow(arguments.grow)
        return
    data = read_electricity(PANEL)
    time_of_a_pass(data)
    time_to_golden(data, arguments.seeds)
    growth(arguments.largest)


if __name__ == "__main__":
    main()
