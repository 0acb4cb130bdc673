"""Records in JSON and summaries over seeds."""

import dataclasses
import json
import math

import numpy as np
import pytest

from embedcal.evaluate import (
    as_dict,
    bootstrap,
    evaluate,
    metrics_from_dict,
    strata,
    summarise,
)
from embedcal.types import EmbedcalError


def case(seed, *, attributes=True):
    """Metrics and intervals of a split whose group 3 is empty."""
    rng = np.random.default_rng(7)
    g = rng.choice([0, 1, 2], 90)
    y, a = g // 2, (g % 2 if attributes else None)
    logits = np.random.default_rng(seed).standard_normal((90, 2)) + np.eye(2)[y]
    metrics = evaluate(logits, y, a, 2, 2, (3, 2, 1, 4))
    cells = strata(y, a, 2, 2, (3, 2, 1, 4))
    return metrics, bootstrap((logits.argmax(1) == y)[None], cells, draws=100)


def same(one, two):
    assert type(one) is type(two)
    for field in dataclasses.fields(one):
        np.testing.assert_equal(getattr(one, field.name), getattr(two, field.name))


@pytest.mark.parametrize("attributes", [True, False])
def test_there_and_back(attributes):
    metrics, intervals = case(0, attributes=attributes)
    text = json.dumps(as_dict(metrics, intervals), allow_nan=False)
    record = json.loads(text)
    same(metrics_from_dict(record), metrics)
    assert record.pop("interval").keys() == {
        field.name
        for field in dataclasses.fields(intervals)
        if getattr(intervals, field.name) is not None
    }
    assert record == as_dict(metrics)


def test_names_in_json():
    metrics, intervals = case(0)
    record = as_dict(metrics, intervals)
    named = {"worst_group", "groups", "train_weighted", "mean", "class_mean", "group_mean"}
    assert named < set(record)
    assert named < set(record["interval"])
    assert record["groups"][3] is None
    assert record["interval"]["groups"][3] == [None, None]
    assert record["interval"]["worst_group"][0] <= record["worst_group"]
    assert record["group_sizes"][3] == 0
    assert "worst_group" not in as_dict(*case(0, attributes=False))


def test_summary_is_numpys():
    runs = [case(seed)[0] for seed in range(4)]
    found = summarise(runs)
    assert found.runs == 4
    for name in ("worst_group", "train_weighted", "mean", "ece", "worst_auroc", "groups", "auroc"):
        values = np.array([getattr(m, name) for m in runs])
        np.testing.assert_allclose(getattr(found.mean, name), values.mean(0))
        np.testing.assert_allclose(getattr(found.std, name), values.std(0, ddof=1))
    assert found.mean.group_sizes == found.std.group_sizes == runs[0].group_sizes
    assert math.isnan(found.mean.groups[3])


def test_one_run_has_no_deviation():
    metrics, _ = case(0)
    found = summarise([metrics])
    same(found.mean, metrics)
    assert math.isnan(found.std.worst_group)
    assert all(map(math.isnan, found.std.groups))
    assert as_dict(found.std)["worst_group"] is None


def test_a_metric_that_some_runs_lack():
    one, _ = case(0)
    found = summarise([one, dataclasses.replace(one, ece=None)])
    assert found.mean.ece is found.std.ece is None
    assert summarise([case(0, attributes=False)[0]] * 2).mean.groups is None


def test_what_cannot_be_summarised():
    with pytest.raises(EmbedcalError, match="at least one run"):
        summarise([])
    with pytest.raises(EmbedcalError, match="runs on one split"):
        summarise([case(0)[0], case(0, attributes=False)[0]])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"mean": "0.5"}, "under 'mean', found '0.5'"),
        ({"groups": {"a": 1}}, "under 'groups'"),
    ],
)
def test_damaged_records(damage, message):
    with pytest.raises(EmbedcalError, match=message):
        metrics_from_dict({**as_dict(*case(0)), **damage})


def test_incomplete_record():
    with pytest.raises(EmbedcalError, match="expected 'mean' in a record, found nothing"):
        metrics_from_dict({})
