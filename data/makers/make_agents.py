"""Train agents on sessions of synthetic raters and of simulated users, and try them on new people.

    python data/makers/make_agents.py                                  # population 0
    python data/makers/make_agents.py --population 1 --only both/slate/
    python data/makers/make_agents.py --shard 0 --shards 2             # and 1, beside it

Per population: what texts are worth, 60,000 trajectories (build/trajectories_0, a minute), then
one agent after another: trained in some three minutes on a core, and set before 2,000 people whom
nobody has met. What came of each lies in build/agents_0; data/agents/results_0.json is written from
all that is there. An interrupted run goes on.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from common import configure
from make_raters import MODEL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment

from pasta_lib import agents, baselines
from pasta_lib.candidates import wordings
from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import Turns, bank_sessions
from pasta_lib.deviations import what_and_how_far
from pasta_lib.evaluation import (
    Played,
    Stage,
    crossed_interval,
    crossed_ratio,
    held_out_stage,
    perform,
    validation_stage,
    win_probability,
)
from pasta_lib.histories import Reader
from pasta_lib.iql import IQLConfig, save_trained, train_iql
from pasta_lib.sessions import UNJUDGED, Agent, Sessions, joined
from pasta_lib.simulator import (
    ColumnWorth,
    deviating,
    draw_users,
    expected_utility,
    fit_to_sessions,
    posterior_of_people,
)
from pasta_lib.text_worth import (
    TextWorth,
    TextWorthConfig,
    fit_text_worth,
    load_text_worth,
    save_text_worth,
)
from pasta_lib.trajectories import TrajectoryConfig, read_trajectories, write_trajectories
from pasta_lib.user_types import UserTypes
from pasta_lib.world import oracle, people, raters
from pasta_lib.world.agent_study import (
    AGENTS_DIR,
    load_sight,
    load_user_model,
    spread_found,
    training_prompts,
    types_path,
    worth_of_columns,
)
from pasta_lib.world.bank import BANK_CARD, load_bank
from pasta_lib.world.rater_files import RATERS_DIR, read_turns, turns_of
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import IDEA
from pasta_lib.world.study import USER_MODEL_DIR
from pasta_lib.world.weights import WORLD_DIR, write_atomically

SHIPPED = "both-slate-0"
RIVALS = ("untrained", "history_baseline", "greedy_one_type", "greedy", "curious", "real-slate",
          "simulated-slate", "both-additive", "both-start", "oracle", "real-brief")  # fmt: skip
FIXED = ("untrained", "history_baseline", "greedy_one_type", "greedy", "curious",
         "greedy_peeking", "greedy_told", "oracle", "oracle_peeking")  # fmt: skip
TRAINED = {  # source and variant: how many seeds
    "both/slate": 5, "both/additive": 5, "simulated/slate": 5, "real/slate": 5, "both/text": 5,
    "both/slate50": 3, "both/slate90": 3, "both/start": 3,
}  # fmt: skip
VARIANTS = {
    "slate": IQLConfig(slate_level=True),
    "additive": IQLConfig(),
    "text": IQLConfig(belief=False),
    "slate50": IQLConfig(slate_level=True, expectile=0.5),
    "slate90": IQLConfig(slate_level=True, expectile=0.9),
    "start": IQLConfig(slate_level=True, steps=0),  # what critics begin with, and no more
    "brief": IQLConfig(slate_level=True, steps=1250),  # for `make_agents_from_few`
}
BEHAVIOURS = {  # who shows slates to simulated users: kind, and its numbers
    "greedy, noise 1": (agents.greedy, 1.0, 11),
    "greedy, noise .5": (agents.greedy, 0.5, 12),
    "curious 3, noise .5": (agents.curious, 3.0, 0.5, 13),
    "curious 6, noise .5": (agents.curious, 6.0, 0.5, 14),
    "curious 12, noise .5": (agents.curious, 12.0, 0.5, 15),
}


@dataclass(frozen=True)
class AgentsConfig:
    """Which agents."""

    population: int = 0
    only: str = ""  # of the trained, those whose name begins so: "both/slate/", "real"
    shard: int = 0  # of the trainings, beside other processes
    shards: int = 1
    trajectories: int = 60_000
    people: int = 2000
    build: str = "build"
    threads: int = 1


def main() -> None:
    config = configure(AgentsConfig(), __doc__)
    torch.set_num_threads(config.threads)
    study = Study(config, agents_folder(config))
    fixed = FIXED if config.shard == 0 else ()
    trained = [f"{name}/{seed}" for seed in range(5) for name in TRAINED if seed < TRAINED[name]]
    trained = [name for name in trained if name.startswith(config.only)]
    trained = trained[config.shard :: config.shards]
    for name in [*fixed, *trained]:
        study.try_out(name)
    write_results(study)
    if study.seed == 0:
        ship(study)


def agents_folder(config: AgentsConfig) -> Path:
    """Where what came of each agent lies."""
    return Path(config.build) / f"agents_{config.population}"


class Study:
    """A population's people, user model and sessions; each part is made when it is asked for."""

    def __init__(self, config: AgentsConfig, folder: Path) -> None:
        self.config, self.seed, self.folder = config, config.population, folder
        self.sizes = {k: getattr(config, k) for k in ("population", "trajectories", "people")}
        self.folder.mkdir(parents=True, exist_ok=True)
        AGENTS_DIR.mkdir(exist_ok=True)

    def try_out(self, name: str) -> None:
        """Train an agent, if it is one to be trained, set it before everybody, and keep what came
        of it; or nothing, if that is done."""
        path = self.folder / f"{name.replace('/', '-')}.safetensors"
        if path.exists():
            return self.check(path, name)
        agent = self.train(name) if "/" in name else None
        tensors = {}
        for where, stage in (("held_out", self.stage), ("validation", self.validation)):
            played = perform(agent or self.fixed(name, stage), stage)
            tensors[f"{where}.value"] = torch.as_tensor(played.value).half()
            tensors[f"{where}.versus"] = torch.as_tensor(played.versus).to(torch.int8)
        part = path.with_suffix(".part")
        save_file(tensors, part, {"made": self.made(name)})
        part.replace(path)
        print(name, tensors["held_out.value"].float().mean((0, 2)).tolist(), flush=True)

    @cached_property
    def x(self) -> np.ndarray:
        return people.perceived(load_bank())

    @cached_property
    def stage(self) -> Stage:
        return held_out_stage(people.draw_law(self.seed), self.x, self.seed, self.config.people)

    @cached_property
    def validation(self) -> Stage:
        return validation_stage(people.draw_law(self.seed), self.x, self.seed)

    @cached_property
    def raters_folder(self) -> Path:
        return RATERS_DIR if self.seed == 0 else Path(self.config.build) / f"raters_{self.seed}"

    @cached_property
    def turns(self) -> Turns:
        """Of the training people."""
        return turns_of(read_turns(self.seed, self.raters_folder), "train")

    @cached_property
    def raters(self) -> Sessions:
        return bank_sessions(self.turns)[0]

    def made(self, name: str) -> str:
        """A fingerprint of all that an agent is made from, but for the code."""
        constants = self.sizes, self.spread, TextWorthConfig(), TrajectoryConfig()
        variant = VARIANTS[name.split("/")[1]] if "/" in name else ""
        behaviours = [(key, *numbers) for key, (_, *numbers) in BEHAVIOURS.items()]
        digest = hashlib.sha256(f"{constants} {variant} {behaviours}".encode())
        for path in (
            self.raters_folder / f"sessions_{self.seed}.parquet",
            *(types_path(self.seed, k) for k in (1, 8)),
            *sorted(USER_MODEL_DIR.glob("concepts_*.safetensors")),
            WORLD_DIR / BANK_CARD,
            WORLD_DIR / "manifest.json",
        ):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def check(self, path: Path, name: str) -> None:
        """Raises `BadData` for a result that was made from other files or by other constants."""
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("made") != self.made(name):
                raise BadData(f"{path} was made otherwise: remove {path.parent} and run again.")

    @cached_property
    def reader(self) -> Reader:
        return self._reader(8)

    @cached_property
    def reader_of_one(self) -> Reader:
        return self._reader(1)

    def _reader(self, n_types: int) -> Reader:
        sight = load_sight()
        prompts = raters.initial_prompts(self.seed)
        worth = worth_of_columns(sight, self.types(n_types), prompts, progress=False)
        worth = fit_to_sessions(worth, self.raters)
        path = self.text_worth_path(n_types)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_text_worth(self._text_worth(sight.features, worth), path)
        return Reader(sight.features, load_text_worth(path), worth)

    def types(self, n_types: int) -> UserTypes:
        return load_user_model(load_sight(), self.seed, n_types)

    @property
    def spread(self) -> dict[str, float] | None:
        """How far simulated users deviate from their types; None: not at all."""
        return spread_found(self.seed)

    def text_worth_path(self, n_types: int) -> Path:
        return self.folder / "text_worth" / f"{n_types}_types.safetensors"

    def _text_worth(self, features: torch.Tensor, worth: ColumnWorth) -> TextWorth:
        """Learnt from the columns that raters were shown."""
        shown, each = self.raters, features.shape[1]
        text = torch.as_tensor(shown.member * each + shown.wording).flatten()
        columns = shown.member[0].size
        prompt = torch.as_tensor(shown.initial * each).repeat_interleave(columns)
        values = worth.of(shown.initial, shown.member).flatten(0, 2)
        return fit_text_worth(prompt, text, features.flatten(0, 1), values, seed=self.seed)

    def fixed(self, name: str, stage: Stage) -> Agent:
        """An agent that is not trained here. The oracles know the people of the stage."""
        return {
            "untrained": lambda: baselines.untrained(self.seed),
            "history_baseline": lambda: baselines.alike(self.texts, self.seed),
            "greedy_one_type": lambda: agents.greedy(self.reader_of_one),
            "greedy": lambda: agents.greedy(self.reader),
            "curious": lambda: agents.curious(self.reader),
            "greedy_peeking": lambda: agents.peeking(self.reader.column_worth),
            "greedy_told": lambda: agents.told(
                self.reader, np.argsort(self.true_names)[stage.crowd.people.type]
            ),
            "oracle": lambda: oracle.oracle(stage.crowd.people, self.shows),
            "oracle_peeking": lambda: oracle.peeking_oracle(stage.crowd),
        }[name]()

    @cached_property
    def true_names(self) -> np.ndarray:
        """The true type that each found type stands for, `[8]`: by best assignment of training
        people, whose truth nothing else here reads."""
        ids = np.unique(self.turns.frame["person_id"]).astype(int)
        truth = people.draw_population(people.draw_law(self.seed), raters.PEOPLE, self.seed)
        gamma, _ = posterior_of_people(self.reader.column_worth, self.raters)
        found = np.zeros(len(ids), int)
        found[self.raters.person] = gamma.argmax(1).numpy()
        both = np.zeros((8, 8))
        np.add.at(both, (found, truth.type[ids]), 1)
        return linear_sum_assignment(-both)[1]

    @cached_property
    def texts(self) -> np.ndarray:
        """CLIP's vectors of all wordings."""
        words = wordings()
        return load_sight().encoder.encode_texts(list(words.ravel())).reshape(*words.shape, -1)

    @cached_property
    def shows(self) -> np.ndarray:
        return oracle.expected_readings(load_sight().features, self.x)

    @cached_property
    def simulated(self) -> Sessions:
        """Trajectories of agents that exploit, explore and ask; not of the untrained one, which
        raters have seen enough of."""
        reader = self.reader
        behaviours = {name: kind(reader, *how) for name, (kind, *how) in BEHAVIOURS.items()}
        config = TrajectoryConfig(
            sessions=self.config.trajectories, seed=self.seed, population=str(self.seed),
            model=MODEL, made=self.made("simulated"),
        )  # fmt: skip
        users = draw_users(reader.column_worth, config.sessions, self.seed)
        if self.spread:
            spread = what_and_how_far(self.types(8), **self.spread)
            users = deviating(users, load_sight().pictures, spread)
        prompts = training_prompts(config.sessions, self.seed)
        write_trajectories(self.trajectories_folder, users, behaviours, prompts, config)
        return read_trajectories(self.trajectories_folder)

    @property
    def trajectories_folder(self) -> Path:
        return Path(self.config.build) / f"trajectories_{self.seed}"

    def data(self, source: str) -> tuple[Sessions, np.ndarray]:
        """Sessions, and the reward of each slate. (Simulated people are numbered from where raters
        end: nobody is both.)"""
        parts = {"real": ["raters"], "simulated": ["simulated"], "both": ["raters", "simulated"]}
        some, beyond = [], 0
        for name in parts[source]:
            sessions = getattr(self, name)
            some.append(replace(sessions, person=sessions.person + beyond))
            beyond = 1 + some[-1].person.max()
        rewards = [expected_utility(self.reader.column_worth, s) for s in some]
        return joined(some), np.concatenate(rewards)

    def train(self, name: str) -> Agent:
        source, variant, seed = name.split("/")
        config = VARIANTS[variant]
        sessions, reward = self.data(source)
        stem = self.folder / name.replace("/", "-")
        trained = train_iql(
            sessions, reward, self.reader, seed=int(seed), config=config,
            checkpoint=stem.with_suffix(".checkpoint"),
        )  # fmt: skip
        save_trained(trained, stem.with_suffix(".weights"))
        return agents.iql_agent(trained, self.reader)


def write_results(study: Study) -> None:
    """Utilities and head-to-heads with intervals, from everything that lies in the folder."""
    results = {}
    for where, stage in (("held_out", study.stage), ("validation", study.validation)):
        base = what_came(study, where)
        if not {"untrained", "oracle"} <= base.keys():
            return
        results[where] = {name: summary(plays, base, stage) for name, plays in base.items()}
    write_json(results, f"results_{study.seed}.json")


def ship(study: Study) -> None:
    """Keep what notebooks load: one agent's weights, what it reads with, and how trainings went."""
    logs, answering = {}, {}
    for k, reader in ((1, study.reader_of_one), (8, study.reader)):
        path = AGENTS_DIR / "text_worth" / f"{k}_types.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, study.text_worth_path(k).read_bytes())
        worth = reader.column_worth
        answering[k] = {"log_tie": float(worth.log_tie), "loyalty": worth.loyalty}
    write_json(answering, "answering.json")
    for path in sorted(study.folder.glob("*.weights")):
        with safe_open(path, "pt") as file:
            log = json.loads(file.metadata()["log"])
        logs.setdefault(path.stem.rsplit("-", 1)[0], []).append(log)
        if path.stem == SHIPPED:
            write_atomically(AGENTS_DIR / f"{SHIPPED}.safetensors", path.read_bytes())
    write_json(logs, "training_logs.json", indent=None)


def what_came(study: Study, where: str = "held_out") -> dict[str, list[Played]]:
    """By agent: of its trainings, or of the one of an agent that is not trained."""
    found = {}
    for path in sorted(study.folder.glob("*.safetensors")):
        name, _, seed = path.stem.rpartition("-")
        name = name if seed.isdigit() else path.stem
        study.check(path, path.stem.replace("-", "/"))
        tensors = load_file(path)
        value, versus = (tensors[f"{where}.{k}"].numpy() for k in ("value", "versus"))
        found.setdefault(name, []).append(Played(value.astype(np.float32), versus))
    return found


def write_json(results: dict, name: str, indent: int | None = 1) -> None:
    text = json.dumps(rounded(results), indent=indent)
    write_atomically(AGENTS_DIR / name, text.encode() + b"\n")


def summary(plays: list[Played], base: dict[str, list[Played]], stage: Stage) -> dict:
    """Of the trainings of one agent, `plays`, with intervals; against others of `base`."""
    abstract = reachable()[stage.initial, IDEA] >= 0
    kinds = {"all": np.ones_like(abstract), "abstract": abstract, "concrete": ~abstract}

    def over(values: np.ndarray, kind="all", function=crossed_interval, **more) -> dict:
        mask = kinds[kind]
        return function(values[..., mask], **more, person=stage.person[mask],
                        prompt=stage.initial[mask])  # fmt: skip

    def pairs(agent: list[Played], other: str) -> list[tuple[Played, Played]]:
        rivals = base[other]  # seed by seed; one that was not trained meets all
        every_seed = range(max(len(agent), len(rivals)))
        return [(agent[i % len(agent)], rivals[i % len(rivals)]) for i in every_seed]

    def wins(agent: list[Played], other: str, best=False) -> np.ndarray:
        return np.stack([win_probability(*both, stage, best=best) for both in pairs(agent, other)])

    def ahead(other: str, part: slice) -> dict:
        return over(np.stack([
            one.utility[:, part].sum(1) - two.utility[:, part].sum(1)
            for one, two in pairs(plays, other)
        ]))  # fmt: skip

    utility = np.stack([p.utility for p in plays])  # [seeds, S, T]
    (start,), (bound,) = (np.stack([p.utility for p in base[k]]) for k in ("untrained", "oracle"))
    more = wins(plays, "untrained") - 0.5
    most = wins(base["oracle"], "untrained")[0] - 0.5
    return {
        "seeds": len(plays),
        "utility": [over(utility[..., t]) for t in range(utility.shape[2])],
        "summed": over(utility.sum(2)),
        "versus": {str(v): [shares(plays, t, v) for t in range(1, utility.shape[2])]
                   for v in (1, 0, -1, UNJUDGED)},
        "wins_against": {o: over(wins(plays, o)) for o in RIVALS if o in base},
        "ahead_of": {
            o: {"final": ahead(o, slice(-1, None)), "summed": ahead(o, slice(None))}
            for o in RIVALS if o in base
        },
        "wins": {kind: over(more + 0.5, kind) for kind in kinds},
        "wins_best_column": over(wins(plays, "untrained", best=True)),
        "of_the_oracle": {
            kind: over(more, kind, crossed_ratio, below=most[mask]) for kind, mask in kinds.items()
        },
        "gap_closed": {
            name: over(part(utility) - part(start), function=crossed_ratio,
                       below=part(bound) - part(start))
            for name, part in (("final", lambda u: u[..., -1]), ("summed", lambda u: u.sum(-1)))
        },
    }  # fmt: skip


def shares(plays: list[Played], turn: int, verdict: int) -> float:
    """Of judged sessions; of all, the unjudged."""
    said = np.stack([p.versus[:, turn] for p in plays])
    return float((said == verdict).sum() / ((said != UNJUDGED) | (verdict == UNJUDGED)).sum())


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
