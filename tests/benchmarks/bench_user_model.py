"""Readers and the user model at full size: Pick-a-Pic's rows a second, and a fit at CLIP-H's width.

    python tests/benchmarks/bench_user_model.py [--rows 1000000] [--observations 100000]

Files and vectors are made up, of the real schema and width. Each measurement runs in a process of
its own, so that its peak memory is its own. Prints; asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pasta_lib.choices import ChoiceData
from pasta_lib.clip_utility import ClipUtility, fit_clip_types, fit_common
from pasta_lib.datasets.pickapic import read_pickapic
from pasta_lib.datasets.rows import Account

WIDTH, CONCEPTS = 1024, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--run", default="", help=argparse.SUPPRESS)
    parser.add_argument("--file", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        {"write": write, "read": read, "fit": fit}[args.run](args)
        return
    with tempfile.TemporaryDirectory() as folder:
        for rows in (args.rows // 10, args.rows):
            file = str(Path(folder) / f"{rows}.parquet")
            _alone("write", rows=rows, file=file)
            _alone("read", rows=rows, file=file)
    for observations in (args.observations // 10, args.observations):
        _alone("fit", observations=observations)


def write(args) -> None:
    pairs(args.rows).to_parquet(args.file, row_group_size=50_000)


def read(args) -> None:
    account, before, start = Account(), peak(), time.perf_counter()
    for _ in read_pickapic([args.file], account, training=True):
        pass
    speed = args.rows / (time.perf_counter() - start)
    print(
        f"{args.rows:9,} rows of Pick-a-Pic without pictures: {speed:9,.0f} a second, "
        f"{account.used:,} used, peak memory {peak() - before:4.0f} MB above the start"
    )


def pairs(n: int) -> pd.DataFrame:
    """Rows as `yuvalkirstain/pickapic_v1_no_images` has them."""
    rng = np.random.default_rng(0)
    label = rng.choice([0.0, 0.5, 1.0], n)
    uid = [f"{i:032x}" for i in range(n)]
    return pd.DataFrame({
        "are_different": True, "best_image_uid": uid,
        "caption": [f"a fox {i % 5000}" for i in range(n)],
        "created_at": pd.Timestamp("2023-01-01", tz="UTC"), "has_label": True,
        "image_0_uid": uid, "image_0_url": "", "image_1_uid": uid[::-1], "image_1_url": "",
        "label_0": 1 - label, "label_1": label, "model_0": "m", "model_1": "m",
        "ranking_id": np.arange(n), "user_id": rng.integers(5000, size=n),
        "num_example_per_prompt": 3, "__index_level_0__": np.arange(n),
    })  # fmt: skip


def fit(args) -> None:
    n = args.observations
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(n // 4, WIDTH + CONCEPTS)).astype(np.float32)
    prompts = rng.normal(size=(n // 20, WIDTH + CONCEPTS)).astype(np.float32)
    for table in (pictures, prompts):
        table[:, :WIDTH] /= np.linalg.norm(table[:, :WIDTH], axis=1, keepdims=True)
        table[:, WIDTH:] = 1 / (1 + np.exp(-table[:, WIDTH:]))
    person = np.sort(rng.integers(n // 20, size=n))
    columns = rng.integers(len(pictures), size=(n, 4, 4))
    data = ChoiceData.from_arrays(
        items=columns, table=pictures, person=person, target=rng.integers(4, size=n),
        context=rng.integers(len(prompts), size=n), context_table=prompts,
    )  # fmt: skip
    usual, pairs = torch.full((CONCEPTS,), 0.5), torch.combinations(torch.arange(20)).T
    utility = ClipUtility(WIDTH, usual, usual, 1, 100.0, pairs)
    before, start = peak(), time.perf_counter()
    fit_clip_types(data, fit_common(data, utility, seed=0), 8, seed=0)
    seconds = time.perf_counter() - start
    print(f"{n:9,} choices of 4 x 4 pictures, width {WIDTH}, {CONCEPTS} concepts, K = 8: "
          f"{seconds:6.0f} s for K = 1 and K = 8, peak memory {peak() - before:5.0f} MB "
          "above the data")  # fmt: skip


def peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _alone(name: str, **sizes: int | str) -> None:
    options = [f"--{key}={value}" for key, value in sizes.items()]
    subprocess.run([sys.executable, __file__, "--run", name, *options], check=True)


if __name__ == "__main__":
    main()
