"""Calibrate a run: one temperature from validation data, judged on test, stored beside the run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedcal import __version__
from embedcal.annotating import labelled
from embedcal.cache import FeatureCache, open_cache
from embedcal.datasets.printable import printable
from embedcal.evaluate import Strata
from embedcal.predicting.scores import DRAWS, Rows, scores
from embedcal.predicting.temperature import Where, fit_temperature
from embedcal.runs import Run, check_over, room
from embedcal.types import EmbedcalError, FloatArray, IntArray, Split

FILE = "calibration.json"
FORMAT = "embedcal-calibration 1"
Fitted = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Some rows of a split and what a temperature does to them: all first, then by group."""

    split: Split
    logits: FloatArray
    cells: Strata
    rows: tuple[Rows, ...]

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature of a run's head, the rows that it was fitted to, and rows that judge it.

    ``in_sample``: the method had fitted the rows of ``fitted`` itself, so that it looks surer and
    better there than elsewhere. ``labels_used`` are those that the temperature was fitted with;
    labels of ``judged`` are used to judge alone. ``file`` is None where nothing was stored.
    """

    run: Run
    temperature: float
    where: Where
    in_sample: bool
    labels_used: tuple[str, ...]
    group_names: tuple[str, ...]
    fitted: Scored
    judged: Scored
    file: Path | None = None

    @property
    def rule(self) -> str:
        return str(self.run.record["selection"])


def calibrate(
    run: Run,
    cache: FeatureCache | None = None,
    *,
    split: Fitted = "val",
    draws: int = DRAWS,
    seed: int = 0,
    store: bool = True,
) -> Calibration:
    """Temperature scaling of a run (Guo et al. 2017, arXiv:1706.04599), from its stored logits.

    Args:
        run: a finished run; its own rule's head is calibrated.
        cache: the run's cache, for the names of groups; by default the file that the run notes.
            Where that is gone, or an annotation beside it, groups have numbers for names.
        split: ``val``: the temperature is fitted to all of val, and judged on all of test.
            ``test``: it is fitted to a random half of each class of test and judged on the other
            half, for methods that have fitted val themselves.
        draws: of the bootstrap that gives intervals; 0: none, their ends are NaN.
        seed: of the bootstrap, and of the halves.
        store: write ``calibration.json`` into the run's folder, for ``predict``. Nothing is
            stored where the temperature stands at a bound, and what was there is taken away.

    Returns:
        Temperature, scores before and after on both sets of rows. Predicted classes never change.

    Raises:
        EmbedcalError: for another split, a run without predictions, or a folder that cannot be
            written to.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("erm", cache, epochs=2)
        ...     found = embedcal.calibrate(run, cache)
        >>> found.temperature > 0, found.labels_used
        (True, ('val.y',))
    """
    if split not in ("val", "test"):
        raise EmbedcalError(f"expected to calibrate on val or test, found '{split}': choose val")
    rule = run.record["selection"]
    logits = {each: run.logits(rule, each).astype(np.float64) for each in ("val", "test")}
    cells = {each: run.strata(each) for each in ("val", "test")}
    if split == "test":
        fit_rows, judge_rows = _halves(cells["test"], seed)
    else:
        fit_rows, judge_rows = (np.arange(len(cells[each])) for each in ("val", "test"))
    known = _names(run, cache)
    found = fit_temperature(logits[split][fit_rows], cells[split].y[fit_rows])

    def scored(of: Split, rows: IntArray) -> Scored:
        part, own = logits[of][rows], _part(cells[of], rows)
        found_scores = scores(part, own, found.value, _called(own, known), draws=draws, seed=seed)
        return Scored(split=of, logits=part, cells=own, rows=found_scores)

    made = Calibration(
        run=run,
        temperature=found.value,
        where=found.where,
        in_sample=split == "val" and bool(run.record["rules"][rule]["val"].get("in_sample")),
        labels_used=(f"{split}.y",),
        group_names=_called(cells["test"], known),
        fitted=scored(split, fit_rows),
        judged=scored("test", judge_rows),
    )
    return _store(made) if store else made


def stored_temperature(run: Run) -> float | None:
    """The temperature that ``calibrate`` stored beside a run, for the rule it stands under now.

    None where there is none, also where the run was put under another rule since. Raises
    EmbedcalError for a file that is damaged.
    """
    path = run.folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None
    try:
        found = json.loads(text)
        value = found["temperature"]
        known = found["format"] == FORMAT and type(value) in (int, float)
        fits = (found["run"], found["rule"]) == (run.id, run.record["selection"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, type(error).__name__) from None
    if not known or not (math.isfinite(value) and value > 0):
        raise _damaged(path, f"temperature {value}" if known else f"format {found['format']}")
    return float(value) if fits else None


def _damaged(path: Path, why: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected what calibrate stored in {path}, found {printable(why)}: delete the file and "
        "calibrate again"
    )


def _store(made: Calibration) -> Calibration:
    path = made.run.folder / FILE
    try:
        with room(made.run.folder):
            if made.where != "inside":
                path.unlink(missing_ok=True)
                return made
            part = path.with_name(path.name + ".part")
            part.write_text(json.dumps(_record(made), indent=1, allow_nan=False) + "\n")
            part.replace(path)
    except OSError as error:
        raise EmbedcalError(
            f"expected to write {path}, found: {error.strerror}: make the folder writable, or copy "
            "the run to one that is"
        ) from None
    return replace(made, file=path)


def _record(made: Calibration) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "run": made.run.id,
        "rule": made.rule,
        "temperature": made.temperature,
        "split": made.fitted.split,
        "rows": len(made.fitted),
        "in_sample": made.in_sample,
        "labels_used": list(made.labels_used),
        "embedcal": __version__,
    }


def _halves(cells: Strata, seed: int) -> tuple[IntArray, IntArray]:
    """Two halves (m,), (n - m,) of the rows of each class; of an odd number the second has more."""
    rng = np.random.default_rng(seed)
    first = np.zeros(len(cells), bool)
    for label in range(cells.n_classes):
        rows = np.flatnonzero(cells.y == label)
        first[rng.permutation(rows)[: len(rows) // 2]] = True
    if not first.any():
        raise EmbedcalError(
            f"expected two rows of a class or more in test to calibrate on a half, found "
            f"{len(cells)} rows: calibrate on val"
        )
    return np.flatnonzero(first), np.flatnonzero(~first)


def _part(cells: Strata, rows: IntArray) -> Strata:
    own = cells.cell[rows]
    sizes = np.bincount(own, minlength=cells.sizes.size).reshape(cells.sizes.shape)
    return replace(cells, cell=own, sizes=sizes)


@dataclass(frozen=True)
class _Names:
    """What classes and groups are called."""

    classes: tuple[str, ...]
    groups: tuple[str, ...]


def _names(run: Run, cache: FeatureCache | None) -> _Names | None:
    """Names from the cache; None where nobody gave it and it is not where the run was made."""
    if cache is not None:
        return _names_in(run, cache)
    try:
        with open_cache(Path(str(run.record["cache"]["path"]))) as opened:
            return _names_in(run, opened)
    except EmbedcalError:
        return None


def _names_in(run: Run, cache: FeatureCache) -> _Names:
    check_over(run, cache)
    attributes: Sequence[str] = run.record["attributes"]
    groups: tuple[str, ...] = ()
    with suppress(EmbedcalError):  # an annotation may be gone by now
        groups = labelled(cache, attributes).group_names(attributes)
    return _Names(cache.meta.classes, groups)


def _called(cells: Strata, names: _Names | None) -> tuple[str, ...]:
    """The names of the groups of some rows, or of their classes where they are in none."""
    n_groups = cells.n_classes * cells.n_attributes
    if n_groups:
        if names is not None and len(names.groups) == n_groups:
            return names.groups
        values = range(cells.n_attributes)
        return tuple(f"class {y} | value {a}" for y in range(cells.n_classes) for a in values)
    return names.classes if names else tuple(f"class {y}" for y in range(cells.n_classes))
