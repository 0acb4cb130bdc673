"""Named benchmarks: tables of facts in ``facts/*.toml``, one file each, and their one reader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from embedcal.datasets.build import build_manifest
from embedcal.datasets.manifest import Manifest, group_counts
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import Problem, raise_any
from embedcal.datasets.table import read_csv
from embedcal.types import SPLITS, EmbedcalError, IntArray

FACTS = Path(__file__).parent / "facts"
BIRDS_ROWS = 5894  # half of Waterbirds: at a quarter the rarest group has 14 images


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is known of a published data set; nothing here is code.

    ``columns`` maps our column names to the table's headers, ``attributes`` an attribute to its
    value names, ``counts`` a split to rows in groups ``y * A + a`` of the first attribute.
    ``layouts`` are folders below the root where ``table`` is looked for. ``masks`` is a pattern of
    ``{parent}`` and ``{stem}`` of an image's path. A ``rendered`` one is drawn at first use.
    """

    name: str
    title: str
    source: str
    licence: str
    table: str
    classes: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layouts: tuple[str, ...] = (".",)
    boxes: str | None = None
    masks: str | None = None
    paper: str | None = None
    notes: tuple[str, ...] = ()
    rendered: bool = False


def benchmark_names() -> tuple[str, ...]:
    """Names of all benchmarks, sorted: the facts files that come with the package."""
    return tuple(sorted(path.stem for path in FACTS.glob("*.toml")))


def benchmark(name: str) -> Benchmark:
    """The facts about ``name``, which is among ``benchmark_names()``."""
    return read_facts(FACTS / f"{name}.toml")


def read_facts(path: Path) -> Benchmark:
    """The facts in a TOML file, one of the package's or one's own."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmbedcalError(
            f"expected facts as TOML in UTF-8 in {printable(str(path), longest=300)}, found: "
            f"{printable(str(error), longest=300)}: check the file"
        ) from None
    return parse_facts(text, source=str(path))


def parse_facts(text: str, *, source: str) -> Benchmark:
    """A ``Benchmark`` from TOML text; ``source`` is how messages call it."""
    import tomllib  # compiles its patterns on import, which listing names need not wait for

    shown = printable(source, longest=300)
    try:
        loaded = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EmbedcalError(
            f"expected TOML in {shown}, found a fault ({printable(str(error))}): mend it"
        ) from None
    known = {item.name: item for item in fields(Benchmark)}
    strange = sorted(set(loaded) - set(known))
    missing = [
        key
        for key, item in known.items()
        if key not in loaded and item.default is MISSING and item.default_factory is MISSING
    ]
    if strange or missing:
        raise EmbedcalError(
            f"expected the keys {', '.join(known)} in {shown}, found "
            f"{printable(', '.join(strange)) or 'none'} unknown and "
            f"{', '.join(missing) or 'none'} missing: mend its top level"
        )
    for key, value in loaded.items():
        wanted = str(known[key].type)
        if not _fits(value, wanted):
            raise EmbedcalError(
                f"expected {key} of {shown} to be {wanted.partition(' |')[0]}, found "
                f"{printable(repr(value))}: mend it"
            )
    frozen: dict[str, Any] = {key: _frozen(value) for key, value in loaded.items()}
    return Benchmark(**frozen)


def _fits(value: object, wanted: str) -> bool:
    """Whether a TOML value is of the type that a field of ``Benchmark`` is annotated with."""
    match wanted.removesuffix(" | None"):
        case "str":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "tuple[str, ...]":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "tuple[int, ...]":
            return isinstance(value, list) and all(type(item) is int for item in value)
        case mapping:
            inner = mapping.removeprefix("Mapping[str, ").removesuffix("]")
            return isinstance(value, dict) and all(_fits(v, inner) for v in value.values())


def _frozen(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


def read_benchmark(facts: Benchmark, root: Path | None, options: ReadOptions) -> Manifest:
    """Find, check and compare the benchmark of ``facts`` under ``root``.

    Counts that differ from the published ones are a warning in the manifest.
    """
    folder = _rendered(facts, root, options) if facts.rendered else _find(facts, root)
    attributes = options.attributes or facts.attributes
    if not isinstance(attributes, Mapping):  # value names alone: those of the first attribute
        attributes = {next(iter(facts.attributes), "a"): attributes}
    prompts = options.prompts
    if prompts is None and options.classes is None and options.attributes is None:
        prompts = facts.prompts
    filled = replace(
        options,
        columns={**facts.columns, **options.columns},
        classes=options.classes or facts.classes,
        attributes=attributes,
        prompts=prompts,
    )
    table = read_csv(folder / facts.table)
    manifest = build_manifest(table, root=folder, name=facts.name, options=filled)
    differences = count_differences(manifest, facts, rows=len(manifest) if facts.rendered else None)
    return replace(
        manifest,
        box=_boxes(facts, manifest),
        masks=manifest.masks or _masks(facts, manifest),
        warnings=(*manifest.warnings, *differences),
    )


def _find(facts: Benchmark, root: Path | None) -> Path:
    if root is None:
        raise EmbedcalError(
            f"expected a root for {facts.name}, found none: get it from {facts.source} and name "
            "its folder with --root (embedcal downloads no data)"
        )
    base = root.expanduser().absolute()
    for layout in facts.layouts:
        if (base / layout / facts.table).is_file():
            return base / layout
    tried = ", ".join(str(PurePosixPath(layout) / facts.table) for layout in facts.layouts)
    raise EmbedcalError(
        f"expected one of {tried} under {printable(str(base), longest=300)}, found none: get "
        f"{facts.name} from {facts.source} and name its folder with --root"
    )


def _rendered(facts: Benchmark, root: Path | None, options: ReadOptions) -> Path:
    """The folder of the embedded world, drawn where it is not there yet."""
    rows = BIRDS_ROWS if options.rows is None else options.rows
    seed = 0 if options.seed is None else options.seed
    if root is None:
        folder = data_dir() / facts.name / f"rows-{rows}-seed-{seed}"
    else:
        folder = root.expanduser().absolute()
        asked = options.rows is not None or options.seed is not None
        if not asked and (folder / facts.table).is_file():
            return folder  # a world of any size, drawn earlier
    from embedcal.datasets.birds import render

    return render(folder, rows=rows, seed=seed, workers=options.workers, progress=options.progress)


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
