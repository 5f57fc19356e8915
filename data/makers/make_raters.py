"""What synthetic people picked, compared, ranked and rated, in the public schemas.

    python data/makers/make_raters.py                                             # population 0
    python data/makers/make_raters.py --population 1 --folder build/raters_1      # not shipped

Writes data/raters/: sessions (design of ours), Pick-a-Pic's parquet files, HPD v2's JSON, SAC's
sqlite. The truth about the people lies in files of its own, which only evaluation may read. A
picture is named by its place in the image bank ("m01234_2": member 1234, picture 2), from which it
can be drawn again; a small sample is: the pictures of one session, of two rankings and of a few
ratings as files, and a few pairs with their bytes. Half a minute.
"""

import io
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from common import configure
from PIL import Image

from pasta_lib.baselines import untrained
from pasta_lib.datasets.pasta import session_table
from pasta_lib.generator import GeneratorConfig, load_pipeline
from pasta_lib.world import raters
from pasta_lib.world.bank import draw_again, image_ids, load_bank
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.people import Population, draw_law, draw_population, perceived
from pasta_lib.world.reachable import reachable
from pasta_lib.world.weights import WORLD_DIR, read_manifest, write_atomically

FOLDER = WORLD_DIR.parent / "raters"
_SHA = read_manifest()
GENERATOR = f"miniature@{_SHA['text_to_image/unet/diffusion_pytorch_model.safetensors'][:8]}"
MODEL = f"{GENERATOR}, CLIP {_SHA['clip/open_clip_model.safetensors'][:8]}"
EVERY = np.arange(len(reachable()))


@dataclass(frozen=True)
class RatersConfig:
    """Which people, and how much they do."""

    population: int = 0
    pairs: int = 24  # of every person
    rankings: int = 1000  # prompts that test people rank
    rankers: int = 8  # people a prompt
    ranked: int = 5  # pictures a prompt
    anonymous: int = 6000  # pairs of nobody knows whom, in HPD's train.json
    ratings: int = 2  # of every person
    sample: int = 12  # pairs and ratings that come with their pictures
    folder: str = str(FOLDER)


def main() -> None:
    config = configure(RatersConfig(), __doc__)
    folder = Path(config.folder)
    if config.population and folder.resolve() == FOLDER.resolve():
        raise SystemExit(f"{FOLDER} is population 0's: give another one a --folder of its own.")
    folder.mkdir(parents=True, exist_ok=True)
    seed = config.population
    people = draw_population(draw_law(seed), raters.PEOPLE, seed)
    crowd = raters.Crowd(people, perceived(load_bank()), seed)
    sessions = raters.play_sessions(crowd, untrained(seed), seed)
    table = session_table(sessions, source="synthetic", agent="untrained", population=str(seed),
                          model=MODEL, began="2026-01-01")  # fmt: skip
    write_table(table, folder / f"sessions_{seed}.parquet")
    write_table(truth(people), folder / f"truth_{seed}.parquet")
    write_pairs(config, crowd, folder / "pickapic")
    write_rankings(config, crowd, folder / "hpd")
    ratings = write_ratings(config, crowd, folder / "sac_public_2022_06_29.sqlite")
    if seed == 0:
        write_sample(config, folder, image_ids()[sessions.member[0]].ravel(), ratings)


def truth(people: Population) -> pa.Table:
    """Type, taste and the rest, a row a person."""
    columns = {name: getattr(people, name) for name in ("type", "faithfulness", "steadiness",
                                                        "indifference")}  # fmt: skip
    columns |= {"taste": list(people.taste.astype(np.float32))}
    return pa.table({"person_id": [str(i) for i in range(len(people))]} | columns)


def write_table(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=19)
    write_atomically(path, sink.getvalue().to_pybytes())


def write_pairs(config: RatersConfig, crowd: raters.Crowd, folder: Path) -> None:
    """Pick-a-Pic's five splits, without bytes; of `_unique` ones every prompt once, 500 rows."""
    folder.mkdir(exist_ok=True)
    person = np.repeat(np.arange(raters.PEOPLE), config.pairs)
    prompt = raters.prompts_for(raters.split_of(person) == "test", EVERY, crowd.seed, "pairs of")
    shown = raters.show(person, 2, crowd.seed, "pairs", prompt)
    label = raters.compare(crowd, shown, "pairs")
    ids = image_ids()[shown.member, shown.picture]
    captions = np.array(bank_prompts(), object)[shown.prompt]
    when = pd.Timestamp("2026-02-01", tz="UTC") + pd.to_timedelta(np.arange(len(person)), "min")
    best = np.where(label == 1, ids[:, 1], np.where(label == 0, ids[:, 0], "tie"))
    frame = pd.DataFrame({
        "are_different": True, "best_image_uid": best, "caption": captions, "created_at": when,
        "has_label": True, "image_0_uid": ids[:, 0], "image_0_url": "", "image_1_uid": ids[:, 1],
        "image_1_url": "", "label_0": 1 - label, "label_1": label, "model_0": GENERATOR,
        "model_1": GENERATOR, "ranking_id": np.arange(len(person)), "user_id": person,
    })  # fmt: skip
    frame["num_example_per_prompt"] = frame.groupby("caption")["caption"].transform("size")
    split = raters.split_of(person)
    for name in ("train", "validation", "test"):
        part = frame[split == name].reset_index(drop=True)
        part["__index_level_0__"] = part.index
        write_table(pa.Table.from_pandas(part, preserve_index=False), folder / f"{name}.parquet")
        if name != "train":
            once = part.drop_duplicates("caption").head(500)
            table = pa.Table.from_pandas(once, preserve_index=False)
            write_table(table, folder / f"{name}_unique.parquet")


def write_rankings(config: RatersConfig, crowd: raters.Crowd, folder: Path) -> None:
    """HPD v2's test.json, ranked by test people, and train.json, pairs of the others, unnamed."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng([crowd.seed, 4])
    everybody = np.arange(raters.PEOPLE)
    test = everybody[raters.split_of(everybody) == "test"]
    rankers = np.concatenate(
        [rng.permutation(test)[: config.rankers] for _ in range(config.rankings)]
    )
    held_out = np.ones(config.rankings, bool)
    prompt = raters.prompts_for(held_out, EVERY, crowd.seed, "rankings of")
    one = raters.show(np.zeros_like(prompt), config.ranked, crowd.seed, "rankings", prompt)
    each = [np.repeat(v, config.rankers, 0) for v in (one.prompt, one.member, one.picture)]
    ranks = raters.rank(crowd, raters.Shown(*each, rankers), "ranks")
    ranks = ranks.reshape(config.rankings, config.rankers, -1)
    who = rankers.reshape(config.rankings, config.rankers).astype(str)
    ids = image_ids()[one.member, one.picture]
    words = np.array(bank_prompts(), object)[prompt]
    write_json(folder / "test.json", [
        {
            "prompt": words[n], "image_path": [f"{i}.jpg" for i in ids[n]],
            "rank": ranks[n].mean(0).round(3).tolist(),
            "raw_annotations": [
                {"rank": rank, "user_hash": user}
                for rank, user in zip(ranks[n].tolist(), who[n].tolist(), strict=True)
            ],
        }
        for n in range(config.rankings)
    ])  # fmt: skip
    train = everybody[raters.split_of(everybody) == "train"]
    person = rng.choice(train, config.anonymous)
    prompt = raters.prompts_for(np.zeros(config.anonymous, bool), EVERY, crowd.seed, "anonymous of")
    shown = raters.show(person, 2, crowd.seed, "anonymous", prompt)
    first = raters.rank(crowd, shown, "anonymous ranks")[:, 0] == 1
    ids = image_ids()[shown.member, shown.picture]
    words = np.array(bank_prompts(), object)[prompt]
    write_json(folder / "train.json", [
        {"prompt": text, "file_path": [f"{i}.jpg" for i in two],
         "human_preference": [int(f), int(not f)]}
        for text, two, f in zip(words, ids, first, strict=True)
    ])  # fmt: skip


def write_ratings(config: RatersConfig, crowd: raters.Crowd, path: Path) -> list[str]:
    """SAC's tables, a generation for each picture; their names."""
    person = np.repeat(np.arange(raters.PEOPLE), config.ratings)
    prompt = raters.prompts_for(raters.split_of(person) == "test", EVERY, crowd.seed, "ratings of")
    shown = raters.show(person, 1, crowd.seed, "ratings", prompt)
    stars, ids = raters.rate(crowd, shown), image_ids()[shown.member[:, 0], shown.picture[:, 0]]
    number = np.arange(1, len(person) + 1)
    prompts = np.array(bank_prompts(), object)[shown.prompt]
    tables = {
        "generations": {"id": number, "sid": person, "method": GENERATOR, "prompt": prompts},
        "images": {"id": number, "gid": number, "idx": 0},
        "paths": {"iid": number, "path": [f"{i}.jpg" for i in ids]},
        "ratings": {"sid": person, "iid": number, "rating": stars},
    }
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as database:
        for name, columns in tables.items():
            frame = pd.DataFrame(columns)
            if name in ("generations", "ratings"):
                frame["verified"] = 1
            frame.to_sql(name, database, index=False)
    part.replace(path)
    return list(ids)


def write_sample(config: RatersConfig, folder: Path, session: np.ndarray, rated: list[str]) -> None:
    """Pictures of a session, of two rankings and of a few ratings as files; pairs with bytes."""
    rankings = json.loads((folder / "hpd" / "test.json").read_text())[:2]
    pairs = pd.read_parquet(folder / "pickapic" / "test.parquet").head(config.sample)
    ranked = [Path(name).stem for ranking in rankings for name in ranking["image_path"]]
    paired = [*pairs["image_0_uid"], *pairs["image_1_uid"]]
    names = list(dict.fromkeys([*session, *ranked, *rated[: config.sample], *paired]))
    files = {}
    for name, pixels in zip(
        names, draw_again(names, load_pipeline(GeneratorConfig())), strict=True
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        files[name] = buffer.getvalue()
    (folder / "pictures").mkdir(exist_ok=True)
    for name in dict.fromkeys([*session, *ranked, *rated[: config.sample]]):
        write_atomically(folder / "pictures" / f"{name}.jpg", files[name])
    for i in (0, 1):
        pairs[f"jpg_{i}"] = [files[name] for name in pairs[f"image_{i}_uid"]]
    table = pa.Table.from_pandas(pairs, preserve_index=False)
    write_table(table, folder / "pickapic" / "sample.parquet")


def write_json(path: Path, entries: list[dict]) -> None:
    lines = ",\n".join(json.dumps(e, ensure_ascii=False, separators=(",", ":")) for e in entries)
    write_atomically(path, f"[\n{lines}\n]\n".encode())


if __name__ == "__main__":
    main()
