"""What annotate answers: a JSON record, and a report for people of the same values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from embedcal.tables import percent, plain_table, shown
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.cache import FeatureCache
    from embedcal.judging import Judged


def annotate_record(found: Sequence[Judged], cache: Path) -> dict[str, Any]:
    """Each attribute with its verdict, where it is kept, and how many rows have it."""
    return {
        "cache": str(cache),
        "attributes": [
            {
                "attribute": each.annotation.attribute,
                "verdict": each.annotation.verdict,
                "detector": each.annotation.source,
                "file": str(each.path),
                "digest": each.annotation.digest,
                "note": each.note,
                "counts": {
                    split: {name: asdict(count) for name, count in classes.items()}
                    for split, classes in each.counts.items()
                },
                "agreement": [asdict(one) for one in each.agreements],
            }
            for each in found
        ],
    }


def annotate_report(record: Mapping[str, Any]) -> RenderableType:
    """Rows with and without each attribute, how far to trust that, and what to type next."""
    parts: list[RenderableType] = []
    for each in record["attributes"]:
        parts += [
            f"[bold]{shown(each['attribute'])}[/], {each['verdict']}: images with it / without"
        ]
        parts += [_counts(each), *_trust(each)]
        if each["note"]:
            parts.append(f"note: {shown(each['note'])}")
    spurious = [e["attribute"] for e in record["attributes"] if e["verdict"] == "spurious"]
    if not spurious:
        return Group(*parts, "healthy: kept, and there is nothing to repair")
    cache = shlex.quote(record["cache"])
    lines = (
        f"  embedcal fit group-dro --attribute {shlex.quote(name)} --cache {cache}"
        for name in spurious
    )
    return Group(*parts, "", "Next:", *map(shown, lines))


def _counts(each: Mapping[str, Any]) -> Table:
    table = plain_table()
    table.add_column("class", overflow="fold")
    unknown = 0
    for split in each["counts"]:
        table.add_column(split, justify="right", no_wrap=True)
    for name in next(iter(each["counts"].values()), {}):
        rows = [classes[name] for classes in each["counts"].values()]
        unknown += sum(row["unknown"] for row in rows)
        table.add_row(shown(name), *(f"{row['with_it']:,} / {row['without']:,}" for row in rows))
    table.caption = f"found by {shown(each['detector'])}"
    table.caption += f"; {unknown:,} images left unknown" if unknown else ""
    return table


def _trust(each: Mapping[str, Any]) -> list[str]:
    """How well the labels agree with the cache's own, where it has some to tell by."""
    return [
        f"agrees with {shown(one['attribute'])} = {shown(one['value'])} on "
        f"{percent(one['agreement'])} % of {one['n']:,} images"
        for one in each["agreement"]
    ]


def list_record(cache: FeatureCache) -> dict[str, Any]:
    """What is annotated beside a cache; an annotation that cannot be read says why."""
    from embedcal.annotating import annotated, annotation, prompts

    rows: list[dict[str, Any]] = []
    for name in annotated(cache):
        try:
            found = annotation(cache, name)
        except EmbedcalError as error:
            rows.append({"attribute": name, "problem": str(error)})
            continue
        rows.append(
            {
                "attribute": name,
                "verdict": found.verdict,
                "detector": found.source,
                "with_it": int((found.labels == 1).sum()),
                "without": int((found.labels == 0).sum()),
                "unknown": int((found.labels == -1).sum()),
                "prompts": prompts(cache, name) is not None,
                "digest": found.digest,
            }
        )
    return {"cache": str(cache.meta.path), "attributes": rows}


def list_report(record: Mapping[str, Any]) -> RenderableType:
    rows = record["attributes"]
    if not rows:
        return Group(f"nothing is annotated beside {shown(Path(record['cache']).name)}")
    table = plain_table()
    for column in ("attribute", "verdict", "found by"):
        table.add_column(column, overflow="fold")
    for column in ("with", "without", "unknown", "prompts"):
        table.add_column(column, justify="right")
    for row in rows:
        if "problem" not in row:
            table.add_row(
                shown(row["attribute"]),
                row["verdict"],
                shown(row["detector"]),
                f"{row['with_it']:,}",
                f"{row['without']:,}",
                f"{row['unknown']:,}",
                "yes" if row["prompts"] else "no",
            )
    problems = [f"note: {shown(row['problem'])}" for row in rows if "problem" in row]
    return Group(*([table] if len(problems) < len(rows) else []), *problems)
