"""How many raters' sessions does an agent need? Everything learnt from fewer of them.

    python data/makers/make_agents_from_few.py
    python data/makers/make_agents_from_few.py --shard 0 --shards 2

Of 300, 1,000, 3,000 or all 8,400 sessions (of 100, 333, 1,000 or 2,800 people, drawn by seed; the
last are everybody, whatever the seed), and nothing else: eight user types by EM, what texts are
worth, simulated users (who are their types, without deviations), their trajectories, and two
agents, one of the raters' sessions alone and one of the simulated as well. Population 0; each agent
is trained for half as many steps as `make_agents.py`'s, and set before the same people, beside its
results. Writes data/agents/from_few.json. Some five minutes for each of twelve on a core; an
interrupted run goes on.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from common import configure
from make_agents import AgentsConfig, Study, agents_folder, summary, what_came, write_json

from pasta_lib.clip_utility import COMMON, TYPES, fit_clip_types, fit_common
from pasta_lib.datasets.pasta import Turns
from pasta_lib.panel import Panel
from pasta_lib.user_types import UserTypes
from pasta_lib.world.raters import PEOPLE, split_of
from pasta_lib.world.study import Study as AllAnswers
from pasta_lib.world.study import load_study

SESSIONS = (300, 1000, 3000, 8400)
DRAWS = range(3)
SOURCES = ("real", "both")


@dataclass(frozen=True)
class FewConfig:
    """Fewer trajectories than `make_agents.py`'s; PASTA had 30,000."""

    shard: int = 0  # of the trainings, beside other processes
    shards: int = 1
    trajectories: int = 30_000
    build: str = "build"
    threads: int = 1


def main() -> None:
    config = configure(FewConfig(), __doc__)
    torch.set_num_threads(config.threads)
    cells = [(n, draw) for n in SESSIONS for draw in DRAWS]
    for n, draw in cells[config.shard :: config.shards]:
        study = StudyOfFew(config, n, draw)
        for source in SOURCES:
            study.try_out(f"{source}/brief/{draw}")
    write(config)


class StudyOfFew(Study):
    """`n` sessions: of people drawn by `draw`, three of each."""

    spread = None  # how far people deviate is learnt from more people than these

    def __init__(self, config: FewConfig, n: int, draw: int) -> None:
        folder = Path(config.build) / "from_few" / str(n) / str(draw)
        agents_config = AgentsConfig(trajectories=config.trajectories, build=config.build)
        super().__init__(agents_config, folder)
        train = [p for p in range(PEOPLE) if split_of(np.array(p)) == "train"]
        some = np.random.default_rng([n, draw]).permutation(train)[: round(n / 3)]
        self.draw, self.people = draw, set(some.astype(str))
        self.sizes |= {"sessions": n, "draw": draw, "em": (COMMON, TYPES)}

    @cached_property
    def turns(self) -> Turns:
        turns = super().turns
        return turns.select(turns.frame["person_id"].isin(self.people).to_numpy())

    def types(self, n_types: int) -> UserTypes:
        """Found by EM in these people's sessions, by the constants of the shipped ones."""
        learn = Panel.of(*all_answers().learn.parts[:2])
        some = learn.select_people(np.isin(learn.person_ids.astype(str), list(self.people)))
        common = fit_common(some, all_answers().utility, seed=self.draw)
        return fit_clip_types(
            some, common, n_types, seed=self.draw,
            checkpoint=self.folder / "types.checkpoint",
        )  # fmt: skip

    @property
    def trajectories_folder(self) -> Path:
        return self.folder / "trajectories"


@cache
def all_answers() -> AllAnswers:
    return load_study()


def write(config: FewConfig) -> None:
    """What came of all that is there."""
    whole = AgentsConfig(build=config.build)
    study = Study(whole, agents_folder(whole))
    base, results = what_came(study), {}
    for n in SESSIONS:
        came = [what_came(StudyOfFew(config, n, draw)) for draw in DRAWS]
        real, both = ([p for found in came for p in found.get(f"{s}-brief", [])] for s in SOURCES)
        if real and both:
            results[f"real/{n}"] = {"sessions": n} | summary(real, base, study.stage)
            rivals = base | {"real-brief": real}  # of the same draw
            results[f"both/{n}"] = {"sessions": n} | summary(both, rivals, study.stage)
    write_json(results, "from_few.json")


if __name__ == "__main__":
    main()
