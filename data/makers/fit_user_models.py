"""Fit user types to the synthetic raters in many ways, and measure each on the four metrics.

    python data/makers/fit_user_models.py                    # everything; run again to go on
    python data/makers/fit_user_models.py --only types       # one group: see GROUPS
    python data/makers/fit_user_models.py --only types --shard 0 --shards 2

Writes data/user_model/four_metrics.json, a fit after another: one that is there is not made again,
and one that was interrupted goes on from its checkpoint in build/. Of seed 0, types of K = 8 and
K = 1 are kept, of every population. Four minutes for K = 8 on a core; some two hours on two for
everything.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import configure
from filelock import FileLock

from pasta_lib.clip_utility import TYPES, ClipUtility, fit_clip_types, fit_common
from pasta_lib.deviations import fit_spread
from pasta_lib.four_metrics import measure
from pasta_lib.metrics import Estimate, mean
from pasta_lib.pal import Prototypes, fit_pal
from pasta_lib.panel import Panel
from pasta_lib.recovery import recovery
from pasta_lib.user_types import UserTypes, save_types
from pasta_lib.world.rater_files import RATERS_DIR
from pasta_lib.world.study import USER_MODEL_DIR, Study, load_study, true_types
from pasta_lib.world.weights import write_atomically

SEEDS = (0, 1, 2)
KEPT = {  # these types are shipped, for agents and what they are compared with
    "types/8/0": "types_8.safetensors",
    "types/1/0": "types_1.safetensors",
    "populations/1/0": "types_8_population_1.safetensors",
    "populations/2/0": "types_8_population_2.safetensors",
    "one/1": "types_1_population_1.safetensors",
    "one/2": "types_1_population_2.safetensors",
}


@dataclass(frozen=True)
class FitConfig:
    """Which fits."""

    only: str = ""  # a group; empty: all
    shard: int = 0  # of the fits, beside other processes
    shards: int = 1
    build: str = "build/user_models"
    threads: int = 2


@dataclass(frozen=True)
class Fit:
    """One fit. `sessions`: of how many it learns, and of nothing else; 0: of everything."""

    n_types: int
    seed: int
    method: str = "em"  # or "hard", or "pal"
    population: int = 0
    sessions: int = 0


GROUPS = {
    "types": {f"{k}/{s}": Fit(k, s) for s in SEEDS for k in (1, 2, 4, 8, 16, 32, 64)},
    "populations": {f"{p}/{s}": Fit(8, s, population=p) for p in (1, 2) for s in SEEDS},
    "one": {f"{p}": Fit(1, 0, population=p) for p in (1, 2)},
    "hard": {f"8/{s}": Fit(8, s, "hard") for s in SEEDS},
    "pal": {f"8/{s}": Fit(8, s, "pal") for s in SEEDS},
    "sessions": {
        f"{n}/{s}": Fit(8, s, sessions=n) for s in SEEDS for n in (100, 300, 1000, 3000, 7000)
    },
}


def main() -> None:
    config = configure(FitConfig(), __doc__)
    torch.set_num_threads(config.threads)
    build = Path(config.build)
    build.mkdir(parents=True, exist_ok=True)
    fits = {
        f"{group}/{name}": fit
        for group, members in GROUPS.items()
        for name, fit in members.items()
        if config.only in ("", group)
    }
    mine = list(fits.items())[config.shard :: config.shards]
    studies, common = {}, {}
    for name, fit in mine:
        kept = USER_MODEL_DIR / KEPT[name] if name in KEPT else None
        if name in _results() and (kept is None or kept.exists()):
            continue
        if fit.population not in studies:
            studies, common = {fit.population: _study(fit.population)}, {}
        study, truth = studies[fit.population]
        zero_shot = f"zero_shot/{fit.population}"
        if zero_shot not in _results():
            _keep(build, zero_shot, measured(untrained(study), study, truth, deviate=False))
        data, key = some_sessions(study.learn, fit), (fit.seed, fit.sessions)
        if key not in common:
            common[key] = timed(fit_common, data, study.utility, seed=fit.seed)
        start, before = common[key]
        checkpoint = build / f"{name.replace('/', '-')}.safetensors"
        types, after = timed(fitted, fit, data, start, checkpoint)
        result = asdict(fit) | {"seconds": round(before + after, 1), "common": round(before, 1)}
        if kept:
            save_types(types, kept)
        deviate = fit.method != "pal"
        _keep(build, name, result | measured(types, study, truth, deviate=deviate))
        checkpoint.unlink(missing_ok=True)


def timed(function: Callable, *arguments, **options) -> tuple:
    """What it returns, and how many seconds it took."""
    started = time.monotonic()
    return function(*arguments, **options), time.monotonic() - started


def fitted(fit: Fit, data: Panel, common: ClipUtility, checkpoint: Path) -> UserTypes | Prototypes:
    if fit.method == "pal":
        return fit_pal(data, common.repeated(fit.n_types), fit.n_types, seed=fit.seed)
    return fit_clip_types(
        data, common, fit.n_types, seed=fit.seed, checkpoint=checkpoint,
        config=replace(TYPES, hard=fit.method == "hard"),
    )  # fmt: skip


def some_sessions(learn: Panel, fit: Fit) -> Panel:
    """What is learnt from: everything, or picks and judgements of the first `sessions` / 3 people,
    who sat in three each."""
    if not fit.sessions:
        return learn
    return Panel.of(*learn.parts[:2]).select_people(np.arange(round(fit.sessions / 3)))


def untrained(study: Study) -> UserTypes:
    """Zero-shot CLIP."""
    return UserTypes.of(study.utility, torch.zeros(1).double(), study.learn, None)


def measured(
    types: UserTypes | Prototypes, study: Study, truth: dict[str, int], *, deviate: bool
) -> dict:
    """The four metrics of known people, who may `deviate` from their types; of people of whom the
    type alone is known; and of strangers. And how well hidden types are found."""
    out = {
        "types_only": _rounded_all(measure(types, study.held, known=True)),
        "strangers": _rounded_all(measure(types, study.held, known=False)),
    }
    out["known"] = out["types_only"]
    if deviate:
        validation = study.held.before
        spread = fit_spread(types, [validation.picks, validation.judgements], validation.when)
        out["known"] = _rounded_all(measure(types, study.held, known=True, spread=spread))
        found = {"what": spread.tastes[0], "how": spread.tastes[-1], "met": spread.faithfulness}
        out["spread"] = {name: round(float(v), 4) for name, v in found.items()}
    if isinstance(types, Prototypes):
        return out
    out["prior"] = [round(p, 4) for p in types.prior.tolist()]
    out["parameters"] = types.n_parameters
    for split, sat in (("validation", study.held.before), ("test", study.held.sat)):
        panel = Panel.of(sat.picks, sat.judgements)
        out[f"{split}_log_likelihood"] = _rounded(mean(types.person_log_likelihood(panel).numpy()))
    found = recovery(types, study.held.sat, truth)
    after = {str(n): round(v, 4) for n, v in found["adjusted_rand_index_after"].items()}
    return out | {
        "adjusted_rand_index": round(found["adjusted_rand_index"], 4),
        "adjusted_rand_index_after": after,
    }


def _study(population: int) -> tuple[Study, dict[str, int]]:
    folder = RATERS_DIR if population == 0 else Path(f"build/raters_{population}")
    if not (folder / "sac_public_2022_06_29.sqlite").exists():
        command = f"make_raters.py --population {population} --folder {folder}"
        raise SystemExit(f"{folder} is not there: first run python data/makers/{command}")
    return load_study(population, folder), true_types(population, folder)


def _results() -> dict:
    path = USER_MODEL_DIR / "four_metrics.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _keep(build: Path, name: str, result: dict) -> None:
    """Add a result to the file, which other processes add to as well."""
    with FileLock(build / "results.lock"):
        results = _results() | {name: result}
        ordered = {key: results[key] for key in sorted(results)}
        text = json.dumps(ordered, separators=(",", ":")).replace('},"', '},\n"')
        write_atomically(USER_MODEL_DIR / "four_metrics.json", text.encode() + b"\n")
    print(name, json.dumps(result["known"]), flush=True)


def _rounded_all(found: dict[str, Estimate | float]) -> dict:
    return {name: _rounded(value) for name, value in found.items()}


def _rounded(value: Estimate | float) -> dict | float:
    if isinstance(value, float):
        return round(value, 5)
    return {k: round(v, 5) for k, v in vars(value).items()}


if __name__ == "__main__":
    main()
