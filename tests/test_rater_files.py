"""The shipped rater files: what they hold, that nothing is lost, that they are what was made."""

import io
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.special import expit

from pasta_lib.baselines import untrained
from pasta_lib.choices import BadData
from pasta_lib.datasets.hpd import as_choices, read_hpd_pairs, read_hpd_rankings
from pasta_lib.datasets.pasta import COLUMNS, judgements, picks, read_sessions
from pasta_lib.datasets.pickapic import read_pickapic
from pasta_lib.datasets.rows import Account
from pasta_lib.datasets.sac import read_sac
from pasta_lib.encoders import ClipEncoder
from pasta_lib.world import raters
from pasta_lib.world.bank import image_ids, load_bank, rows_of
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.people import (
    column_values,
    draw_law,
    draw_population,
    perceived,
    picture_values,
)
from pasta_lib.world.rater_files import read_pairs
from pasta_lib.world.reachable import reachable
from pasta_lib.world.weights import WORLD_DIR

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "makers"))
import make_raters

FOLDER = WORLD_DIR.parent / "raters"
PICKAPIC = {  # the public columns, without the pictures
    "are_different", "best_image_uid", "caption", "created_at", "has_label", "image_0_uid",
    "image_0_url", "image_1_uid", "image_1_url", "label_0", "label_1", "model_0", "model_1",
    "ranking_id", "user_id", "num_example_per_prompt", "__index_level_0__",
}  # fmt: skip


@pytest.fixture(scope="module")
def turns():
    account = Account()
    turns = read_sessions(FOLDER / "sessions_0.parquet", account)
    assert account.used == account.read and not account.reasons
    return turns


@pytest.fixture(scope="module")
def crowd():
    people = draw_population(draw_law(0), raters.PEOPLE, 0)
    return raters.Crowd(people, perceived(load_bank()), 0)


def test_sessions_are_as_many_and_as_long_as_promised(turns):
    assert turns.frame["session_id"].nunique() >= 7000
    assert turns.frame["person_id"].nunique() >= 2000
    assert turns.frame["complete"].all() and turns.frame["turn"].max() == 5
    assert turns.images.shape[1:] == (4, 4) and (turns.images != None).all()  # noqa: E711
    train = raters.split_of(turns.frame["person_id"].astype(int).to_numpy()) == "train"
    assert turns.frame[train]["session_id"].nunique() >= 7000


def test_the_sessions_are_those_of_the_population(turns, crowd):
    """Played again from the seed, they come out the same, column by column."""
    again = raters.play_sessions(crowd, untrained(0), 0)
    assert (turns.frame["chosen"].to_numpy() == again.chosen.ravel()).all()
    assert (turns.images == image_ids()[again.member].reshape(turns.images.shape)).all()
    assert (turns.slate == again.texts().reshape(turns.slate.shape)).all()


def test_who_knows_a_persons_taste_predicts_seven_picks_in_ten():
    for seed in range(3):
        people = draw_population(draw_law(seed), raters.PEOPLE, seed)
        crowd = raters.Crowd(people, perceived(load_bank()), seed)
        s = raters.play_sessions(crowd, untrained(seed), seed)
        right = []
        for turn in range(s.turns):
            x, asked_for = crowd.x[s.member[:, turn]], reachable()[s.initial]
            value = column_values(picture_values(people, s.person, x, asked_for))
            there = s.chosen[:, turn] >= 0
            right.append((value.argmax(1) == s.chosen[:, turn])[there])
        assert 0.68 <= np.concatenate(right).mean() <= 0.72
        assert 0.01 <= (s.chosen < 0).mean() <= 0.05


def test_columns_are_the_schemas_and_tell_nothing_of_types():
    assert pq.read_schema(FOLDER / "sessions_0.parquet").names == list(COLUMNS)
    for split in ("train", "validation", "test", "validation_unique", "test_unique"):
        names = set(pq.read_schema(FOLDER / "pickapic" / f"{split}.parquet").names)
        assert names == PICKAPIC
    sample = set(pq.read_schema(FOLDER / "pickapic" / "sample.parquet").names)
    assert sample == PICKAPIC | {"jpg_0", "jpg_1"}


def test_every_row_of_every_file_is_used():
    for split, least in (("train", 50_000), ("validation", 5000), ("test", 5000),
                         ("test_unique", 500), ("sample", 12)):  # fmt: skip
        account = Account()
        list(read_pickapic([FOLDER / "pickapic" / f"{split}.parquet"], account, training=True))
        assert account.used == account.read >= least, account
    account = Account()
    rankings = read_hpd_rankings(FOLDER / "hpd" / "test.json", account)
    assert account.used == account.read >= 1000
    assert as_choices(rankings).target.sum() == pytest.approx(8 * 4 * account.used)
    account = Account()
    read_hpd_pairs(FOLDER / "hpd" / "train.json", account)
    assert account.used == account.read >= 5000
    account = Account()
    list(read_sac(FOLDER / "sac_public_2022_06_29.sqlite", account))
    assert account.used == account.read >= 5000


def test_ranks_are_those_of_the_annotations():
    rankings = read_hpd_rankings(FOLDER / "hpd" / "test.json", Account())
    assert rankings.rank == pytest.approx(rankings.ranks.mean(1), abs=1e-3)
    assert (np.sort(rankings.ranks, 2) == np.arange(1, 6)).all()


def test_people_are_the_same_in_all_files_and_held_out_prompts_are(turns):
    held_out = set(np.array(bank_prompts(), object)[raters.held_out_prompts(0)])
    frames = {
        split: pd.read_parquet(FOLDER / "pickapic" / f"{split}.parquet")
        for split in ("train", "validation", "test")
    }
    for split, frame in frames.items():
        assert (raters.split_of(frame["user_id"].to_numpy()) == split).all()
        assert frame["caption"].isin(held_out).mean() == (1.0 if split == "test" else 0.0)
    mine = raters.split_of(turns.frame["person_id"].astype(int).to_numpy())
    assert not turns.frame["initial_prompt"][mine != "test"].isin(held_out).any()
    assert turns.frame["initial_prompt"][mine == "test"].isin(held_out).mean() == 0.4
    rankers = set(read_hpd_rankings(FOLDER / "hpd" / "test.json", Account()).person.ravel())
    assert rankers == set(frames["test"]["user_id"].astype(str))


def test_pairs_agree_with_their_labels(crowd):
    """In pairs without a tie the better picture, to who compares, is picked more often than not."""
    frame = pd.read_parquet(FOLDER / "pickapic" / "test.parquet")
    prompt = pd.Index(bank_prompts()).get_indexer(frame["caption"])
    x = crowd.x.reshape(-1, crowd.x.shape[2])
    rows = np.stack([rows_of(frame[f"image_{i}_uid"].to_numpy()) for i in (0, 1)], 1)
    who = frame["user_id"].to_numpy()
    value = picture_values(crowd.people, who, x[rows], reachable()[prompt])
    decided = frame["label_1"] != 0.5
    better = (value[:, 1] > value[:, 0]) == (frame["label_1"] == 1)
    assert 0.82 <= better[decided].mean() <= 0.95
    assert 0.1 <= 1 - decided.mean() <= 0.2


def test_the_sample_shows_the_pictures_of_the_bank():
    sample = pd.read_parquet(FOLDER / "pickapic" / "sample.parquet")
    files = [*sample["jpg_0"], *sample["jpg_1"]]
    names = [*sample["image_0_uid"], *sample["image_1_uid"]]
    for path in sorted((FOLDER / "pictures").iterdir()):
        files.append(path.read_bytes())
        names.append(path.stem)
    assert len(names) >= 100
    pixels = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    seen = ClipEncoder().encode_images(np.stack(pixels))
    kept = load_bank().embeddings(slice(None)).reshape(-1, 64)[rows_of(np.array(names, object))]
    nearness = (seen * kept).sum(1)
    assert np.median(nearness) > 0.97 and nearness.min() > 0.8


def test_the_maker_makes_the_tables_that_are_shipped(tmp_path, crowd):
    config = make_raters.RatersConfig()
    (tmp_path / "pickapic").mkdir()
    make_raters.write_pairs(config, crowd, tmp_path / "pickapic")
    for split in ("train", "test", "test_unique"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / "pickapic" / f"{split}.parquet"),
            pd.read_parquet(FOLDER / "pickapic" / f"{split}.parquet"),
        )
    make_raters.write_rankings(config, crowd, tmp_path / "hpd")
    for name in ("test.json", "train.json"):
        assert (tmp_path / "hpd" / name).read_bytes() == (FOLDER / "hpd" / name).read_bytes()
    ids = make_raters.write_ratings(config, crowd, tmp_path / "sac.sqlite")
    query = "select sid, iid, rating from ratings"
    with (
        sqlite3.connect(tmp_path / "sac.sqlite") as a,
        sqlite3.connect(FOLDER / "sac_public_2022_06_29.sqlite") as b,
    ):
        assert a.execute(query).fetchall() == b.execute(query).fetchall()
    assert len(ids) == 2 * raters.PEOPLE


def test_which_pictures_are_shown_says_nothing_of_the_chance_in_judging_them(
    tmp_path, crowd, monkeypatch
):
    asked, words = [], {"show": set(), "rank": set()}
    rank, show = raters.rank, raters.show

    def ranked(crowd, shown, purpose):
        words["rank"].add(purpose)
        asked.append((shown, rank(crowd, shown, purpose)))
        return asked[-1][1]

    def shown_by(person, images, seed, purpose, prompt):
        words["show"].add(purpose)
        return show(person, images, seed, purpose, prompt)

    monkeypatch.setattr(raters, "rank", ranked)
    monkeypatch.setattr(raters, "show", shown_by)
    make_raters.write_rankings(make_raters.RatersConfig(), crowd, tmp_path / "hpd")
    assert len(words["rank"]) == len(words["show"]) == 2 and not words["rank"] & words["show"]
    shown, ranks = asked[1]  # unnamed pairs
    worth = raters.worth(crowd, shown)
    p = expit(crowd.people.steadiness[shown.person] * (worth[:, 0] - worth[:, 1]))
    won = ranks[:, 0] == 1
    for place in (0, 1):
        own = shown.member[:, place] == shown.prompt  # the scene that was asked for stands there
        z = (won - p)[own].sum() / (p * (1 - p))[own].sum() ** 0.5
        assert own.sum() > 200 and abs(z) < 4, (place, z)


def test_a_picked_none_carries_the_old_prompt_on(turns):
    """Nobody's next slate depends on a column that was not picked."""
    frame = turns.frame
    rows, where = picks(turns)
    assert (frame["chosen"].to_numpy()[where] >= 0).all()
    assert len(where) == (frame["chosen"] >= 0).sum() < len(frame)
    judged, _ = judgements(turns)
    assert len(judged.prompt) < len(rows.prompt)


def test_a_spoilt_row_in_a_shipped_file_is_not_passed_over(tmp_path):
    frame = pd.read_parquet(FOLDER / "pickapic" / "test_unique.parquet")
    frame.loc[3, "label_0"] = 0.7
    (tmp_path / "pickapic").mkdir()
    frame.to_parquet(tmp_path / "pickapic" / "test_unique.parquet")
    with pytest.raises(BadData, match="row 3"):
        read_pairs("test_unique", tmp_path)
    assert len(read_pairs("test_unique").person) == 500
