"""The model card: what a head is, how it was judged, what it must not be used for, as Markdown.

Whatever comes from a file is shown as text: names are escaped where the template writes them, and
nothing but the template's own words is markup. No name stands in a block of code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from embedcal import __version__
from embedcal.annotating import labelled
from embedcal.cache import FeatureCache
from embedcal.datasets.places import data_dir
from embedcal.markdown import escaped
from embedcal.tables import interval, labels_used, percent
from embedcal.types import SPLITS, EmbedcalError

if TYPE_CHECKING:
    from jinja2 import Environment

    from embedcal.runs import Run

HERE = Path(__file__).parent
PACKAGES = ("torch", "open_clip_torch", "safetensors")
LONGEST = 300  # characters of one name
LISTED = 20  # classes
OVERALL = ("worst_group", "train_weighted", "group_mean", "worst_class", "mean")
LICENCES = {  # of weights, as SPDX has it, and whose word that is
    "embedded": ("Apache-2.0", "they come with embedcal"),
    "openai": ("MIT", "the licence of OpenAI's CLIP repository"),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table of accuracies, fractions; ``before`` is zero-shot's."""

    name: str
    images: int | None
    accuracy: float | None
    ends: Sequence[float] | None
    before: float | None


def card(
    run: Run, cache: FeatureCache, facts: Mapping[str, Any], *, to: str, level: str, whole: bool
) -> str:
    """The card of a run that goes out in the form ``to``.

    ``level`` is what the run's head was trained over; ``whole``: it goes out inside the model.
    """
    meta, record = cache.meta, run.record
    before = baseline(run)
    lines = _lines(run, cache, before)
    worst = min(
        (line for line in lines if line.images and line.accuracy is not None),
        key=lambda line: line.accuracy or 0.0,
        default=None,
    )
    rows = cache.samples.split
    text: str = (
        _environment()
        .get_template("card.md.j2")
        .render(
            run=run,
            record=record,
            meta=meta,
            facts=facts,
            to=to,
            whole=whole,
            lines=lines,
            worst=worst,
            before=None if before is None else before["id"],
            labels=labels_used(record["labels_used"]),
            options=json.dumps(record["options"], sort_keys=True),
            rows={split: int((rows == code).sum()) for code, split in enumerate(SPLITS)},
            level=level,
            inferred="inferred" in record,
            in_sample=bool(record["val"].get("in_sample")),
            prompts=facts.get("prompts", ()),
            templates=facts.get("templates", ()),
            own=facts["head"] in ("projection", "attnpool", "adapter"),
            licence=LICENCES.get(meta.weights),
            versions=versions(record),
            listed=LISTED,
        )
    )
    return text


def baseline(run: Run) -> Mapping[str, Any] | None:
    """The record of zero-shot over the same cache and groups, from beside the run or the cache's
    own runs; that with the run's own templates where there is one."""
    from embedcal.grids.results import load

    made = run.record["cache"]
    found: list[Mapping[str, Any]] = []
    for folder in (run.folder.parent, data_dir() / "runs" / Path(str(made.get("path", ""))).stem):
        with suppress(EmbedcalError, OSError):
            found += load(folder).records.values()
    fitting = [
        record
        for record in found
        if record.get("method") == "zeroshot"
        and record.get("status") == "done"
        and record["cache"]["fingerprint"] == made["fingerprint"]
        and record["attributes"] == run.record["attributes"]
        and record.get("inferred") == run.record.get("inferred")
    ]
    wanted = run.record["options"].get("templates", 0)
    alike = [record for record in fitting if record["options"].get("templates", 0) == wanted]
    chosen = (alike or fitting)[:1]
    return chosen[0] if chosen else None


def versions(record: Mapping[str, Any]) -> dict[str, str]:
    """embedcal of the run and of the export, Python, and what the export is read with."""
    found = {
        "embedcal, the run": str(record.get("embedcal", "not recorded")),
        "embedcal, the export": __version__,
        "Python": sys.version.split()[0],
    }
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _lines(run: Run, cache: FeatureCache, before: Mapping[str, Any] | None) -> list[Line]:
    test, ends = run.record["test"], run.record["test"].get("interval", {})
    zero: Mapping[str, Any] = before["test"] if before else {}
    lines = []
    groups = test.get("groups", ())
    for g, name in enumerate(_group_names(run, cache, len(groups))):
        lines.append(
            Line(
                name=name,
                images=test["group_sizes"][g],
                accuracy=groups[g],
                ends=ends["groups"][g] if "groups" in ends else None,
                before=zero["groups"][g] if "groups" in zero else None,
            )
        )
    if not groups:
        lines += [
            Line(name=name, images=None, accuracy=found, ends=None, before=earlier)
            for name, found, earlier in zip(
                cache.meta.classes,
                test["classes"],
                zero.get("classes") or [None] * len(cache.meta.classes),
                strict=True,
            )
        ]
    return lines + [
        Line(
            name=name,
            images=None,
            accuracy=test[name],
            ends=ends.get(name),
            before=zero.get(name),
        )
        for name in OVERALL
        if name in test
    ]


def _group_names(run: Run, cache: FeatureCache, groups: int) -> Sequence[str]:
    if not groups:
        return ()
    chosen = run.record["attributes"]
    with suppress(EmbedcalError):  # an annotation may be gone by now
        names = labelled(cache, chosen).group_names(chosen)
        if len(names) == groups:
            return names
    return [f"group {g}" for g in range(groups)]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE / "templates", encoding="utf-8"),
        autoescape=False,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"percent": percent, "interval": interval, "named": _named}
    return made


def _finalize(value: Any) -> Any:
    """Whatever the template writes: text is escaped, unless it is marked as markup."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _named(value)
    return value


def _named(text: str) -> str:
    return escaped(text, longest=LONGEST)
