"""The batched strategy of training: K runs of one method as one program, for accelerators.

Runs that differ in numbers and seeds alone go through the same operations, so their tensors are
stacked along a new first axis and each operation is done once for all. ``embedcal.train`` is the
reference: a run draws the same here, and ends in the same head up to rounding.
"""

from embedcal.stacked.memory import free_memory, largest_stack, memory_per_run
from embedcal.stacked.training import Member, Watcher, bundle_key, train_stack

__all__ = [
    "Member",
    "Watcher",
    "bundle_key",
    "free_memory",
    "largest_stack",
    "memory_per_run",
    "train_stack",
]
