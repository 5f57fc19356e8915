"""ChoiceData: what it holds, what it refuses."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.datasets.electricity import read_electricity

PANEL = Path(__file__).parents[1] / "data" / "electricity.csv.gz"


def long_table() -> pd.DataFrame:
    """Two people, three observations with 2, 3 and 2 alternatives, their rows shuffled."""
    rows = [
        # who, which, price, size, chosen
        ("ann", 1, 1.0, 10.0, True),
        ("ann", 1, 2.0, 20.0, False),
        ("bob", 2, 3.0, 30.0, False),
        ("bob", 2, 4.0, 40.0, False),
        ("bob", 2, 5.0, 50.0, True),
        ("ann", 3, 6.0, 60.0, False),
        ("ann", 3, 7.0, 70.0, True),
    ]
    frame = pd.DataFrame(rows, columns=["who", "which", "price", "size", "chosen"])
    return frame.iloc[[6, 0, 2, 4, 1, 3, 5]].reset_index(drop=True)


def read(frame: pd.DataFrame) -> ChoiceData:
    return ChoiceData.from_long(
        frame,
        person="who",
        observation="which",
        chosen="chosen",
        features=["price", "size"],
        source="shop.csv",
        first_row=2,
    )


def contents(data: ChoiceData) -> list:
    """What was chosen from what, by whom, whatever the order of rows."""
    found = []
    for n in range(data.n_observations):
        there = data.mask[n, :, 0]
        x = data.features()[n, there, 0].tolist()
        chosen = data.features()[n, int(data.target[n].argmax()), 0].tolist()
        found.append((data.person_ids[data.person[n]], sorted(map(tuple, x)), chosen))
    return sorted(found)


def test_long_table_becomes_ragged_observations():
    data = read(long_table())
    assert contents(data) == [
        ("ann", [(1, 10), (2, 20)], [1, 10]),
        ("ann", [(6, 60), (7, 70)], [7, 70]),
        ("bob", [(3, 30), (4, 40), (5, 50)], [5, 50]),
    ]
    assert data.person.tolist() == [0, 0, 1]  # a person's observations are together
    assert data.first.tolist() == [0, 2, 3]
    assert data.mask.sum() == 7


def test_features_and_table_describe_the_same_observations():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 3, 2, 4, generator=generator)
    features[1, 2] = torch.nan  # a missing alternative
    features[2, 0, 1] = torch.nan  # a missing item
    target, person = torch.tensor([0, 1, 2, 1, 0]), ["b", "a", "b", "a", "c"]
    data = ChoiceData.from_arrays(features, target=target, person=person)
    assert data.person_ids.tolist() == ["b", "a", "c"]
    order = [0, 2, 1, 3, 4]
    assert torch.equal(data.target.argmax(1), target[order])
    assert torch.equal(data.mask, ~features[order].isnan().any(-1))
    assert torch.equal(data.features()[data.mask], features[order][data.mask])
    again = ChoiceData.from_arrays(
        items=data.items, table=data.table, target=data.target, person=data.person
    )
    assert torch.equal(again.features()[again.mask], data.features()[data.mask])


def test_pooling_is_the_mean_over_the_items_that_are_there():
    features = torch.tensor([[[[2.0], [4.0]], [[5.0], [torch.nan]]]])
    pooled = ChoiceData.from_arrays(features, target=torch.tensor([0]), person=[1]).pooled()
    assert pooled.features().flatten().tolist() == [3, 5]
    assert pooled.items.shape == (1, 2, 1)


def test_blocks_are_whole_people_and_cover_everything():
    sizes = [3, 1, 7, 2, 2, 5]
    person = np.repeat(np.arange(6), sizes)
    data = ChoiceData.from_arrays(
        torch.randn(20, 2, 1), target=torch.zeros(20, dtype=torch.long), person=person
    )
    cuts = list(data.blocks(4))
    assert [r.stop - r.start for r, _ in cuts] == [4, 7, 4, 5]
    assert [range(*p.indices(6)) for _, p in cuts] == [
        range(0, 2),
        range(2, 3),
        range(3, 5),
        range(5, 6),
    ]
    assert all(set(person[rows]) == set(range(*people.indices(6))) for rows, people in cuts)


def test_selecting_people_takes_all_that_is_theirs():
    data = read(long_table())
    bob = data.select_people(np.array([1]))
    assert bob.person_ids.tolist() == ["bob"]
    assert bob.features()[0, :, 0].tolist() == [[3, 30], [5, 50], [4, 40]]
    assert data.select(torch.tensor([False, True, True])).person.tolist() == [0, 1]
    with pytest.raises(BadData, match="Positions must increase"):
        data.select(torch.tensor([2, 0]))


def test_electricity_panel():
    data = read_electricity(PANEL)
    assert (data.n_observations, data.n_people) == (4308, 361)
    assert data.items.shape == (4308, 4, 1)
    frame = pd.read_csv(PANEL)
    chosen = frame[frame.choice].drop(columns=["choice", "id", "alt", "chid"]).to_numpy()
    taken = data.features().squeeze(2)[torch.arange(4308), data.target.argmax(1)]
    assert np.array_equal(np.sort(taken.numpy(), 0), np.sort(chosen, 0))


# --- bad input: one clear error, naming the place -----------------------------------------------


def drop_column(frame):
    return frame.drop(columns="size")


def text_in_a_number(frame):
    return frame.astype({"price": object}).replace({"price": {3.0: "three"}})


def infinite(frame):
    return frame.replace({"price": {3.0: np.inf}})


def missing_number(frame):
    return frame.replace({"price": {3.0: np.nan}})


def nothing_chosen(frame):
    return frame.assign(chosen=frame.chosen & (frame.which != 2))


def two_chosen(frame):
    return frame.assign(chosen=frame.chosen | (frame.which == 1))


def one_alternative(frame):
    return frame[(frame.which != 3) | frame.chosen].reset_index(drop=True)


def two_people(frame):
    return frame.assign(who=["bob", *frame.who[1:]])


def strange_truth(frame):
    return frame.assign(chosen=frame.chosen.map({True: "yes", False: "no"}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_column, r"shop.csv has no column 'size'.*found \['who'"),
        (text_in_a_number, r"shop.csv, row 4, column 'price': expected a finite.*'three'"),
        (infinite, r"row 4, column 'price'.*inf"),
        (missing_number, r"row 4, column 'price'.*nan"),
        (nothing_chosen, r"row 4, column 'chosen': an observation with no chosen"),
        (two_chosen, r"row 3, column 'chosen': an observation with more than one chosen"),
        (one_alternative, r"row 2, column 'which': an observation with one alternative"),
        (two_people, r"column 'who': an observation made by two people"),
        (strange_truth, r"row 2, column 'chosen': expected true or false.*'yes'"),
    ],
)
def test_bad_tables_are_refused(spoil, words):
    with pytest.raises(BadData, match=words):
        read(spoil(long_table()))


GOOD = {
    "features": torch.zeros(3, 2, 1),
    "target": torch.tensor([0, 1, 0]),
    "person": ["ann", "ann", "bob"],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.zeros(3, 2)}, r"\[N, L, D\] or \[N, L, M, D\]"),
        (
            {"features": torch.tensor([[[0.0]] * 2, [[0.0], [torch.inf]], [[0.0]] * 2])},
            "Observation 1, alternative 1, item 0 has NaN or infinite",
        ),
        (
            {"features": torch.tensor([[[0.0]] * 2] * 2 + [[[0.0], [torch.nan]]])},
            r"Observation 2 \(person 'bob'\): fewer than two alternatives",
        ),
        ({"target": torch.tensor([0, 2, 0])}, "Observation 1: alternative 2 was chosen"),
        (
            {"target": torch.tensor([[1.0, 0], [0.5, 0.4], [1, 0]])},
            r"Observation 1 \(person 'ann'\): its target does not sum to 1",
        ),
        ({"target": torch.tensor([[1.0, 0], [1.5, -0.5], [1, 0]])}, "Observation 1.*negative"),
        ({"person": ["ann", "ann"]}, "3 observations, but `person` has 2"),
        ({"person": ["ann", None, "bob"]}, "Observation 1 has no person"),
        ({"people": ["ann", "bob", "eve"]}, "Person 'eve' has no observation"),
        ({"weight": torch.tensor([1.0, 1.0, -1.0])}, r"Observation 2 \(person 'bob'\): a weight"),
        ({"weight": torch.ones(2)}, r"`weight` must be \[3\]"),
        ({"items": torch.zeros(3, 2)}, "Give either"),
    ],
)
def test_bad_arrays_are_refused(change, words):
    with pytest.raises(BadData, match=words):
        ChoiceData.from_arrays(**(GOOD | change))


def test_bad_tables_of_items_are_refused():
    items, table = torch.tensor([[0, 1], [0, 2]]), torch.tensor([[0.0], [1.0]])
    rest = {"target": torch.tensor([0, 0]), "person": ["ann", "bob"]}
    with pytest.raises(BadData, match=r"Observation 1 \(person 'bob'\): an item id outside"):
        ChoiceData.from_arrays(items=items, table=table, **rest)
    table = torch.tensor([[0.0], [1.0], [torch.nan]])
    with pytest.raises(BadData, match=r"Observation 1 \(person 'bob'\): NaN or infinite"):
        ChoiceData.from_arrays(items=items, table=table, **rest)
    with pytest.raises(BadData, match="must be whole numbers"):
        ChoiceData.from_arrays(items=items.float(), table=table, **rest)


def test_a_truncated_file_is_refused(tmp_path):
    (tmp_path / "electricity.csv.gz").write_bytes(PANEL.read_bytes()[:40_000])
    with pytest.raises(
        BadData, match=r"electricity.csv.gz cannot be read to its end.*git checkout"
    ):
        read_electricity(tmp_path / "electricity.csv.gz")
    lines = gzip.decompress(PANEL.read_bytes()).splitlines(keepends=True)
    (tmp_path / "short.csv.gz").write_bytes(gzip.compress(b"".join(lines[:4])))  # 3 rows of 4
    with pytest.raises(BadData, match=r"short.csv.gz, row 2, column 'choice': .* no chosen"):
        read_electricity(tmp_path / "short.csv.gz")
    whole = b"".join(lines)
    for cut, words in ((len(whole) - 30, "damaged or cut short|expected"), (0, "to its end")):
        (tmp_path / "cut.csv").write_bytes(whole[:cut])
        with pytest.raises(BadData, match=words):
            read_electricity(tmp_path / "cut.csv")
    (tmp_path / "cut.csv").write_bytes(lines[0])
    with pytest.raises(BadData, match="has no rows"):
        read_electricity(tmp_path / "cut.csv")
    with pytest.raises(FileNotFoundError):
        read_electricity(tmp_path / "absent.csv.gz")
