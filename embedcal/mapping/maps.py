"""A map of a split before and after heads: points of some rows, silhouettes of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.mapping.planes import FEWEST, METHODS, By, decision, plane, turned
from embedcal.mapping.silhouettes import Silhouette, silhouette
from embedcal.mapping.spaces import Placed, Space, frozen_level, placed, unit
from embedcal.types import EmbedcalError, FloatArray, IntArray, Split

if TYPE_CHECKING:
    from embedcal.runs import Run

FROZEN = "frozen"  # the name of the view before any head
POINTS = 2000  # more hide each other, and t-SNE takes minutes for them


@dataclass(frozen=True, kw_only=True)
class View:
    """One column of a map: where the frozen encoder, or a head, puts the images.

    ``points`` (m, 2) are of the map's rows; ``share`` is the part of their variance that a PCA
    keeps, else None. ``border``: the plane is ``planes.decision``, and two classes meet at x = 0.
    ``wrong`` (m,) says which of them are misclassified and ``error`` which part of the whole split
    is: by the head, or by zero-shot in the frozen view; both None where the cache has no class
    prompts. The silhouettes are of all rows of the split, in all dimensions; None where it has rows
    of one class, or of one value, alone.
    """

    name: str
    space: Space
    points: Float[np.ndarray, "m 2"] = field(repr=False)
    share: float | None
    border: bool
    wrong: Bool[np.ndarray, " m"] | None = field(repr=False)
    error: float | None
    by_class: Silhouette | None = field(repr=False)
    by_attribute: Silhouette | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Map:
    """A split of n rows before and after one head, of which m ``rows`` of the cache are points.

    ``y`` (m,) are their classes, ``a`` (m,) their values of ``attributes`` (of the product of
    several), -1 unknown, whose names are ``values``. Where nothing of the split is labelled, ``a``
    is None and ``attributes`` are empty.
    """

    split: Split
    by: By
    seed: int
    n: int
    attributes: tuple[str, ...]
    values: tuple[str, ...]
    rows: Int[np.ndarray, " m"] = field(repr=False)
    y: Int[np.ndarray, " m"] = field(repr=False)
    a: Int[np.ndarray, " m"] | None = field(repr=False)
    before: View
    after: View

    @property
    def points_before(self) -> Float[np.ndarray, "m 2"]:
        """Where the frozen embeddings of ``rows`` lie, (m, 2)."""
        return self.before.points

    @property
    def points_after(self) -> Float[np.ndarray, "m 2"]:
        """Where the head puts ``rows``, (m, 2)."""
        return self.after.points


def map_run(
    run: Run | None,
    cache: FeatureCache,
    *,
    split: Split = "test",
    by: By = "pca",
    attribute: str | Sequence[str] | None = None,
    points: int = POINTS,
    seed: int = 0,
) -> Map:
    """A split's frozen image embeddings, and what a run's head (None: zero-shot) makes of them.

    Both are unit vectors of the dimension that they have; a linear head, which has no embedding
    of its own, is shown by its logits (``embedcal.mapping.spaces.Placed`` says how and why).
    ``by`` brings each view into two dimensions on its own: a shared basis would belong to one of
    the two spaces alone. The later view is then turned in the plane to lie as near to the frozen
    one as it can. The logits of two classes are a line: their plane is ``planes.decision``,
    whatever ``by`` says.

    ``points``: so many rows are drawn at random with ``seed``, 0 for all; silhouettes count every
    row. ``attribute``: whose values, an annotated one's too; by default those that the run was
    judged by. Computed on the CPU, so that pictures do not depend on an accelerator. Raises
    EmbedcalError for a run over another cache, an unknown method, split or attribute, and fewer
    than four rows.
    """
    return map_runs(
        [run], cache, split=split, by=by, attribute=attribute, points=points, seed=seed
    )[0]


def map_runs(
    runs: Sequence[Run | None],
    cache: FeatureCache,
    *,
    split: Split = "test",
    by: By = "pca",
    attribute: str | Sequence[str] | None = None,
    points: int = POINTS,
    seed: int = 0,
) -> tuple[Map, ...]:
    """A map for each run, of the same rows, with one frozen view; see :func:`map_run`."""
    from embedcal.workbench import Workbench

    _check(runs, by, points)
    on = Workbench(cache, _judged_by(runs) if attribute is None else attribute)
    found = on.split(split, frozen_level(cache))
    frozen = unit(found.x)
    a = found.a if "a" in found else None
    chosen = _drawn(len(found), points, seed)

    def view(name: str, of: Placed, like: View | None) -> View:
        border = of.space == "logits" and of.x.shape[1] == 2
        if border:
            where, share = decision((of.x[:, 1] - of.x[:, 0])[chosen], frozen[chosen]), None
        else:
            where, share = plane(of.x[chosen], by, seed)
            where = where if like is None else turned(where, like.points)
        wrong = None if of.predicted is None else of.predicted != found.y
        return View(
            name=name,
            space=of.space,
            points=where,
            share=share,
            border=border,
            wrong=None if wrong is None else wrong[chosen],
            error=None if wrong is None else float(wrong.mean()),
            by_class=_silhouette(of.x, found.y, cache.n_classes),
            by_attribute=None if a is None else _silhouette(of.x, a, on.n_attributes),
        )

    prompts = "class" in cache.banks and "embedding" in cache.meta.levels
    zero = placed(None, on, split) if prompts or None in runs else None
    before = view(
        FROZEN,
        Placed(space="embedding", x=frozen, predicted=None if zero is None else zero.predicted),
        None,
    )

    def of(run: Run | None) -> Placed:
        return zero if run is None and zero is not None else placed(run, on, split)

    return tuple(
        Map(
            split=split,
            by=by,
            seed=seed,
            n=len(found),
            attributes=on.attributes if a is not None else (),
            values=on.cache.attribute_values(on.attributes) if a is not None else (),
            rows=found.rows[chosen],
            y=found.y[chosen],
            a=None if a is None else a[chosen],
            before=before,
            after=view(name_of(run), of(run), before),
        )
        for run in runs
    )


def name_of(run: Run | None) -> str:
    """The method and id of a run; ``zero-shot`` for None."""
    return "zero-shot" if run is None else f"{run.record['method']} {run.id}"


def _check(runs: Sequence[Run | None], by: By, points: int) -> None:
    if not runs:
        raise EmbedcalError("expected at least one run to map, found none: give one, or zero-shot")
    if by not in METHODS:
        raise EmbedcalError(
            f"expected a map by {', '.join(METHODS)}, found '{printable(by)}': take pca, the plane "
            "of most variance"
        )
    if points != 0 and points < FEWEST:
        raise EmbedcalError(
            f"expected {FEWEST} points or more, or 0 for all rows, found {points}: take {POINTS}"
        )


def _judged_by(runs: Sequence[Run | None]) -> tuple[str, ...] | None:
    """The attributes of the first run that has any; None, which is all, without one."""
    for run in runs:
        if run is not None and run.record["attributes"]:
            return tuple(run.record["attributes"])
    return None


def _drawn(n: int, points: int, seed: int) -> IntArray:
    """Positions of the rows that become points: in order, different, all alike in chance."""
    if points == 0 or points >= n:
        return np.arange(n)
    drawn: IntArray = np.sort(np.random.default_rng(seed).choice(n, points, replace=False))
    return drawn


def _silhouette(x: FloatArray, labels: IntArray, k: int) -> Silhouette | None:
    return silhouette(x, labels, k) if len(np.unique(labels[labels >= 0])) > 1 else None
