"""What map answers: silhouettes before and after as a JSON record, a report, and points as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.answers.seeing import named_figure
from embedcal.datasets.spreadsheet import cell
from embedcal.tables import facts, percent, plain_table, shown
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.cache import FeatureCache
    from embedcal.mapping import Map, Silhouette, View

HEADER = ("view", "row", "id", "class", "attribute", "wrong", "x", "y")


def check_places(out: Path, points: Path | None) -> None:
    """Before any work: a figure's suffix, and folders that are there. EmbedcalError otherwise."""
    named_figure(out)
    if points is not None and points.absolute() == out.absolute():
        raise EmbedcalError(f"expected two files, found {out} for figure and CSV: name another")
    for path in (out, *([] if points is None else [points])):
        if not path.absolute().parent.is_dir():
            raise EmbedcalError(
                f"expected a folder for {path}, found none: make it, or choose another place"
            )


def map_record(
    maps: Sequence[Map], cache: FeatureCache, figure: Path, points: Path | None
) -> dict[str, Any]:
    """Every view's silhouettes by class and by attribute, and what a head changed in them."""
    first = maps[0]
    classes, values = cache.meta.classes, first.values
    views = [_view(first.before, None, classes, values)]
    views += [_view(each.after, first.before, classes, values) for each in maps]
    return {
        "figure": str(figure),
        "csv": None if points is None else str(points),
        "cache": str(cache.meta.path),
        "split": first.split,
        "by": first.by,
        "rows": first.n,
        "points": len(first.rows),
        "seed": first.seed,
        "attributes": list(first.attributes) if first.a is not None else [],
        "views": views,
    }


def _view(
    view: View, before: View | None, classes: Sequence[str], values: Sequence[str]
) -> dict[str, Any]:
    earlier = (None, None) if before is None else (before.by_class, before.by_attribute)
    return {
        "name": view.name,
        "space": view.space,
        "variance_shown": view.share,
        "error": view.error,
        "class": _silhouette(view.by_class, earlier[0], classes),
        "attribute": _silhouette(view.by_attribute, earlier[1], values),
    }


def _silhouette(
    found: Silhouette | None, before: Silhouette | None, names: Sequence[str]
) -> dict[str, Any] | None:
    from embedcal.mapping import change

    if found is None:
        return None
    record: dict[str, Any] = {
        "silhouette": found.mean,
        "interval": list(found.interval),
        "values": {
            name: None if value != value else value  # NaN: no rows
            for name, value in zip(names, found.values, strict=True)
        },
    }
    if before is not None:
        record["change"], ends = change(before, found)
        record["change_interval"] = list(ends)
    return record


def map_report(record: Mapping[str, Any]) -> RenderableType:
    """A line for each view, what changed in words, and where the files are."""
    kinds = ["class", *(["attribute"] if record["attributes"] else [])]
    called = {"class": "class", "attribute": " and ".join(record["attributes"])}
    table = plain_table()
    table.add_column("view", overflow="fold", min_width=9)
    for kind in kinds:
        table.add_column(f"by {shown(called[kind])}", justify="right", overflow="fold")
        table.add_column("change", justify="right", no_wrap=True)
    table.add_column("wrong, %", justify="right")
    for view in record["views"]:
        cells = [shown(view["name"]) + (" *" if view["space"] == "logits" else "")]
        for kind in kinds:
            cells += _cells(view[kind])
        table.add_row(*cells, percent(view["error"]))
    lines: list[RenderableType] = [
        f"Silhouettes of {record['rows']:,} images of {record['split']}: 1 is well apart, 0 mixed, "
        "below 0 nearer to others. frozen: wrong by zero-shot."
    ]
    if any(view["space"] == "logits" for view in record["views"]):
        lines.append(
            "* a linear head keeps the frozen embedding: shown and measured by its logits, which "
            "lie apart more easily"
        )
    for view in record["views"][1:]:
        lines += [
            f"{_whose(view)}: {_told(view[kind], shown(called[kind]), kind)}"
            for kind in kinds
            if view[kind] is not None
        ]
    places = {"figure": record["figure"]}
    if record["points"] < record["rows"]:
        places["figure"] += f" ({record['points']:,} images, drawn with seed {record['seed']})"
    if record["csv"]:
        places["points"] = record["csv"]
    return Group(table, *lines, facts(places))


def _cells(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "–", ""
    return f"{found['silhouette']:.2f}", f"{found['change']:+.2f}" if "change" in found else ""


def _whose(view: Mapping[str, Any]) -> str:
    name = shown(view["name"])
    return f"{name}, by its logits" if view["space"] == "logits" else name


def _told(found: Mapping[str, Any], name: str, kind: str) -> str:
    """What a change means, as far as its interval allows to say."""
    low, high = found["change_interval"]
    what = "classes" if kind == "class" else f"values of {name}"
    ends = f"{found['change']:+.2f}, 95 % {low:+.2f} to {high:+.2f}"
    if low > 0:
        return f"{what} lie further apart ({ends})"
    if high < 0:
        return f"{what} lie closer together ({ends})"
    return f"no clear change between {what} ({ends})"


def save_points(maps: Sequence[Map], cache: FeatureCache, path: Path) -> None:
    """One line for each view and row: row of the cache, id, labels, and where the point lies.

    ``wrong`` is 1 or 0, empty where nobody predicts; an unknown attribute is empty. EmbedcalError
    where the file cannot be written. The file is for reading: hidden characters are escaped, and
    what a spreadsheet would compute has an apostrophe before it. ``row`` says which row it is.
    """
    first = maps[0]
    classes, values = cache.meta.classes, first.values
    labels = [-1] * len(first.rows) if first.a is None else first.a.tolist()
    try:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for view in (first.before, *(each.after for each in maps)):
                for at, row in enumerate(first.rows.tolist()):
                    writer.writerow(
                        [
                            cell(view.name),
                            row,
                            cell(cache.samples.ids[row]),
                            cell(classes[int(first.y[at])]),
                            cell(values[labels[at]]) if labels[at] >= 0 else "",
                            "" if view.wrong is None else int(view.wrong[at]),
                            *(f"{place:.6g}" for place in view.points[at].tolist()),
                        ]
                    )
    except OSError as error:
        raise EmbedcalError(
            f"expected to write {path}, found: {error.strerror}: choose another place with --csv"
        ) from None
