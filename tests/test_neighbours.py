"""Neighbours against loops; blocks, streams and engines against each other."""

from __future__ import annotations

from math import fsum, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import embedcal.neighbours as module
from embedcal.neighbours import Neighbours, nearest
from embedcal.types import EmbedcalError

ENGINES = ("exact", "flat", "ivf")


def by_loops(
    queries: np.ndarray, pool: np.ndarray, k: int, ours: Any = None, theirs: Any = None
) -> tuple[list[list[int]], list[list[float]]]:
    """Cosine by its definition, one pair at a time; sorted by (-cosine, position) and padded."""
    positions, cosines = [], []
    for i in range(len(queries)):
        found = []
        for j in range(len(pool)):
            if ours is not None and ours[i] == theirs[j]:
                continue
            a, b = queries[i].ravel().tolist(), pool[j].ravel().tolist()
            lengths = sqrt(fsum(x * x for x in a)) * sqrt(fsum(x * x for x in b))
            dot = fsum(x * y for x, y in zip(a, b, strict=True))
            found.append((-round(dot / lengths if lengths else 0.0, 9), j))
        best = sorted(found)[:k] + [(np.inf, -1)] * (k - len(found))
        positions.append([j for _, j in best])
        cosines.append([-c for c, _ in best])
    return positions, cosines


def agrees(found: Neighbours, wanted: tuple[list[list[int]], list[list[float]]]) -> None:
    assert found.positions.dtype == np.int64
    assert found.similarity.dtype == np.float32
    assert found.positions.tolist() == wanted[0]
    np.testing.assert_allclose(found.similarity, wanted[1], atol=1e-6)


def equal(one: Neighbours, other: Neighbours) -> bool:
    return np.array_equal(one.positions, other.positions) and np.array_equal(
        one.similarity, other.similarity
    )


def draw(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, *shape]).normal(size=(n, *shape)).astype(np.float32)


def clusters(n: int, d: int = 16) -> np.ndarray:
    """Rows around 60 centres, as features lie."""
    centres, rng = 3 * draw(60, d, seed=9), np.random.default_rng(1)
    return (centres[rng.integers(60, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def recall(found: Neighbours, wanted: Neighbours) -> float:
    pairs = zip(found.positions, wanted.positions)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_as_loops_find_them(engine: Any, labelled: bool, shape: tuple[int, ...]) -> None:
    queries, pool = draw(6, *shape), draw(40, *shape, seed=1)
    ours, theirs = np.arange(6) % 3, np.arange(40) % 4  # a label of either side alone, too
    labels = {"query_labels": ours, "pool_labels": theirs} if labelled else {}
    found = nearest(queries, torch.from_numpy(pool), 7, engine=engine, **labels)
    agrees(found, by_loops(queries, pool, 7, *labels.values()))


@given(data=st.data(), block=st.sampled_from([1, 7, 10**6]))
@settings(max_examples=60, deadline=None)
def test_sizes_ties_and_zeros(data: st.DataObject, block: int) -> None:
    """Small whole numbers: many parallel rows, many of zeros, all in blocks of any size."""
    q, n, d = (data.draw(st.integers(1, most)) for most in (4, 12, 3))
    k, kinds = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    queries, pool = (rng.integers(-1, 2, (m, d)) * rng.integers(1, 4, (m, 1)) for m in (q, n))
    ours, theirs = rng.integers(kinds, size=q), rng.integers(kinds, size=n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block * d)
        patch.setattr(module, "SCORES", block)
        found = nearest(queries, pool, k, query_labels=ours, pool_labels=theirs)
    agrees(found, by_loops(queries, pool, k, ours, theirs))


def test_copies_of_a_row_are_ties_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix product rounds the same row differently at the edges of its tiles."""
    pool = draw(301, 257)
    pool[np.r_[3, 50:60, 298:301]] = pool[3]
    found = nearest(pool[[3]], pool, 14)
    assert found.positions[0].tolist() == [3, *range(50, 60), 298, 299, 300]
    monkeypatch.setattr(module, "BLOCK", 7 * 257)
    assert equal(nearest(pool[[3]], pool, 14), found)
    assert equal(nearest(pool[[3]], pool, 14, engine="flat"), found)
    nine = nearest(pool[[3]], pool, 9)  # more copies than are asked for
    assert found.positions[:, :9].tolist() == nine.positions.tolist()


class Stored:
    """Rows as a file gives them: read only by positions, and every request is remembered."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: torch.Tensor) -> torch.Tensor:
        self.asked.append(index.tolist())
        return torch.from_numpy(self.x[index.numpy()])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pool_in_a_file_is_read_in_blocks(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, pool = draw(9, 4, 5), Stored(draw(100, 4, 5, seed=1))
    whole = nearest(queries, pool.x, 6, engine=engine)
    monkeypatch.setattr(module, "BLOCK", 7 * 20)
    assert equal(nearest(queries, pool, 6, engine=engine), whole)
    assert max(len(rows) for rows in pool.asked) == 7
    if engine == "exact":  # the first row tells the width; then each is read once
        assert [row for rows in pool.asked[1:] for row in rows] == list(range(100))


@pytest.mark.parametrize("labelled", [False, True])
def test_engines_agree(labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = clusters(3000)
    y = np.random.default_rng(2).integers(5, size=3000)
    labels = {"query_labels": y[:200], "pool_labels": y} if labelled else {}
    wanted = nearest(pool[:200], pool, 12, **labels)
    assert equal(nearest(pool[:200], pool, 12, engine="flat", **labels), wanted)
    assert recall(nearest(pool[:200], pool, 12, engine="ivf", **labels), wanted) > 0.98
    monkeypatch.setattr(module, "PROBED", 54)  # every list of 3000 rows
    assert equal(nearest(pool[:200], pool, 12, engine="ivf", **labels), wanted)
    monkeypatch.setattr(module, "PROBED", 1)
    few = nearest(pool[:200], pool, 12, engine="ivf", **labels)
    assert 0.2 < recall(few, wanted) < 0.98
    assert equal(nearest(pool[:200], pool, 12, engine="ivf", **labels), few)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_there_is_padding(engine: Any) -> None:
    pool, labels = draw(9, 4), np.array([0] * 7 + [1, 2])
    found = nearest(pool[:2], pool, 11, engine=engine)
    assert (found.positions[:, :9] >= 0).all()
    assert (found.positions[:, 9:] == -1).all()
    assert (found.similarity[:, 9:] == -np.inf).all()
    found = nearest(pool[:1], pool, 3, query_labels=[0], pool_labels=labels, engine=engine)
    assert sorted(found.positions[0, :2]) == [7, 8]
    assert found.positions[0, 2] == -1
    assert np.isneginf(found.similarity[0, 2])
    found = nearest(pool[:1], pool, 2, query_labels=[0], pool_labels=[0] * 9, engine=engine)
    assert found.positions.tolist() == [[-1, -1]]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_queries_no_neighbours(engine: Any) -> None:
    found = nearest(draw(0, 4), draw(5, 4), 3, engine=engine)
    assert found.positions.shape == found.similarity.shape == (0, 3)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e38])
def test_lengths_do_not_matter(scale: float) -> None:
    """Neither overflow nor underflow of a square."""
    queries, pool = draw(5, 6), draw(30, 6, seed=1)
    largest = np.abs(pool).max()
    wanted = nearest(queries, pool, 4)
    found = nearest(queries * np.float32(scale / 10), pool / largest * np.float32(scale), 4)
    assert np.array_equal(found.positions, wanted.positions)
    np.testing.assert_allclose(found.similarity, wanted.similarity, atol=1e-6)


def test_kinds_of_arrays() -> None:
    queries, pool = draw(5, 6).astype(np.float16), draw(30, 6, seed=1).astype(np.float16)
    pool.flags.writeable = False  # as a cache hands them over
    labels = {"query_labels": list("ababa"), "pool_labels": ["a", "b", "c"] * 10}
    wanted = nearest(queries.astype(np.float32), pool.astype(np.float64), 4, **labels)
    assert equal(nearest(queries, pool, 4, **labels), wanted)
    tensor = torch.tensor(pool, requires_grad=True)
    codes = {"query_labels": torch.tensor([0, 1, 0, 1, 0]), "pool_labels": np.arange(30) % 3}
    assert equal(nearest(torch.tensor(queries), tensor, 4, **codes), wanted)


X = draw(6, 4)


@pytest.mark.parametrize(
    ("queries", "pool", "options", "words"),
    [
        (X, X, {"k": 0}, "found k = 0"),
        (X, X[:0], {}, "pool of at least one row"),
        (X, draw(6, 5), {}, "one width, found 4 and 5"),
        (draw(6, 2, 3), X, {}, "one width, found 6 and 4"),
        (X[0], X, {}, r"found shape \(4,\)"),
        (X, X, {"engine": "hnsw"}, "auto, exact, flat, ivf, found 'hnsw'"),
        (X, X, {"query_labels": [0] * 6}, "found one of them"),
        (X, X, {"query_labels": [0] * 5, "pool_labels": [0] * 6}, r"found \(5,\) and \(6,\)"),
        (X, np.where(np.arange(6)[:, None] == 4, np.nan, X), {}, "in row 4 of the pool"),
        (np.where(np.arange(6)[:, None] == 2, np.inf, X), X, {}, "in row 2 of the queries"),
    ],
)
def test_mistakes_are_one_line(queries: Any, pool: Any, options: Any, words: str) -> None:
    for engine in ("exact", "flat"):
        with pytest.raises(EmbedcalError, match=words) as error:
            nearest(queries, pool, **{"k": 2, "engine": engine, **options})
        assert "\n" not in str(error.value)


def test_engines_agree_on_real_features(real_data: Path) -> None:
    """Waterbirds through an ImageNet network: what IVF's recall promises."""
    with np.load(real_data / "waterbirds-effnetlite0.npz", allow_pickle=False) as file:
        train = file["split"] == 0
        x, y = file["features"][train].astype(np.float32), file["y"][train]
    labels = {"query_labels": y[::16], "pool_labels": y}
    wanted = nearest(x[::16], x, 16, **labels)
    assert equal(nearest(x[::16], x, 16, engine="flat", **labels), wanted)
    assert recall(nearest(x[::16], x, 16, engine="ivf", **labels), wanted) > 0.97
