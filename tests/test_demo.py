"""The demo's comparison of every method: who is in it, and what each is said to read."""

from __future__ import annotations

import pytest

from embedcal.demo import KINDS, Entry, demo, every_entry, kind_of
from embedcal.evaluate import rule
from embedcal.fitting import configure
from embedcal.methods import names

NOTHING, CLASSES, NAMES, VAL, TRAIN = KINDS


def kind(entry: Entry) -> str:
    select = rule(entry.select or "val.worst_group")
    return kind_of(configure(entry.method, entry.options), select)


def test_every_method_is_in_it_once_or_with_and_without_groups() -> None:
    entries = every_entry()
    assert {entry.method for entry in entries} == set(names())
    assert len({(entry.label, entry.select) for entry in entries}) == len(entries)
    for name in names():
        kinds = [kind(entry) for entry in entries if entry.label == name]
        assert kinds in ([NOTHING], [CLASSES], [CLASSES, VAL], [NAMES, VAL], [VAL], [TRAIN]), name


@pytest.mark.parametrize(
    ("method", "options", "select", "expected"),
    [
        ("zeroshot", {}, "val.worst_group", NOTHING),
        ("erm", {}, "last", CLASSES),
        ("erm", {}, "val.mean", CLASSES),
        ("erm", {}, "val.worst_group", VAL),
        ("erm", {"sampler": "group"}, "val.mean", TRAIN),
        ("jtt", {"stage_select": "val.worst_group"}, "val.mean", VAL),
        ("spurious", {}, "val.worst_class", NAMES),
        ("spurious", {"vs_weight": 1.0}, "val.worst_class", TRAIN),
        ("dfr", {}, "val.mean", VAL),
        ("dfr", {"balance": "class"}, "val.worst_group", CLASSES),
        ("dfr", {"variant": "train"}, "val.mean", TRAIN),
    ],
)
def test_what_a_run_reads(method: str, options: dict, select: str, expected: str) -> None:
    assert kind(Entry(method=method, options=options, select=select)) == expected


@pytest.mark.slow
def test_every_method_runs_in_the_demo() -> None:
    found = demo(rows=900, seeds=1, every=True)
    assert len(found.rows) == len(every_entry())
    order = [KINDS.index(row.kind) for row in found.rows]
    assert order == sorted(order)
    for row in found.rows:
        assert 0 <= row.worst_group <= row.train_weighted <= 1
        assert row.interval[0] <= row.worst_group <= row.interval[1]
