"""What one more run of a stack costs in memory, and how many fit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from embedcal.evaluate import RULES
from embedcal.methods.base import Gradient
from embedcal.stacked.runs import Loss, losses, stack
from embedcal.stacked.training import Member, begin, gather
from embedcal.threads import threads
from embedcal.train import SHARED_WORK, Data
from embedcal.types import Task

KEPT = len(RULES)  # heads that a run keeps at most, one a rule
SHARE = 0.8  # of the free memory: allocators round up, and prediction has chunks of its own
LEAST = 2**31  # taken to be free where the system does not say


def memory_per_run(method: Gradient, task: Task, *, device: str = "cpu") -> int:
    """Bytes that one more member adds to a stack while it trains.

    Counted are its parameters with their moments and their gradient, this twice, as it may have to
    be copied; the heads that it may keep; its state before and after a step; a batch and the next
    one; and twice what the first step's loss saves for its gradient: once as saved, once for the
    gradients that flow back. That loss is really computed, from seed 0, so this raises
    EmbedcalError where the method cannot start on the task.
    """
    member = Member(method=method, task=task, seed=0, watch=None)
    with threads(shared=method.step_work(task) >= SHARED_WORK):
        begun = begin(member)
        first = next(iter(method.steps(task, begun.plan, 1, begun.generator)))
        # Of one run a tensor is often a view where that of several is a copy, so two are looked at.
        runs = stack([method] * 2, [begun.head] * 2, [begun.state] * 2, device)
        batches = gather(Data.on_device(task.train, device), [first] * 2)
        saved: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            losses(runs, Loss(begun.head.train(), method), batches)
    activations = _storages(saved)
    for held in _storages(pytree.tree_leaves((runs, batches))):
        activations.pop(held, None)
    trained = [runs.parameters[name] for name in runs.moments]
    of_two = (
        _bytes((runs, runs.state, batches, batches))
        + KEPT * _bytes((runs.parameters, runs.buffers))
        + 2 * _bytes(trained)
        + 2 * sum(activations.values())
    )
    return of_two // 2


def largest_stack(method: Gradient, task: Task, *, free: int) -> int:
    """How many runs fit into ``free`` bytes beside one copy of the training features; at least 1.

    Raises EmbedcalError where the method cannot start on the task.
    """
    features = getattr(task.train.x, "nbytes", 0)  # tokens may stay in the file
    return max(1, int(SHARE * (free - features)) // memory_per_run(method, task))


def free_memory(device: str) -> int:
    """Bytes that a new stack may hope for on a device.

    On a GPU what the driver and torch's own cache have left, on a CPU what the system calls
    available, else half of what the machine has.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if kind == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min(_available(), _allowed())


def _available() -> int:
    facts = Path("/proc/meminfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # not on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return LEAST


def _allowed(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves (cgroup version 2); without one, more than any machine has.

    Files that were read count as used there, though they would be dropped: this errs low.
    """
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - used)


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each storage by its address: views of one tensor count once."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def _bytes(tree: object) -> int:
    return sum(tensor.nbytes for tensor in pytree.tree_leaves(tree))
