"""The classifiers against the runs of embedcal over the same rows, and what only they do."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import embedcal
from embedcal import estimators
from embedcal.estimators import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GroupDROClassifier,
    HeadClassifier,
    LinearProbeClassifier,
    worst_group_score,
)
from embedcal.estimators.arrays import OFFER, Rows, attribute_of, workbench
from embedcal.estimators.base import SHARED
from embedcal.evaluate.labels import labels_of
from embedcal.fitting import fit
from embedcal.methods import find, names
from embedcal.methods.base import options
from embedcal.types import EmbedcalError

NAMED = [
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GroupDROClassifier,
    LinearProbeClassifier,
]
FEW = {"epochs": 3}
SHORT: dict[str, dict[str, Any]] = {
    "erm": FEW,
    "group-dro": FEW,
    "afr": {"epochs": 5, "stage_epochs": 3},
    "jtt": {"epochs": 3, "stage_epochs": 1, "lr": 1e-3},
    "dfr": {"halves": 2, "refits": 3},
    "linear-probe": {},
    "rwg": FEW,
    "self": {},
    "lfr": {"cells": "group"},
    "cnc": {"epochs": 1, "stage_epochs": 1},
}


def world(n: int = 240, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, ...]:
    """Features (n, 6), classes, and an attribute that agrees with them for most rows."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    a = np.where(rng.random(n) < 0.8, y, rng.integers(classes, size=n))
    x = rng.normal(size=(n, 6))
    x[:, 0] += 1.5 * y
    x[:, 1] += 2.5 * a
    return x.astype(np.float32), y, a


TRAIN, VAL = world(), world(160, 1)


def over_a_cache(tmp_path: Path, method: str, **given: Any) -> embedcal.Run:
    """The same rows through a cache file and ``embedcal.fit``."""
    parts = [np.concatenate(pair) for pair in zip(TRAIN, VAL, VAL, strict=True)]
    split = np.repeat([0, 1, 2], [len(TRAIN[1]), len(VAL[1]), len(VAL[1])])
    path = embedcal.import_features(
        parts[0], parts[1], split, {"a": parts[2]}, out=tmp_path / "c.h5"
    )
    with embedcal.open(path) as cache:
        return fit(method, cache, out=tmp_path / "runs", seed=3, device="cpu", **given)


@pytest.mark.parametrize("method", SHORT)
def test_a_classifier_is_the_run_over_the_same_rows(method: str, tmp_path: Path) -> None:
    """To the bit: the head, its epoch, and the predictions of validation rows."""
    run = over_a_cache(tmp_path, method, **SHORT[method])
    model = HeadClassifier(method, options=SHORT[method], random_state=3, device="cpu")
    model.fit(TRAIN[0], TRAIN[1], TRAIN[2], X_val=VAL[0], y_val=VAL[1], groups_val=VAL[2])
    wanted = run.head().state_dict()
    found = model.head_.state_dict()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    entry = run.record["rules"][run.record["selection"]]
    assert model.epoch_ == entry["epoch"]
    assert list(model.labels_used_) == entry["labels_used"]
    logits = run.predictions()["val"].numpy()
    np.testing.assert_allclose(
        model.decision_function(VAL[0]), logits[:, 1] - logits[:, 0], atol=1e-4
    )


@pytest.mark.parametrize("select", ["val.mean", "val.worst_class", "val.env", "last"])
def test_a_rule_chooses_the_epoch_that_the_run_keeps(select: str, tmp_path: Path) -> None:
    run = over_a_cache(tmp_path, "erm", epochs=6, lr=0.03, select=select)
    model = ERMClassifier(epochs=6, lr=0.03, select=select, random_state=3, device="cpu")
    model.fit(TRAIN[0], TRAIN[1], TRAIN[2], X_val=VAL[0], y_val=VAL[1], groups_val=VAL[2])
    assert model.epoch_ == run.record["rules"][select]["epoch"]
    assert torch.equal(model.head_.weight, run.head().weight)
    assert list(model.labels_used_) == run.record["labels_used"]


@pytest.mark.parametrize("cls", NAMED)
def test_a_parameter_is_an_option_with_its_default(cls: type) -> None:
    known = {item.name: item.default for item in options(find(cls.method))}
    given = inspect.signature(cls).parameters
    assert {name for name in given if name not in SHARED} <= known.keys()
    for name, parameter in given.items():
        if name not in SHARED:
            assert parameter.default == known[name], name


@pytest.mark.parametrize("method", ["dfr", "group-dro", "rwg"])
def test_groups_and_the_attribute_that_they_come_from_are_the_same(method: str) -> None:
    x, y, a = TRAIN
    heads = []
    for groups in (a, 2 * y + a, np.array(["left", "right"])[a], (2 * y + a).astype(str)):
        model = HeadClassifier(method, options=SHORT[method]).fit(x, y, groups)
        heads.append(model.head_.weight.detach())
    assert all(torch.equal(heads[0], other) for other in heads[1:])


def test_attributes_of_groups_by_hand() -> None:
    y = np.array([0, 0, 1, 1, 1])
    inside = labels_of(["a", "b", "c", "d", None], "groups")
    assert attribute_of(y, inside).tolist() == [0, 1, 0, 1, -1]
    across = labels_of(["a", "b", "a", "c", None], "groups")
    assert attribute_of(y, across).tolist() == [0, 1, 0, 2, -1]


def test_without_groups_every_class_is_one() -> None:
    x, y, _ = TRAIN
    alone = DFRClassifier(halves=1, refits=2).fit(x, y)
    by_class = DFRClassifier(halves=1, refits=2, balance="class").fit(x, y, TRAIN[2])
    assert torch.equal(alone.head_.weight, by_class.head_.weight)
    assert by_class.labels_used_ == ("val.y",)
    assert GroupDROClassifier(**FEW).fit(x, y).labels_used_ == ("train.g", "train.y", "val.y")


def test_rows_of_unknown_group_are_withheld_from_what_reads_groups() -> None:
    x, y, a = TRAIN
    unknown = np.where(np.arange(len(y)) % 4 == 0, -1, a)
    known = unknown >= 0
    some = LinearProbeClassifier(balance="group").fit(x, y, unknown)
    fewer = LinearProbeClassifier(balance="group").fit(x[known], y[known], a[known])
    assert torch.equal(some.head_.weight, fewer.head_.weight)


def test_validation_rows_are_set_aside_where_something_reads_them() -> None:
    x, y, a = TRAIN
    nobody = ERMClassifier(**FEW, select="last").fit(x, y, a)
    given = ERMClassifier(**FEW, select="last").fit(x, y, X_val=VAL[0], y_val=VAL[1])
    assert torch.equal(nobody.head_.weight, given.head_.weight)
    assert nobody.labels_used_ == ("train.y",)
    aside = ERMClassifier(**FEW).fit(x, y, a)
    assert not torch.equal(nobody.head_.weight, aside.head_.weight)
    assert aside.labels_used_ == ("train.y", "val.g", "val.y")
    both = DFRClassifier(halves=1, refits=1).fit(x, y, a)  # reads labels of val alone: all rows
    twice = DFRClassifier(halves=1, refits=1).fit(x, y, a, X_val=x, y_val=y, groups_val=a)
    assert torch.equal(both.head_.weight, twice.head_.weight)


def test_rows_set_aside_are_of_every_group_and_of_the_seed() -> None:
    x, y, a = TRAIN
    model = ERMClassifier(validation_fraction=0.25)
    rows = Rows(x=x, y=y, a=a)
    method = model._method()
    from embedcal.evaluate import rule

    train, val = model._parts(method, rule("val.worst_group"), rows, 0)
    assert len(train.y) + len(val.y) == len(y)
    for g in range(4):
        size = (2 * y + a == g).sum()
        assert abs((2 * val.y + val.a == g).sum() - size / 4) <= 1
    again, other = (model._parts(method, rule("val.mean"), rows, seed)[1] for seed in (0, 1))
    np.testing.assert_array_equal(again.x, val.x)
    assert not np.array_equal(other.x, val.x)


def kinds() -> dict[str, Any]:
    x, y, a = TRAIN
    words = np.array(["cat", "dog"])
    return {
        "lists": (x.tolist(), y.tolist(), a.tolist()),
        "torch": tuple(map(torch.from_numpy, (x, y, a))),
        "float64": (x.astype(float), y.astype(float), a.astype(float)),
        "pandas": (pd.DataFrame(x).add_prefix("f"), pd.Series(words[y]), pd.Series(a)),
        "categories": (x, pd.Series(words[y], dtype="category"), pd.Series(a, dtype="category")),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_array_gives_the_same_head(kind: str) -> None:
    x, y, a = kinds()[kind]
    model = GroupDROClassifier(**FEW).fit(x, y, a)
    plain = GroupDROClassifier(**FEW).fit(*TRAIN)
    assert torch.equal(model.head_.weight, plain.head_.weight)
    if kind in ("pandas", "categories"):
        assert set(model.predict(x)) <= {"cat", "dog"}
    if kind == "pandas":
        assert list(model.feature_names_in_) == list(x.columns)


@pytest.mark.parametrize("cls", NAMED)
def test_a_copy_and_a_pickle_are_the_same(cls: type) -> None:
    model = cls(**SHORT[cls.method]).fit(*TRAIN)
    again = clone(model).fit(*TRAIN)
    stored = pickle.loads(pickle.dumps(model))
    for other in (again, stored):
        np.testing.assert_array_equal(other.predict_proba(VAL[0]), model.predict_proba(VAL[0]))


def test_random_state() -> None:
    def weight(random_state: Any) -> torch.Tensor:
        return ERMClassifier(**FEW, random_state=random_state).fit(*TRAIN).head_.weight

    assert torch.equal(weight(0), weight(np.int64(0)))
    assert not torch.equal(weight(0), weight(1))
    assert torch.equal(weight(np.random.RandomState(1)), weight(np.random.RandomState(1)))


def test_search_by_the_worst_group_with_metadata_routing() -> None:
    x, y, a = TRAIN
    with sklearn.config_context(enable_metadata_routing=True):
        model = DFRClassifier(halves=1, refits=1).set_fit_request(groups=True)
        worst = make_scorer(worst_group_score).set_score_request(groups=True)
        search = GridSearchCV(model, {"c": [(1.0,), [0.01]]}, scoring=worst, cv=2)
        search.fit(x, y, groups=a)
    assert search.best_estimator_.labels_used_ == ("val.g", "val.y")
    assert 0 <= search.best_score_ <= 1


def test_pipelines_and_cross_validation_hand_groups_on() -> None:
    x, y, a = TRAIN
    scores = cross_val_score(
        GroupDROClassifier(**FEW), x, y, cv=2, params={"groups": a}, error_score="raise"
    )
    assert scores.shape == (2,)
    pipe = make_pipeline(StandardScaler(), DFRClassifier(halves=1, refits=1))
    pipe.fit(x, y, dfrclassifier__groups=a)
    assert pipe[-1].labels_used_ == ("val.g", "val.y")
    search = GridSearchCV(LinearProbeClassifier(), {"c": np.logspace(-2, 0, 2)}, cv=2).fit(x, y)
    assert search.best_params_["c"] in (0.01, 1.0)


def test_worst_group_score() -> None:
    assert worst_group_score([0, 0, 1], [0, 1, 1], groups=["a", "b", "a"]) == 0.0
    assert worst_group_score([0, 0, 1], [0, 1, 1]) == 0.5  # without groups, over classes
    for unknown in (None, float("nan"), -1):
        with pytest.raises(EmbedcalError, match="expected a row of a known group, found none"):
            worst_group_score([0, 0, 1], [0, 1, 1], groups=[unknown] * 3)


def test_every_method_fits_or_says_why_not() -> None:
    """Nothing but what reads more than X is refused, in one line."""
    refused = {}
    for name in names():
        try:
            HeadClassifier(name)._method()
        except EmbedcalError as error:
            refused[name] = str(error)
    assert all(line.startswith("expected ") and "\n" not in line for line in refused.values())
    assert {"zeroshot", "clip", "spurious"} <= refused.keys()
    assert not refused.keys() & SHORT.keys()


def test_the_offer_is_what_the_arrays_have() -> None:
    rows = Rows(x=TRAIN[0], y=TRAIN[1], a=TRAIN[2])
    assert workbench(rows, rows, 2).offer == OFFER


X, Y, G = TRAIN
MISTAKES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "one class": (ERMClassifier(), (X, np.zeros(len(Y))), {}, "expected rows of at least two cl"),
    "option": (ERMClassifier(features="x"), (X, Y), {}, "expected --features of erm to be one of"),
    "typo": (HeadClassifier(options={"epoch": 1}), (X, Y), {}, "expected an option of erm, found"),
    "method": (HeadClassifier("efm"), (X, Y), {}, "expected the name of a method, found 'efm'"),
    "text": (HeadClassifier("zeroshot"), (X, Y), {}, "expected a method that reads X alone"),
    "pooled": (DFRClassifier(features="pooled"), (X, Y), {}, "expected a method that reads X al"),
    "oracle": (
        ERMClassifier(select="oracle.worst_group"), (X, Y), {}, "expected a rule on validation",
    ),
    "rule": (ERMClassifier(select="val.wg"), (X, Y), {}, "expected a selection rule among"),
    "fraction": (ERMClassifier(validation_fraction=1.0), (X, Y), {}, "expected validation_frac"),
    "groups": (ERMClassifier(), (X, Y, G[1:]), {}, "expected one of groups for each of 240 rows"),
    "y_val": (ERMClassifier(), (X, Y), {"X_val": X}, "expected y_val beside X_val"),
    "X_val": (ERMClassifier(), (X, Y), {"y_val": Y}, "expected X_val beside y_val"),
    "classes": (
        ERMClassifier(), (X, Y), {"X_val": X, "y_val": Y + 1}, "expected the classes of y in y_val",
    ),
    "kinds": (
        DFRClassifier(),
        (X, Y, G),
        {"X_val": X, "y_val": Y, "groups_val": G.astype(str)},
        "expected groups to be text as the others are",
    ),
    "no groups": (
        DFRClassifier(), (X, Y, G), {"X_val": X, "y_val": Y}, "expected rows of known attribute",
    ),
    "nothing to set aside": (
        ERMClassifier(), (X[:2], [0, 1]), {}, "expected a group of two rows or more",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_a_value_error(name: str) -> None:
    model, given, more, line = MISTAKES[name]
    with pytest.raises(EmbedcalError) as error:
        clone(model).fit(*given, **more)
    assert isinstance(error.value, ValueError)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_loss_that_diverges_is_an_error(recwarn: Any) -> None:
    model = ERMClassifier(optimizer="sgd", lr=1e30, features="embedding", epochs=5)
    with pytest.raises(EmbedcalError, match="expected a finite loss"):
        model.fit(X, Y)


def test_every_classifier_is_public() -> None:
    made = {cls.__name__ for cls in (*NAMED, HeadClassifier)}
    assert made <= set(estimators.__all__)
