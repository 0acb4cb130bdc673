"""From facts and a root to a manifest: found, checked, compared with what was published."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path, PurePosixPath

import numpy as np

from embedcal.datasets.build import build_manifest
from embedcal.datasets.made import notes_of
from embedcal.datasets.manifest import Manifest, group_counts
from embedcal.datasets.named.facts import Benchmark
from embedcal.datasets.named.finding import Found, find
from embedcal.datasets.options import ReadOptions, refuse_making
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import Problem, raise_any
from embedcal.datasets.prompts import left_out, prompts_for
from embedcal.datasets.table import read_csv
from embedcal.types import SPLITS, EmbedcalError, IntArray

MAKERS = ("birds", "digits", "colored_mnist")


def read_benchmark(facts: Benchmark, root: Path | None, options: ReadOptions) -> Manifest:
    """Find, check and compare the benchmark of ``facts`` under ``root``.

    Counts that differ from the published ones, and a table that is not the published one, are
    warnings in the manifest.
    """
    return read_found(facts, locate(facts, root, options), options)


def locate(facts: Benchmark, root: Path | None, options: ReadOptions) -> Found:
    """The layout and the rows of the benchmark; one that is made is made where it is not there."""
    if not facts.made:
        refuse_making(options, facts.name)
    folder = make(facts, root, options) if facts.made else root
    if folder is None:
        raise EmbedcalError(
            f"expected a root for {facts.name}, found none: name its folder with --root "
            f"('embedcal datasets show {facts.name}' has the steps to obtain it)"
        )
    given = options.attributes
    named = tuple(given) if isinstance(given, Mapping) else tuple(facts.attributes)
    return find(
        facts,
        folder,
        columns=options.columns,
        attributes=named,
        split=options.split,
        split_seed=options.split_seed,
    )


def read_found(facts: Benchmark, found: Found, options: ReadOptions) -> Manifest:
    """The manifest of a layout that was found."""
    known = {key: names for key, names in facts.attributes.items() if key in found.table.columns}
    attributes = options.attributes or known
    if not isinstance(attributes, Mapping):  # value names alone: those of the first attribute
        attributes = {next(iter(facts.attributes), "a"): attributes}
    own = prompts_for(
        facts.prompts,
        classes_overridden=options.classes is not None,
        attributes_overridden=options.attributes is not None or known != facts.attributes,
    )
    prompts = own if options.prompts is None else options.prompts
    filled = replace(
        options,
        columns={},
        classes=options.classes or facts.classes,
        attributes=attributes,
        prompts=prompts,
    )
    manifest = build_manifest(found.table, root=found.folder, name=facts.name, options=filled)
    rows = len(manifest) if facts.made else None
    untouched = options.split is None and options.attributes is None and not options.columns
    compared = options.split is None and (not facts.versions or version(facts, manifest) is None)
    return replace(
        manifest,
        box=_boxes(facts, manifest),
        masks=manifest.masks or _masks(facts, manifest),
        image_only_crop=facts.crop if options.crop == "auto" else None,
        warnings=(
            *manifest.warnings,
            *(left_out(facts.prompts, own) if options.prompts is None else ()),
            *(notes_of(found.folder) if facts.made else ()),
            *(unknown_version(facts, manifest) if untouched else ()),
            *(count_differences(manifest, facts, rows=rows) if compared else ()),
        ),
    )


def make(facts: Benchmark, root: Path | None, options: ReadOptions) -> Path:
    """The folder of a data set that is made on the spot, made where it is not there yet."""
    if facts.made not in MAKERS:
        raise EmbedcalError(
            f"expected made to be one of {', '.join(MAKERS)} in the facts of "
            f"{printable(facts.name)}, found '{printable(str(facts.made))}': mend it"
        )
    maker = import_module(f"embedcal.datasets.{facts.made}")
    made: Path = maker.make(
        data_dir() / facts.name,
        root=root,
        form=facts.making.get("form", ""),
        rows=options.rows,
        seed=options.seed,
        workers=options.workers,
        progress=options.progress,
    )
    return made


def row_digest(manifest: Manifest) -> str:
    """SHA-256 over image, class, first attribute and split of every row, whatever their order.

    Images go by the last two parts of their paths, so that it is the same in every layout.
    """
    a = manifest.attributes[0].labels if manifest.attributes else np.full(len(manifest), -1)
    labels = zip(manifest.y.tolist(), a.tolist(), manifest.split.tolist(), strict=True)
    rows = [
        "\t".join(["/".join(path.split("/")[-2:]), *map(str, row)])
        for path, row in zip(manifest.paths, labels, strict=True)
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def version(facts: Benchmark, manifest: Manifest) -> str | None:
    """The name of the known version that these rows are, if they are one."""
    digest = row_digest(manifest)
    return next((name for name, known in facts.versions.items() if known == digest), None)


def unknown_version(facts: Benchmark, manifest: Manifest) -> tuple[str, ...]:
    """That the rows are no known version, and how their groups lie, in a sentence."""
    if not facts.versions or version(facts, manifest) is not None:
        return ()
    text = f"the rows are no known version of {facts.name} (known: {', '.join(facts.versions)})"
    if manifest.attributes:
        counts = np.array(group_counts(manifest)["train"]).reshape(len(manifest.classes), -1)
        share = counts.max(1).sum() / max(counts.sum(), 1)
        text += (
            f": made anew or edited, {share:.1%} of train in the commonest "
            f"{printable(manifest.attributes[0].name)} of its class"
        )
    return (text,)


def count_differences(
    manifest: Manifest, facts: Benchmark, *, rows: int | None = None
) -> tuple[str, ...]:
    """How the group counts differ from the published ones, one sentence a split.

    With ``rows`` the published counts are scaled to that total, and one row more or less in a
    group is rounding, not a difference.
    """
    total = sum(sum(counts) for counts in facts.counts.values())
    found = group_counts(manifest)
    differences = []
    for split in SPLITS:
        published = facts.counts.get(split)
        if published is None:
            continue
        scale = 1.0 if rows is None else rows / total
        wanted = [math.floor(count * scale + 0.5) for count in published]
        slack = 0 if rows is None else 1
        same_groups = len(wanted) == len(found[split])
        if not same_groups or any(
            abs(a - b) > slack for a, b in zip(found[split], wanted, strict=True)
        ):
            differences.append(
                f"{split} has {'/'.join(map(str, found[split]))} rows in its groups, "
                f"{'/'.join(map(str, wanted))} are {'published' if rows is None else 'expected'}"
            )
    return tuple(differences)


def _boxes(facts: Benchmark, manifest: Manifest) -> np.ndarray | None:
    """Boxes (n, 4) by id from the file beside the table; NaN for rows without one."""
    path = manifest.root / facts.boxes if facts.boxes else None
    if path is None or not path.is_file():
        return None
    table = read_csv(path)
    headers = (facts.columns.get("id", "id"), "x", "y", "width", "height")
    missing = [header for header in headers if header not in table.columns]
    if missing:
        raise EmbedcalError(
            f"expected columns {', '.join(headers)} in {printable(str(path), longest=300)}, "
            f"found no {', '.join(missing)}: mend the header or remove the file"
        )
    cells = zip(*(table.columns[header] for header in headers[1:]), strict=True)
    numbers = np.array([[_number(cell) for cell in row] for row in cells]).reshape(-1, 4)
    good = np.isfinite(numbers).all(1) & (numbers[:, 2:] >= 0).all(1)
    if not good.all():
        kind = "box that is not four finite numbers with width and height from 0"
        raise_any(str(path), [Problem.at(kind, np.flatnonzero(~good).tolist(), table.where)])
    by_id = {key: row for row, key in enumerate(table.columns[headers[0]])}
    rows: IntArray = np.array([by_id.get(key, -1) for key in manifest.ids], dtype=np.int64)
    blank = np.full((1, 4), math.nan)
    return np.concatenate([numbers, blank])[rows]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _masks(facts: Benchmark, manifest: Manifest) -> tuple[str, ...] | None:
    """Mask paths by the pattern of ``facts``, where the folder that it starts with is there."""
    if facts.masks is None or not (manifest.root / PurePosixPath(facts.masks).parts[0]).is_dir():
        return None
    pattern = facts.masks
    pure = (PurePosixPath(path) for path in manifest.paths)
    return tuple(
        pattern.replace("{parent}", str(path.parent)).replace("{stem}", path.stem) for path in pure
    )
