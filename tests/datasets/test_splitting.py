"""Split rules against what they promise: shares, whole groups, the published draw."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from embedcal.datasets.named.splitting import SplitRule, parse_rule, split_rows
from embedcal.types import EmbedcalError


def cut(rule: SplitRule, **columns: list[str]) -> list[str]:
    n = len(next(iter(columns.values())))
    return list(split_rows(rule, columns, n))


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    val=st.sampled_from([0.0, 0.1, 0.25]),
    test=st.sampled_from([0.0, 0.2, 0.5]),
    seed=st.integers(0, 5),
)
def test_stratified_shares(sizes: list[int], val: float, test: float, seed: int) -> None:
    cells = [str(k) for k, size in enumerate(sizes) for _ in range(size)]
    rule = SplitRule(rule="stratified", seed=seed, val=val, test=test, stratify=("a",))
    found = cut(rule, a=cells)
    assert found == cut(rule, a=cells)
    whole = Counter(found)
    for split, share in (("val", val), ("test", test)):
        assert abs(whole[split] - share * len(cells)) <= 1
        for k, size in enumerate(sizes):
            inside = sum(s == split and c == str(k) for s, c in zip(found, cells, strict=True))
            assert abs(inside - share * size) <= 1.5


def test_stratified_rows_are_drawn() -> None:
    rule = parse_rule("0.5,0.25,0.25", ["y"], seed=0)
    found = cut(rule, y=["0"] * 400)
    other = cut(parse_rule("0.5,0.25,0.25", ["y"], seed=1), y=["0"] * 400)
    assert Counter(found) == Counter(other) == {"train": 200, "val": 100, "test": 100}
    assert found != other
    assert len(set(found[:100])) == 3


def test_grouped_keeps_groups_whole() -> None:
    generator = np.random.default_rng(0)
    patients = [f"patient{k:03d}" for k in generator.integers(0, 300, 2000)]
    rule = SplitRule(rule="grouped", by="patient", test=0.15, val=0.1)
    found = cut(rule, patient=patients)
    homes: dict[str, set[str]] = {}
    for patient, split in zip(patients, found, strict=True):
        homes.setdefault(patient, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    largest = max(Counter(patients).values())
    assert 0 <= Counter(found)["test"] - 0.15 * 2000 <= largest
    assert abs(Counter(found)["val"] - 0.1 * 2000) <= 2 * largest
    turned = cut(rule, patient=patients[::-1])  # whatever the order of the rows
    assert turned[::-1] == found


def test_train_test_split_is_scikit_learns() -> None:
    a = ["0", "1", "1", "2"] * 50
    rule = SplitRule(rule="train_test_split", stratify=("a",), test=0.15, val=0.1)
    found = np.array(cut(rule, a=a))
    rest, test = train_test_split(np.arange(200), test_size=0.15, random_state=42, stratify=a)
    strata = [a[row] for row in rest]
    train, val = train_test_split(rest, test_size=0.1 / 0.85, random_state=42, stratify=strata)
    for split, rows in (("train", train), ("val", val), ("test", test)):
        assert set(np.flatnonzero(found == split)) == set(rows)


def test_cells_take_from_train_alone() -> None:
    y, a = ["0", "0", "1", "1"] * 30, ["0", "1"] * 60
    split = ["0"] * 100 + ["2"] * 20
    rule = SplitRule(rule="cells", count=5, stratify=("y", "a"))
    found = cut(rule, y=y, a=a, split=split)
    assert found[100:] == ["test"] * 20
    chosen = Counter((y[i], a[i]) for i in range(100) if found[i] == "val")
    assert set(chosen.values()) == {5}
    assert len(chosen) == 4
    with pytest.raises(EmbedcalError, match="expected 26 training rows or more"):
        cut(SplitRule(rule="cells", count=26, stratify=("y", "a")), y=y, a=a, split=split)


def test_the_published_split_of_metashift(real_data: Path) -> None:
    with (real_data / "metashift-cat-dog-metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    rule = SplitRule(rule="choice", seed=42, test=0.25, val=0.1)
    found = split_rows(rule, {}, len(rows))
    assert list(found) == [("train", "val", "test")[int(row["split"])] for row in rows]


@pytest.mark.parametrize("text", ["0.5,0.5", "a,b,c", "0.5,0.4,0.2", "0,0.5,0.5", "1.5,-0.5,0"])
def test_fractions_that_are_none(text: str) -> None:
    with pytest.raises(EmbedcalError, match="fractions of train, val and test"):
        parse_rule(text, ["y"], 0)


def test_rules_that_cannot_be() -> None:
    with pytest.raises(EmbedcalError, match="split rule among choice"):
        cut(SplitRule(rule="lottery"), y=["0"])
    with pytest.raises(EmbedcalError, match="column patient to split by"):
        cut(SplitRule(rule="grouped", by="patient"), y=["0"])
