"""Metrics against loops, closed forms and scikit-learn."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from embedcal.evaluate import Metrics, evaluate, evaluate_strata, strata
from embedcal.evaluate.metrics import auroc, ece, rank_area
from embedcal.types import EmbedcalError

NAN = float("nan")


def split(seed, c, a, *, n=200, unknown=0.0, empty=(), zero=0.0):
    """Random logits and labels; groups in ``empty`` have no rows; some logits are exactly tied."""
    rng = np.random.default_rng(seed)
    groups = np.array([g for g in range(c * a) if g not in empty])
    g = rng.choice(groups, size=n)
    y, attribute = g // a, g % a
    attribute = np.where(rng.random(n) < unknown, -1, attribute)
    logits = np.round(8 * rng.standard_normal((n, c))) / 8 + 1.5 * np.eye(c)[y]
    logits[rng.random(n) < zero] = 0.0
    return logits, y, attribute, rng.integers(0, 50, c * a) + (np.arange(c * a) == 0)


def by_loops(logits, y, a, n_classes, n_attributes, counts):
    """The definitions, one row at a time."""
    n = len(y)
    right = []
    for row in range(n):
        best = 0
        for k in range(1, n_classes):
            if logits[row][k] > logits[row][best]:
                best = k
        right.append(best == y[row])

    def accuracy(keep):
        chosen = [right[i] for i in range(n) if keep(i)]
        return sum(chosen) / len(chosen) if chosen else NAN

    classes = [accuracy(lambda i, k=k: y[i] == k) for k in range(n_classes)]
    groups, sizes = [], []
    for g in range(n_classes * n_attributes):
        member = [i for i in range(n) if y[i] == g // n_attributes and a[i] == g % n_attributes]
        sizes.append(len(member))
        groups.append(accuracy(lambda i, m=member: i in m))
    seen = [v for v in groups if not math.isnan(v)]
    total, weight = 0.0, 0
    for g, v in enumerate(groups):
        total += counts[g] * (0.0 if math.isnan(v) else v)
        weight += counts[g]
    lowest = []
    for k in range(n_classes):
        own = [v for v in groups[k * n_attributes : (k + 1) * n_attributes] if not math.isnan(v)]
        lowest.append(min(own) if own else NAN)
    present = [v for v in classes if not math.isnan(v)]
    areas = [
        area_by_pairs(logits, y, [i for i in range(n) if a[i] == v]) for v in range(n_attributes)
    ]
    return Metrics(
        mean=sum(right) / n,
        classes=tuple(classes),
        class_mean=sum(present) / len(present),
        worst_class=min(present),
        groups=tuple(groups),
        group_sizes=tuple(sizes),
        worst_group=min(seen),
        group_mean=sum(seen) / len(seen),
        train_weighted=total / weight,
        worst_group_of_class=tuple(lowest),
        ece=ece_by_loops(logits, y),
        auroc=tuple(areas),
        worst_auroc=min((v for v in areas if not math.isnan(v)), default=None),
    )


def softmax(row):
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def ece_by_loops(logits, y):
    bins = [[] for _ in range(10)]
    for row, label in zip(logits, y, strict=True):
        p = softmax(row)
        if len(p) == 2:
            confidence, event = p[1], float(label == 1)
        else:
            confidence, event = max(p), float(int(np.argmax(row)) == label)
        place = 0
        while place < 9 and confidence >= np.linspace(0, 1, 11)[place + 1]:
            place += 1
        bins[place].append((confidence, event))
    gap = 0.0
    for content in filter(None, bins):
        conf, freq = (sum(v[k] for v in content) / len(content) for k in (0, 1))
        gap += len(content) / len(y) * abs(conf - freq)
    return gap


def area_by_pairs(logits, y, rows):
    areas = []
    for k in (1,) if len(logits[0]) == 2 else range(len(logits[0])):
        odds = [
            logits[i][k] - math.log(sum(math.exp(v) for j, v in enumerate(logits[i]) if j != k))
            for i in rows
        ]
        pos = [s for s, i in zip(odds, rows, strict=True) if y[i] == k]
        neg = [s for s, i in zip(odds, rows, strict=True) if y[i] != k]
        if pos and neg:
            wins = sum(
                1.0 if p - q > 1e-9 else 0.5 if abs(p - q) <= 1e-9 else 0.0
                for p in pos
                for q in neg
            )
            areas.append(wins / len(pos) / len(neg))
    return sum(areas) / len(areas) if areas else NAN


def same(found, wanted):
    for field in dataclasses.fields(Metrics):
        left, right = getattr(found, field.name), getattr(wanted, field.name)
        if right is None:
            assert left is None, field.name
        else:
            np.testing.assert_allclose(left, right, atol=1e-12, err_msg=field.name)


@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize("a", [1, 2, 5])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
@pytest.mark.parametrize("some_empty", [False, True])
def test_every_metric_equals_its_loop(c, a, unknown, some_empty):
    empty = (1, 2) if some_empty and c * a > 4 else ()
    logits, y, attribute, counts = split(c * 10 + a, c, a, unknown=unknown, empty=empty, zero=0.1)
    found = evaluate(logits, y, attribute, c, a, counts)
    same(found, by_loops(logits, y, attribute, c, a, counts))


def test_a_class_without_rows_is_nan_in_vectors_and_left_out_of_minima():
    logits, y, attribute, counts = split(3, 5, 2, empty=(4, 5), unknown=0.2)
    found = evaluate(logits, y, attribute, 5, 2, counts)
    same(found, by_loops(logits, y, attribute, 5, 2, counts))
    assert math.isnan(found.classes[2])
    assert math.isnan(found.worst_group_of_class[2])
    assert not math.isnan(found.worst_class + found.worst_group + found.class_mean)


def test_published_group_accuracies_give_the_published_average():
    """Zero-shot RN50 on Waterbirds: 93.44/44.92/59.03/91.59 -> 90.77 (Yang et al. print 90.8)."""
    sizes, accuracies = (2255, 2255, 642, 642), (0.9344, 0.4492, 0.5903, 0.9159)
    g = np.repeat(range(4), sizes)
    within = np.concatenate([np.arange(s) for s in sizes])
    right = within < np.round(np.repeat(accuracies, sizes) * np.repeat(sizes, sizes))
    found = evaluate(
        np.where(right, g // 2, 1 - g // 2), g // 2, g % 2, 2, 2, (3498, 184, 56, 1057)
    )
    assert found.groups == pytest.approx(accuracies, abs=5e-5)
    assert round(100 * found.train_weighted, 2) == 90.77
    assert found.worst_group == found.groups[1] == found.worst_group_of_class[0]
    assert found.group_sizes == sizes


def test_an_empty_group_counts_as_zero_with_its_full_training_weight():
    y, a = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    found = evaluate(y, y, a, 2, 2, (10, 20, 30, 40))
    assert found.train_weighted == pytest.approx(0.7)
    assert found.worst_group == found.group_mean == found.mean == 1.0


def test_of_equal_logits_the_first_class_wins():
    found = evaluate(np.zeros((4, 3)), np.array([0, 0, 1, 2]), None, 3, 0)
    assert found.classes == (1.0, 0.0, 0.0)


def test_without_attributes_group_metrics_are_none():
    logits, y, attribute, counts = split(0, 2, 2)
    none = evaluate(logits, y, None, 2, 0)
    for name in ("worst_group", "groups", "group_sizes", "group_mean", "train_weighted"):
        assert getattr(none, name) is None
    assert none.worst_group_of_class is none.auroc is none.worst_auroc is None
    assert none == evaluate(logits, y, np.full_like(attribute, -1), 2, 2, counts)


def test_unknown_attributes_count_for_the_class_only():
    y, a = np.array([0, 0, 0, 1]), np.array([0, 0, -1, 1])
    found = evaluate(np.array([0, 0, 1, 1]), y, a, 2, 2)
    assert found.groups[0] == 1.0
    assert found.classes[0] == pytest.approx(2 / 3)
    assert found.mean == 0.75
    assert found.group_sizes == (2, 0, 0, 1)
    assert found.train_weighted is None


def test_predictions_give_the_same_accuracies_without_calibration():
    logits, y, a, counts = split(1, 5, 2, unknown=0.1)
    full = evaluate(logits, y, a, 5, 2, counts)
    quick = evaluate(logits.argmax(1), y, a, 5, 2, counts)
    assert quick == dataclasses.replace(full, ece=None, auroc=None, worst_auroc=None)


@given(st.integers(0, 10_000), st.sampled_from([2, 5]), st.sampled_from([1, 2]))
@settings(max_examples=30, deadline=None)
def test_row_order_does_not_matter(seed, c, a):
    logits, y, attribute, counts = split(seed, c, a, n=60, unknown=0.2)
    order = np.random.default_rng(seed).permutation(60)
    one = evaluate(logits, y, attribute, c, a, counts)
    same(evaluate(logits[order], y[order], attribute[order], c, a, counts), one)


def test_classes_and_attributes_may_be_renamed():
    logits, y, a, counts = split(5, 5, 2)
    logits += 1e-3 * np.random.default_rng(0).random(logits.shape)  # no ties: they depend on order
    names = np.array([3, 0, 4, 1, 2])  # old class k becomes names[k]
    moved = np.empty_like(logits)
    moved[:, names] = logits
    table = np.empty((5, 2), dtype=int)
    table[names] = counts.reshape(5, 2)[:, ::-1]
    one = evaluate(logits, y, a, 5, 2, counts)
    two = evaluate(moved, names[y], 1 - a, 5, 2, table.reshape(-1))
    for name in ("worst_group", "train_weighted", "group_mean", "class_mean", "ece", "worst_auroc"):
        assert getattr(two, name) == pytest.approx(getattr(one, name))


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_scikit_learns(ties):
    rng = np.random.default_rng(0)
    score = rng.integers(0, 6, 300).astype(float) if ties else rng.standard_normal(300)
    y = rng.integers(0, 2, 300)
    assert rank_area(score, y == 1) == pytest.approx(roc_auc_score(y, score))
    logits = rng.standard_normal((300, 5))
    labels = rng.integers(0, 5, 300)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert auroc(logits, labels) == pytest.approx(wanted)


def test_auroc_ranks_where_probabilities_saturate():
    logits = np.array([[0.0, 1000.0], [0.0, 1001.0], [0.0, 1002.0]])
    assert auroc(logits, np.array([0, 1, 1])) == 1.0
    assert math.isnan(auroc(logits, np.array([1, 1, 1])))
    assert math.isnan(auroc(logits[:0], np.array([], dtype=int)))


def test_ece_of_a_calibrated_and_of_a_boastful_head():
    certain = np.array([[0.0, 800.0]] * 4)
    assert ece(certain, np.array([1, 1, 1, 1])) == 0.0
    assert ece(certain, np.array([1, 1, 0, 0])) == 0.5
    assert ece(np.zeros((4, 2)), np.array([0, 1, 0, 1])) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits, y, a, _ = split(0, 2, 2)
    logits[7, 1] = bad
    with pytest.raises(EmbedcalError, match="1 of 200 rows, the first in row 7"):
        evaluate(logits, y, a, 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.array([0, 1, 2])}, "class labels y from 0 to 1, found 2 in row 2"),
        ({"y": np.array([0.0, 1.0, 1.0])}, "whole numbers"),
        ({"y": np.array([], dtype=int)}, "empty"),
        ({"a": np.array([0, -2, 1])}, "attribute values a from -1 to 1, found -2 in row 1"),
        ({"a": np.array([0, 1])}, "one attribute value for each of the 3"),
        ({"outputs": np.zeros((3, 3))}, r"expected logits of shape \(3, 2\)"),
        ({"outputs": np.array([0, 1, 2])}, "predictions from 0 to 1"),
        ({"outputs": np.array([0.0, 1.0, 1.0])}, "float64"),
        ({"counts": (1, 2, 3)}, "expected 4 training counts"),
        ({"counts": (0, 0, 0, 0)}, "expected 4 training counts"),
        ({"counts": (1, 2, 3, -1)}, "expected 4 training counts"),
    ],
)
def test_bad_input_is_named_in_one_line(change, message):
    given = {"outputs": np.zeros((3, 2)), "y": np.array([0, 1, 1]), "a": np.array([0, 1, -1])}
    given = {**given, "counts": (1, 2, 3, 4), **change}
    with pytest.raises(EmbedcalError, match=message) as error:
        evaluate(given["outputs"], given["y"], given["a"], 2, 2, given["counts"])
    assert "\n" not in str(error.value)


def test_strata_give_back_their_labels():
    _, y, a, counts = split(2, 5, 2, unknown=0.3)
    cells = strata(y, a, 5, 2, counts)
    np.testing.assert_array_equal(cells.y, y)
    np.testing.assert_array_equal(cells.a, a)
    assert cells.sizes.sum() == len(cells) == 200
    assert evaluate_strata(y, cells).mean == 1.0


def test_real_waterbirds_counts(real_data):
    import pandas as pd

    rows = pd.read_csv(real_data / "waterbirds-metadata.csv")
    train, test = (rows[rows["split"] == s] for s in (0, 2))
    counts = np.bincount(train["y"] * 2 + train["place"])
    y, a = test["y"].to_numpy(), test["place"].to_numpy()
    found = evaluate(a, y, a, 2, 2, counts)  # to read the background is to be wrong on minorities
    assert found.group_sizes == (2255, 2255, 642, 642)
    assert found.groups == (1.0, 0.0, 0.0, 1.0)
    assert found.train_weighted == pytest.approx((3498 + 1057) / 4795)
