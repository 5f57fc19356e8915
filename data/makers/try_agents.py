"""Ask more of the trained agents: before other people, and whether they recognise types.

    python data/makers/try_agents.py        # after make_agents.py, population 0

Other people: agents learn nothing anew, and meet 1,000 people who are steadier or less steady than
those they learnt from, or who value a column by all of its pictures. Types: which type is likeliest
after each turn, by the user model and by the exact posterior, of the same sessions. Writes
data/agents/other_people.json and types_recognised.json. Five minutes on one core.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from common import configure
from make_agents import (
    FIXED,
    VARIANTS,
    AgentsConfig,
    Study,
    agents_folder,
    write_json,
)
from scipy.optimize import brentq
from scipy.special import softmax

from pasta_lib.agents import iql_agent
from pasta_lib.baselines import untrained
from pasta_lib.evaluation import (
    Played,
    Stage,
    crossed_interval,
    held_out_stage,
    perform,
    win_probability,
)
from pasta_lib.iql import load_trained
from pasta_lib.sessions import Agent, begin, play
from pasta_lib.simulator import beliefs
from pasta_lib.world import best_possible, people

TRAINED = ("both/slate", "both/additive")
SEEDS = range(3)
STEADINESS = {"steadiness .60": 0.60, "steadiness .75": 0.75}  # picks that true tastes predict
RECOGNISED = ("untrained", "greedy", "both/slate")  # whose sessions types are read from


@dataclass(frozen=True)
class TryConfig:
    """How much is tried."""

    people: int = 1000
    particles: int = 300  # of the exact posterior
    build: str = "build"
    threads: int = 1


def main() -> None:
    config = configure(TryConfig(), __doc__)
    torch.set_num_threads(config.threads)
    agents_config = AgentsConfig(build=config.build)
    study = Study(agents_config, agents_folder(agents_config))
    stage = held_out_stage(people.draw_law(study.seed), study.x, study.seed, config.people)
    write_json(types_recognised(study, stage, config), "types_recognised.json")
    write_json(
        {name: tried(study, other) for name, other in other_people(stage).items()},
        "other_people.json",
    )


def agents_named(study: Study, name: str, stage: Stage) -> list[Agent]:
    """One, or one of each training."""
    if name in FIXED:
        return [study.fixed(name, stage)]
    reader, config = study.reader, VARIANTS[name.split("/")[1]]
    paths = [study.folder / f"{name.replace('/', '-')}-{seed}.weights" for seed in SEEDS]
    return [iql_agent(load_trained(path, *reader.sizes, config), reader) for path in paths]


def other_people(stage: Stage) -> dict[str, Stage]:
    crowd = stage.crowd
    out = {"as they are": stage}
    for name, share in STEADINESS.items():
        times = times_as_steady(stage, share)
        steadier = replace(crowd.people, steadiness=times * crowd.people.steadiness)
        out[name] = replace(stage, crowd=replace(crowd, people=steadier))
    return out | {"columns by their mean": replace(stage, crowd=replace(crowd, best=4))}


def times_as_steady(stage: Stage, share: float) -> float:
    """By what people's steadiness must be multiplied so that who knows their tastes predicts that
    share of their picks, on the slates of the untrained agent."""
    value = perform(untrained(0), stage).value

    def predicted(times: float) -> float:
        p = softmax(times * stage.steadiness[:, None, None] * value, -1)
        return float(p.max(-1).mean())

    return brentq(lambda times: predicted(times) - share, 0.1, 10)


def tried(study: Study, stage: Stage) -> dict:
    """Final utility, and wins against the untrained baseline and others, with intervals."""
    played = {
        name: [perform(agent, stage) for agent in agents_named(study, name, stage)]
        for name in (*FIXED, *TRAINED)
    }

    def wins(plays: list[Played], rival: str) -> dict[str, float]:
        return over(stage, np.stack([win_probability(p, played[rival][0], stage) for p in plays]))

    return {
        name: {
            "final": over(stage, np.stack([play.utility[:, -1] for play in plays])),
            "win_rate": wins(plays, "untrained"),
            "wins_against": {rival: wins(plays, rival) for rival in ("greedy", "curious")},
        }
        for name, plays in played.items()
    }


def types_recognised(study: Study, stage: Stage, config: TryConfig) -> dict:
    """Share of sessions in which the likeliest type is the true one, after each turn."""
    law = people.draw_law(study.seed)
    true = stage.crowd.people.type[stage.person]
    out = {}
    for name in RECOGNISED:
        agent = agents_named(study, name, stage)[0]
        number = np.arange(len(stage.person))
        sessions = play(
            begin(number, stage.person, stage.initial), agent, stage.crowd, stage.crowd.seed
        )
        found = study.true_names[beliefs(study.reader.column_worth, sessions)[:, 1:].argmax(2)]
        answers = best_possible.answers_in(sessions, law, study.x)
        generator, exact = torch.Generator().manual_seed(study.seed), []
        for start in range(0, len(number), 250):
            part = best_possible.Answers(*(v[start : start + 250] for v in vars(answers).values()))
            seen = best_possible.predict(law, part, config.particles, generator, 2)
            exact.append(seen.types.argmax(2))
        exact = torch.cat(exact).numpy()
        right = {"user_model": found == true[:, None], "exact_posterior": exact == true[:, None]}
        out[name] = {
            who: [over(stage, hits[:, t].astype(float)) for t in range(sessions.turns)]
            for who, hits in right.items()
        }
    return out


def over(stage: Stage, values: np.ndarray) -> dict[str, float]:
    return crossed_interval(values, stage.person, stage.initial)


if __name__ == "__main__":
    main()
