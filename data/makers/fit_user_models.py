"""Fit user types to the synthetic raters for many K, and measure each on the four metrics.

    python data/makers/fit_user_models.py                        # K = 1 ... 64, three seeds
    python data/makers/fit_user_models.py --types 8 --seeds 1

Writes data/user_model/four_metrics.json, a fit after another: one that is there is not made again,
and one that was interrupted goes on from its checkpoint in build/. Of seed 0 the types of K = 8 are
kept. About three minutes for K = 8 on two cores.
"""

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from common import configure

from pasta_lib.clip_utility import fit_clip_types
from pasta_lib.four_metrics import measure
from pasta_lib.metrics import Estimate
from pasta_lib.user_types import UserTypes, save_types
from pasta_lib.world.study import USER_MODEL_DIR, Study, load_study
from pasta_lib.world.weights import write_atomically

KEPT = 8  # of these types, the first seed's are shipped


@dataclass(frozen=True)
class FitConfig:
    """Which fits."""

    types: str = "1,2,4,8,16,32,64"
    seeds: int = 3
    build: str = "build/user_models"
    threads: int = 2


def main() -> None:
    config = configure(FitConfig(), __doc__)
    torch.set_num_threads(config.threads)
    warnings.filterwarnings("ignore", "EM used all")  # an early end is meant
    Path(config.build).mkdir(parents=True, exist_ok=True)
    path = USER_MODEL_DIR / "four_metrics.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    study = load_study()
    if "zero_shot" not in known:
        known["zero_shot"] = measured(zero_shot(study), study)
    for seed in range(config.seeds):
        for n_types in map(int, config.types.split(",")):
            name = f"{n_types}/{seed}"
            if name in known:
                continue
            checkpoint = Path(config.build) / f"{n_types}-{seed}.safetensors"
            started = time.monotonic()
            types = fit_clip_types(
                study.learn, study.utility, n_types, seed=seed, checkpoint=checkpoint
            )
            seconds = time.monotonic() - started
            known[name] = {"seconds": round(seconds, 1), "log_likelihood": types.log_likelihood,
                           "parameters": types.n_parameters} | measured(types, study)  # fmt: skip
            write_atomically(path, json.dumps(known, indent=1).encode() + b"\n")
            print(name, json.dumps(known[name]["known"]), flush=True)
            checkpoint.unlink(missing_ok=True)
            if n_types == KEPT and seed == 0:
                save_types(types, USER_MODEL_DIR / f"types_{KEPT}.safetensors")


def zero_shot(study: Study) -> UserTypes:
    return UserTypes.of(study.utility, torch.zeros(1).double(), study.learn, None)


def measured(types: UserTypes, study: Study) -> dict:
    """The four metrics of known people and of strangers."""
    out = {"prior": [round(p, 4) for p in types.prior.tolist()]}
    for name, known in (("known", True), ("strangers", False)):
        found = measure(types, study.held, known=known)
        out[name] = {k: _rounded(v) for k, v in found.items()}
    return out


def _rounded(value: Estimate | float) -> dict | float:
    if isinstance(value, float):
        return round(value, 5)
    return {k: round(v, 5) for k, v in vars(value).items()}


if __name__ == "__main__":
    main()
