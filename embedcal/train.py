"""The only training loop: mini-batch descent of a method's loss over features in memory.

The strategy here is ``sequential``: one run at a time. Features are one tensor on the device, a
batch is an ``index_select``, and everything random comes from one seeded generator on the CPU, so
that a run draws the same batches on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from embedcal.features import Features, features
from embedcal.heads import Head
from embedcal.methods.base import Batch, Gradient, Step
from embedcal.threads import threads
from embedcal.types import EmbedcalError, Examples, Task

Watch = Callable[[int, Head], None]
BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's own
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
    with threads(shared=method.step_work(task) >= SHARED_WORK):
        return _train(method, task, seed=seed, watch=watch, device=device)


def _train(method: Gradient, task: Task, *, seed: int, watch: Watch | None, device: str) -> Head:
    generator = torch.Generator().manual_seed(seed)
    plan = method.prepare(task, generator)
    head = method.start_head(task, generator).to(device)
    state = to_device(method.init(plan), device)
    hyper = {name: torch.tensor(value, device=device) for name, value in method.hyper().items()}
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    update = Descent(method, trained)
    data = Data.on_device(task.train, device)
    for epoch in range(1, method.epochs + 1):
        head.train()
        total = torch.zeros((), device=device)
        for step in method.steps(task, plan, epoch, generator):
            loss, state = method.loss(head, state, data.batch(step), hyper)
            for parameter in trained:
                parameter.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            if method.clip_norm:
                torch.nn.utils.clip_grad_norm_(trained, method.clip_norm)
            update.step()
            total += loss.detach()
        if not torch.isfinite(total):
            raise diverged(method, epoch, float(total))
        if watch is not None:
            head.eval()
            watch(epoch, head)
    return head.eval()


def diverged(method: Gradient, epoch: int, total: float) -> EmbedcalError:
    """What a run ends in whose loss is not finite."""
    return EmbedcalError(
        f"expected a finite loss, found {total} in epoch {epoch} of {method.name}: lower --lr "
        f"(now {method.step_size})"
    )


@dataclass(frozen=True)
class Data:
    """The training split on the device, as batches are drawn from it."""

    x: Features
    y: Tensor  # (n,)
    g: Tensor | None  # (n,)

    @classmethod
    def on_device(cls, train: Examples, device: str) -> Data:
        y = torch.as_tensor(train.y).long().to(device)
        g = torch.as_tensor(train.g).long().to(device) if "g" in train else None
        return cls(features(train.x, device), y, g)

    def batch(self, step: Step) -> Batch:
        """The examples of one step, and whatever else it drew."""
        batch = self._batch(step.batch)
        if not step.more and not step.drawn:
            return batch
        return replace(
            batch,
            more={name: self._batch(index) for name, index in step.more.items()},
            drawn={name: value.to(self.y.device) for name, value in step.drawn.items()},
        )

    def _batch(self, index: Tensor) -> Batch:
        index = index.to(self.y.device)
        return Batch(
            x=self.x.take(index),
            y=self.y.index_select(0, index),
            g=None if self.g is None else self.g.index_select(0, index),
            index=index,
        )


class Descent:
    """torch's fused AdamW or SGD over some parameters, to the bit, without its optimizer classes.

    The first of those that is made imports torch's compiler, which takes longer than many a run.
    """

    def __init__(self, method: Gradient, trained: list[torch.nn.Parameter]) -> None:
        self._method = method
        self._trained = trained
        self._moments: dict[Tensor, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        moved: list[Tensor] = [each for each in self._trained if each.grad is not None]
        slopes = [each.grad for each in moved if each.grad is not None]
        for parameter in moved:
            if parameter not in self._moments:
                self._moments[parameter] = self._start(parameter)
        first, *others = map(list, zip(*(self._moments[each] for each in moved), strict=True))
        method = self._method
        if method.optimizer == "sgd":
            sgd(
                moved,
                slopes,
                first,
                fused=True,
                lr=method.step_size,
                weight_decay=method.weight_decay,
                momentum=method.momentum,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            return
        second, steps = others
        adamw(
            moved,
            slopes,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            lr=method.step_size,
            weight_decay=method.weight_decay,
            beta1=BETAS[0],
            beta2=BETAS[1],
            eps=EPSILON,
            maximize=False,
        )

    def _start(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """(momentum) of sgd; (first, second, steps) of adamw."""
        zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if self._method.optimizer == "sgd":
            return (zeros,)
        steps = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return zeros, torch.zeros_like(zeros), steps


def to_device(state: object, device: str) -> object:
    """A state on the device: a tensor, or a tuple or mapping of states."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, Mapping):
        return {name: to_device(value, device) for name, value in state.items()}
    if isinstance(state, tuple):
        moved: list[Any] = [to_device(value, device) for value in state]
        return type(state)(*moved) if hasattr(state, "_fields") else tuple(moved)
    return state
