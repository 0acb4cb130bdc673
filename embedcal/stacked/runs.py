"""K runs as one value: every tensor that makes a run, with a leading axis of K."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils import _pytree as pytree

from embedcal.features import Features
from embedcal.heads import Head
from embedcal.heads.prediction import ELEMENTS, ROWS
from embedcal.methods.base import Batch, Gradient, State
from embedcal.stacked.descent import Moments, clip, start_moments, update
from embedcal.train import to_device

Fields = Mapping[str, Tensor]


@dataclass(frozen=True)
class Constant:
    """What is no tensor in a state, such as a number of groups: equal for all runs of a stack."""

    value: Any


# To torch a constant is structure, no leaf: it passes through every map unchanged.
pytree.register_pytree_node(
    Constant, lambda held: ([], held.value), lambda _, value: Constant(value)
)


def held(state: State) -> State:
    """A state with whatever is no tensor held as a constant."""
    return pytree.tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) else Constant(leaf), state)


def let_go(state: State) -> State:
    """The state as its method knows it, the constants being plain values again."""
    return pytree.tree_map(
        lambda leaf: leaf.value if isinstance(leaf, Constant) else leaf,
        state,
        is_leaf=lambda leaf: isinstance(leaf, Constant),
    )


class Runs(NamedTuple):
    """Whatever a run is made of; ``hyper`` and ``clip_norm`` are numbers (K,) that stay."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    moments: dict[str, Moments]  # of the parameters that are trained
    state: State
    hyper: dict[str, Tensor]
    clip_norm: Tensor


class Batches(NamedTuple):
    """A batch of each of K runs: the fields of ``Batch`` that are there, (K, b, ...) each."""

    own: Fields
    more: Mapping[str, Fields]
    drawn: Fields


class Loss(nn.Module):
    """A method's loss as a module, so that a head's tensors can be put in from outside."""

    def __init__(self, head: Head, method: Gradient) -> None:
        super().__init__()
        self.head, self.method = head, method

    def forward(
        self, state: State, batches: Batches, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        more = {name: Batch(**_arguments(fields)) for name, fields in batches.more.items()}
        batch = Batch(**_arguments(batches.own), more=more, drawn=batches.drawn)
        found, after = self.method.loss(self.head, let_go(state), batch, hyper)
        return found, held(after)


def _arguments(fields: Fields) -> dict[str, Any]:
    return {"g": None, **fields}


def stack(
    methods: Sequence[Gradient], heads: Sequence[Head], states: Sequence[State], device: str
) -> Runs:
    """The runs before their first step, on the device; heads and states are equal in shape."""
    parameters, buffers = stack_module_state(list(heads))
    parameters = {
        name: p.detach().to(device).requires_grad_(p.requires_grad)
        for name, p in parameters.items()
    }
    hypers = [method.hyper() for method in methods]
    return Runs(
        parameters=parameters,
        buffers={name: buffer.to(device) for name, buffer in buffers.items()},
        moments={
            name: start_moments(methods[0].optimizer, p)
            for name, p in parameters.items()
            if p.requires_grad
        },
        state=to_device(pytree.tree_map(lambda *parts: torch.stack(parts), *states), device),
        hyper={
            name: torch.tensor([hyper[name] for hyper in hypers], device=device)
            for name in hypers[0]
        },
        clip_norm=torch.tensor([float(m.clip_norm) for m in methods], device=device),
    )


@torch.no_grad()
def some(runs: Runs, rows: Tensor) -> Runs:
    """Copies of the runs at positions ``rows`` (k,)."""
    taken: Runs = pytree.tree_map(lambda whole: whole.index_select(0, rows), runs)
    for name in taken.moments:
        taken.parameters[name].requires_grad_()
    return taken


@torch.no_grad()
def put(runs: Runs, rows: Tensor, part: Runs) -> None:
    """Write what :func:`some` took back to its place."""
    pytree.tree_map(lambda whole, new: whole.index_copy_(0, rows, new), runs, part)


def losses(runs: Runs, loss: Loss, batches: Batches) -> tuple[Tensor, State]:
    """The loss (K,) of every run's batch, and the state after it."""

    def one(
        parameters: Fields, buffers: Fields, state: State, own: Batches, hyper: Fields
    ) -> tuple[Tensor, State]:
        tensors = {f"head.{name}": value for name, value in (*parameters.items(), *buffers.items())}
        found: tuple[Tensor, State] = functional_call(loss, tensors, (state, own, hyper))
        return found

    found, state = vmap(one, randomness="error")(
        runs.parameters, runs.buffers, runs.state, batches, runs.hyper
    )
    # What does not depend on the run comes expanded, and could not be written to later.
    return found, pytree.tree_map(Tensor.contiguous, state)


def step(
    methods: Sequence[Gradient], runs: Runs, loss: Loss, batches: Batches
) -> tuple[Runs, Tensor]:
    """One step of every run: the runs after it, moved in place, and their losses (K,)."""
    found, state = losses(runs, loss, batches)
    # A run's loss depends on its own parameters alone, so the gradient of the sum is each one's.
    of_trained = torch.autograd.grad(
        found.sum(), [runs.parameters[name] for name in runs.moments], allow_unused=True
    )
    # As in torch, a parameter that the loss does not touch is left alone, its decay included.
    gradients = {
        name: gradient
        for name, gradient in zip(runs.moments, of_trained, strict=True)
        if gradient is not None
    }
    if loss.method.clip_norm:
        gradients = clip(gradients, runs.clip_norm)
    update(methods, runs.parameters, gradients, runs.moments)
    return runs._replace(state=state), found.detach()


@torch.no_grad()
def predict_classes(runs: Runs, head: Head, x: Features) -> Tensor:
    """Classes (K, n) that every run predicts on the features (n, ...), in bounded memory."""

    def logits(parameters: Fields, buffers: Fields, rows: Tensor) -> Tensor:
        found: Tensor = functional_call(head, {**parameters, **buffers}, (rows,))
        return found

    k = len(next(iter(runs.parameters.values())))
    size = max(1, min(ROWS, ELEMENTS // max(1, math.prod(x.row_shape))) // k)
    every = vmap(logits, in_dims=(0, 0, None), randomness="error")
    parts = [every(runs.parameters, runs.buffers, rows).argmax(2) for rows in x.split(size)]
    return torch.cat(parts, 1)
