"""The demo's comparison of every method: who is in it, and what each is said to read."""

from __future__ import annotations

import numpy as np
import pytest

from embedcal.demo import KINDS, Entry, demo, every_entry, kind_of
from embedcal.evaluate import rule
from embedcal.fitting import configure
from embedcal.methods import names
from embedcal.types import EmbedcalError

NOTHING, BARE_NAMES, CLASSES, NAMES, VAL, TRAIN = KINDS
TRAIN_NOTHING = {"orth-proj", "orth-cal", "roboshot", "perceptionclip", "sage", "zeroshot"}


def kind(entry: Entry) -> str:
    select = rule(entry.select or "val.worst_group")
    return kind_of(configure(entry.method, entry.options), select)


def test_every_method_is_in_it_once_or_with_and_without_groups() -> None:
    entries = every_entry()
    assert {entry.method for entry in entries} == set(names())
    assert len({(entry.label, entry.select) for entry in entries}) == len(entries)
    for name in names():
        kinds = [kind(entry) for entry in entries if entry.label == name]
        without = [NOTHING], [BARE_NAMES]
        fitted = [CLASSES], [CLASSES, VAL], [NAMES, VAL], [VAL], [TRAIN]
        assert kinds in (without if name in TRAIN_NOTHING else fitted), name


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


def test_every_method_is_once_among_those_over_digits() -> None:
    entries = every_entry("digits")
    assert {entry.method for entry in entries} == set(names())
    assert len({entry.label for entry in entries}) == len(entries)
    by_label = {
        entry.label.split()[0]: entry for entry in entries if entry.method in {"erm", "cfr"}
    }
    assert by_label["erm"].options["head"] == "linear"
    assert "head" not in by_label["cfr"].options
    assert {entry.select for entry in entries} == {"val.mean"}


def test_another_data_set_is_refused() -> None:
    with pytest.raises(EmbedcalError, match="expected --dataset to be one of birds, digits"):
        demo("waterbirds")


@pytest.mark.slow
def test_digits_show_the_shortcut_and_its_mending() -> None:
    """A seed that no choice was made on; each bound has room for a worse draw."""
    found = demo("digits", seeds=1, seed=77)
    assert len(found.group_names) == 25
    assert sum(found.common) == 5
    rows = {row.method: row for row in found.rows}

    def mean(method: str, *, common: bool) -> float:
        pairs = zip(rows[method].groups, found.common)
        return float(np.mean([value for value, largest in pairs if largest == common]))

    assert 0.1 < mean("zeroshot", common=False) < 0.3
    assert mean("erm", common=True) > mean("erm", common=False) + 0.3
    for method in ("rwg", "group-dro", "dfr"):
        assert mean(method, common=False) > mean("erm", common=False) + 0.1, method
    assert mean("dfr", common=False) > 0.6
