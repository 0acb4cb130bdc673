"""Nearest neighbours by cosine: the exact engine against FAISS's flat index and inverted file."""

from __future__ import annotations

from statistics import median

import faiss
import numpy as np
import numpy.typing as npt
from measure import Reading, Row, interleaved, quotients

from embedcal.neighbours import Engine, Neighbours, nearest

K = 16  # CFR's negatives
CENTRES, RANK = 100, 16

Features = npt.NDArray[np.float32]


def features(n: int, d: int) -> Features:
    """Rows around centres, in few directions around each: what an inverted file is for."""
    rng = np.random.default_rng(0)
    centres, directions = rng.normal(size=(CENTRES, d)), rng.normal(size=(RANK, d)) / RANK**0.5
    around = rng.normal(size=(n, RANK)) @ directions + 0.3 * rng.normal(size=(n, d))
    return (centres[rng.integers(CENTRES, size=n)] + around).astype(np.float32)


def plain(queries: Features, pool: Features) -> npt.NDArray[np.int64]:
    """A flat index as one writes it: positions (q, K), in float32."""
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool / np.linalg.norm(pool, axis=1, keepdims=True))
    found = index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), K)[1]
    assert isinstance(found, np.ndarray)
    return found


def recall(found: npt.NDArray[np.int64], wanted: Neighbours) -> float:
    """The part of the true neighbours that was found."""
    pairs = zip(found, wanted.positions, strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in pairs]))


def measure(*, quick: bool) -> list[Row]:
    """Waterbirds' training split, then two larger pools, the last where an inverted file pays."""
    return [
        *_compare(4795, 1024, 300, repetitions=3 if quick else 9),
        *_compare(20_000 if quick else 100_000, 256, 300, repetitions=1 if quick else 2),
        *_compare(50_000 if quick else 200_000, 64, 1000, repetitions=1 if quick else 2),
    ]


def _compare(n: int, d: int, q: int, *, repetitions: int) -> list[Row]:
    pool = features(n, d)
    queries = pool[np.random.default_rng(1).choice(n, q, replace=False)]

    def ours(engine: Engine) -> Neighbours:
        return nearest(queries, pool, K, engine=engine)

    wanted = ours("exact")
    seconds = interleaved(
        {
            "exact": lambda: ours("exact"),
            "flat": lambda: ours("flat"),
            "ivf": lambda: ours("ivf"),
            "faiss": lambda: plain(queries, pool),
        },
        repetitions=repetitions,
    )
    found = {
        "flat": recall(ours("flat").positions, wanted),
        "ivf": recall(ours("ivf").positions, wanted),
        "faiss": recall(plain(queries, pool), wanted),
    }

    def row(engine: str, baseline: str, what: str, note: str) -> Row:
        return Row(
            name=f"{K} neighbours of {q} rows in {n} x {d}, {engine}",
            ours=Reading(what=engine, value=median(seconds[engine]), unit="s"),
            baseline=Reading(what=what, value=median(seconds[baseline]), unit="s"),
            ratio=quotients(seconds[baseline], seconds[engine]),
            note=note,
            facts={f"recall_{name}": value for name, value in found.items()},
        )

    return [
        row("exact", "faiss", "FAISS, flat index", f"recall of FAISS {found['faiss']:.4f}"),
        row("flat", "exact", "exact", f"recall {found['flat']:.4f}; built and searched"),
        row("ivf", "exact", "exact", f"recall {found['ivf']:.4f}; built and searched"),
    ]
