"""Speed of the miniature world on this machine.

    python tests/benchmarks/bench_world.py

Prints renders a second on one thread (bar: 300), and seconds for 16 pictures on two threads
(bar: about 3), each the best of several runs, since other work on the machine only slows.
"""

import time

import numpy as np
import torch

from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world import captions
from pasta_lib.world.renderer import render_seeded
from pasta_lib.world.scenes import from_array, sample_scenes


def best(run, times: int) -> float:
    """Least seconds of several runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    scenes = sample_scenes(512, np.random.default_rng(0))
    torch.set_num_threads(1)
    print(f"renderer: {512 / best(lambda: render_seeded(scenes, 0), 5):.0f} scenes/s on one core")
    torch.set_num_threads(2)
    config = GeneratorConfig()
    pipeline = load_pipeline(config)
    prompts = [captions.write(s) for s in from_array(scenes[:16])]
    seconds = best(lambda: generate(pipeline, prompts, range(16), config, progress=False), 3)
    print(f"16 pictures, {config.steps} steps with guidance: {seconds:.2f} s on two cores")


if __name__ == "__main__":
    main()
