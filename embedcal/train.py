"""The only training loop: mini-batch descent of a method's loss over features in memory.

The strategy here is ``sequential``: one run at a time. Features are one tensor on the device, a
batch is an ``index_select``, and everything random comes from one seeded generator on the CPU, so
that a run draws the same batches on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from embedcal.heads import Head
from embedcal.methods.base import Batch, Gradient
from embedcal.threads import threads
from embedcal.types import EmbedcalError, Examples, Task

Watch = Callable[[int, Head], None]
SHARED_WORK = 50_000_000  # multiplications a step from which a second thread pays


def train(
    method: Gradient,
    task: Task,
    *,
    seed: int,
    watch: Watch | None = None,
    device: str = "cpu",
) -> Head:
    """Train one head from a seed; ``watch(epoch, head)`` sees it after every epoch, from 1 on.

    Returns the head after the last epoch. Raises EmbedcalError when the loss is no longer finite.
    """
    with threads(shared=_step_work(method, task) >= SHARED_WORK):
        return _train(method, task, seed=seed, watch=watch, device=device)


def _train(method: Gradient, task: Task, *, seed: int, watch: Watch | None, device: str) -> Head:
    generator = torch.Generator().manual_seed(seed)
    plan = method.prepare(task)
    head = method.start_head(task, generator).to(device)
    state = _to(method.init(plan), device)
    hyper = {name: torch.tensor(value, device=device) for name, value in method.hyper().items()}
    update = _optimizer(method, head)
    data = _on_device(task.train, device)
    for epoch in range(1, method.epochs + 1):
        head.train()
        total = torch.zeros((), device=device)
        for index in batches(method, task.train, generator):
            batch = data(index.to(device))
            loss, state = method.loss(head, state, batch, hyper)
            update.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            update.step()
            total += loss.detach()
        if not torch.isfinite(total):
            raise EmbedcalError(
                f"expected a finite loss, found {float(total)} in epoch {epoch} of {method.name}: "
                f"lower --lr (now {method.lr})"
            )
        if watch is not None:
            head.eval()
            watch(epoch, head)
    return head.eval()


def _step_work(method: Gradient, task: Task) -> int:
    """Multiplications of one step's largest product, batch x width x outputs."""
    width = task.train.x.shape[1]
    outputs = task.n_classes
    if method.head_name == "projection" and task.projection is not None:
        outputs = task.projection.image_weight.shape[0]
    return int(method.batch_size * width * outputs)


def batches(method: Gradient, train: Examples, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions (b,) of each batch of one epoch, by the method's sampler.

    ``iid`` shuffles and covers every example once; ``group`` and ``class`` draw n examples with
    replacement, every group or class present equally often on average (weights 1/n_g). The last
    batch may be short.
    """
    n = len(train.x)
    if method.sampler == "iid":
        order = torch.randperm(n, generator=generator)
    else:
        labels = train.g if method.sampler == "group" else train.y
        _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weights = torch.from_numpy(1.0 / counts[position])
        order = torch.multinomial(weights, n, replacement=True, generator=generator)
    yield from torch.split(order, method.batch_size)


def _on_device(train: Examples, device: str) -> Callable[[Tensor], Batch]:
    x = torch.as_tensor(train.x, dtype=torch.float32).to(device)
    y = torch.as_tensor(train.y).long().to(device)
    g = torch.as_tensor(train.g).long().to(device) if "g" in train else None

    def select(index: Tensor) -> Batch:
        return Batch(
            x=x.index_select(0, index),
            y=y.index_select(0, index),
            g=None if g is None else g.index_select(0, index),
            index=index,
        )

    return select


def _optimizer(method: Gradient, head: Head) -> torch.optim.Optimizer:
    parameters = list(head.parameters())
    if method.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=method.lr,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(parameters, lr=method.lr, weight_decay=method.weight_decay, fused=True)


def _to(state: object, device: str) -> object:
    return state.to(device) if isinstance(state, Tensor) else state
