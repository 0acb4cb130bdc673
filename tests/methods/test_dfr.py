"""DFR against an independent solver, its own definition, and its withheld arrays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedcal
from embedcal.cache import open_cache
from embedcal.heads import predict
from embedcal.methods import dfr
from embedcal.methods._forked import crew, dealt
from embedcal.methods.dfr import DFR, Fit, balanced_subset, fit_scaler, logistic_l1
from embedcal.types import EmbedcalError, Examples, Task, WithheldError


def world(
    n: int = 400, d: int = 12, n_classes: int = 2, seed: int = 0, *, rare: float = 0.1
) -> dict[str, np.ndarray]:
    """Rows with a core feature for y and a spurious one for a; a agrees with y but for ``rare``."""
    rng = np.random.default_rng([seed, n, d])
    y = rng.integers(n_classes, size=n)
    a = np.where(rng.random(n) < rare, rng.integers(n_classes, size=n), y)
    x = rng.normal(size=(n, d))
    x[:, 0] += 2.5 * y
    x[:, 1] += 2.5 * a
    x[:, 2] = 3.0  # a constant feature must not divide by zero
    return {"x": x.astype(np.float32), "y": y, "a": a, "g": y * n_classes + a}


def task(train: dict[str, np.ndarray], val: dict[str, np.ndarray], n_classes: int = 2) -> Task:
    return Task(
        train=Examples(split="train", arrays=train),
        val=Examples(split="val", arrays=val),
        text={},
        projection=None,
        n_classes=n_classes,
        n_attributes=n_classes,
    )


def objective(
    w: np.ndarray, b: float, x: np.ndarray, y: np.ndarray, c: float, v: np.ndarray
) -> float:
    margin = np.where(y == 1, 1.0, -1.0) * (x @ w + b)
    return float(np.abs(w).sum() + abs(b) + c * (v[y] * np.logaddexp(0, -margin)).sum())


@pytest.mark.parametrize("c", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0)])
def test_the_fit_minimises_the_stated_objective(c: float, weights: tuple[float, ...]) -> None:
    """Proximal gradient descent, written here, reaches no lower value of the formula."""
    data = world(200, 6)
    x, y, v = data["x"].astype(float), data["y"], np.array(weights)
    fit = logistic_l1(x, y, 2, c, weights=weights, max_iter=1000, seed=0)
    found = objective(fit.coef[0], fit.intercept[0], x, y, c, v)

    design = np.hstack([x, np.ones((len(x), 1))])
    step = 1 / (c * max(weights) * np.linalg.norm(design, 2) ** 2 / 4)
    theta, ahead, momentum = np.zeros(7), np.zeros(7), 1.0
    sign = np.where(y == 1, 1.0, -1.0)
    for _ in range(6000):
        grad = -c * design.T @ (v[y] * sign / (1 + np.exp(sign * (design @ ahead))))
        moved = ahead - step * grad
        new = np.sign(moved) * np.maximum(np.abs(moved) - step, 0)
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        theta, ahead, momentum = new, new + (momentum - 1) / grown * (new - theta), grown
    best = objective(theta[:-1], theta[-1], x, y, c, v)
    assert found == pytest.approx(best, rel=1e-3)
    assert found >= best - 1e-6


def test_balanced_subset_takes_the_smallest_size_of_each_present_group() -> None:
    g = np.array([0] * 9 + [2] * 4 + [3] * 30)
    rows = balanced_subset(g, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows)
    assert np.bincount(g[rows]).tolist() == [4, 0, 4, 4]


def test_scaler_standardises_and_spares_constants() -> None:
    x = world()["x"]
    scaled = fit_scaler(x)(x)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.delete(scaled.std(0), 2), 1, rtol=1e-6)
    assert np.abs(scaled[:, 2]).max() < 1e-6


@pytest.mark.parametrize("variant", ["val", "train"])
@pytest.mark.parametrize("features", ["embedding", "normalised", "pooled"])
def test_the_folded_head_decides_as_the_averaged_fits(variant: str, features: str) -> None:
    """The head on raw rows equals mean coefficients on standardised rows, drawn again here."""
    train, val = world(600, seed=1), world(300, seed=2, rare=0.8)
    method = DFR(variant=variant, features=features, c=(0.1,), refits=3, halves=1)
    head = method.solve(task(train, val), seed=5)
    assert head.level == method.level == ("pooled" if features == "pooled" else "embedding")

    rng = np.random.default_rng([5, 0])
    source = val if variant == "val" else train
    unit = (
        (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))
        if features == "normalised"
        else (lambda x: x)
    )
    x = unit(source["x"].astype(float))
    scale = fit_scaler(unit(train["x"].astype(float)))
    if variant == "val":
        order = rng.permutation(len(x))
        balanced_subset(source["g"][order[len(x) // 2 :]], rng)
    else:
        balanced_subset(source["g"], rng)
    rng.integers(2**31)  # one candidate C was fitted while tuning
    fits = []
    for _ in range(3):
        rows = balanced_subset(source["g"], rng)
        fits.append(
            logistic_l1(
                scale(x[rows]),
                source["y"][rows],
                2,
                0.1,
                weights=(1.0, 1.0),
                max_iter=100,
                seed=int(rng.integers(2**31)),
            )
        )
    margin = scale(x) @ np.mean([f.coef[0] for f in fits], 0) + np.mean([f.intercept for f in fits])
    logits = predict(head, torch.as_tensor(source["x"])).numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], margin, atol=2e-5)


def test_it_repairs_what_a_plain_fit_gets_wrong() -> None:
    train, val, test = (
        world(2000, rare=0.02),
        world(600, seed=3, rare=1.0),
        world(4000, seed=4, rare=1.0),
    )
    plain = logistic_l1(
        train["x"].astype(float), train["y"], 2, 1.0, weights=(1, 1), max_iter=100, seed=0
    )
    head = DFR().solve(task(train, val), seed=0)

    def worst(predicted: np.ndarray) -> float:
        return min((predicted == test["y"])[test["g"] == g].mean() for g in range(4))

    before = worst(plain.predict(test["x"].astype(float)))
    after = worst(predict(head, torch.as_tensor(test["x"])).argmax(1).numpy())
    assert after > before + 0.1


def test_more_than_two_classes_are_one_against_the_rest() -> None:
    train, val = world(1500, n_classes=3, rare=0.5), world(900, n_classes=3, seed=9, rare=0.9)
    head = DFR(c=(0.3,)).solve(task(train, val, n_classes=3), seed=0)
    assert head.weight.shape == (3, 12)
    accuracy = (predict(head, torch.as_tensor(val["x"])).argmax(1).numpy() == val["y"]).mean()
    assert accuracy > 0.75


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    data = task(world(), world(seed=1))
    once, again, other = (DFR().solve(data, seed).weight for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_variant_val_never_reads_a_label_of_train() -> None:
    train = {"x": world()["x"]}
    DFR().solve(task(train, world(seed=1)), seed=0)
    with pytest.raises(WithheldError, match=r"train\.y"):
        DFR(variant="train").solve(task(train, world(seed=1)), seed=0)


@pytest.mark.parametrize("variant", ["val", "train"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_balanced_over_classes_no_group_is_read(variant: str, n_classes: int) -> None:
    """It is DFR with the classes for groups, on a task from which the groups are withheld."""
    method = DFR(variant=variant, balance="class", c=(0.3, 0.01), refits=2, halves=2)
    assert not [need for need in method.needs if need.endswith(".g")]
    assert {need for need in method.needs if need.endswith(".y")} == {f"{variant}.y", "val.y"}
    assert method.selection == "own.worst_class"
    splits = [world(300, n_classes=n_classes, seed=seed, rare=0.5) for seed in (1, 2)]
    for split in splits:
        split["g"] = split["y"]
    wanted = DFR(variant=variant, c=(0.3, 0.01), refits=2, halves=2)
    assert wanted.selection == "own.worst_group"
    reference = wanted.solve(task(*splits, n_classes), seed=4)
    bare = [{name: split[name] for name in ("x", "y")} for split in splits]
    head = method.solve(task(*bare, n_classes), seed=4)
    assert torch.equal(head.weight, reference.weight)
    assert torch.equal(head.bias, reference.bias)


def test_class_balance_repairs_a_rare_class() -> None:
    def rare(n: int, seed: int, keep: float) -> dict[str, np.ndarray]:
        data = world(n, seed=seed, rare=1.0)
        kept = (data["y"] == 0) | (np.random.default_rng(seed).random(n) < keep)
        return {name: values[kept] for name, values in data.items()}

    train, val, test = rare(2000, 1, 0.04), rare(1500, 2, 0.04), rare(4000, 3, 1.0)
    x, y = train["x"].astype(float), train["y"]
    plain = logistic_l1(x, y, 2, 1.0, weights=(1, 1), max_iter=100, seed=0)
    head = DFR(balance="class").solve(task(train, val), seed=0)
    ours = predict(head, torch.as_tensor(test["x"])).argmax(1).numpy()
    theirs = plain.predict(test["x"].astype(float))

    def worst(predicted: np.ndarray) -> float:
        return min((predicted == test["y"])[test["y"] == c].mean() for c in (0, 1))

    assert worst(ours) > worst(theirs) + 0.1


@pytest.mark.parametrize("balance", ["group", "class"])
def test_the_choice_of_c_is_the_worst_groups_or_classes(
    balance: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves drawn again here, scored by loops; C starts where all weights are zero."""
    fitted: list[float] = []

    def spied(x: np.ndarray, y: np.ndarray, n_classes: int, c: float, **given: Any) -> Fit:
        fitted.append(c)
        assert given["weights"] == (1.0, 1.0)
        return logistic_l1(x, y, n_classes, c, **given)

    monkeypatch.setattr(dfr, "logistic_l1", spied)
    threads(1)  # every fit is seen here
    candidates = (1e-4, 0.03, 1.0)
    val = world(160, seed=2, rare=0.6)
    strata = val["g"] if balance == "group" else val["y"]
    chosen = set()
    for seed in range(4):
        method = DFR(balance=balance, c=candidates, refits=1, halves=3)
        method.solve(task(world(), val), seed)
        c = fitted[-1]
        rng = np.random.default_rng([seed, 0])
        scores = [0.0] * 3
        for _ in range(3):
            order = rng.permutation(160)
            rows = order[80:][balanced_subset(strata[order[80:]], rng)]
            mean, std = val["x"][rows].astype(float).mean(0), val["x"][rows].astype(float).std(0)
            std[2] = 1.0
            for k, candidate in enumerate(candidates):
                inside, outside = ((val["x"][i] - mean) / std for i in (rows, order[:80]))
                fit = logistic_l1(
                    inside,
                    val["y"][rows],
                    2,
                    candidate,
                    weights=(1.0, 1.0),
                    max_iter=100,
                    seed=int(rng.integers(2**31)),
                )
                margin = outside @ fit.coef[0] + fit.intercept[0]
                right: dict[int, list[bool]] = {}
                for i, value in zip(order[:80], margin):
                    right.setdefault(int(strata[i]), []).append((value > 0) == (val["y"][i] == 1))
                scores[k] += min(sum(hits) / len(hits) for hits in right.values())
        assert c == candidates[scores.index(max(scores))]
        chosen.add(c)
    assert 1e-4 not in chosen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_group_missing_from_the_scored_half_makes_no_score_nan(seed: int) -> None:
    """With NaN for a score the first C would win, and at this one every weight is zero."""
    data = world(200, seed=2, rare=0.6)
    order = np.random.default_rng([seed, 0]).permutation(200)
    source = np.argsort(data["g"] == 2, kind="stable")  # group 2 last, so in the fitted half
    val = {name: np.empty_like(values) for name, values in data.items()}
    for name, values in data.items():
        val[name][order] = values[source]
    assert 2 not in val["g"][order[:100]]
    method = DFR(c=(1e-6, 0.3), halves=1, refits=1)
    assert method.solve(task(world(), val), seed).weight.abs().max() > 0.01


def test_a_half_without_a_class_is_drawn_anew() -> None:
    val = world(60, seed=2)
    few = np.flatnonzero(val["y"] == 1)[2:]
    val = {name: np.delete(values, few, 0) for name, values in val.items()}
    for seed in range(8):  # a half without the two rows of class 1 comes one time in four
        for balance in ("group", "class"):
            head = DFR(c=(1.0,), refits=1, balance=balance).solve(task(world(), val), seed)
            assert torch.isfinite(head.weight).all()


def test_a_row_of_zeros_stays_finite_when_normalised() -> None:
    val = world(seed=1)
    val["x"][5] = 0
    head = DFR(features="normalised", refits=1, halves=1).solve(task(world(), val), seed=0)
    assert torch.isfinite(head.weight).all()


@pytest.mark.parametrize("balance", ["group", "class"])
@pytest.mark.parametrize("variant", ["val", "train"])
def test_an_absent_class_is_named_with_its_split(balance: str, variant: str) -> None:
    whole = world(120, n_classes=3, seed=1, rare=0.5)
    lacking = {name: values[whole["y"] != 1] for name, values in whole.items()}
    splits = (whole, lacking) if variant == "val" else (lacking, whole)
    with pytest.raises(EmbedcalError, match=rf"{variant} rows of every class .* none of class 1"):
        DFR(variant=variant, balance=balance).solve(task(*splits, 3), seed=0)
    method = DFR(variant="train", balance=balance, c=(0.3,), refits=1)
    assert torch.isfinite(method.solve(task(whole, lacking, 3), seed=0).weight).all()  # only scored


def test_too_few_rows_for_halves_are_refused() -> None:
    data = {"x": world(20)["x"], "y": np.arange(20)}
    with pytest.raises(EmbedcalError, match="found 1 of class 0") as error:
        DFR(balance="class").solve(task(data, data, 20), seed=0)
    assert "\n" not in str(error.value)


def test_a_run_without_groups_says_so(birds: Path) -> None:
    """From the cache to the record: which labels were used, and what chose C."""
    from embedcal.cache import open_cache
    from embedcal.fitting import fit_on
    from embedcal.workbench import Workbench

    with open_cache(birds) as cache:
        options = {"balance": "class", "features": "pooled", "c": (0.1,), "refits": 1, "halves": 1}
        record = fit_on(Workbench(cache), "dfr", options).record
    assert record["labels_used"] == ["val.y"]
    assert record["selection"] == "own.worst_class"
    assert record["options"]["balance"] == "class"


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"c": (0.0,)}, "positive"),
        ({"halves": 0}, "--halves of 1 or more, found 0: take 5, the default of dfr"),
        ({"halves": 10**9}, "1,000 at most, found 1,000,000,000 and 0: take 5 and 20"),
        ({"refits": 1001}, "1,000 at most, found 5 and 1,001"),
        ({"variant": "vall"}, "val, train"),
        ({"features": "tokens"}, "pooled"),
        ({"balance": "classes"}, "group, class"),
    ],
)
def test_bad_options_are_one_line_that_names_the_choices(kwargs: dict, words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        DFR(**kwargs)
    assert "\n" not in str(error.value)


def test_one_group_alone_is_refused() -> None:
    val = world(seed=1)
    val["g"] = np.zeros_like(val["g"])
    with pytest.raises(EmbedcalError, match="two of 4 groups"):
        DFR().solve(task(world(), val), seed=0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", ["val", "train"])
def test_the_number_of_processes_changes_no_bit(
    variant: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, heads = task(world(), world(seed=1)), []
    forks: list[int] = []
    monkeypatch.setattr(os, "fork", lambda fork=os.fork: forks.append(1) or fork())
    for count in (1, 2, 5):
        threads(count)
        heads.append(DFR(variant=variant, halves=2).solve(data, 3))
        assert len(forks) == (count - 1) * (sys.platform == "linux")  # for search and refits
        forks.clear()
    for head in heads[1:]:
        assert torch.equal(head.weight, heads[0].weight)
        assert torch.equal(head.bias, heads[0].bias)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 20])
def test_pieces_are_dealt_once_and_evenly(count: int, workers: int) -> None:
    hands = [dealt(worker, count, workers) for worker in range(workers)]
    assert sorted(k for hand in hands for k in hand) == list(range(count))
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
    if (count, workers) == (7, 2):
        assert hands == [[0, 3, 4], [1, 2, 5, 6]]


@pytest.mark.skipif(sys.platform != "linux", reason="a crew has no children elsewhere")
def test_ctrl_c_is_told_once_and_by_the_parent() -> None:
    words = """
import os, time, torch
from embedcal.methods._forked import crew
torch.set_num_threads(3)
def work(k):
    os.write(1, b"at work\\n")  # in one piece, whoever else writes
    time.sleep(100)
with crew(work) as all_of:
    all_of([0, 1, 2])
"""
    child = subprocess.Popen(
        [sys.executable, "-c", words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(3)]
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert told == ["at work\n"] * 3
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1


def test_a_crews_work_comes_back_in_order_and_from_several_processes(
    threads: Callable[[int], None],
) -> None:
    threads(3)
    with crew(lambda k: np.array([[k, os.getpid()]], float)) as work:
        lists = [work(range(7)), work([4, 2]), work(range(7))]
    assert [int(one[0, 0]) for one in lists[0]] == list(range(7))
    assert [int(one[0, 0]) for one in lists[1]] == [4, 2]
    pids = [int(one[0, 1]) for one in lists[0]]
    assert pids[3:] == [pids[2], pids[1], pids[0], pids[0]]  # dealt out there and back
    assert pids[0] == os.getpid()
    assert len(set(pids)) == (3 if sys.platform == "linux" else 1)
    assert [int(one[0, 1]) for one in lists[2]] == pids  # the same processes stay
    for pid in set(pids[1:]) - {pids[0]}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    threads(1)
    with crew(lambda k: np.array([float(os.getpid())])) as work:
        assert {int(one[0]) for one in work(range(4))} == {os.getpid()}


def test_what_a_child_does_not_deliver_is_done_here(threads: Callable[[int], None]) -> None:
    threads(2)
    here = os.getpid()

    def work(k: int) -> np.ndarray:
        if os.getpid() != here and k >= 3:
            os._exit(1)
        return np.array([float(k), float(os.getpid() == here)])

    with crew(work) as work_all:
        for _ in range(2):  # the second time its end of the pipe is closed
            assert [one.tolist() for one in work_all(range(6))] == [
                [float(k), 1.0] for k in range(6)
            ]

    def refuse(k: int) -> np.ndarray:
        raise EmbedcalError(f"piece {k}")

    with pytest.raises(EmbedcalError, match="piece 0"), crew(refuse) as work_all:
        work_all(range(4))
    with crew(lambda k: np.array([k, here == os.getpid() or 1 / (k % 3)], float)) as work_all:
        for _ in range(2):  # a child whose work fails goes on
            assert [one[0] for one in work_all([1, 3, 1])] == [1, 3, 1]
            assert work_all([1, 2])[1].tolist() == [2, 0.5]


def test_a_scaler_is_numpys_mean_and_deviation_to_the_bit() -> None:
    x = np.random.default_rng(0).normal(3, 2, (501, 77)).astype(np.float32)
    scaler = fit_scaler(x)
    assert np.array_equal(scaler.mean, x.astype(np.float64).mean(0))
    assert np.array_equal(scaler.scale, x.astype(np.float64).std(0))


def test_weights_of_more_than_two_classes_are_those_of_the_rows() -> None:
    """c sum_i v_{y_i} log(1 + exp(-t_i s_i)) one against the rest: row weights in scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)) + np.eye(3, 4)[y]
    weights = (1.0, 2.0, 5.0)
    found = logistic_l1(x, y, 3, 0.5, weights=weights, max_iter=1000, seed=0)
    for positive in range(3):
        model = LogisticRegression(
            l1_ratio=1, solver="liblinear", C=0.5, max_iter=1000, random_state=0
        )
        model.fit(x, y == positive, [weights[label] for label in y])
        np.testing.assert_array_equal(found.coef[positive], model.coef_[0])


def test_the_scaler_of_validation_is_that_of_validation_in_either_variant(
    birds: Path, tmp_path: Path
) -> None:
    with open_cache(birds) as cache:
        first, second = (
            embedcal.fit(
                "dfr", cache, variant="train", scaler=scaler, c=(1.0,), refits=2, out=tmp_path
            )
            for scaler in ("train", "val")
        )
    weights = [run.head().state_dict()["weight"] for run in (first, second)]
    assert not torch.equal(*weights)
