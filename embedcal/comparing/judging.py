"""Stored predictions judged by groups of other attributes than their runs were fitted with.

Predictions are of the cache's rows in order, so that another attribute changes which group a row
is in, and nothing else. Only test is judged anew: what validation chose, it chose by the labels
that the run had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache import FeatureCache, open_cache
from embedcal.comparing.recorded import Groups, Pool, groups_of
from embedcal.evaluate import Strata, as_dict, evaluate_strata
from embedcal.runs import Run
from embedcal.types import EmbedcalError, Level
from embedcal.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores runs on the test rows of a cache, sorted into ``cells``."""

    cells: Strata

    def __call__(self, run: Run, rule: str) -> Mapping[str, Any]:
        """The accuracies on test of what a run kept under a rule, as a record holds them."""
        logits = run.logits(rule, "test")
        own = run.strata("test")
        if len(logits) != len(self.cells) or not np.array_equal(own.y, self.cells.y):
            raise EmbedcalError(
                f"expected predictions of the {len(self.cells)} test rows of the cache in "
                f"{run.folder}, found others: fit the run again"
            )
        return as_dict(evaluate_strata(logits.argmax(1), self.cells))


def judged(
    pools: Sequence[Pool], attribute: str | Sequence[str], cache: str | Path | None = None
) -> list[Pool]:
    """Runs over one cache in one pool, however they were fitted, to be judged by an attribute.

    ``cache`` is where it lies now, by default where the runs say. EmbedcalError where it is not
    there, where it is another than the runs were fitted over, and for an unknown attribute.
    """
    by_cache: dict[str, list[Pool]] = {}
    for pool in pools:
        by_cache.setdefault(pool.fingerprint, []).append(pool)
    found = []
    for same in by_cache.values():
        path = Path(cache) if cache is not None else Path(same[0].path)
        if not path.is_file():
            raise EmbedcalError(
                f"expected the cache of the runs at {path}, found none: name it with --cache"
            )
        with open_cache(path) as opened:
            if opened.fingerprint != same[0].fingerprint:
                raise EmbedcalError(
                    f"expected the cache that the runs were fitted over, {same[0].path}, found "
                    f"another in {path}: name it with --cache"
                )
            on = Workbench(opened, attribute)
            found.append(
                replace(
                    same[0],
                    path=str(path),
                    attributes=on.attributes,
                    inferred=on.inferred,
                    done=tuple(run for pool in same for run in pool.done),
                    failed=tuple(run for pool in same for run in pool.failed),
                    judge=Judge(cells=_cells(on)),
                )
            )
    return found


def _cells(on: Workbench) -> Strata:
    cells = on.strata("test", _smallest(on.cache))
    if cells.n_attributes == 0:
        raise EmbedcalError(
            f"expected test rows of known {', '.join(on.attributes)}, found none in "
            f"{on.cache.meta.path.name}: judge by another attribute"
        )
    return cells


def _smallest(cache: FeatureCache) -> Level:
    """The level that is read soonest: only labels are wanted."""
    return "embedding" if "embedding" in cache.meta.levels else "pooled"


def about_groups(pool: Pool) -> list[str]:
    """Whose labels the groups on test are of, where they are not plainly those of the runs."""
    own = tuple((name, pool.inferred.get(name, "")) for name in pool.attributes)
    notes = []
    if pool.judge is not None:
        notes.append(
            f"judged on test by groups of {_words(own)}; settings and epochs stay as each "
            "run's own labels on validation chose them"
        )
    if pool.inferred:
        notes.append(
            f"the labels of {', '.join(pool.inferred)} are inferred: accuracies of groups are as "
            "good as they are"
        )
    return notes


def _words(groups: Groups) -> str:
    return ", ".join(f"{name} (inferred)" if digest else name for name, digest in groups) or "none"


def labeller(
    pool: Pool, label: Callable[[Mapping[str, Any]], str]
) -> Callable[[Mapping[str, Any]], str]:
    """How a run of the pool is called: ``label``, with its groups where the runs have several.

    Two annotations of one name are told apart by the first digits of their digests.
    """
    several = dict.fromkeys(groups_of(run.record) for run in (*pool.done, *pool.failed))
    if len(several) < 2:
        return label
    words = {groups: _words(groups) for groups in several}
    if len(set(words.values())) < len(words):
        words = {
            groups: " ".join([words[groups], *(digest[:6] for _, digest in groups if digest)])
            for groups in several
        }
    return lambda record: f"{label(record)}, groups of {words[groups_of(record)]}"
