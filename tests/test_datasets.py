"""Readers of the public schemas: what they give, what they refuse, and that it is counted."""

import io
import json
import sqlite3

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from pasta_lib.choices import BadData
from pasta_lib.datasets.__main__ import main
from pasta_lib.datasets.hpd import as_choices, read_hpd_pairs, read_hpd_rankings
from pasta_lib.datasets.pasta import judgements, padded, picks, read_sessions
from pasta_lib.datasets.pickapic import read_pickapic
from pasta_lib.datasets.prepared import load_prepared
from pasta_lib.datasets.rows import Account, to_choices
from pasta_lib.datasets.sac import read_sac
from pasta_lib.encoders import ClipEncoder


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def pairs(n=6, pictures=True):
    """Rows as Pick-a-Pic v2 has them."""
    frame = pd.DataFrame({
        "are_different": True, "best_image_uid": "a", "caption": [f"a fox {i}" for i in range(n)],
        "created_at": pd.Timestamp("2022-10-01"), "has_label": True,
        "image_0_uid": [f"a{i}" for i in range(n)], "image_0_url": "gone",
        "image_1_uid": [f"b{i}" for i in range(n)], "image_1_url": "gone",
        "label_0": [1.0, 0.0, 0.5] * (n // 3), "label_1": [0.0, 1.0, 0.5] * (n // 3),
        "model_0": "m", "model_1": "m", "ranking_id": range(n), "user_id": [7, 8] * (n // 2),
        "num_example_per_prompt": [1, 2, 4] * (n // 3), "__index_level_0__": range(n),
    })  # fmt: skip
    if pictures:
        frame["jpg_0"], frame["jpg_1"] = [jpeg("red")] * n, [jpeg("blue")] * n
    return frame


def read_pairs(frame, tmp_path, training=False, **kwargs):
    path = tmp_path / "pairs.parquet"
    frame.to_parquet(path)
    account = Account()
    return list(read_pickapic([path], account, training=training, **kwargs)), account


def test_pick_a_pic_rows(tmp_path):
    (first, second), account = read_pairs(pairs(), tmp_path, training=True, batch_size=4)
    assert (account.read, account.used) == (6, 6)
    assert first.prompt.tolist() == ["a fox 0", "a fox 1", "a fox 2", "a fox 3"]
    assert first.person.tolist() == ["7", "8", "7", "8"]
    assert first.target.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [1, 0]]
    assert first.weight.tolist() == [1, 0.5, 0.25, 1]
    assert first.images.shape == (4, 2, 1) and second.images.shape == (2, 2, 1)
    assert first.images[0, 0, 0] == jpeg("red") and first.images[0, 1, 0] == jpeg("blue")
    (alone,), _ = read_pairs(pairs(pictures=False), tmp_path)
    assert alone.images[:, :, 0].tolist()[:2] == [["a0", "b0"], ["a1", "b1"]]
    assert alone.weight is None


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("jpg_0", b"\xff\xd8\xff cut short", "jpg_0 is missing or no whole JPEG"),
        ("jpg_1", None, "jpg_1 is missing or no whole JPEG"),
        ("label_1", 0.7, "labels are not"),
        ("label_0", None, "labels are not"),
        ("has_label", False, "no label"),
        ("caption", " ", "the caption is empty"),
        ("caption", None, "the caption is empty"),
        ("user_id", None, "user_id is missing"),
        ("ranking_id", 0, "ranking_id came before"),
    ],
)
def test_pick_a_pic_rows_that_are_refused(tmp_path, column, value, reason):
    frame = pairs()
    frame[column] = [value if i == 4 else v for i, v in enumerate(frame[column])]
    for size in (3, 100):  # a duplicate may lie in another batch
        batches, account = read_pairs(frame, tmp_path, batch_size=size)
        assert sum(len(b.prompt) for b in batches) == 5 == account.used
        ((found, count),) = account.reasons.items()
        assert reason in found and count == 1
        assert account.first[found] == "pairs.parquet, row 4"
        assert "5 of 6 rows used" in str(account) and found in str(account)


def test_pick_a_pic_files_that_are_refused(tmp_path):
    with pytest.raises(BadData, match=r"pairs.parquet has no column 'caption'.*pickapic_v1"):
        read_pairs(pairs().drop(columns="caption"), tmp_path)
    whole = (tmp_path / "pairs.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    with pytest.raises(BadData, match=r"cut.parquet is no whole parquet"):
        list(read_pickapic([tmp_path / "cut.parquet"], Account(), training=False))


RANKED = {
    "prompt": "a fox", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [1.5, 1.5, 3],
    "raw_annotations": [
        {"rank": [1, 2, 3], "user_hash": "u"}, {"rank": [2, 1, 3], "user_hash": "v"}
    ],
}  # fmt: skip


def write(tmp_path, content, name="test.json"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_rankings_become_products_of_choices(tmp_path):
    two = dict(RANKED, prompt="an owl", image_path=["d.jpg", "e.jpg"], rank=[1, 2],
               raw_annotations=[{"rank": [1, 2], "user_hash": "u"}])  # fmt: skip
    rankings = read_hpd_rankings(write(tmp_path, [RANKED, two]), account := Account())
    assert account.used == 2
    assert rankings.images.tolist() == [["a.jpg", "b.jpg", "c.jpg"], ["d.jpg", "e.jpg", None]]
    assert rankings.person.tolist() == [["u", "v"], ["u", None]]
    rows = as_choices(rankings)
    seen = [
        (person, [i for i in images[:, 0] if i], target.argmax())
        for person, images, target in zip(rows.person, rows.images, rows.target, strict=True)
    ]
    assert [(p, im) for p, im, _ in seen] == [
        ("u", ["a.jpg", "b.jpg", "c.jpg"]), ("u", ["b.jpg", "c.jpg"]),
        ("v", ["b.jpg", "a.jpg", "c.jpg"]), ("v", ["a.jpg", "c.jpg"]), ("u", ["d.jpg", "e.jpg"]),
    ]  # fmt: skip
    for images, target in zip(rows.images, rows.target, strict=True):
        assert target.sum() == 1 and target[[i is not None for i in images[:, 0]]].argmax() == 0


def test_a_ranking_with_ties_shares_the_vote(tmp_path):
    tied = dict(RANKED, raw_annotations=[{"rank": [1, 1, 2], "user_hash": "u"}])
    rows = as_choices(read_hpd_rankings(write(tmp_path, [tied]), Account()))
    assert rows.target.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"rank": [1, 2]}, "rank is not one number"),
        ({"raw_annotations": [{"rank": [1, 2], "user_hash": "u"}]}, "an annotation is not"),
        ({"raw_annotations": []}, "an annotation is not"),
        ({"rank": [1, None, 3]}, "rank is not one number"),
        ({"image_path": ["a.jpg"], "rank": [1]}, "fewer than two"),
        ({"image_path": ["a.jpg", "b.jpg", "gone.jpg"]}, "file is missing"),
    ],
)
def test_rankings_that_are_refused(tmp_path, change, reason):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg("red"))
    path = write(tmp_path, [RANKED, RANKED | change])
    account = Account()
    assert len(read_hpd_rankings(path, account, folder=tmp_path).prompt) == 1
    ((found, count),) = account.reasons.items()
    assert reason in found and count == 1 and account.first[found] == "test.json, row 1"


def test_hpd_files_that_are_refused(tmp_path):
    for content, message in (
        (b'[{"prompt": "\xff\xfe"}]', "no whole JSON"), (b"[{", "no whole JSON"),
        ({"a": 1}, "holds a dict"), ([RANKED, {"prompt": "a"}], "row 1 has no 'image_path'"),
    ):  # fmt: skip
        with pytest.raises(BadData, match=message):
            read_hpd_rankings(write(tmp_path, content), Account())


def test_hpd_pairs(tmp_path):
    pair = {"prompt": "a fox", "file_path": ["a.jpg", "b.jpg"], "human_preference": [0, 1]}
    odd = [pair | {"human_preference": [1, 1]}, pair | {"file_path": ["a.jpg"]}]
    rows = read_hpd_pairs(write(tmp_path, [pair, *odd, pair]), account := Account())
    assert rows.target.tolist() == [[0, 1]] * 2 and rows.images[0].tolist() == [
        ["a.jpg"],
        ["b.jpg"],
    ]
    assert len(set(rows.person)) == 2  # nobody knows who they were
    assert sum(account.reasons.values()) == 2 and account.read == 4


def sac(path, ratings=((5, 1, 10), (6, 2, 1)), prompts=("a fox", "an owl"), drop=""):
    with sqlite3.connect(path) as database:
        database.executescript(
            "create table generations(id integer, sid integer, method text, prompt text, verified);"
            "create table images(id integer, gid integer, idx integer);"
            "create table paths(iid integer, path text);"
            "create table ratings(sid integer, iid integer, rating integer, verified);"
        )
        for i, prompt in enumerate(prompts, 1):
            database.execute("insert into generations values (?, 1, 'm', cast(? as text), 1)",
                             (i, prompt))  # fmt: skip
            database.execute("insert into images values (?, ?, 0)", (i, i))
            database.execute("insert into paths values (?, ?)", (i, f"{i}.png"))
        database.executemany("insert into ratings values (?, ?, ?, 1)", ratings)
        if drop:
            database.execute(f"drop table {drop}")
    database.close()
    return path


def test_star_ratings(tmp_path):
    (rows,) = read_sac(sac(tmp_path / "sac.sqlite"), account := Account())
    assert rows.person.tolist() == ["5", "6"] and rows.prompt.tolist() == ["a fox", "an owl"]
    assert rows.images.tolist() == [[["1.png"]], [["2.png"]]]
    assert rows.rating[0] == -rows.rating[1] == pytest.approx(4.5 / 2.6)
    assert account.used == 2


def test_star_ratings_that_are_refused(tmp_path):
    ratings = ((5, 1, 10), (5, 1, 11), (5, 1, None), (None, 1, 3), (5, 9, 3), (5, 2, 3))
    path = sac(tmp_path / "sac.sqlite", ratings, ("a fox", b"\xff\xfe"))
    account = Account()
    assert sum(len(r.prompt) for r in read_sac(path, account)) == 1
    assert sorted(account.reasons.values()) == [1, 1, 1, 2]
    assert account.first["the rating is not 1 … 10"] == "sac.sqlite, row 2"
    assert "the prompt is not UTF-8" in account.first
    with pytest.raises(BadData, match="no table 'paths'"):
        list(read_sac(sac(tmp_path / "other.sqlite", drop="paths"), Account()))
    (tmp_path / "text.sqlite").write_text("no database at all, but long enough" * 9)
    with pytest.raises(BadData, match="no SQLite database"):
        list(read_sac(tmp_path / "text.sqlite", Account()))
    with pytest.raises(FileNotFoundError):
        list(read_sac(tmp_path / "gone.sqlite", Account()))
    assert not (tmp_path / "gone.sqlite").exists()


def turns(session="s", n=3, chosen=(1, None, 0), versus=(None, None, "worse"), columns=2):
    return pd.DataFrame({
        "session_id": session, "person_id": "p", "source": "synthetic", "agent": "untrained",
        "initial_prompt": "love", "turn": range(1, n + 1),
        "slate": [[f"{t} {c}" for c in range(columns)] for t in range(n)],
        "category": [["style"] * columns] * n,
        "images": [[[f"{t} {c} {m}" for m in range(2)] for c in range(columns)] for t in range(n)],
        "chosen": pd.array(chosen, "Int64"), "versus_last": list(versus),
        "created_at": pd.Timestamp("2026-01-01", tz="UTC"), "model": "m",
    })  # fmt: skip


def read(frame, tmp_path, **kwargs):
    path = tmp_path / "sessions.parquet"
    frame.to_parquet(path)
    account = Account()
    return read_sessions(path, account, **kwargs), account


def test_sessions_picks_and_judgements(tmp_path):
    frame = pd.concat([turns(), turns("t", 2, (0, 1), (None, "same"))])
    found, account = read(frame.sample(frac=1, random_state=0), tmp_path)
    assert account.used == 5
    assert found.frame.groupby("session_id")["complete"].first().to_dict() == {
        "s": True,
        "t": False,
    }
    rows, where = picks(found)
    assert len(rows.prompt) == 4  # "none of these" is no observation
    by = {(found.frame["session_id"][w], found.frame["turn"][w]): i for i, w in enumerate(where)}
    assert rows.target[by["s", 1]].tolist() == [0, 1]
    assert rows.images[by["s", 3]].tolist() == [["2 0 0", "2 0 1"], ["2 1 0", "2 1 1"]]
    judged, where = judgements(found)
    by = {found.frame["session_id"][w]: i for i, w in enumerate(where)}
    assert len(where) == 2
    assert judged.target[by["s"]].tolist() == [0, 1] and judged.tie[by["s"]] == 0
    # against the last pick, which was two turns ago
    assert judged.images[by["s"]].tolist() == [["2 0 0", "2 0 1"], ["0 1 0", "0 1 1"]]
    assert judged.target[by["t"]].tolist() == [0, 0] and judged.tie[by["t"]] == 1


def test_columns_may_have_other_names(tmp_path):
    frame = turns().rename(columns={"person_id": "rater"})
    with pytest.raises(BadData, match=r"no column 'person_id'.*found.*'rater'.*mapping="):
        read(frame, tmp_path)
    found, _ = read(frame, tmp_path, mapping={"person_id": "rater"})
    assert found.frame["person_id"].tolist() == ["p"] * 3


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("turn", [1, 2, 4], "a turn is missing"),
        ("turn", [1, 2, 2], "a turn is missing"),
        ("turn", [2, 3, 4], "a turn is missing"),
        ("chosen", [0, 2, 1], "no column of the slate"),
        ("chosen", [0, -1, 1], "no column of the slate"),
        ("versus_last", [None, "nicer", "same"], "none of better"),
        ("initial_prompt", ["love", "", "love"], "prompt is empty"),
        ("person_id", ["p", None, "p"], "person_id is missing"),
        ("images", [[["a"]], [["a"], ["b"]], [["a"], ["b"]]], "different lengths"),
    ],
)
def test_a_session_with_a_fault_is_refused_whole(tmp_path, column, values, reason):
    bad = turns("bad")
    bad[column] = values
    found, account = read(pd.concat([turns(), bad, turns("t")]), tmp_path)
    assert found.frame["session_id"].unique().tolist() == ["s", "t"]
    ((why, count),) = account.reasons.items()
    assert reason in why and count == 3 and account.first[why] == "sessions.parquet, row 3"


def test_lists_of_lists_are_padded():
    ragged = pa.array([[["a"], ["b", "c"]], [], [["d"]]])
    assert padded(ragged).tolist() == [
        [["a", None], ["b", "c"]], [[None, None]] * 2, [["d", None], [None, None]],
    ]  # fmt: skip
    assert padded(pa.chunked_array([ragged[1:], ragged[:1]]))[1, 1].tolist() == [None, None]


def test_every_different_picture_and_prompt_is_embedded_once(tmp_path):
    (rows,), _ = read_pairs(pairs(pictures=False), tmp_path)
    rows.images[1, 0, 0], rows.prompt[1] = "a0", "a fox 0"
    asked = []

    def vectors(keys):
        asked.append(list(keys))
        return np.array([[len(k), int(k[-1])] for k in keys], float)

    data = to_choices(rows, vectors, vectors)
    assert [len(a) for a in asked] == [11, 5] and len(set(asked[0])) == 11
    of = {person: i for i, person in enumerate(data.person_ids)}
    assert set(of) == {"7", "8"}
    mine = data.select_people([of["8"]])
    assert data.table[data.items[int(data.first[of["8"]]), 0, 0]].tolist() == [2, 0]
    assert mine.context_table[mine.context[0]].tolist() == [7, 0]
    assert mine.target.tolist() == [[0, 1], [1, 0], [0.5, 0.5]]


SMALL = ["--clip", "miniature", "--device", "cpu"]


def test_one_command_makes_the_projects_form(tmp_path, capsys):
    frame = pairs()
    frame["jpg_1"] = [jpeg(c) for c in ("blue", "green", "blue", "white", "black", "blue")]
    frame.loc[3, "jpg_0"] = jpeg("red")[:-40] + b"\xff\xd9"  # whole at its ends, broken between
    frame.to_parquet(tmp_path / "pairs.parquet")
    out = tmp_path / "out"
    command = [
        "pickapic",
        str(tmp_path / "pairs.parquet"),
        "--clip",
        "miniature",
        "--device",
        "cpu",
    ]
    main([*command, "--out", str(out), "--training"])
    assert "5 of 6 rows used" in capsys.readouterr().out
    account = (out / "account.txt").read_text()
    assert (
        "1 refused: a picture is missing or cannot be decoded (first: pairs.parquet, row 3)"
        in account
    )
    data = load_prepared(out)
    assert data.n_observations == 5 and set(data.person_ids) == {"7", "8"}
    assert len(data.table) == 5 and len(data.context_table) == 5  # red, blue, green, white, black
    want = ClipEncoder().encode_images([jpeg("red"), jpeg("green")])
    row = int(data.first[list(data.person_ids).index("8")])
    got = data.table[data.items[row, :, 0]].numpy()
    assert got == pytest.approx(want, abs=1e-3)
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    main([*command, "--out", str(out), "--training"])
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_pictures_in_files_and_what_is_missing(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg("red" if name == "a" else "blue"))
    two = {"image_path": ["a.jpg", "b.jpg"], "rank": [1, 2],
           "raw_annotations": [{"rank": [1, 2], "user_hash": "u"}]}  # fmt: skip
    write(tmp_path, [RANKED, RANKED | two])
    command = [
        "hpd_rankings",
        str(tmp_path / "test.json"),
        "--clip",
        "miniature",
        "--device",
        "cpu",
    ]
    main([*command, "--out", str(tmp_path / "out"), "--images", str(tmp_path)])
    data = load_prepared(tmp_path / "out")
    assert data.n_observations == 1 and data.items.shape[:2] == (1, 3)  # padded as the longest
    assert "4 refused: a picture is missing" in capsys.readouterr().out
    with pytest.raises(BadData, match="say in which folder"):
        main([*command, "--out", str(tmp_path / "other")])
    (tmp_path / "out" / "people.json").unlink()
    with pytest.raises(BadData, match=r"lacks people\.json"):
        load_prepared(tmp_path / "out")
