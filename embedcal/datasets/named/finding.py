"""Below a root: which layout is there, and its images as one table under our own names."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedcal.datasets.build import require
from embedcal.datasets.files import normalise
from embedcal.datasets.labels import factorise
from embedcal.datasets.named.facts import Benchmark, Join, Layout
from embedcal.datasets.named.sheets import read_sheet
from embedcal.datasets.named.splitting import SplitRule, parse_rule, refuse_seed, split_rows
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import Problem, raise_any
from embedcal.datasets.table import Table
from embedcal.errors import did_you_mean
from embedcal.types import EmbedcalError

_LEFT = "the attribute is left out, and with it the groups"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A layout that is there: its folder, and its rows.

    The table's columns are ours: ``path`` below ``folder``, ``y``, ``split``, the attributes,
    and ``id`` where the data set has one. ``rule`` is the split rule that was applied.
    """

    layout: Layout
    folder: Path
    table: Table
    rule: str


def find(
    facts: Benchmark,
    root: Path,
    *,
    columns: Mapping[str, str] | None = None,
    attributes: Sequence[str] | None = None,
    split: str | None = None,
    split_seed: int = 0,
) -> Found:
    """The first layout of ``facts`` that lies below ``root``, read and put into our form.

    ``columns`` are further headers of the user's, ``attributes`` those to read where they are not
    the facts' own, ``split`` a rule of the facts by name, or fractions drawn with ``split_seed``.
    Raises EmbedcalError that lists what was looked for.
    """
    base = root.expanduser().absolute()
    names = list(facts.attributes if attributes is None else attributes)
    for layout in facts.layouts:
        for folder in _folders(base, layout.folder):
            if layout.files or (folder / layout.table).is_file():
                table = _listed(facts, layout, folder)
                if len(table) or layout.table:
                    headers = {**facts.columns, **layout.columns, **(columns or {})}
                    _check_headers(headers, names)
                    rule = _rule(facts, table, headers, split, split_seed)
                    shaped = _shaped(facts, layout, table, headers, names, rule[1])
                    return Found(layout=layout, folder=folder, table=shaped, rule=rule[0])
    tried = ", ".join(_looked_for(layout) for layout in facts.layouts)
    raise EmbedcalError(
        f"expected one of {tried} under {printable(str(base), longest=300)}, found none: "
        f"'embedcal datasets show {facts.name}' has the steps to obtain it; name its folder with "
        "--root"
    )


def _check_headers(headers: Mapping[str, str], attributes: Sequence[str]) -> None:
    keys = ("path", "y", "split", "id", "mask", *attributes)
    strange = [key for key in headers if key not in keys]
    if strange:
        raise EmbedcalError(
            f"expected columns to be named for {printable(', '.join(keys))}, found "
            f"'{printable(strange[0])}': write OURS=HEADER, as in path=img_filename,y=label"
        )


def _looked_for(layout: Layout) -> str:
    inner = layout.table or f"images ({layout.name})"
    return inner if layout.folder == "." else f"{layout.folder}/{inner}"


def _folders(base: Path, pattern: str) -> list[Path]:
    """The folders that a layout's pattern names, in the order of their names."""
    if not any(char in pattern for char in "*?["):
        return [base / pattern]
    return sorted(path for path in base.glob(pattern) if path.is_dir())


def _listed(facts: Benchmark, layout: Layout, folder: Path) -> Table:
    """The layout's table with everything that is joined to it, or its files by their paths."""
    table = _files(layout, folder) if layout.files else read_sheet(folder / layout.table)
    for name in layout.more:
        table = _appended(table, folder / name)
    for name, (source, pattern) in facts.derived.items():
        require(table, [source])
        table = _derived(table, name, source, re.compile(pattern))
    for join in layout.joins:
        table = _joined(table, join, folder)
    for name, allowed in facts.keep.items():
        require(table, [name])
        out = [row for row, cell in enumerate(table.columns[name]) if cell not in allowed]
        if out:
            table = _without(table, out, f"with '{name}' none of {', '.join(allowed)} left out")
    return table


def _appended(table: Table, path: Path) -> Table:
    """The rows of a second table of the same headers after those of the first."""
    if not path.is_file():
        note = f"no {path.name} beside {Path(table.source).name}: its rows are not there"
        return replace(table, notes=(*table.notes, note))
    more = read_sheet(path)
    require(more, list(table.columns))
    columns = {name: (*cells, *more.columns[name]) for name, cells in table.columns.items()}
    return replace(table, columns=columns, lines=None)


def _files(layout: Layout, folder: Path) -> Table:
    pattern = re.compile(layout.files)
    rows = []
    for path in sorted(_walk(folder)):
        match = pattern.fullmatch(path)
        if match:
            rows.append({"path": path, **match.groupdict(default="")})
    names = ("path", *pattern.groupindex)
    columns = {name: tuple(row[name] for row in rows) for name in names}
    return Table(source=str(folder), columns=columns)


def _walk(folder: Path, deepest: int = 8) -> Iterator[str]:
    """Paths of files below a folder, POSIX; no hidden ones, and links are not followed."""
    for here, inner, files in os.walk(folder):
        relative = Path(here).relative_to(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if len(relative.parts) >= deepest:
            inner.clear()
        for name in files:
            if not name.startswith("."):
                yield (relative / name).as_posix()


def _joined(table: Table, join: Join, folder: Path) -> Table:
    here, there = join.on
    other = next((folder / name for name in join.tables if (folder / name).is_file()), None)
    if other is None and join.optional:
        note = f"no {' or '.join(join.tables)} in {printable(str(folder), longest=300)}: {_LEFT}"
        return replace(table, notes=(*table.notes, note))
    if other is None:
        raise EmbedcalError(
            f"expected {' or '.join(join.tables)} beside {printable(table.source, longest=300)}, "
            "found neither: put it there"
        )
    right = read_sheet(other)
    require(table, [here])
    require(right, [there])
    keys = right.columns[there]
    at = {key: row for row, key in enumerate(keys)}
    if len(at) != len(keys):
        twice = next(key for row, key in enumerate(keys) if at[key] != row)
        raise EmbedcalError(
            f"expected every '{printable(there)}' once in {printable(str(other), longest=300)}, "
            f"found '{printable(twice)}' again: remove one"
        )
    cells = table.columns[here]
    alone = [row for row, cell in enumerate(cells) if cell not in at]
    if alone and not join.inner:
        kind = f"row without a partner in {other.name}"
        show = Problem.at(kind, alone, lambda row: table.show(row, cells[row]))
        raise_any(table.source, [show])
    if alone:
        table = _without(table, alone, f"have no partner in {other.name} and are left out")
        cells = table.columns[here]
    added = {
        name: tuple(column[at[cell]] for cell in cells)
        for name, column in right.columns.items()
        if name not in table.columns
    }
    return replace(table, columns={**table.columns, **added})


def _without(table: Table, rows: Sequence[int], why: str) -> Table:
    """The table without some rows, with a note of how many they were."""
    gone = set(rows)
    kept = [row for row in range(len(table)) if row not in gone]
    return Table(
        source=table.source,
        columns={name: tuple(cells[row] for row in kept) for name, cells in table.columns.items()},
        lines=None if table.lines is None else tuple(table.lines[row] for row in kept),
        notes=(*table.notes, f"{len(gone):,} rows {why}"),
    )


def _shaped(
    facts: Benchmark,
    layout: Layout,
    table: Table,
    headers: Mapping[str, str],
    attributes: Sequence[str],
    rule: SplitRule | None,
) -> Table:
    """The table under our own names, its cells as labels, with its split."""
    if any(note.endswith(_LEFT) for note in table.notes):
        attributes = [key for key in attributes if headers.get(key, key) in table.columns]
    wanted = ["path", "y", *attributes]
    wanted += ["split"] if rule is None or rule.rule == "cells" else []
    require(table, list(dict.fromkeys(headers.get(key, key) for key in wanted)))
    columns = {
        key: table.columns[headers.get(key, key)]
        for key in (*wanted, "id", "mask")
        if headers.get(key, key) in table.columns
    }
    prefix = "" if layout.images == "." else f"{layout.images}/"
    columns["path"] = tuple(normalise(prefix + cell) for cell in columns["path"])
    for key, codes in facts.codes.items():
        if key in columns:
            columns[key] = _coded(table, key, columns[key], codes)
    notes = table.notes
    if rule is not None:
        cells = {**table.columns, **columns}
        kept = tuple(key for key in rule.stratify if key in cells or key in attributes)
        columns["split"] = split_rows(replace(rule, stratify=kept), cells, len(table))
        notes = (*notes, rule.note) if rule.note else notes
    return replace(table, columns=columns, notes=notes)


def _rule(
    facts: Benchmark,
    table: Table,
    headers: Mapping[str, str],
    split: str | None,
    seed: int,
) -> tuple[str, SplitRule | None]:
    """The split rule to apply and its name; none where the table's own column stands."""
    if split is None or split in facts.splits:
        refuse_seed(seed, split)
    if split is not None:
        if split in facts.splits:
            return split, facts.splits[split]
        if "," not in split:
            names = ", ".join([*facts.splits, "fractions such as 0.7,0.1,0.2"])
            hint = did_you_mean(split, facts.splits, "write, say, 0.7,0.1,0.2")
            raise EmbedcalError(
                f"expected --split of {facts.name} to be one of {names}, found "
                f"'{printable(split)}': {hint}"
            )
        return split, parse_rule(split, ["y", *facts.attributes], seed=seed)
    if facts.splits:
        name, rule = next(iter(facts.splits.items()))
        if rule.rule == "cells" or headers.get("split", "split") not in table.columns:
            return name, rule
    return "", None


def _derived(table: Table, name: str, source: str, pattern: re.Pattern[str]) -> Table:
    distinct, index = factorise(table.columns[source])
    matches = [pattern.search(cell) for cell in distinct]
    wrong = np.flatnonzero(np.array([match is None for match in matches])[index]).tolist()
    if wrong:
        cells = table.columns[source]
        kind = f"'{source}' without {pattern.pattern}"
        raise_any(table.source, [Problem.at(kind, wrong, lambda row: table.show(row, cells[row]))])
    made = [match[1] if match else "" for match in matches]
    return replace(
        table, columns={**table.columns, name: tuple(made[code] for code in index.tolist())}
    )


def _coded(
    table: Table, name: str, cells: Sequence[str], codes: Mapping[str, int]
) -> tuple[str, ...]:
    """Cells as labels, by the first pattern that each matches; what matches none is a fault."""
    distinct, index = factorise(cell.strip() for cell in cells)
    found = [
        next((code for want, code in codes.items() if fnmatch.fnmatchcase(cell, want)), None)
        for cell in distinct
    ]
    wrong = np.flatnonzero(np.array([code is None for code in found])[index]).tolist()
    if wrong:
        kind = f"{name} none of {', '.join(codes)}"
        raise_any(table.source, [Problem.at(kind, wrong, lambda row: table.show(row, cells[row]))])
    return tuple(str(found[code]) for code in index.tolist())
