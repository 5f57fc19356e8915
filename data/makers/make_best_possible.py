"""The best that can be predicted of the synthetic raters, with and without knowing them. Synthetic.

    python data/makers/make_best_possible.py                    # population 0: all four metrics
    python data/makers/make_best_possible.py --population 1     # the others: sessions alone

"Same information": Bayes' rule with the population's law, the eye and the types' tastes, but of a
person only what a model may see (`pasta_lib.world.best_possible`). "Secret taste": someone who
knows the person's own. Writes data/raters/best_possible.json. Two independent runs of `particles`
each are averaged, and their difference gives the Monte Carlo error. People are done in chunks, each
of which is kept in build/, so an interrupted run goes on. Ten minutes a population on one core.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import configure
from make_raters import MODEL, write_table
from safetensors.torch import load_file, save_file
from sklearn.metrics import adjusted_rand_score
from tqdm.auto import tqdm

from pasta_lib.baselines import untrained
from pasta_lib.datasets.hpd import Rankings
from pasta_lib.datasets.pasta import Turns, read_sessions, session_table
from pasta_lib.datasets.rows import Account, Rows
from pasta_lib.metrics import choice_hits, cross_turn_hits, mean, spearman
from pasta_lib.recovery import MANY, SEEN
from pasta_lib.sessions import UNJUDGED
from pasta_lib.world import best_possible as best
from pasta_lib.world import people, raters
from pasta_lib.world.bank import load_bank, rows_of
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.people import Law, Population
from pasta_lib.world.rater_files import RATERS_DIR, read_pairs, read_rankings, turns_of
from pasta_lib.world.reachable import reachable
from pasta_lib.world.weights import write_atomically


@dataclass(frozen=True)
class BestConfig:
    """Which people, and how exactly."""

    population: int = 0
    particles: int = 400  # of each of two runs
    moves: int = 3
    chunk: int = 40  # people at a time
    people: int = 800  # of the test split, the first ones
    build: str = "build/best_possible"
    threads: int = 1


def main() -> None:
    config = configure(BestConfig(), __doc__)
    torch.set_num_threads(config.threads)
    seed = config.population
    law = people.draw_law(seed)
    population = people.draw_population(law, raters.PEOPLE, seed)
    x = people.perceived(load_bank()).reshape(-1, people.WIDTH)
    turns = test_turns(config, population, x)
    answers, ids = best.answers_of(turns, law, x)
    pairs = shown_pairs(read_pairs("test"), ids, law, x) if seed == 0 else None
    ranked = shown_rankings(read_rankings(), ids, law, x) if seed == 0 else None
    runs = [predicted(config, law, answers, pairs, ranked, run) for run in range(2)]
    found = {k: torch.stack([run[k] for run in runs]).mean(0) for k in runs[0]}
    result = sessions_result(answers, found, tuple(runs))
    result |= types_result(population, ids, answers, found)
    secret = secret_taste(population, ids, law, answers)
    if seed == 0:
        result |= pairs_result(pairs, found["pairs"]) | rankings_result(ranked, found["ranks"])
        mine = secret_particles(population, ids, law)
        secret |= pairs_result(pairs, judged_pairs(law, mine, pairs))
        secret |= rankings_result(ranked, expected_ranks(law, mine, ranked))
    path = RATERS_DIR / "best_possible.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[str(seed)] = {"same_information": result, "secret_taste": secret,
                        "particles": 2 * config.particles}  # fmt: skip
    write_atomically(path, json.dumps(known, indent=1).encode() + b"\n")
    print(json.dumps(known[str(seed)], indent=1))


def test_turns(config: BestConfig, population: Population, x: np.ndarray) -> Turns:
    """What the test people did in sessions; of populations that are not shipped, played again."""
    path = RATERS_DIR / f"sessions_{config.population}.parquet"
    with tempfile.TemporaryDirectory() as folder:
        if not path.exists():
            crowd = raters.Crowd(population, x.reshape(-1, 4, people.WIDTH), config.population)
            played = raters.play_sessions(crowd, untrained(config.population), config.population)
            path = Path(folder) / path.name
            write_table(session_table(played, source="synthetic", agent="untrained",
                                      population=str(config.population), model=MODEL,
                                      began="2026-01-01"), path)  # fmt: skip
        turns = turns_of(read_sessions(path, Account()), "test")
    ids = pd.unique(turns.frame["person_id"])[: config.people]
    return turns.select(turns.frame["person_id"].isin(ids).to_numpy())


# --- pairs and rankings, arranged by person ---------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """Pictures that U people looked at, `[U, R, I]` of R occasions, padded at the end: `x`
    `[U, R, I, 32]`, `asked`, `together` as in `best.Answers`; `row` long `[U, R]`: the occasion's
    place in its file, -1 pads; `told` float `[U, R, I]`: the target, or the ranks, in the file."""

    x: torch.Tensor
    asked: torch.Tensor
    together: torch.Tensor
    row: torch.Tensor
    told: torch.Tensor

    def of(self, which: slice) -> "Looked":
        return Looked(*(part[which] for part in vars(self).values()))


def looked(
    person: np.ndarray, ids: np.ndarray, prompt: np.ndarray, images: np.ndarray, row: np.ndarray,
    told: np.ndarray, law: Law, x: np.ndarray,
) -> Looked:  # fmt: skip
    """Occasions `[O]` of people among `ids` `[U]`, with `images` names `[O, I]`."""
    number = pd.Index(ids).get_indexer(person)
    keep = number >= 0
    number, prompt, images, row, told = (v[keep] for v in (number, prompt, images, row, told))
    place = pd.Series(number).groupby(number).cumcount().to_numpy(copy=True)
    scenes = reachable()[pd.Index(bank_prompts()).get_indexer(prompt)]
    pictures = rows_of(images.ravel()).reshape(images.shape)
    asked_for = np.broadcast_to(scenes[:, None], (*images.shape, 7))
    parts = [*best.seen(law, x[pictures], asked_for), torch.tensor(row), torch.tensor(told)]
    out = []
    for part, empty in zip(parts, (0, 0, 0, -1, 0), strict=True):
        whole = torch.full((len(ids), place.max() + 1, *part.shape[1:]), empty, dtype=part.dtype)
        whole[number, place] = part
        out.append(whole)
    return Looked(*out)


def shown_pairs(rows: Rows, ids: np.ndarray, law: Law, x: np.ndarray) -> Looked:
    return looked(
        rows.person, ids, rows.prompt, rows.images[:, :, 0], rows.row, rows.target, law, x
    )


def shown_rankings(rankings: Rankings, ids: np.ndarray, law: Law, x: np.ndarray) -> Looked:
    """An occasion for each ranker; `row` is the prompt's."""
    n, a, i = rankings.ranks.shape
    each = [np.repeat(v, a, 0) for v in (rankings.prompt, rankings.images, rankings.row)]
    return looked(rankings.person.ravel(), ids, each[0], each[1], each[2],
                  rankings.ranks.reshape(n * a, i), law, x)  # fmt: skip


# --- Bayes ------------------------------------------------------------------------------------


def predicted(
    config: BestConfig, law: Law, answers: best.Answers, pairs: Looked | None,
    ranked: Looked | None, run: int,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """All predictions of one run, chunk by chunk of people."""
    folder = Path(config.build) / str(config.population)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in tqdm(range(0, len(answers.chosen), config.chunk), desc=f"run {run}"):
        path = (
            folder / f"{config.particles}-{config.moves}-{config.chunk}-{run}-{start}.safetensors"
        )
        if not path.exists():
            who = slice(start, start + config.chunk)
            generator = torch.Generator().manual_seed(10**6 * run + start)
            some = best.Answers(*(part[who] for part in vars(answers).values()))
            got = best.predict(law, some, config.particles, generator, config.moves)
            part = {"pick": got.pick, "judgement": got.judgement, "types": got.types}
            if pairs is not None:
                part["pairs"] = judged_pairs(law, got.particles, pairs.of(who))
                part["ranks"] = expected_ranks(law, got.particles, ranked.of(who))
            temporary = path.with_suffix(".part")
            save_file({k: v.contiguous() for k, v in part.items()}, temporary)
            temporary.replace(path)
        parts.append(load_file(path))
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}


def _values(law: Law, particles: best.Particles, shown: Looked) -> torch.Tensor:
    """`[U, N, R, I]`."""
    flat = (shown.x.flatten(1, 2), shown.asked.flatten(1), shown.together.flatten(1, 2))
    return best.picture_values(law, particles, *flat).unflatten(2, shown.asked.shape[1:])


def judged_pairs(law: Law, particles: best.Particles, pairs: Looked) -> torch.Tensor:
    """P of image 0, tie, image 1: `[U, R, 3]`."""
    value = _values(law, particles, pairs)
    steady, indifferent = (f(particles)[..., None] for f in (best.steadiness, best.indifference))
    p = best.log_judgement(value[..., 1] - value[..., 0], steady, indifferent).exp()
    return (particles.weight[:, :, None, None] * p).sum(1)


def expected_ranks(law: Law, particles: best.Particles, ranked: Looked) -> torch.Tensor:
    """Each picture's rank, 1 the best, as it is expected: `[U, R, I]`."""
    value = best.steadiness(particles)[..., None, None] * _values(law, particles, ranked)
    rank = torch.zeros_like(value)
    for i in range(value.shape[-1]):  # how likely picture i is to be ahead of each
        rank = rank + (value[..., i, None] - value).sigmoid()
    return (particles.weight[:, :, None, None] * (rank + 0.5)).sum(1)


def secret_particles(population: Population, ids: np.ndarray, law: Law) -> best.Particles:
    """One particle a person: the truth about them."""
    who = ids.astype(int)
    spreads = (
        ("faithfulness", people.FAITHFULNESS, people.FAITHFULNESS_SPREAD),
        ("steadiness", people.STEADINESS, people.STEADINESS_SPREAD),
        ("indifference", people.INDIFFERENCE, people.INDIFFERENCE_SPREAD),
    )
    z = [(population.taste - law.taste[population.type])[who] / law.deviation]
    z += [np.log(getattr(population, name)[who] / m)[:, None] / s for name, m, s in spreads]
    kind = torch.tensor(population.type[who])[:, None]
    z = torch.tensor(np.concatenate(z, 1), dtype=torch.float32)[:, None]
    return best.Particles(kind, z, torch.zeros(kind.shape))


# --- results ----------------------------------------------------------------------------------


def estimate(values: np.ndarray, cluster: np.ndarray | None = None) -> dict:
    return {k: round(v, 5) for k, v in vars(mean(values, cluster)).items()}


def sessions_result(answers: best.Answers, found: dict, runs: tuple = ()) -> dict:
    """Accuracy and log-likelihood of picks, of the later ones alone, and of judgements."""
    there = answers.chosen >= 0
    who = np.broadcast_to(np.arange(len(there))[:, None], there.shape)[there.numpy()]
    chosen = answers.chosen[there].numpy()
    late = ((there.cumsum(1) - 1)[there] >= 10).numpy()
    p = found["pick"][there].numpy()
    hits, log_p = choice_hits(p, chosen), np.log(p[np.arange(len(p)), chosen])
    judged = answers.versus != UNJUDGED
    said = answers.versus[judged].numpy()
    three = found["judgement"][judged].numpy()
    by = np.broadcast_to(np.arange(len(there))[:, None], there.shape)[judged.numpy()]
    result = {
        "choice_accuracy": estimate(hits, who),
        "choice_accuracy_after_10": estimate(hits[late], who[late]),
        "log_likelihood": estimate(log_p, who),
        "cross_turn_accuracy": estimate(
            cross_turn_hits(three[:, 2], three[:, 0], said), by[said != 0]
        ),
        "same": estimate(said == 0, by),
    }
    if runs:
        index = torch.as_tensor(chosen)[:, None]
        each = [run["pick"][there].gather(1, index).log()[:, 0].numpy() for run in runs]
        gap = np.bincount(who, each[0] - each[1]) / len(who)  # a person's part of the difference
        result["monte_carlo_se"] = round(float(np.sqrt(np.square(gap).sum()) / 2), 6)
    return result


def types_result(
    population: Population, ids: np.ndarray, answers: best.Answers, found: dict
) -> dict:
    """Adjusted Rand index of the likeliest type and the true one, by how many choices were seen."""
    truth = population.type[ids.astype(int)]
    count = (answers.chosen >= 0).cumsum(1)
    by_number = {}
    for n in SEEN:
        enough = (count >= n).any(1)
        at = (count >= n).int().argmax(1)
        likeliest = found["types"][torch.arange(len(at)), at].argmax(1)
        by_number[n] = round(adjusted_rand_score(truth[enough], likeliest[enough]), 4)
    many = (count[:, -1] >= MANY).numpy()
    whole = adjusted_rand_score(truth[many], found["types"][:, -1].argmax(1)[many])
    return {"adjusted_rand_index": round(whole, 4), "adjusted_rand_index_after": by_number}


def pairs_result(pairs: Looked, p: torch.Tensor) -> dict:
    """Pick-a-Pic's credit of the best decision: image 0, a tie, or image 1."""
    there = pairs.row >= 0
    credit = torch.tensor([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])  # decided, told
    decided = (p[there].float() @ credit.T).argmax(1)
    told = (2 * pairs.told[there][:, 1]).long()
    who = torch.arange(len(there))[:, None].expand(there.shape)[there]
    return {"pickapic_accuracy": estimate(credit[decided, told].numpy(), who.numpy())}


def rankings_result(ranked: Looked, ranks: torch.Tensor) -> dict:
    """Spearman's correlation of the rankers' mean expected rank and their mean rank, by prompt."""
    there = ranked.row >= 0
    prompt = ranked.row[there].numpy()
    found, n = np.unique(prompt, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((2, len(n), ranks.shape[2]))
    for side, values in enumerate((ranks, ranked.told)):
        np.add.at(sums[side], found, values[there].numpy())
    expected, told = sums / n[:, None]
    return {"hps_spearman": estimate(spearman(-expected, told))}


def secret_taste(population: Population, ids: np.ndarray, law: Law, answers: best.Answers) -> dict:
    """What someone would predict who knows each person's own taste."""
    mine = secret_particles(population, ids, law)
    value = best.values(law, mine, answers)[:, 0]  # [U, T, L]
    pick = (best.steadiness(mine)[..., None] * value).softmax(-1)
    now = value.gather(2, answers.chosen.clamp(min=0)[..., None])[..., 0]
    gap = now - now.gather(1, answers.last.clamp(min=0))
    judgement = best.log_judgement(gap, best.steadiness(mine), best.indifference(mine)).exp()
    return sessions_result(answers, {"pick": pick, "judgement": judgement})


if __name__ == "__main__":
    main()
