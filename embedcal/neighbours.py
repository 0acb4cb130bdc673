"""Nearest rows by cosine: an exact product and top-k in blocks, or FAISS.

Every engine ends in cosines computed in float64 and rounded to a grid of 2**-30, so that copies of
a row are equal wherever they stand in a block, on every device. Without that the order of ties
would be left to the rounding of a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from embedcal.errors import EmbedcalError
from embedcal.threads import threads
from embedcal.types import FloatArray, IntArray

Engine = Literal["auto", "exact", "flat", "ivf"]

BLOCK = 2**23  # numbers of features in a block at most: 64 MB in float64
ROWS = 2**13  # rows in a block at most
SCORES = 2**20  # products held at once: they stay in the processor's own memory
GRID = 2.0**30  # cosines on one point of it are equal; a multiple of ROWS * GRID fits float64
SHARED = 10**8  # multiplications from which several threads pay
SPARE = 8  # candidates that FAISS gives beyond k, as it rounds to float32
GPU_MOST = 2048  # candidates that FAISS gives on a GPU at most
RESCORED = 32  # queries whose candidates are multiplied together
LIST_ROWS = 64  # rows of the pool that each of IVF's lists is trained on
PROBED = 32  # lists that IVF looks through


@runtime_checkable
class Rows(Protocol):
    """Rows that need not be in memory: ``take`` gives those at positions (m,) as float32."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Neighbours:
    """For each query its nearest rows of the pool, the nearest first.

    ``positions`` (q, k) int64 into the pool and ``similarity`` (q, k) float32, their cosines.
    Where fewer than k rows are allowed the rest is padding: position -1 and similarity -inf.
    """

    positions: IntArray
    similarity: npt.NDArray[np.float32]


def nearest(
    queries: FloatArray | Tensor,
    pool: FloatArray | Tensor | Rows,
    k: int,
    *,
    query_labels: npt.ArrayLike | None = None,
    pool_labels: npt.ArrayLike | None = None,
    engine: Engine = "auto",
    device: str = "cpu",
) -> Neighbours:
    """The k rows of the pool with the greatest cosine to each query.

    Of equal cosines the lower position comes first. A row of zeros has cosine 0 with everything. A
    query that is itself in the pool finds itself: ask for one more, or give labels.

    Engines: ``exact`` multiplies everything, by blocks of bounded memory, and is what ``auto``
    means. ``flat`` is FAISS's exhaustive index: the same rows, unless more than eight agree with
    the last one to float32's rounding. ``ivf`` is FAISS's inverted file and approximate: of some
    sqrt(n) lists of rows it looks through the nearest 32, and leaves padding where those hold too
    few; ``benchmarks/neighbours.py`` prints its recall and when it pays. Both indices hold the
    whole pool in memory, on the GPU where ``device`` is one.

    Args:
        queries: features (q, ...); dimensions after the first are flattened to d.
        pool: features (n, ...) with the same d, or an object with ``__len__`` and
            ``take(positions (m,)) -> (m, ...)`` that reads them in parts.
        k: how many, 1 or more.
        query_labels: (q,), with ``pool_labels``: only rows of another label are neighbours.
        pool_labels: (n,).
        engine: ``exact``, ``flat``, ``ivf``, or ``auto``.
        device: where the product is computed.

    Raises:
        EmbedcalError: k below 1, an empty pool, widths or lengths that differ, NaN or infinity.
    """
    if engine not in get_args(Engine):
        raise EmbedcalError(
            f"expected an engine among {', '.join(get_args(Engine))}, found '{engine}': auto "
            "chooses one"
        )
    if k < 1:
        raise EmbedcalError(f"expected 1 or more neighbours, found k = {k}: ask for at least one")
    asked, held = _rows(queries), _rows(pool)
    if len(held) == 0:
        raise EmbedcalError("expected a pool of at least one row, found none: give it some")
    # Apple's GPUs have no float64.
    where = torch.device("cpu" if device.startswith("mps") else device)
    ours, theirs = _codes(query_labels, pool_labels, len(asked), len(held))
    width = held.take(torch.zeros(1, dtype=torch.int64)).flatten(1).shape[1]
    search = _Search(asked, held, k, ours.to(where), theirs.to(where), width)
    with threads(shared=len(asked) * len(held) * width >= SHARED):
        if engine in ("auto", "exact"):
            similarity, positions = search.exact()
        else:
            similarity, positions = search.rescored(search.candidates(engine))
    positions[similarity == -torch.inf] = -1
    return Neighbours(positions.cpu().numpy(), (similarity / GRID).float().cpu().numpy())


@dataclass(frozen=True)
class _Search:
    """One question: queries and pool, and a code of each row; those of one code are no pair."""

    queries: Rows
    pool: Rows
    k: int
    ours: Int64[Tensor, " q"]  # codes of the queries, on the device that computes
    theirs: Int64[Tensor, " n"]
    width: int

    def units(self, rows: Rows, index: Tensor, what: str) -> Float64[Tensor, "m d"]:
        """Some rows on the device at length 1, or all zeros."""
        x = rows.take(index).to(self.ours.device, torch.float64).flatten(1)  # (m, d)
        if x.shape[1] != self.width:
            raise EmbedcalError(
                f"expected queries and pool of one width, found {x.shape[1]} and {self.width}: "
                "take both from the same level of a cache"
            )
        norm = torch.linalg.vector_norm(x, dim=1)
        if not bool(norm.isfinite().all()):
            row = int(index[(~norm.isfinite()).nonzero()[0, 0]])
            raise EmbedcalError(
                f"expected finite features, found NaN or infinity in row {row} of the {what}: "
                "leave it out, or cache it again"
            )
        return x.div_(torch.where(norm > 0, norm, 1.0)[:, None])

    def blocks(self, what: str, most: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions (m,) and unit rows (m, d), ``most`` at a time and no more than a block."""
        rows = self.pool if what == "pool" else self.queries
        positions = torch.arange(len(rows), device=self.ours.device)
        for index in torch.split(positions, self._size(most)) if len(rows) else ():
            yield index, self.units(rows, index, what)

    def _size(self, most: int = ROWS) -> int:
        return max(1, min(most, BLOCK // self.width))

    @property
    def shared(self) -> Int64[Tensor, " labels"]:
        """Codes that occur in the queries and in the pool."""
        found: Tensor = torch.unique(self.ours[torch.isin(self.ours, self.theirs)])
        return found

    def exact(self) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
        """Every cosine; the pool is read once, and the best so far are kept of each query."""
        positions = torch.full((len(self.ours), self.k), -1, device=self.ours.device)
        best = torch.full_like(positions, -torch.inf, dtype=torch.float64)
        labelled = len(self.shared) > 0
        for at, rows in self.blocks("pool"):
            column = torch.arange(len(rows), dtype=torch.float64, device=at.device)
            for mine, queries in self.blocks("queries", SCORES // len(rows)):
                cosine = _products(queries, rows)  # (b, m)
                if labelled:
                    cosine.masked_fill_(self.ours[mine][:, None] == self.theirs[at], -torch.inf)
                # A lower position wins a tie: there is room for it between two points of the grid.
                key = torch.add(-column, cosine, alpha=ROWS)
                order = key.topk(min(self.k, len(rows))).indices
                best[mine], positions[mine] = _first(
                    torch.cat([best[mine], cosine.gather(1, order)], 1),
                    torch.cat([positions[mine], at[order]], 1),
                    self.k,
                )
        return best, positions

    def rescored(
        self, positions: Int64[Tensor, "q m"]
    ) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
        """Cosines of candidates as ``exact`` has them, and in its order; -1 stays padding."""
        positions = positions.to(self.ours.device).sort(1).values
        cosine = torch.empty_like(positions, dtype=torch.float64)
        for mine, queries in self.blocks("queries", RESCORED):
            used, place = torch.unique(positions[mine].clamp(min=0), return_inverse=True)
            parts = [self.units(self.pool, at, "pool") for at in torch.split(used, self._size())]
            cosine[mine] = torch.cat([_products(queries, x) for x in parts], 1).gather(1, place)
        cosine.masked_fill_(positions < 0, -torch.inf)
        return _first(cosine, positions, self.k)

    def candidates(self, engine: str) -> Int64[Tensor, "q m"]:
        """What FAISS takes for the k nearest and a few more; -1 where it has none.

        FAISS knows nothing of labels, so each label that queries and pool share is a further
        column: a row of the pool has 1 in its own, a query -3. That moves the products within a
        label below all others, which stay as they are, and leads IVF away from lists of no use.
        """
        import faiss

        labels, k = self.shared, min(self.k + SPARE, len(self.pool))

        def marked(block: Tensor, codes: Tensor, mark: float) -> FloatArray:
            marks = mark * (codes[:, None] == labels)  # (m, labels)
            return torch.cat([block, marks], 1).float().cpu().numpy()

        index = _index(engine, self.width + len(labels), len(self.pool))
        if not index.is_trained:
            order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(0))
            some = order[: LIST_ROWS * index.nlist].to(self.ours.device)
            blocks = torch.split(some, self._size())
            parts = [marked(self.units(self.pool, i, "pool"), self.theirs[i], 1.0) for i in blocks]
            index.train(np.concatenate(parts))
        if self.ours.is_cuda and faiss.get_num_gpus() > 0:
            if k > GPU_MOST:
                raise EmbedcalError(
                    f"expected at most {GPU_MOST - SPARE} neighbours of FAISS on a GPU, found "
                    f"{self.k}: use the exact engine"
                )
            resources = faiss.StandardGpuResources()
            index = faiss.index_cpu_to_gpu(resources, self.ours.device.index or 0, index)
        for at, block in self.blocks("pool"):
            index.add(marked(block, self.theirs[at], 1.0))
        positions = torch.full((len(self.ours), self.k + SPARE), -1)
        for mine, block in self.blocks("queries"):
            product, place = index.search(marked(block, self.ours[mine], -3.0), k)
            positions[mine.cpu(), :k] = torch.from_numpy(np.where(product > -1.5, place, -1))
        return positions


def _index(engine: str, width: int, n: int) -> Any:
    """An empty index of inner products for n rows (n, width)."""
    import faiss

    flat = faiss.IndexFlatIP(width)
    if engine == "flat":
        return flat
    index = faiss.IndexIVFFlat(flat, width, isqrt(n), faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical = 0, True
    index.cp.min_points_per_centroid = 1  # say nothing of small pools
    index.nprobe = PROBED
    return index


def _products(
    queries: Float64[Tensor, "b d"], rows: Float64[Tensor, "m d"]
) -> Float64[Tensor, "b m"]:
    """Cosines of unit rows as whole multiples of 1 / GRID."""
    return ((queries * GRID) @ rows.T).round_()


def _first(
    similarity: Float64[Tensor, "q m"], positions: Int64[Tensor, "q m"], k: int
) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """The k greatest of each row; of equal ones those that stand first."""
    similarity = similarity + 0.0  # -0.0 is 0.0
    similarity, order = similarity.sort(dim=1, descending=True, stable=True)
    return similarity[:, :k], positions.gather(1, order)[:, :k]


@dataclass(frozen=True)
class _InMemory:
    """An array or tensor (n, ...) as ``Rows``."""

    x: FloatArray | Tensor

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> Tensor:
        if isinstance(self.x, Tensor):
            return self.x.detach().index_select(0, index.to(self.x.device)).float()
        return torch.from_numpy(np.ascontiguousarray(self.x[index.cpu().numpy()], dtype=np.float32))


def _rows(x: FloatArray | Tensor | Rows) -> Rows:
    if not isinstance(x, np.ndarray | Tensor):
        return x
    if x.ndim < 2:
        raise EmbedcalError(f"expected features (n, d), found shape {tuple(x.shape)}: one row each")
    return _InMemory(x)


def _codes(queries: Any, pool: Any, q: int, n: int) -> tuple[Tensor, Tensor]:
    """Codes (q,) and (n,), equal where labels are; without labels none is."""
    if queries is None and pool is None:
        return torch.zeros(q, dtype=torch.int64), torch.ones(n, dtype=torch.int64)
    if queries is None or pool is None:
        raise EmbedcalError("expected labels of queries and pool, found one of them: give both")
    ours, theirs = (np.asarray(x.cpu() if isinstance(x, Tensor) else x) for x in (queries, pool))
    if ours.shape != (q,) or theirs.shape != (n,):
        raise EmbedcalError(
            f"expected labels ({q},) and ({n},), found {ours.shape} and {theirs.shape}: one a row"
        )
    codes = torch.from_numpy(np.unique(np.concatenate([ours, theirs]), return_inverse=True)[1])
    return codes[:q], codes[q:]
