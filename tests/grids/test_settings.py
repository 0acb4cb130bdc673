"""What a grid asks for, as text, as TOML and as values; and what a mistake gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedcal.grids import Range, Setting, Space, parse, read_grid, space, spaces_of
from embedcal.grids.settings import default_space, written
from embedcal.methods import find, names
from embedcal.types import EmbedcalError


def test_a_spec_is_the_product_of_typed_values_with_the_last_option_fastest() -> None:
    found = parse("erm:lr=1e-4,1e-3:epochs=2,5:optimizer=sgd")
    assert found.axes == {"lr": (1e-4, 1e-3), "epochs": (2, 5), "optimizer": ("sgd",)}
    assert [type(axis[0]) for axis in found.axes.values()] == [float, int, str]
    assert found.size == 4
    assert [(s.options["lr"], s.options["epochs"]) for s in found.product()] == [
        (1e-4, 2), (1e-4, 5), (1e-3, 2), (1e-3, 5)
    ]  # fmt: skip


def test_a_bare_method_is_one_setting() -> None:
    assert [*parse("erm").product()] == [Setting(method="erm")]


def test_values_named_twice_are_one_and_dashes_are_underscores() -> None:
    assert parse("erm:batch-size=8,8,16").axes == {"batch_size": (8, 16)}
    assert parse("erm:lr=0.1,1e-1").axes == {"lr": (0.1,)}


def test_a_list_option_joins_its_items_with_a_plus() -> None:
    found = parse("dfr:c=1+0.1,0.5:refits=2")
    assert found.axes["c"] == ((1.0, 0.1), (0.5,))
    assert space("dfr", {"c": ["1+0.1", "0.5"]}).axes["c"] == found.axes["c"]


@pytest.mark.parametrize(
    ("text", "low", "high", "whole", "log"),
    [
        ("lr=1e-5..1e-2", 1e-5, 1e-2, False, True),
        ("lr=0.1..0.5", 0.1, 0.5, False, False),
        ("epochs=2..40", 2, 40, True, False),
        ("weight_decay=0..1", 0.0, 1.0, False, False),
    ],
)
def test_a_range_is_of_its_options_kind(text, low, high, whole, log) -> None:
    (axis,) = parse(f"erm:{text}").axes.values()
    assert axis == Range(low=low, high=high, whole=whole)
    assert axis.logarithmic is log
    assert parse(f"erm:{text}").size == (39 if whole else float("inf"))


@given(st.floats(0, 1, exclude_max=True), st.integers(-5, 5), st.integers(1, 900))
def test_a_range_never_leaves_its_ends(share: float, low: int, width: int) -> None:
    for whole in (True, False):
        found = Range(low=low, high=low + width, whole=whole).at(share)
        assert low <= found <= low + width
        assert not whole or isinstance(found, int)


def test_both_ends_of_a_whole_range_are_drawn() -> None:
    axis = Range(low=2, high=4, whole=True)
    assert {axis.at(share) for share in (0.0, 0.4, 0.999999)} == {2, 3, 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the name of a method"),
        ("emr:lr=1", "did you mean erm"),
        ("erm:rl=1", "did you mean lr"),
        ("erm:lr", "METHOD:OPTION=VALUE"),
        ("erm:lr=", "METHOD:OPTION=VALUE"),
        ("erm:=1", "METHOD:OPTION=VALUE"),
        ("erm:", "METHOD:OPTION=VALUE"),
        ("erm:lr=fast", "lr of erm to be a number, found 'fast'"),
        ("erm:lr=1,", "lr of erm to be a number, found ''"),
        ("erm:lr=nan", "to be a number, found 'nan'"),
        ("erm:lr=inf", "to be a number"),
        ("erm:epochs=1.5", "epochs of erm to be a whole number, found '1.5'"),
        ("erm:epochs=many", "a whole number"),
        ("erm:optimizer=a..b", "list them"),
        ("erm:lr=1e-2..1e-5", "from low to high"),
        ("erm:lr=1..1", "from low to high"),
        ("erm:lr=1e-4,1e-3..1e-2", "values or one range"),
        ("erm:lr=..1", "a number, found ''"),
        ("dfr:c=1+x", "a number, found 'x'"),
    ],
)
def test_a_mistake_in_a_spec_is_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(EmbedcalError, match="expected") as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("erm:lr=1:lr=2", "found lr=1 and lr=2 in 'erm:lr=1:lr=2': list all of its values after"),
        ("jtt:stage-epochs=1,2:stage_epochs=3", "found stage-epochs=1,2 and stage_epochs=3 in"),
    ],
)
def test_an_option_twice_is_refused_with_both(text: str, message: str) -> None:
    with pytest.raises(EmbedcalError, match="expected each option once") as caught:
        parse(text)
    assert message in str(caught.value)


def test_an_option_in_two_spellings_is_refused() -> None:
    with pytest.raises(EmbedcalError, match=r"found stage-epochs, stage_epochs: .* keep one"):
        space("jtt", {"stage-epochs": [1], "stage_epochs": [3]})


def test_a_value_that_the_method_refuses_is_refused_before_anything_runs(cache, tmp_path) -> None:
    from embedcal.grids import grid

    for spec, message in (
        ("erm:optimizer=adam", "one of adamw, sgd"),
        ("erm:epochs=0", "--epochs of 1 or more, found 0: take 30, the default"),
        ("erm:lr=1..2", "the range"),
    ):
        with pytest.raises(EmbedcalError, match=message):
            grid([spec], cache, out=tmp_path / "g", engine="sequential")
    assert not (tmp_path / "g").exists()


def test_nothing_or_an_empty_axis_is_no_grid() -> None:
    with pytest.raises(EmbedcalError, match="at least one method"):
        spaces_of([])


def test_values_are_written_as_they_are_read() -> None:
    for text in ("1e-05", "0.1", "1+0.1", "rns"):
        value = {"1+0.1": (1.0, 0.1), "rns": "rns"}.get(text) or float(text)
        assert written(value) == text
    assert (
        Setting(method="erm", options={"lr": 1e-4, "epochs": 3}).label == "erm lr=0.0001 epochs=3"
    )


@pytest.mark.parametrize("method", names())
def test_the_default_grid_of_every_method_is_of_values_that_it_takes(method: str) -> None:
    found = default_space(method)
    assert found.method == method
    for name, axis in found.axes.items():  # each value with the others as they are by default
        assert isinstance(axis, tuple)
        taken = [value for value in axis if takes(method, {name: value})]
        assert taken == list(axis) or (method, name) == ("cfr", "start")
    assert spaces_of([method], default_grid=True) == (found,)
    assert spaces_of([method]) == (Space(method=method),)


def takes(method: str, options: dict[str, Any]) -> bool:
    try:
        find(method)(**options)
    except EmbedcalError:
        return False
    return True


def test_options_that_are_given_replace_the_default_grid() -> None:
    (found,) = spaces_of(["erm:lr=1"], default_grid=True)
    assert found.axes == {"lr": (1.0,)}


def test_a_setting_is_a_space_of_one() -> None:
    setting = Setting(method="dfr", options={"c": (1.0, 0.1), "refits": 2})
    (found,) = spaces_of([setting])
    assert [*found.product()] == [setting]


TOML = """
seeds = 3
select = "val.mean"
[[runs]]
method = "erm"
lr = [1e-4, 1e-3]
epochs = 3
[[runs]]
method = "dfr"
c = ["1+0.1", "0.5"]
"""


def test_a_toml_file_is_its_spaces_and_the_other_keys(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(TOML)
    spaces, rest = read_grid(tmp_path / "g.toml")
    assert spaces == (parse("erm:lr=1e-4,1e-3:epochs=3"), parse("dfr:c=1+0.1,0.5"))
    assert rest == {"seeds": 3, "select": "val.mean"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[runs]", "expected TOML"),
        ("seeds = 3", r"expected \[\[runs\]\]"),
        ("runs = 3", r"expected \[\[runs\]\]"),
        ("runs = [1]", r"expected \[\[runs\]\]"),
        ("[[runs]]\nlr = 1.0", r"a method in \[\[runs\]\] number 1"),
        ('[[runs]]\nmethod = "emr"', "did you mean erm"),
        ('[[runs]]\nmethod = "erm"\nlr = "fast"', "to be a number"),
        ('[[runs]]\nmethod = "erm"\nlr = true', "to be a number"),
        ('[[runs]]\nmethod = "erm"\nepochs = 1.5', "a whole number"),
        ('[[runs]]\nmethod = "erm"\nlr = {a = 1}', "to be a number"),
        ('[[runs]]\nmethod = "erm"\nlr = []', "lr of erm, found none"),
        ("\udcff", "expected TOML"),
    ],
)
def test_a_mistake_in_a_toml_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EmbedcalError, match=message) as caught:
        read_grid(path)
    assert "\n" not in str(caught.value)


def test_a_toml_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match="No such file"):
        read_grid(tmp_path / "none.toml")
