"""From folders of runs to what a page shows of them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from embedcal.answers.comparison import heading, metric_name
from embedcal.comparing import compare
from embedcal.comparing.comparison import Block
from embedcal.comparing.effects import MethodEffects, effects_of
from embedcal.comparing.judging import judged
from embedcal.comparing.recorded import Pool, collect
from embedcal.comparing.verdicts import counted
from embedcal.reporting import behind, looking, plots
from embedcal.reporting.content import (
    Detected,
    Explained,
    Gallery,
    Line,
    Mapped,
    Page,
    Part,
)
from embedcal.reporting.made_by import commands, versions
from embedcal.reporting.thumbnails import thumbnails
from embedcal.tables import interval, labels_used, percent
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.cache import FeatureCache

DRAWN_EFFECTS = 6  # methods whose options are taken apart in figures
Progress = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """``by``, ``select``, ``oracle`` and ``metric`` as ``compare`` takes them.

    ``attribute`` judges test by its groups, as ``compare`` does.
    ``cache``: where the runs' cache lies now, if not where they were fitted; ``root``: the folder
    of the images. ``images``: thumbnails and Grad-CAM, if the files are found; ``detect``: look for
    attributes that zero-shot hangs on, and ask for verdicts.
    """

    by: str = "method"
    select: str | None = None
    oracle: bool = False
    metric: str | None = None
    attribute: tuple[str, ...] = ()
    cache: Path | None = None
    root: Path | None = None
    images: bool = True
    detect: bool = False
    device: str = "auto"


def silently(done: int, total: int) -> None: ...


def gather(
    runs: Sequence[str | Path] | str | Path, options: ReportOptions, progress: Progress = silently
) -> Page:
    """Everything that a page about ``runs`` shows; raises EmbedcalError as ``compare`` does.

    What cannot be had, because files are gone or an encoder is not there, is left out with a note.
    """
    comparison = compare(
        runs,
        by=options.by,
        select=options.select,
        oracle=options.oracle,
        metric=options.metric,
        attribute=options.attribute,
        cache=options.cache if options.attribute else None,
    )
    pools = [pool for pool in collect(runs) if pool.done]
    if options.cache is not None:
        _check_cache(options.cache, pools)
    taken_apart = [_effects(pool, options) for pool in pools]
    if options.attribute:
        pools = judged(pools, options.attribute, options.cache)
        taken_apart = [
            [each for one in taken_apart for each in one if each.fingerprint == pool.fingerprint]
            for pool in pools
        ]
    parts: list[Part] = []
    blocks = iter(comparison.blocks)
    for pool, effects in zip(pools, taken_apart, strict=True):
        wanted = pool.rule(options.select, oracle=options.oracle)
        of = behind.source(pool, wanted, pool.metric(options.metric))
        if of.found:  # as compare makes a block of it
            parts.append(_part(f"p{len(parts)}", next(blocks), of, effects, options))
            progress(len(parts), len(comparison.blocks))
    first, count = comparison.blocks[0], sum(len(pool.done) for pool in pools)
    several = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return Page(
        title=f"{first.dataset} through {first.backbone}{several}",
        runs=count,
        parts=tuple(parts),
        notes=comparison.notes,
        versions=versions(pools),
        command=_command(runs, options),
    )


def _part(
    name: str,
    block: Block,
    of: behind.Source,
    taken_apart: Sequence[MethodEffects],
    options: ReportOptions,
) -> Part:
    pool = of.pool
    lines = behind.lines(block.rows, of)
    settings = behind.configurations(lines, of)
    learnt = behind.curves(lines, of)
    worst = behind.WORST[pool.by_groups]
    figures = [plots.scatter(lines, settings.shown, block.metric, f"{name}-scatter")]
    figures += filter(None, [plots.groups(lines, block.group_names, f"{name}-groups")])
    figures += [plots.curves(learnt, worst, f"{name}-curves")] if learnt else []
    notes: list[str] = []
    seen = _Seen()
    with _cache(pool, options, notes) as cache:
        facts = _facts(block, pool, cache)
        if cache is not None:
            seen = _look(name, block, of, lines, cache, options, notes)
    if len(settings.shown) < settings.total:
        notes.append(
            f"{len(settings.shown):,} of {settings.total:,} configurations are listed, the best by "
            "validation; results.jsonl has all"
        )
    return Part(
        name=name,
        subject=_subject(block),
        heading=f"{_subject(block)}: {counted(len(pool.done), 'run')}",
        block=block,
        facts=facts,
        lead=_lead(block, lines[0]),
        lines=lines,
        groups=behind.groups(lines, of, block.group_names),
        configurations=settings,
        figures=tuple(figures),
        curves=learnt,
        effects=tuple(
            (each, plots.effects(each, f"{name}-effects-{place}"))
            for place, each in enumerate(islice(taken_apart, DRAWN_EFFECTS))
        ),
        mapped=seen.mapped,
        explained=seen.explained,
        galleries=seen.galleries,
        detected=seen.detected,
        commands=commands(pool, of.found, (each for line in lines for each in line.row.runs)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _subject(block: Block) -> str:
    """Data, encoder and rule, and the groups, in which two parts over one cache differ."""
    groups = f"groups of {' and '.join(block.attributes)}, " if block.attributes else ""
    return f"{groups}{heading(block)}"


def _lead(block: Block, line: Line) -> str:
    """The first row in words."""
    row = line.row
    ends = f" (95 % interval {interval(row.interval)})" if row.interval else ""
    text = f"{row.label} reaches {percent(row.mean)} % {metric_name(block.metric)} accuracy{ends}"
    if line.average is not None:
        text += f" and {percent(line.average)} % {metric_name(line.second)} accuracy on test"
    known = [(value, g) for g, value in enumerate(line.groups) if not math.isnan(value)]
    if known and len(block.group_names) == len(line.groups):
        text += f"; its weakest group is {block.group_names[min(known)[1]]}"
    # Over several seeds the mean of the worst is below the worst of the means.
    return (
        f"{text}. Labels read: {labels_used(row.labels_used)}. {counted(len(row.seeds), 'seed')}."
    )


def _facts(block: Block, pool: Pool, cache: FeatureCache | None) -> dict[str, str]:
    """What was run on what, from the runs and, where it is there, from the cache."""
    oracle = " (oracle: looks at test, an upper bound)" if block.oracle else ""
    found = {
        "Data set": block.dataset,
        "Backbone": block.backbone,
        "Groups": " × ".join(["class", *block.attributes]) if block.attributes else "none",
        "Selection rule": block.rule + oracle,
        "Test rows scored": block.scored,
        "Runs": f"{len(pool.done):,} done, {len(pool.failed):,} failed",
        "Cache fingerprint": block.fingerprint,
        "Cache": pool.path,
    }
    if cache is None:
        return found
    meta = cache.meta
    sizes = " + ".join(f"{len(cache.encoded_rows(s)):,} {s}" for s in ("train", "val", "test"))
    return found | {
        "Cache": str(meta.path),
        "Cache identity": meta.identity,
        "Weights": f"{meta.weights} (SHA-256 {meta.weights_sha256})",
        "Rows": f"{meta.rows:,} ({sizes})",
        "Classes": ", ".join(meta.classes),
        "Attributes": "; ".join(f"{name}: {', '.join(of)}" for name, of in meta.attributes)
        or "none",
        "Encoded": f"{meta.precision}, levels {', '.join(meta.levels)}, {meta.created}, with "
        f"{meta.library}",
    }


@contextmanager
def _cache(pool: Pool, options: ReportOptions, notes: list[str]) -> Iterator[FeatureCache | None]:
    """The cache of a pool with the attributes that its runs name; None, with a note, if gone.

    An attribute that was annotated beside the cache may be gone while the cache is there.
    """
    from embedcal.annotating import labelled
    from embedcal.cache import open_cache

    for path in [options.cache] if options.cache else [pool.path]:
        try:
            opened = open_cache(path)
        except (EmbedcalError, OSError):
            continue
        with opened:
            if opened.fingerprint == pool.fingerprint:
                view = None
                with _noted(notes, "no images, galleries, maps or explanations"):
                    view = labelled(opened, pool.attributes)
                yield view
                return
    notes.append(
        f"no images, galleries, maps or explanations: the cache is not at {pool.path}; name it "
        "with --cache"
    )
    yield None


def _check_cache(path: Path, pools: Sequence[Pool]) -> None:
    from embedcal.cache import open_cache

    with open_cache(path) as opened:
        if opened.fingerprint not in {pool.fingerprint for pool in pools}:
            raise EmbedcalError(
                f"expected the cache that these runs were fitted over, found another in {path}: "
                f"name {pools[0].path} with --cache"
            )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What only the cache can give."""

    galleries: tuple[Gallery, ...] = ()
    explained: Explained | None = None
    mapped: Mapped | None = None
    detected: Detected | None = None


def _look(
    name: str,
    block: Block,
    of: behind.Source,
    lines: Sequence[Line],
    cache: FeatureCache,
    options: ReportOptions,
    notes: list[str],
) -> _Seen:
    """Galleries, explanation, map and detection, each as far as it can be had."""
    row = lines[0].row
    run, _ = of.by_id[row.runs[0]]
    rows = cache.encoded_rows("test")
    small = thumbnails(cache, rows[:1].tolist(), options.root, wanted=options.images)
    told = of.tested(run, row.selection)
    galleries: tuple[Gallery, ...] = ()
    explained = mapped = detected = None
    if told is None or len(told.cells) != len(rows):
        notes.append(f"no gallery of errors: run {run.id} has no predictions of the test rows")
    else:
        look = looking.Look(
            label=row.label,
            tested=told,
            cache=cache,
            thumbnails=small,
            rows=rows,
            groups=block.group_names,
        )
        galleries = looking.galleries(look)
        if options.images:
            with _noted(notes, "no Grad-CAM"):
                explained = looking.explained(look, f"{name}-gradcam", options.device)
    with _noted(notes, "no map"):
        mapped = looking.mapped(run, block.attributes, cache, f"{name}-map")
    if options.detect:
        with _noted(notes, "no attributes"):
            detected = looking.detected(cache, small, options.device)
    if small.note:
        notes.append(small.note)
    return _Seen(galleries=galleries, explained=explained, mapped=mapped, detected=detected)


@contextmanager
def _noted(notes: list[str], what: str) -> Iterator[None]:
    """A section that cannot be had is a line in the notes, and not the end of the page."""
    try:
        yield
    except EmbedcalError as error:
        notes.append(f"{what}: {error}")


def _effects(pool: Pool, options: ReportOptions) -> list[MethodEffects]:
    """Sensitivity of a pool; nothing where no option varies, or the metric is none of its own."""
    with suppress(EmbedcalError):
        wanted = pool.rule(options.select, oracle=options.oracle)
        return list(effects_of(pool, wanted, pool.metric(options.metric), "val"))
    return []


def _command(runs: Sequence[str | Path] | str | Path, options: ReportOptions) -> str:
    """What to type to get the page again, but for its name."""
    given = [runs] if isinstance(runs, str | Path) else runs
    words = ["embedcal", "report", *map(str, given)]
    for name in ("select", "metric", "cache", "root"):
        value = getattr(options, name)
        words += [f"--{name}", str(value)] if value is not None else []
    words += [word for each in options.attribute for word in ("--attribute", each)]
    words += ["--by", options.by] if options.by != "method" else []
    words += ["--oracle"] if options.oracle else []
    words += ["--detect"] if options.detect else []
    words += [] if options.images else ["--no-images"]
    return shlex.join(words)
