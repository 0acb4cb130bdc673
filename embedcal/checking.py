"""Does what lies on disk fit what is known of a named data set?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from embedcal.datasets.manifest import Manifest, group_counts
from embedcal.datasets.named import Benchmark, benchmark, count_differences
from embedcal.datasets.named.reading import locate, read_found, version
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.printable import printable
from embedcal.types import SPLITS, EmbedcalError

if TYPE_CHECKING:
    from PIL.Image import Image

State = Literal["ok", "differs", "fails"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: ``differs`` can be lived with, ``fails`` cannot."""

    what: str
    state: State
    text: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """What ``check`` found, in the order in which it looked."""

    name: str
    root: Path | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.state == "ok" for finding in self.findings)


def check(
    name: str,
    root: str | Path | None = None,
    *,
    options: ReadOptions | None = None,
    sample: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Check:
    """Compare a named data set below ``root`` with its facts; every difference is named.

    Looked at, in this order: the layout, the table (columns, labels, ids, splits), the files, the
    version of the rows, the counts of every split, and ``sample`` images, drawn evenly over the
    rows, which are decoded. Nothing is encoded or changed. The first thing that makes the rest
    meaningless ends it. Raises EmbedcalError for a name that is none.

    Example:
        >>> import embedcal
        >>> found = embedcal.check("birds", options=embedcal.ReadOptions(rows=240), sample=4)
        >>> found.name, len(found.findings) > 0
        ('birds', True)
    """
    facts = benchmark(name)
    base = None if root is None else Path(root).expanduser().absolute()
    options = replace(options or ReadOptions(), progress=progress)
    findings = tuple(_findings(facts, base, options, sample))
    return Check(name=name, root=base, findings=findings)


def _findings(
    facts: Benchmark, root: Path | None, options: ReadOptions, sample: int
) -> Iterator[Finding]:
    try:
        found = locate(facts, root, options)
    except EmbedcalError as error:
        yield Finding(what="layout", state="fails", text=str(error))
        return
    folder = printable(str(found.folder), longest=300)
    yield Finding(what="layout", state="ok", text=f"{found.layout.name}, in {folder}")
    try:
        manifest = read_found(facts, found, replace(options, strict=False))
    except EmbedcalError as error:
        yield Finding(what="table", state="fails", text=str(error))
        return
    rule = f", split '{found.rule}'" if found.rule else ""
    yield Finding(what="table", state="ok", text=f"{len(manifest):,} rows{rule}")
    counted = count_differences(manifest, facts, rows=len(manifest) if facts.made else None)
    others = [line for line in manifest.warnings if line not in counted]
    for line in others:
        yield Finding(what="table", state="differs", text=line)
    if facts.versions and (known := version(facts, manifest)) is not None:
        yield Finding(what="version", state="ok", text=known)
    for line in counted:
        yield Finding(what="counts", state="differs", text=line)
    if not counted:
        text = "; ".join(
            f"{split} {'/'.join(map(str, counts))}" for split, counts in _counts(manifest)
        )
        how = "as published" if facts.counts else "nothing published to compare with"
        yield Finding(what="counts", state="ok", text=f"{text}: {how}")
    yield _images(manifest, sample)


def _counts(manifest: Manifest) -> list[tuple[str, list[int]]]:
    counts = group_counts(manifest)
    return [(split, counts[split]) for split in SPLITS]


def _images(manifest: Manifest, sample: int) -> Finding:
    """Decode some images, as ``cache`` would."""
    from embedcal.cache.digests import read_regular
    from embedcal.encoders.decode import UnreadableImageError, decode

    rows = np.unique(np.linspace(0, len(manifest) - 1, min(sample, len(manifest))).astype(int))
    faults = []
    for row in rows.tolist():
        path = manifest.root / manifest.paths[row]
        try:
            decode(read_regular(path), _pixels)
        except OSError as error:
            faults.append(f"{manifest.paths[row]}: {(error.strerror or str(error)).lower()}")
        except UnreadableImageError as error:
            faults.append(f"{manifest.paths[row]}: {error.reason}")
    if not faults:
        return Finding(what="images", state="ok", text=f"{len(rows)} of them decode")
    first = printable(faults[0], longest=200)
    state: State = "differs" if 2 * len(faults) < len(rows) else "fails"
    text = f"{len(faults)} of {len(rows)} do not decode, the first is {first}"
    return Finding(what="images", state=state, text=text)


def _pixels(image: Image) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[Any] = np.asarray(image.convert("RGB"))
    return pixels
