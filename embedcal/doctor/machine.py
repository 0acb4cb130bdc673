"""Cores, memory, threads and devices: those that this process may use, not those of the host."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from embedcal.cores import CGROUPS, MEMBER, control_groups, usable_cores

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SHM = Path("/dev/shm")
FAR = 2**60  # bytes: what cgroups of version 1 say where there is no limit


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Bytes, and cores as numbers that need not be whole: a quota may be a core and a half.

    ``load`` is how many processes wanted a core over the last minute. ``threads`` are torch's and
    those of each BLAS and OpenMP in this process.
    """

    system: str
    cores: float
    cores_of_host: int
    load: float | None
    memory: int | None
    memory_available: int | None
    memory_of_host: int | None
    shared_memory_free: int | None
    threads: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""
    bf16_units: bool | None = None
    devices: tuple[str, ...] = ()
    gpu_unseen: bool = False


def machine() -> Machine:
    """Everything of it that can be had; what cannot is None or empty."""
    limit, used = _memory_limit()
    host, available = _memory()
    devices, unseen = _devices()
    load = None
    with suppress(OSError, AttributeError):  # not on Windows
        load = os.getloadavg()[0]
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(SHM).free
    left = available if limit is None else min(limit - used, available or limit)
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}, "
        f"Python {sys.version.split()[0]}",
        cores=usable_cores(),
        cores_of_host=os.cpu_count() or 1,
        load=load,
        memory=limit if limit is not None and (host is None or limit < host) else host,
        memory_available=left,
        memory_of_host=host,
        shared_memory_free=free,
        threads=_threads(),
        environment={name: os.environ[name] for name in THREADS if name in os.environ},
        processor=_processor(),
        bf16_units=_bf16(),
        devices=devices,
        gpu_unseen=unseen,
    )


def _memory_limit(root: Path = CGROUPS, member: Path = MEMBER) -> tuple[int | None, int]:
    """The tightest limit of memory and what is used of it, without files that could be dropped."""
    tightest: tuple[int | None, int] = (None, 0)
    for group in control_groups(root, member, "memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):
                most = int((group / limit).read_text())  # "max" is no number
                if most < FAR and (tightest[0] is None or most < tightest[0]):
                    now = int((group / used).read_text())
                    tightest = most, max(0, now - _statistic(group / "memory.stat", cached))
    return tightest


def _statistic(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _memory() -> tuple[int | None, int | None]:
    """Of the host: in all, and what the system calls available."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if ":" in line}
        return known["MemTotal"], known["MemAvailable"]
    with suppress(OSError, ValueError, AttributeError):  # macOS; not on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    return None, None


def _threads() -> dict[str, int]:
    found: dict[str, int] = {}
    with suppress(Exception):
        import torch

        found["torch"] = torch.get_num_threads()
    with suppress(Exception):
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            found[f"{pool['internal_api']} of {pool['prefix']}"] = pool["num_threads"]
    return found


def _processor() -> str:
    name, kind = platform.processor() or platform.machine(), ""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    with suppress(Exception):
        import torch

        kind = f", {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}{kind}"


def _bf16() -> bool | None:
    with suppress(Exception):
        from embedcal.encoders.load import fast_in_bf16

        return fast_in_bf16("cpu")
    return None


def _devices() -> tuple[tuple[str, ...], bool]:
    """Devices of torch's with their memory, and whether there is a GPU that torch cannot use."""
    found: list[str] = []
    with suppress(Exception):
        import torch

        found.append("cpu")
        for at in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(at)
            found.append(f"cuda:{at} {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
        if torch.backends.mps.is_available():
            found.append("mps")
    there = Path("/dev/nvidiactl").exists() or Path("/dev/nvidia0").exists()
    return tuple(found), there and not any(each.startswith("cuda") for each in found)
