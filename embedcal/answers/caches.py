"""What the commands on caches answer: a JSON record, and a report for people of the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType

from embedcal.cache.format import PAIRS
from embedcal.tables import facts, group_table, plain_table, shown
from embedcal.types import SPLITS

if TYPE_CHECKING:
    from embedcal.cache import BuildReport, CacheMeta, FeatureCache
    from embedcal.cache.merging import Joined
    from embedcal.cache.sharding import Shard

LISTED = 10  # unreadable images named in a report; JSON has all


def cache_record(report: BuildReport) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "rows": report.rows,
        "encoded": report.encoded,
        "reused": report.reused,
        "relabelled": report.relabelled,
        "resumed": report.resumed,
        "copied": report.copied,
        "shard": None if report.shard is None else list(report.shard),
        "skipped": [
            dict(zip(("id", "path", "reason"), row, strict=True)) for row in report.skipped
        ],
        "seconds": dict(report.seconds),
        "images_per_second": report.images_per_second,
        "limiting": report.limiting,
        "notes": list(report.notes),
    }


def cache_report(report: BuildReport) -> RenderableType:
    how = f"encoded {report.encoded:,} of {report.rows:,} rows"
    if report.reused:
        how = f"exists already, nothing encoded ({report.rows:,} rows)"
    elif report.relabelled:
        how = f"new labels, features copied, nothing encoded ({report.rows:,} rows)"
    elif report.resumed:
        how += f"; {report.resumed:,} were there from an interrupted build"
    if report.copied:
        how += f"; {report.copied:,} copied from the older cache"
    kind = "cache"
    if report.shard is not None:
        kind = "shard {} of {}".format(*report.shard)
    pairs: dict[str, object] = {kind: str(report.path), "done": how}
    if report.encoded:
        rates = [f"{stage} {rate:,.0f}/s" for stage, rate in report.images_per_second.items()]
        limit = f" (limited by {report.limiting})" if report.limiting else ""
        if rates:  # not known of several machines together
            pairs["rates"] = ", ".join(rates) + limit
        pairs["seconds"] = f"{report.seconds['total']:.1f}"
    if report.notes:
        pairs["note"] = "\n".join(map(shown, report.notes))
    parts: list[RenderableType] = [facts(pairs)]
    if report.skipped:
        table = plain_table(f"{len(report.skipped):,} images could not be read")
        for name in ("id", "path", "reason"):
            table.add_column(name, overflow="fold")
        for row in report.skipped[:LISTED]:
            table.add_row(*map(shown, row))
        if len(report.skipped) > LISTED:
            table.caption = f"and {len(report.skipped) - LISTED:,} more: --json lists all"
        parts.append(table)
    return Group(*parts)


def joined_record(found: Joined) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "rows": found.rows,
        "shards": found.shards,
        "virtual": found.virtual,
        "reused": found.reused,
        "resumed": found.resumed,
        "notes": list(found.notes),
    }


def joined_report(found: Joined) -> RenderableType:
    how = f"{found.rows:,} rows of {found.shards:,} shards"
    if found.reused:
        how += ", there already"
    elif found.virtual:
        how += ", which must stay beside it"
    elif found.resumed:
        how += f"; {found.resumed:,} were there from an interrupted merge"
    pairs: dict[str, object] = {"cache": str(found.path), "done": how}
    if found.notes:
        pairs["note"] = "\n".join(map(shown, found.notes))
    return facts(pairs)


def shard_record(shard: Shard) -> dict[str, Any]:
    meta, span = shard.meta, shard.span
    return {
        "path": str(meta.path),
        "shard": [shard.part.number, shard.part.count],
        "first_row": span.start,
        "rows": len(shard),
        "of_rows": span.total,
        "dataset": meta.dataset,
        "backbone": meta.backbone,
        "unreadable": int((shard.samples.status != 0).sum()),
        "identity": meta.identity,
        "whole": shard.whole,
        "created": meta.created,
        "bytes": meta.path.stat().st_size,
    }


def shard_report(shard: Shard) -> RenderableType:
    record = shard_record(shard)
    last = shard.span.stop - 1
    return facts(
        {
            f"shard {shard.part.number} of {shard.part.count}": record["path"],
            "rows": f"{shard.span.start:,} to {last:,} of {shard.span.total:,}",
            "data set": record["dataset"],
            "encoder": record["backbone"],
            "size": f"{record['bytes'] / 1e6:,.1f} MB",
            "next": "embedcal merge, with all shards",
        }
    )


def cache_line(meta: CacheMeta) -> str:
    """Which cache a command uses: said before anything else."""
    return f"cache {meta.path} ({meta.dataset}, {meta.backbone}, {meta.rows:,} rows)"


def info_record(cache: FeatureCache) -> dict[str, Any]:
    meta = cache.meta
    return {
        "path": str(meta.path),
        "format_version": meta.format_version,
        "dataset": meta.dataset,
        "backbone": meta.backbone,
        "weights": meta.weights,
        "weights_sha256": meta.weights_sha256,
        "library": meta.library,
        "precision": meta.precision,
        "preprocessing": dict(meta.preprocessing),
        "rows": meta.rows,
        "unreadable": int((cache.labels.status != 0).sum()),
        "levels": {
            level: {"shape": list(meta.shapes[level]), "stored": stored}
            for level, stored in meta.levels.items()
        },
        "classes": list(meta.classes),
        "attributes": {name: list(values) for name, values in meta.attributes},
        "groups": {"names": list(cache.group_names()), "counts": _counts(cache)},
        "banks": {bank: list(cache.text(bank).prompts) for bank in cache.banks},
        "templates": len(meta.templates),
        "template_texts": list(meta.templates),
        "descriptions": {
            bank: [list(texts) for texts in each]
            for bank, each in meta.ingredients.descriptions.items()
            if bank != PAIRS
        },
        "pairs": [list(pair) for pair in meta.ingredients.pairs],
        "warnings": list(meta.warnings),
        "identity": meta.identity,
        "fingerprint": cache.fingerprint,
        "created": meta.created,
        "bytes": meta.path.stat().st_size,
    }


def _counts(cache: FeatureCache) -> dict[str, list[int]]:
    """Encoded rows of each group (of each class where there are no attributes) by split."""
    counts: dict[str, list[int]] = {}
    for split in SPLITS:
        found = cache.split_labels(split)
        labels, n = found["y"], len(cache.group_names())
        if "g" in found:
            labels = found["g"][found["g"] >= 0]
        counts[split] = np.bincount(labels, minlength=n).tolist()
    return counts


def info_report(record: dict[str, Any]) -> RenderableType:
    levels = (
        f"{name} {'x'.join(map(str, level['shape']))} {level['stored']}"
        for name, level in record["levels"].items()
    )
    pairs: dict[str, object] = {
        "cache": record["path"],
        "data set": f"{record['dataset']}, {record['rows']:,} rows"
        + (f", {record['unreadable']} unreadable" if record["unreadable"] else ""),
        "encoder": f"{record['backbone']} ({record['weights']}), {record['library']}, "
        f"{record['precision']}",
        "levels": "; ".join(levels),
        **_text_facts(record),
        "size": f"{record['bytes'] / 1e6:,.1f} MB",
        "created": record["created"],
        "fingerprint": record["fingerprint"][:16],
    }
    parts: list[RenderableType] = [facts(pairs)]
    names = record["groups"]["names"] or record["classes"]
    parts.append(group_table(names, record["groups"]["counts"]))
    parts += [f"warning: {shown(line)}" for line in record["warnings"]]
    return Group(*parts)


def _text_facts(record: dict[str, Any]) -> dict[str, object]:
    """The banks with what they are encoded through, and the first text of each kind."""
    described, templates = record["descriptions"], record["template_texts"]
    banks = {name: f"{name} ({len(prompts)})" for name, prompts in record["banks"].items()}
    plain = ", ".join(banks[name] for name in banks if name not in (*described, PAIRS))
    parts = [f"{plain} x {len(templates)} templates"] if plain else []
    parts += [f"{banks[name]} x {len(each[0])} descriptions" for name, each in described.items()]
    parts += [f"{len(record['pairs'])} concept pairs"] if record["pairs"] else []
    found: dict[str, object] = {"text": shown("; ".join(parts) or "none")}
    if templates:
        found["templates"] = shown(f"the first is '{templates[0]}'")
    if described:
        first = next(iter(described.values()))[0][0]
        found["descriptions"] = shown(f"the first is '{first}'")
    if "center_crop" in record["preprocessing"]:
        found["crop"] = f"{record['preprocessing']['center_crop']} pixels at the centre"
    return found
