"""Who takes part in a leaderboard: which settings, by what they read, and who is left out."""

from __future__ import annotations

from collections import Counter

import pytest

from embedcal.comparing.budgets import (
    CLASSES,
    CLASSES_AND_NAMES,
    KINDS,
    NAMES,
    NOTHING,
    TRAIN_GROUPS,
    VAL_GROUPS,
    kind,
)
from embedcal.fitting import configure
from embedcal.grids import parse
from embedcal.leading.entrants import field_of, field_of_spaces
from embedcal.methods import labels_of, names
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench


@pytest.fixture
def on(cache):
    return Workbench(cache)


def kinds(field, method):
    return [kind(entrant.needs) for entrant in field.entrants if entrant.method == method]


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ((), NOTHING),
        (("text.class", "projection"), NOTHING),
        (("text.class", "text.attribute"), NAMES),
        (("text.pairs",), NAMES),
        (("text.group",), NAMES),
        (("train.x", "train.y", "text.class"), CLASSES),
        (("val.y",), CLASSES),
        (("train.y", "text.attribute"), CLASSES_AND_NAMES),
        (("train.y", "val.g"), VAL_GROUPS),
        (("val.a",), VAL_GROUPS),
        (("val.g (inferred: place)", "text.attribute"), VAL_GROUPS),
        (("train.g", "val.g"), TRAIN_GROUPS),
        (("train.a (inferred: place)",), TRAIN_GROUPS),
    ],
)
def test_what_it_is_to_read_these(reads, expected) -> None:
    assert kind(reads) == expected


def test_every_method_takes_part_or_is_left_out_with_its_reason(on) -> None:
    field = field_of(on, names(), budget=1)
    there = {entrant.method for entrant in field.entrants}
    assert there | {label.split()[0] for label in field.refused} == set(names())
    assert {"erm", "jtt", "group-dro", "dfr"} <= there
    assert {"zeroshot", "cfr", "spurious"} <= set(field.refused)
    assert "prompts" in field.refused["zeroshot"]
    assert "\n" not in "".join(field.refused.values())


def test_settings_of_their_own_name_open_the_budgets_that_they_read(on, photos) -> None:
    field = field_of(on, ["dfr"], budget=1)
    assert sorted(kinds(field, "dfr")) == sorted([VAL_GROUPS, TRAIN_GROUPS, CLASSES])
    field = field_of(Workbench(photos), ["spurious", "cfr"], budget=4)
    assert kinds(field, "spurious") == [CLASSES_AND_NAMES, TRAIN_GROUPS]
    assert kinds(field, "cfr") == [CLASSES]  # calibration=erm is a setting as others are
    for entrant in field.entrants:
        assert len(entrant.settings) == 4
        resolved = [
            configure(s.method, s.options).resolve(Workbench(photos).offer)
            for s in entrant.settings
        ]
        assert {kind(labels_of(method)) for method in resolved} == {kind(entrant.needs)}
        assert len(set(resolved)) == 4


def test_defaults_come_first_and_a_larger_budget_only_adds(on) -> None:
    def settings(budget, seed=0):
        (found,) = field_of(on, ["erm"], budget=budget, search_seed=seed).entrants
        return [setting.label for setting in found.settings]

    assert settings(1) == ["erm"]
    assert settings(3) == settings(6)[:3]
    assert settings(6) == settings(6)
    assert settings(6) != settings(6, seed=1)
    every = settings(None)
    assert set(settings(6)) <= set(every)
    # Four rates and three penalties; of the twelve one is the defaults, which stands there as such
    # (for a linear head the default rate is none of the grid's).
    assert len(every) == 13
    assert len(settings(50)) == 13


def test_what_fits_rows_of_val_is_not_tuned_on_them(on) -> None:
    field = field_of(on, ["cb-llr", "evals", "self", "jtt"], budget=3)
    sizes = Counter({entrant.method: len(entrant.settings) for entrant in field.entrants})
    assert sizes == {"cb-llr": 1, "evals": 1, "self": 1, "jtt": 3}
    assert [e.method for e in field.entrants if e.fits_val] == ["cb-llr", "evals", "self"]


def test_options_are_held_where_they_are_taken(photos) -> None:
    on = Workbench(photos)
    held = {"head": "linear", "epochs": "2"}
    field = field_of(on, ["erm", "cfr", "dfr"], budget=2, fixed=held)
    for entrant in field.entrants:
        for setting in entrant.settings:
            wanted = {"erm": ("linear", 2), "cfr": (None, 2), "dfr": (None, None)}[entrant.method]
            assert (setting.options.get("head"), setting.options.get("epochs")) == wanted
    assert field.notes == ("cfr does not take head=linear and goes without",)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({"hed": "linear"}, "expected an option of some method, found 'hed': did you mean head"),
        ({"epochs": "many"}, "epochs of erm to be a whole number, found 'many'"),
        ({"head": "linaer"}, "to be one of auto, projection, attnpool, linear, found 'linaer'"),
        ({"lr": "1e-4..1e-2"}, "expected one value for lr"),
    ],
)
def test_options_that_nobody_takes_are_refused(on, held, expected) -> None:
    with pytest.raises(EmbedcalError, match=expected):
        field_of(on, ["erm", "rwg"], budget=1, fixed=held)


def test_a_grid_without_end_is_refused_at_once(photos) -> None:
    with pytest.raises(EmbedcalError, match=r"found [\d,]+ in the grid of cfr: .*--budget"):
        field_of(Workbench(photos), ["cfr"], budget=None)


def test_a_written_grid_is_parted_by_what_its_settings_read(on) -> None:
    spaces = [parse("erm:lr=1e-3,1e-2:sampler=iid,group"), parse("zeroshot"), parse("dfr")]
    field = field_of_spaces(on, spaces)
    assert kinds(field, "erm") == [CLASSES, TRAIN_GROUPS]
    assert [len(entrant.settings) for entrant in field.entrants] == [2, 2, 1]
    assert list(field.refused) == ["zeroshot"]


def test_budgets_go_from_nothing_to_everything() -> None:
    assert KINDS == (NOTHING, NAMES, CLASSES, CLASSES_AND_NAMES, VAL_GROUPS, TRAIN_GROUPS)
