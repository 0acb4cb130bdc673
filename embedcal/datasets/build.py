"""From a table of text to a manifest: everything is checked before the first image is opened."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedcal.datasets.descriptions import even, read_descriptions
from embedcal.datasets.files import Checked, check_files, leads_out, normalise
from embedcal.datasets.labels import Labels, read_labels, read_splits, repeats
from embedcal.datasets.manifest import Attribute, Manifest, group_counts
from embedcal.datasets.options import ReadOptions, crop_of, names_of
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import MOST_SHOWN, Problem, raise_any
from embedcal.datasets.prompts import resolve_prompts
from embedcal.datasets.stored_text import mapped
from embedcal.datasets.table import Rows
from embedcal.types import SPLITS, EmbedcalError, IntArray

# With more than this share of the files missing, the root is taken to be wrong.
MOST_MISSING = 0.5
REQUIRED = ("path", "y", "split")


def build_manifest(
    table: Rows, *, root: Path, name: str, options: ReadOptions | None = None
) -> Manifest:
    """Check the whole of ``table`` and return its rows, in the order of the table.

    Everything that is wrong is named in one ``EmbedcalError``, with line numbers, before an image
    is opened. What a run can live with (an empty group, a few missing files, a split without
    rows) goes into ``warnings`` instead. A row whose file is missing keeps its place.
    """
    options = options or ReadOptions()
    spec = _attribute_columns(table, options)
    headers = {key: options.columns.get(key, key) for key in (*REQUIRED, "id", "mask")}
    wanted = [headers[key] for key in REQUIRED] + [header for header, _ in spec.values()]
    require(table, list(dict.fromkeys([*wanted, *options.columns.values()])))
    if len(table) == 0:
        raise EmbedcalError(
            f"expected rows in {printable(table.source, longest=300)}, found only a header: "
            "add one row for each image"
        )
    root = root.expanduser().absolute()
    paths = mapped(normalise, table.columns[headers["path"]])
    split = read_splits(table.columns[headers["split"]], table.show)
    y = read_labels(
        table.columns[headers["y"]],
        table.show,
        what="label",
        names=names_of(options.classes, what="class names") or table.names.get(headers["y"]),
    )
    labels = {
        key: read_labels(
            table.columns[header], table.show, what=f"attribute '{printable(key)}'",
            names=names or table.names.get(header), may_be_unknown=True,
        )
        for key, (header, names) in spec.items()
    }  # fmt: skip
    ids = table.columns.get(headers["id"])
    masks = table.columns.get(headers["mask"])
    masks = None if masks is None else mapped(normalise, masks)

    problems = [*split.problems, *y.problems]
    for key, read in labels.items():
        problems += read.problems
        if not read.names:
            problems.append(Problem(f"attribute '{printable(key)}' has no known value"))
    problems += _id_problems(table, ids, paths, split.codes)
    checked = _look(paths, root, options)
    problems += _file_problems(table, paths, root, checked)
    if masks is not None:
        out = [row for row, mask in enumerate(masks) if mask and leads_out(mask)]
        if out and not options.allow_outside_root:
            problems.append(
                Problem.at("mask outside the root", out, lambda row: table.show(row, masks[row]))
            )
    raise_any(table.source, problems)

    attributes = tuple(
        Attribute(name=key, values=read.names, labels=read.codes) for key, read in labels.items()
    )
    crop = crop_of(options.crop)
    sentences, uneven = even(read_descriptions(options.descriptions, y.names))
    manifest = Manifest(
        name=name,
        root=root,
        ids=paths if ids is None else ids,
        paths=paths,
        y=y.codes,
        split=split.codes,
        classes=y.names,
        attributes=attributes,
        prompts=resolve_prompts(options.prompts, y.names, tuple(a.values for a in attributes)),
        masks=masks,
        allow_outside_root=options.allow_outside_root,
        descriptions={"class": sentences} if sentences else {},
        crop=None if crop == "auto" else crop,
    )
    warnings = (
        *table.notes,
        *([uneven] if uneven else []),
        *_missing_warning(paths, checked),
        *_unnamed(y, labels),
        *_empty(manifest),
    )
    return replace(manifest, warnings=warnings)


def _attribute_columns(
    table: Rows, options: ReadOptions
) -> dict[str, tuple[str, tuple[str, ...] | None]]:
    """Name of each attribute -> its header, and its value names where they are given."""
    given = options.attributes
    keys = (*REQUIRED, "id", "mask", *(given if isinstance(given, Mapping) else ("a",)))
    strange = [key for key in options.columns if key not in keys]
    if strange:
        raise EmbedcalError(
            f"expected columns to be named for {printable(', '.join(keys))}, found "
            f"'{printable(strange[0])}': write OURS=HEADER, as in path=img_filename,y=label"
        )
    if isinstance(given, Mapping):
        if options.attribute_name is not None:
            names = printable(", ".join(given)) or "none"
            raise EmbedcalError(
                "expected --attribute-name for an attribute without a name of its own, found "
                f"'{printable(options.attribute_name)}' beside {names}: leave it out"
            )
        return {
            key: (options.columns.get(key, key), names_of(names, what=f"values of '{key}'"))
            for key, names in given.items()
        }
    header = options.columns.get("a", "a")
    named = names_of(given, what="attribute values")
    asked = named or options.attribute_name or "a" in options.columns
    if header not in table.columns and not asked:
        return {}
    return {options.attribute_name or header: (header, named)}


def require(table: Rows, headers: Sequence[str]) -> None:
    missing = [header for header in headers if header not in table.columns]
    if not missing:
        return
    close = difflib.get_close_matches(missing[0], table.columns, n=1)
    guess = f" (did you mean '{printable(close[0])}'?)" if close else ""
    rule = "cut the rows by a rule such as --split 0.7,0.1,0.2, or " if "split" in missing else ""
    raise EmbedcalError(
        f"expected columns {printable(', '.join(headers), longest=200)} in "
        f"{printable(table.source, longest=300)}, found "
        f"{printable(', '.join(table.columns), longest=300) or 'none'}: "
        f"'{printable(missing[0])}' is missing{guess}; {rule}say which header stands for it, as in "
        "columns path=img_filename,y=label"
    )


def _id_problems(
    table: Rows, ids: Sequence[str] | None, paths: Sequence[str], split: IntArray
) -> list[Problem]:
    """Blank paths, one image in two splits, ids that occur twice."""
    problems = []
    blank = [row for row, path in enumerate(paths) if not path]
    if blank:
        problems.append(Problem.at("blank path", blank, table.where))
    foreign = [row for row, path in enumerate(paths) if not path.isascii() and not _is_text(path)]
    if foreign:
        problems.append(
            Problem.at("path not in UTF-8", foreign, lambda row: table.show(row, paths[row]))
        )
    again, first = _repeats(paths)
    known = (split[again] >= 0) & (split[first] >= 0)
    crossing = known & (split[again] != split[first])

    def fault(kind: str, cells: Sequence[str], rows: IntArray, firsts: IntArray) -> Problem:
        earlier = dict(zip(rows[:MOST_SHOWN].tolist(), firsts.tolist(), strict=False))

        def meets(row: int) -> str:
            return f"{table.show(row, cells[row])} after {table.where(earlier[row])}"

        return Problem.at(kind, rows.tolist(), meets)

    if crossing.any():
        kind = "one image in two splits"
        problems.append(fault(kind, paths, again[crossing], first[crossing]))
    if ids is None:
        kind = "the same path again (it serves as the id where there is no id column)"
        cells: Sequence[str] = paths
        same = split[again] == split[first]
        again, first = again[same], first[same]
    else:
        kind, cells = "duplicate id", ids
        again, first = _repeats(ids)
        bare = [row for row, cell in enumerate(ids) if not cell]
        if bare:
            problems.append(Problem.at("blank id", bare, table.where))
    if again.size:
        problems.append(fault(kind, cells, again, first))
    return problems


def _repeats(cells: Sequence[str]) -> tuple[IntArray, IntArray]:
    """``repeats`` but for blank cells, which are a fault of their own."""
    again, first = repeats(cells)
    known = np.array([bool(cells[row]) for row in first], dtype=bool)
    return again[known], first[known]


def _is_text(path: str) -> bool:
    """False for file names whose bytes are no UTF-8: no file format stores them as text."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _look(paths: Sequence[str], root: Path, options: ReadOptions) -> Checked:
    if options.check_files:
        if not root.is_dir():
            raise EmbedcalError(
                f"expected a folder of images at {printable(str(root), longest=300)}, found none: "
                "name it with --root"
            )
        return check_files(paths, root, allow_outside=options.allow_outside_root)
    spelled = (row for row, path in enumerate(paths) if leads_out(path))
    return Checked(() if options.allow_outside_root else tuple(spelled), (), ())


def _file_problems(
    table: Rows, paths: Sequence[str], root: Path, checked: Checked
) -> list[Problem]:
    problems = []
    if checked.outside:
        kind = "path outside the root (pass --allow-outside-root where that is meant)"
        problems.append(Problem.at(kind, checked.outside, lambda row: table.show(row, paths[row])))
    irregular = [row for row in checked.irregular if paths[row]]
    if irregular:
        problems.append(
            Problem.at("not a regular file", irregular, lambda row: table.show(row, paths[row]))
        )
    if len(checked.missing) > MOST_MISSING * len(paths):
        first = printable(str(root / paths[checked.missing[0]]), longest=300)
        problems.append(
            Problem(
                f"{len(checked.missing):,} of {len(paths):,} files are missing under the root "
                f"{printable(str(root), longest=300)}, the first path tried is {first} (name the "
                "folder of the images with --root)"
            )
        )
    return problems


def _missing_warning(paths: Sequence[str], checked: Checked) -> list[str]:
    if not checked.missing:
        return []
    first = printable(paths[checked.missing[0]])
    return [
        f"{len(checked.missing):,} of {len(paths):,} files are missing and stay as unreadable "
        f"rows; the first is '{first}'"
    ]


def _unnamed(y: Labels, labels: Mapping[str, Labels]) -> list[str]:
    """Integers without names make prompts such as "0", which no text encoder understands."""
    unnamed = [] if y.named else ["classes"]
    unnamed += [f"attribute '{printable(key)}'" for key, read in labels.items() if not read.named]
    return [f"no names were given for {what}: prompts are the numbers" for what in unnamed]


def _empty(manifest: Manifest) -> list[str]:
    """Splits without rows, and training groups without rows, of every attribute."""
    warnings = [
        f"the split {split} has no rows"
        for code, split in enumerate(SPLITS)
        if not (manifest.split == code).any()
    ]
    if not (manifest.split == 0).any():
        return warnings
    classes = np.bincount(manifest.y[manifest.split == 0], minlength=len(manifest.classes))
    for label, count in enumerate(classes):
        if count == 0:
            warnings.append(f"the class {printable(manifest.classes[label])} is empty in train")
    for attribute in manifest.attributes:
        counts = group_counts(manifest, attribute.name)["train"]
        for group, count in enumerate(counts):
            label, value = divmod(group, len(attribute.values))
            if count == 0 and classes[label]:
                warnings.append(
                    f"the group {printable(manifest.classes[label])}, {printable(attribute.name)}="
                    f"{printable(attribute.values[value])} is empty in train"
                )
    return warnings
