"""A cache built on a Ray cluster: one shard a task, lost workers begun again, then one file.

Every machine reads the images and writes its shards under the same paths, so both lie on a file
system that all of them have. What a dead worker had written is there, and its successor goes on
from it.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal import __version__
from embedcal.caching import cache as build_here
from embedcal.cores import check_jobs
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.places import remember_last_cache
from embedcal.datasets.read import read_manifest
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.cache import BuildReport
    from embedcal.cache.encoding import Progress

RETRIES = 3  # after a worker or its machine died; then the shard is to blame


@dataclass(frozen=True, kw_only=True)
class Order:
    """One shard as it is sent: the request, where its relative paths start, and which part."""

    source: str
    options: dict[str, Any]
    part: str
    out: Path
    folder: Path
    version: str = __version__


def cache(
    source: str | Path,
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    shard: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> BuildReport:
    """``embedcal.cache`` on the cluster of ``RAY_ADDRESS`` or ``ray start``, else on its own one.

    The rows are cut into as many shards as run at once, ``jobs`` or one a core, each of whole
    batches, so the file equals that of a single build wherever encoding does not depend on the
    machine. Shards lie in ``OUT.shards`` until they are merged. The same call goes on after
    a kill. Raises EmbedcalError where Ray or ``out`` is missing, for an accelerator, and for a
    shard that takes its worker with it four times.
    """
    if shard is not None:
        raise EmbedcalError(
            "expected --shard or --engine ray, found both: Ray cuts the rows into shards itself"
        )
    if out is None or Path(out).is_dir():
        raise EmbedcalError(
            f"expected --out FILE with --engine ray, found {out or 'none'}: name the cache file, "
            "in a folder that every machine of the cluster has"
        )
    check_jobs(jobs)
    if device not in ("auto", "cpu"):
        raise EmbedcalError(
            f"expected --device cpu with --engine ray, found '{device}': it spreads shards over "
            "cores; on a machine with an accelerator use --shard I/N"
        )
    out = Path(out).absolute()
    options["device"] = "cpu"
    if out.exists():  # this cache already, or something that is not to be replaced
        return build_here(source, out=out, progress=progress, **options)
    return _spread(source, out, jobs, options, progress)


def _spread(
    source: str | Path,
    out: Path,
    jobs: int | None,
    options: dict[str, Any],
    progress: Progress | None,
) -> BuildReport:
    from embedcal.cache import BuildOptions
    from embedcal.cache.merging import join_shards
    from embedcal.grids.engines.ray import cluster

    began = time.perf_counter()
    read = options.get("read") or ReadOptions()
    rows = len(read_manifest(source, root=options.get("root"), options=read))
    batches = math.ceil(rows / (options.get("build") or BuildOptions()).batch_size)
    options["read"] = replace(read, progress=None)  # a bar cannot be sent
    folder = out.with_name(out.name + ".shards")
    with cluster(jobs, 0) as ray:
        there = max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = max(1, min(jobs or there, there, batches))
        folder.mkdir(parents=True, exist_ok=True)
        orders = [
            Order(
                source=str(source),
                options=options,
                part=f"{number}/{count}",
                out=folder / f"{number}of{count}.h5",
                folder=Path.cwd(),
            )
            for number in range(1, count + 1)
        ]
        made = _gather(ray, orders, progress)
    joined = join_shards(
        [order.out for order in orders],
        out,
        progress=partial(progress, "merge") if progress is not None else None,
    )
    shutil.rmtree(folder, ignore_errors=True)
    remember_last_cache(out)
    return replace(
        made[0],
        path=out,
        rows=joined.rows,
        skipped=tuple(row for report in made for row in report.skipped),
        seconds={"total": time.perf_counter() - began},
        encoded=sum(report.encoded for report in made),
        resumed=sum(report.resumed for report in made),
        copied=sum(report.copied for report in made),
        reused=False,
        shard=None,
        limiting="",
        notes=tuple(dict.fromkeys(note for r in made for note in r.notes)) + joined.notes,
    )


def _gather(ray: Any, orders: list[Order], progress: Progress | None) -> list[BuildReport]:
    """Do all orders; a worker that dies is replaced, ``RETRIES`` times for each shard."""
    work = ray.remote(num_cpus=1, max_retries=RETRIES)(make)
    sent = {work.remote(order): i for i, order in enumerate(orders)}
    found: dict[int, BuildReport] = {}
    try:
        while sent:
            for ended in ray.wait([*sent])[0]:
                i = sent.pop(ended)
                found[i] = _receive(ray, ended, orders[i])
                if progress is not None:
                    progress("shards", len(found), len(orders))
    finally:  # of whatever is left when something went wrong
        for left in sent:
            ray.cancel(left, force=True)
    return [found[i] for i in range(len(orders))]


def _receive(ray: Any, sent: Any, order: Order) -> BuildReport:
    try:
        report: BuildReport = ray.get(sent)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EmbedcalError):
            raise EmbedcalError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise EmbedcalError(
            f"expected a worker to finish shard {order.part}, found {RETRIES + 1} lost over it "
            f"({type(error).__name__}): memory may be short; give fewer --jobs and run the same "
            "command again, it resumes"
        ) from None
    if not order.out.is_file():
        raise EmbedcalError(
            f"expected shard {order.part} at {order.out}, found it written on another machine "
            "only: name an --out on a file system that all machines have"
        )
    return report


def make(order: Order) -> BuildReport:
    """On a machine of the cluster: build one shard, with what is there of it already."""
    if order.version != __version__:
        raise EmbedcalError(
            f"expected embedcal {order.version} on every node, found {__version__} on "
            f"{platform.node()}: install the same one"
        )
    try:
        os.chdir(order.folder)  # where relative paths of the request start
    except OSError as error:
        raise EmbedcalError(
            f"expected the folder {order.folder} on every node, found {error.strerror} on "
            f"{platform.node()}: run the command in a folder that all machines have"
        ) from None
    return build_here(order.source, out=order.out, shard=order.part, **order.options)
