"""From what was found to plain sentences: what is unusual, what it costs, what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedcal.doctor.examination import Examination

GIB = 2**30
LEAST_MEMORY = 3 * GIB  # torch and open_clip take one, features and a grid's workers the rest
LEAST_DISK = 5 * GIB
LEAST_SHM = GIB  # Ray's object store
SLOW_WRITE = 50.0  # MB/s: below it encoding waits for the disk
SLOW_DECODE = 60.0  # photographs a second and thread
CROWDED = 1.25  # processes that want a core, for each core


def advise(found: Examination) -> tuple[str, ...]:
    """Sentences about one examination, the costliest first."""
    rules: tuple[Callable[[Examination], Iterator[str]], ...] = (
        _devices, _threads, _load, _memory, _disk, _arithmetic, _pictures, _network, _shared,
    )  # fmt: skip
    return tuple(sentence for rule in rules for sentence in rule(found))


def _devices(found: Examination) -> Iterator[str]:
    if found.machine.gpu_unseen:
        yield (
            "There is an NVIDIA GPU that torch does not see: install a build of torch with CUDA, "
            "or a newer driver; until then everything runs on the CPU."
        )
    cuda = any(device.startswith("cuda") for device in found.machine.devices)
    faiss = next((p for p in found.packages if p.name.startswith("faiss")), None)
    if cuda and faiss is not None and "no GPU build" in faiss.note:
        yield "FAISS has no GPU build, so neighbours are searched on the CPU: install faiss-gpu."


def _threads(found: Examination) -> Iterator[str]:
    cores = found.machine.cores
    most = max(found.machine.threads.values(), default=1)
    whole = max(1, math.floor(cores))
    if most > math.ceil(cores):
        of = found.machine.cores_of_host
        limited = f", of {of} that the machine has" if of > cores else ""
        yield (
            f"{most} threads share {cores:g} usable cores{limited}, and wait for each other: set "
            f"OMP_NUM_THREADS={whole}."
        )
    speed = found.speed
    if speed is not None and speed.product and speed.product_alone and most > 1:
        gain = speed.product / speed.product_alone
        if gain < 1:
            yield (
                f"Matrix products are slower with all threads than with one ({gain:.1f} times): "
                "other processes take the cores, or threads are too many; try OMP_NUM_THREADS=1."
            )


def _load(found: Examination) -> Iterator[str]:
    load, cores = found.machine.load, found.machine.cores
    if load is not None and load > CROWDED * found.machine.cores_of_host:
        yield (
            f"{load:.1f} processes wanted {cores:g} cores over the last minute: commands take "
            "longer than they would alone, and so did the figures above."
        )


def _memory(found: Examination) -> Iterator[str]:
    left = found.machine.memory_available
    if left is not None and left < LEAST_MEMORY:
        yield (
            f"{left / GIB:.1f} GiB of memory are left, and torch with open_clip takes about one: "
            "keep grids to --jobs 1, and large features in the file."
        )


def _disk(found: Examination) -> Iterator[str]:
    for place in found.places:
        if place.what in ("data", "weights") and place.free is not None:
            if place.free < LEAST_DISK:
                yield (
                    f"{place.free / GIB:.1f} GiB are free for {place.what} in {place.path}: "
                    + ("set EMBEDCAL_HOME" if place.what == "data" else "set HF_HOME")
                    + " to a larger disk."
                )
            if place.remote and place.what == "data":
                yield (
                    f"{place.path} lies on a {place.filesystem} share: runs are many small files, "
                    "which are slow there; a local EMBEDCAL_HOME is faster."
                )
        if place.links is False:
            yield (
                f"{place.path} has no hard links: heads that are the same for several rules are "
                "copied, which takes room and nothing else."
            )
    write = found.speed.write if found.speed is not None else None
    if write is not None and write < SLOW_WRITE:
        yield (
            f"The disk takes {write:.0f} MB/s: encoding may wait for it; keep caches on a faster "
            "one with --out or EMBEDCAL_HOME, and store half of it with --store float16."
        )


def _arithmetic(found: Examination) -> Iterator[str]:
    if any(device.startswith(("cuda", "mps")) for device in found.machine.devices):
        return
    speed = found.speed
    gain = None
    if speed is not None and speed.product and speed.product_bf16:
        gain = speed.product_bf16 / speed.product
    if found.machine.bf16_units is False:
        measured = f" ({gain:.1f} times the rate of fp32)" if gain is not None and gain < 1 else ""
        yield (
            f"This processor has no units for bf16{measured}: leave --precision at fp32; encoding "
            "large models is work for a GPU."
        )
    elif found.machine.bf16_units and gain is not None and gain > 1.2:
        yield (
            f"This processor multiplies in bf16 {gain:.1f} times as fast as in fp32: --precision "
            "auto uses it for encoding."
        )


def _pictures(found: Examination) -> Iterator[str]:
    rate = found.speed.decode if found.speed is not None else None
    if rate is not None and rate < SLOW_DECODE:
        yield (
            f"A thread decodes {rate:.0f} photographs a second, so reading images may take longer "
            "than encoding them: give --workers as many threads as there are cores."
        )


def _network(found: Examination) -> Iterator[str]:
    if found.hub.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        yield (
            "HF_HUB_OFFLINE is set: weights that are not on this machine are not fetched. Unset it "
            "for the first embedcal cache with a new backbone, or give --pretrained FILE."
        )


def _shared(found: Examination) -> Iterator[str]:
    free = found.machine.shared_memory_free
    if free is not None and free < LEAST_SHM:
        yield (
            f"/dev/shm has {free / 2**20:.0f} MiB: enough but for --engine ray, which keeps "
            "features there (docker run --shm-size=4g)."
        )
