"""A grown data set: rows whose image an older cache has are copied, only the others encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.checksums import BLOCK
from embedcal.cache.format import OK
from embedcal.cache.gathering import stored_rows
from embedcal.cache.identity import Identity, explain_miss
from embedcal.cache.layout import Stored
from embedcal.cache.sharding import verify_any
from embedcal.cache.view import FeatureCache
from embedcal.cache.writer import CacheWriter, Cut
from embedcal.types import EmbedcalError, IntArray


@dataclass(frozen=True, kw_only=True)
class Extension:
    """Where the rows of a new cache come from.

    ``origin`` (n,) is a row of ``old`` with the same image bytes, or -1; ``new`` (m,) are the rows
    to encode, in order.
    """

    old: FeatureCache
    origin: IntArray
    new: IntArray

    def cut(self, batch_size: int) -> Cut:
        """Of so many leading rows, those before the first unfinished batch of new ones."""

        def kept(rows: int) -> int:
            done = int(np.searchsorted(self.new, rows))
            whole = done if done == len(self.new) else done - done % batch_size
            return min(rows, int(self.new[whole])) if whole < len(self.new) else rows

        return kept


def extension(old: FeatureCache, identity: Identity) -> Extension:
    """Match rows by content: equal image bytes under an equal encoding have equal features.

    EmbedcalError where the encoding is another, levels are missing, or a byte of ``old`` has
    changed. Rows that could not be read there are not copied: they are tried again.
    """
    theirs = old.meta.ingredients
    # Prompts may differ: text is encoded anew then. Of levels, those wanted must be there.
    alike = replace(
        identity,
        rows=theirs.rows,
        templates=theirs.templates,
        prompts=theirs.prompts,
        descriptions=theirs.descriptions,
        pairs=theirs.pairs,
    )
    levels = {level: kind for level, kind in theirs.levels.items() if level in identity.levels}
    if differences := explain_miss(alike, replace(theirs, levels=levels)):
        raise EmbedcalError(
            f"expected the same encoding in {old.meta.path}, found another "
            f"({'; '.join(differences)}): leave --extend out, or name a cache of this encoding"
        )
    checked = verify_any(old.meta.path)
    if not checked.ok:
        raise EmbedcalError(f"expected an intact cache to extend, found damage: {checked.reason}")
    usable = np.flatnonzero((old.samples.status == OK) & theirs.rows.any(axis=1))
    known = {theirs.rows[row].tobytes(): int(row) for row in usable[::-1]}
    origin = np.array([known.get(row.tobytes(), -1) for row in identity.rows], np.int64)
    return Extension(old=old, origin=origin, new=np.flatnonzero(origin < 0))


def same_text(old: FeatureCache, identity: Identity) -> bool:
    """Whether the text features of an older cache, of the same encoder, are those wanted."""
    theirs = old.meta.ingredients
    return all(
        getattr(theirs, name) == getattr(identity, name)
        for name in ("templates", "prompts", "descriptions", "pairs")
    )


class Weaver:
    """What encoding takes for a writer of the new rows alone: copied ones are put between them.

    All rows go into the file in order, as any writer wants them, so that what is written is
    committed and resumed as in any build.
    """

    def __init__(self, writer: CacheWriter, given: Extension) -> None:
        self._writer, self._given = writer, given
        widths = [stored.row_bytes for stored in writer.row_arrays.values()]
        self._step = max(1, BLOCK // sum(widths))

    @property
    def rows_done(self) -> int:
        """New rows that are written."""
        return int(np.searchsorted(self._given.new, self._writer.rows_done))

    @property
    def row_arrays(self) -> Mapping[str, Stored]:
        return self._writer.row_arrays

    def write(self, batch: Mapping[str, npt.NDArray[Any]]) -> None:
        """The next new rows, each after the copied ones that stand before it."""
        count = len(next(iter(batch.values())))
        places = self._given.new[self.rows_done : self.rows_done + count]
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        for run in np.split(np.arange(count), breaks):
            self.copy_until(int(places[run[0]]))
            self._writer.write({path: array[run] for path, array in batch.items()})

    def copy_until(self, stop: int) -> None:
        """Copy rows up to ``stop``, all of which the older cache has."""
        while self._writer.rows_done < stop:
            start = self._writer.rows_done
            rows = self._given.origin[start : min(start + self._step, stop)]
            old = self._given.old.stored
            self._writer.write({path: stored_rows(old, path, rows) for path in self.row_arrays})
