"""Labels as people have them against the metrics of numbers, and against loops."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

import embedcal
from embedcal.evaluate import Metrics, bootstrap, evaluate, evaluate_labels, strata
from embedcal.types import EmbedcalError

NAMES = np.array(["bird", "cat", "dog"])
PLACES = np.array(["land", "water"])


def case(n: int = 90, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    y, a = rng.integers(classes, size=n), rng.integers(2, size=n)
    y[: 2 * classes] = np.repeat(np.arange(classes), 2)
    a[: 2 * classes] = np.tile([0, 1], classes)
    logits = 2 * rng.normal(size=(n, classes)) + 2 * np.eye(classes)[y]
    return y, a, logits


def same(found, wanted) -> None:
    for item in dataclasses.fields(Metrics):
        np.testing.assert_equal(getattr(found, item.name), getattr(wanted, item.name), item.name)


KINDS = {
    "lists": lambda v: v.tolist(),
    "numpy": lambda v: v,
    "pandas": pd.Series,
    "objects": lambda v: v.astype(object),
    "torch": torch.from_numpy,
    "floats": lambda v: v.astype(float),
    "tensor with a gradient": lambda v: torch.from_numpy(v.astype(float)).requires_grad_(),
    "nullable": lambda v: pd.Series(v, dtype="Int64"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vector_gives_the_metrics_of_numbers(kind):
    y, a, logits = case()
    classes, convert = logits.argmax(1), KINDS[kind]
    found = embedcal.evaluate(convert(y), convert(classes), attributes=convert(a), draws=50)
    same(found, evaluate(classes, y, a, 3, 2))
    cells = strata(y, a, 3, 2)
    assert found.interval == bootstrap((classes == y)[None], cells, 50)
    assert found.group_names[3] == "1 | 1"


@pytest.mark.parametrize("text", [np.str_, object, "category", "string"])
def test_text_gives_what_numbers_give_under_names(text):
    y, a, logits = case()
    classes = logits.argmax(1)
    words = [
        pd.Series(names[codes]).astype(text) if isinstance(text, str) else names[codes].astype(text)
        for names, codes in ((NAMES, y), (NAMES, classes), (PLACES, a))
    ]
    found = evaluate_labels(words[0], words[1], attributes=words[2], draws=0)
    same(found, evaluate(classes, y, a, 3, 2))
    assert found.interval is None
    assert found.class_names == tuple(NAMES)
    assert found.group_names[:3] == ("bird | land", "bird | water", "cat | land")


def test_groups_as_given_are_attributes_where_they_lie_in_one_class():
    """g = y * A + a has the same accuracies, and the same intervals, as y with a."""
    y, a, logits = case()
    g = 2 * y + a
    counts = np.arange(6) + 1
    by_groups = evaluate_labels(y, logits, g, train_group_counts=counts)
    by_values = evaluate_labels(y, logits, attributes=a, train_group_counts=counts)
    for name in ("mean", "groups", "group_sizes", "worst_group", "group_mean", "class_mean", "ece"):
        assert getattr(by_groups, name) == getattr(by_values, name), name
    assert by_groups.train_weighted == pytest.approx(by_values.train_weighted)
    for name in ("mean", "groups", "worst_group", "group_mean", "train_weighted"):
        np.testing.assert_allclose(
            getattr(by_groups.interval, name), getattr(by_values.interval, name), err_msg=name
        )
    assert by_groups.worst_group_of_class is None  # a group need not lie in one class


def test_groups_across_classes_against_a_loop():
    y, _, logits = case()
    hospital = np.random.default_rng(3).choice(["north", "east", "west"], len(y))
    found = evaluate_labels(y, logits, hospital)
    right = logits.argmax(1) == y
    wanted = [right[hospital == name].mean() for name in ("east", "north", "west")]
    np.testing.assert_allclose(found.groups, wanted)
    assert found.worst_group == min(wanted)
    assert found.group_mean == pytest.approx(np.mean(wanted))
    assert found.group_names == ("east", "north", "west")
    own = evaluate(logits, y, None, 3, 0)
    assert (found.mean, found.worst_class, found.ece) == (own.mean, own.worst_class, own.ece)
    ends = found.interval
    assert ends.worst_group[0] <= found.worst_group <= ends.worst_group[1]
    of_classes = bootstrap(right[None], strata(y, None, 3, 0))  # with the sizes of classes fixed
    assert ends.worst_class == of_classes.worst_class
    assert ends.class_mean == of_classes.class_mean
    assert len(found.auroc) == 3
    assert found.worst_auroc == min(found.auroc)


def test_probabilities_are_the_logits_that_they_come_from():
    y, a, logits = case()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one, two = (evaluate_labels(y, scores, attributes=a, draws=0) for scores in (logits, p))
    assert one.ece == pytest.approx(two.ece)
    np.testing.assert_allclose(one.auroc, two.auroc)
    assert one.groups == two.groups
    hard = evaluate_labels([0, 1], [[1.0, 0.0], [0.0, 1.0]], draws=0)  # log 0 is no number
    assert hard.mean == 1.0
    assert hard.ece == pytest.approx(0.0)


ROUNDED = {
    "two decimals": lambda p: p.round(2),
    "three decimals": lambda p: p.round(3),
    "half": lambda p: torch.from_numpy(p).half(),
    "bfloat16": lambda p: torch.from_numpy(p).bfloat16(),
}


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_rounded_probabilities_are_no_logits(kind, classes):
    y, _, logits = case(200, classes)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p[:3] = 1 / classes
    rounded = ROUNDED[kind](p)
    exact = np.asarray(rounded if isinstance(rounded, np.ndarray) else rounded.double())
    wanted = np.log((exact / exact.sum(1, keepdims=True)).clip(1e-38))  # below 0: surely logits
    one, two = (evaluate_labels(y, scores, draws=0) for scores in (rounded, wanted))
    assert one.ece == pytest.approx(two.ece)


def test_logits_between_0_and_1_are_no_probabilities():
    y, _, logits = case(200, 2)
    logits = 0.5 + logits.clip(-4, 4) / 8
    found = evaluate_labels(y, logits, draws=0).ece
    assert found == pytest.approx(evaluate_labels(y, logits - 1, draws=0).ece)


@pytest.mark.parametrize("unknown", [None, np.nan, pd.NA, -1])
def test_rows_of_unknown_group_count_for_their_class_alone(unknown):
    a = pd.Series([0, 1, unknown, 1], dtype=object)
    found = evaluate_labels([0, 0, 1, 1], [0, 1, 0, 1], attributes=a, draws=0)
    assert found.group_sizes == (1, 1, 0, 1)
    assert (found.mean, found.worst_group, found.worst_class) == (0.5, 0.0, 0.5)
    named = evaluate_labels([0, 0, 1, 1], [0, 1, 0, 1], groups=a, draws=0)
    assert (named.group_sizes, named.groups) == ((1, 2), (1.0, 0.5))


@pytest.mark.parametrize("order", [[-1, 0, 1], [1, -1, 0]])
def test_minus_one_is_unknown_among_categories_too(order):
    a = pd.Series(pd.Categorical([0, 1, -1, 1, None], categories=order))
    found = evaluate_labels([0, 0, 1, 1, 1], [0, 1, 0, 1, 0], groups=a, draws=0)
    values = [value for value in order if value != -1]
    assert found.group_names == tuple(map(str, values))
    assert found.groups == tuple({0: 1.0, 1: 0.5}[value] for value in values)
    words = pd.Series(pd.Categorical(["-1", "a", "a", "b", "b"]))
    assert evaluate_labels([0] * 5, [0] * 5, groups=words, draws=0).group_names == ("-1", "a", "b")


def test_no_known_group_is_no_group():
    found = evaluate_labels([0, 1], [0, 1], groups=[-1, -1])
    assert (found.groups, found.worst_group, found.group_names) == (None, None, ())
    assert evaluate_labels([0, 1], [0, 1], attributes=[None, None]).group_names == ()


def test_several_attributes_are_a_product_the_last_fastest():
    table = pd.DataFrame({"sex": ["f", "m", "f", "m"], "age": ["old", "old", "young", None]})
    found = evaluate_labels([0, 1, 0, 1], [0, 1, 1, 1], attributes=table, draws=0)
    assert found.group_names[:4] == ("0 | f, old", "0 | f, young", "0 | m, old", "0 | m, young")
    assert found.group_sizes == (1, 1, 0, 0, 0, 0, 1, 0)
    again = evaluate_labels([0, 1, 0, 1], [0, 1, 1, 1], attributes=dict(table.items()), draws=0)
    same(again, found)


def test_minus_one_is_a_class_like_any_other():
    found = evaluate_labels([-1, 1, 1], [-1, 1, -1], draws=0)
    assert (found.class_names, found.classes) == (("-1", "1"), (1.0, 0.5))


def test_classes_that_do_not_occur():
    found = evaluate_labels(["cat"], ["dog"], draws=0)  # predicted, never true
    assert found.class_names == ("cat", "dog")
    assert found.worst_class == 0.0
    wide = evaluate_labels([0, 2], np.eye(4)[[0, 1]], draws=0)  # four columns, numbers from 0
    assert len(wide.classes) == 4
    assert wide.mean == 0.5
    named = evaluate_labels([0, 1], [[0, 1], [0, 1]], classes=["no", "yes"], draws=0)
    assert (named.class_names, named.classes) == (("no", "yes"), (0.0, 1.0))
    backwards = evaluate_labels(["no", "yes"], [[0, 1], [0, 1]], classes=["yes", "no"], draws=0)
    assert backwards.classes == (0.0, 1.0)
    assert backwards.class_names == ("yes", "no")


def test_a_table_and_a_record():
    y, a, logits = case()
    found = evaluate_labels(NAMES[y], NAMES[logits.argmax(1)], attributes=PLACES[a])
    frame = found.to_frame()
    assert frame.loc["cat | water", "accuracy"] == found.groups[3]
    assert (frame["low"] <= frame["accuracy"]).all()
    assert (frame["accuracy"] <= frame["high"]).all()
    assert frame["rows"].sum() == len(y)
    assert list(evaluate_labels(y, y, draws=0).to_frame().columns) == ["accuracy"]
    assert list(evaluate_labels(y, y, a, draws=0).to_frame().columns) == ["rows", "accuracy"]
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["worst_group"] == found.worst_group
    assert record["interval"]["worst_group"] == list(found.interval.worst_group)
    assert record["group_names"][3] == "cat | water"


MISTAKES = {
    "as long": (([0, 1, 1], [0, 1]), {}, "expected logits of shape"),
    "groups": (([0, 1], [0, 1], [0]), {}, "expected one group for each of the 2 rows, found 1"),
    "values": (([0, 1], [0, 1]), {"attributes": [0]}, "expected one attribute value for each"),
    "both": (([0, 1], [0, 1], [0, 1]), {"attributes": [0, 1]}, "expected groups or attributes"),
    "kinds": ((["a", "b"], [0, 1]), {}, "expected y_pred to be text as the others are"),
    "mixed": ((["a", 1], ["a", "a"]), {}, "expected y_true as text or as whole numbers"),
    "scores": (([0, 1], [0.3, 0.7]), {}, "expected y_pred as text or whole numbers, found 0.3"),
    "missing": ((["a", None], ["a", "a"]), {}, "expected a class in every row of y_true"),
    "strange": (([0, 1], [0, 2]), {"classes": [0, 1]}, "expected y_pred among the classes 0, 1"),
    "twice": (([0, 1], [0, 1]), {"classes": [0, 0]}, "expected classes that differ"),
    "columns": (([3, 7], np.eye(3)[:2]), {}, "expected one column of y_pred for each of 2 classes"),
    "shape": (([[0], [1]], [0, 1]), {}, "expected y_true as one label a row, found shape"),
    "nothing": (([], []), {}, "expected a split with rows"),
    "not finite": (
        ([0, 1], [[0, 1], [np.nan, 0]]),
        {},
        "expected finite scores in y_pred, found NaN or infinity in 1 of 2 rows, the first in "
        "row 1: ",
    ),
    "lengths": (
        ([0, 1], [0, 1]),
        {"attributes": {"one": [0, 1], "two": [0]}},
        "expected 2 values of 'two'",
    ),
    "none": (([0, 1], [0, 1]), {"attributes": {}}, "expected at least one attribute"),
    "complex": (([0, 1], [0j, 1j]), {}, "expected y_pred as text or whole numbers, found complex"),
    "things": (([0, 1], [(1,), {}]), {}, "expected y_pred as an array, found rows of different"),
    "words": (([0, 1], [["a", "b"], ["c", "d"]]), {}, "expected y_pred of shape (2, 2) as scores"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name):
    given, options, line = MISTAKES[name]
    with pytest.raises(EmbedcalError) as error:
        evaluate_labels(*given, **options)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_the_package_is_still_a_package():
    from embedcal.evaluate import RULES

    assert embedcal.evaluate.RULES is RULES
    assert callable(embedcal.evaluate)
