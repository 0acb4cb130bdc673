"""Training K runs in lock step."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from embedcal.features import Features
from embedcal.heads import Head
from embedcal.methods.base import Batch, Gradient, Plan, State, Step, options
from embedcal.stacked.runs import Batches, Loss, Runs, held, predict_classes, put, some, stack, step
from embedcal.threads import threads
from embedcal.train import SHARED_WORK, Data, diverged, to_device
from embedcal.types import EmbedcalError, IntArray, Split, Task

UPDATE = ("lr", "weight_decay", "momentum")  # numbers of the update, which any run may have


class Watcher(Protocol):
    """Judges a run after every epoch, by its predictions."""

    @property
    def features(self) -> Mapping[Split, Features]:
        """What to predict on, by split; watchers that share it share the gathering of rows."""
        ...

    def observe(
        self, epoch: int, classes: Mapping[Split, IntArray], head: Callable[[], Head]
    ) -> None:
        """Classes (n,) predicted on each split after an epoch; ``head()`` copies the head."""
        ...


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a stack. Members share the arrays of ``task.train``; their stages may differ."""

    method: Gradient
    task: Task
    seed: int
    watch: Watcher | None


def bundle_key(method: Gradient) -> Hashable:
    """Methods of equal keys may be stacked, whatever their seeds.

    They are of one class and agree in every option, except the numbers of the update, the norm to
    clip to, and the numbers that the loss reads as tensors. Of the last two it counts whether they
    are zero, for a zero leaves a term out, and with it what the term needs.
    """
    key: list[Hashable] = [type(method)]
    for item in options(type(method)):
        value = getattr(method, item.name)
        if item.name in UPDATE:
            continue
        present_or_not = item.metadata["hyper"] or item.name == "clip_norm"
        key.append(bool(value) if present_or_not else value)
    return tuple(key)


def train_stack(members: Sequence[Member], *, device: str) -> list[Head | EmbedcalError]:
    """Train every member at once, each to the result of :func:`embedcal.train.train`.

    Members have equal :func:`bundle_key`. A member draws from a generator of its own, in the order
    of ``train``, and has its own numbers, moments and state, so its neighbours change nothing but
    the rounding: kept heads agree with ``train`` to 1e-3 of their logits, which is what matrix
    products in another order make of a few epochs.

    Members whose steps draw alike go through a step together, and the others in groups of equal
    shapes. So runs gain where shapes are equal, as batches of fixed size are; where a method draws
    rows that it then counts once (``cnc``), groups are small and little is gained.

    Returns the heads after the last epoch, in the order of ``members``, or for a member that could
    not be trained the EmbedcalError that ``train`` raises. Such a member does not stop the others.
    """
    assert len({bundle_key(member.method) for member in members}) <= 1
    results: dict[int, Head | EmbedcalError] = {}
    alike: dict[Hashable, list[tuple[int, Begun]]] = defaultdict(list)
    for k, member in enumerate(members):
        try:  # with threads as train has them, so that equal plans are equal to the bit
            with threads(shared=member.method.step_work(member.task) >= SHARED_WORK):
                begun = begin(member)
        except EmbedcalError as error:
            results[k] = error
        else:
            alike[_shape(begun)].append((k, begun))
    for group in alike.values():
        places, begins = zip(*group, strict=True)
        first = begins[0].member
        work = len(begins) * first.method.step_work(first.task)
        try:
            with threads(shared=work >= SHARED_WORK):
                results |= zip(places, _train(begins, device), strict=True)
        except EmbedcalError as error:  # of the loss, which is the same for all
            results |= dict.fromkeys(places, error)
    return [results[k] for k in range(len(members))]


class Begun(NamedTuple):
    """A member before its first step, on the CPU."""

    member: Member
    generator: torch.Generator
    plan: Plan
    head: Head
    state: State


def begin(member: Member) -> Begun:
    """Draw what a member draws before its first step, in the order of ``train``."""
    generator = torch.Generator().manual_seed(member.seed)
    plan = member.method.prepare(member.task, generator)
    head = member.method.start_head(member.task, generator)
    state = held(to_device(member.method.init(plan), "cpu"))
    return Begun(member, generator, plan, head, state)


def _shape(begun: Begun) -> Hashable:
    """What must be equal for heads and states to be stacked; a state can depend on the seed."""
    leaves, structure = pytree.tree_flatten(begun.state)
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    return type(begun.head), repr(begun.head.config), repr(structure), repr(shapes)


def _train(begins: Sequence[Begun], device: str) -> list[Head | EmbedcalError]:
    members = [begun.member for begun in begins]
    methods, heads = [m.method for m in members], [begun.head for begun in begins]
    runs = stack(methods, heads, [begun.state for begun in begins], device)
    frame = copy.deepcopy(heads[0]).to("meta")  # what a head is beside its tensors
    loss = Loss(frame, methods[0])
    data = Data.on_device(members[0].task.train, device)
    failed: dict[int, EmbedcalError] = {}
    for epoch in range(1, methods[0].epochs + 1):
        frame.train()
        totals = torch.zeros(len(members), device=device)
        draws = [b.member.method.steps(b.member.task, b.plan, epoch, b.generator) for b in begins]
        for places, steps in _lock_step(draws):
            batches = gather(data, steps)
            if len(places) == len(members):
                runs, losses = step(methods, runs, loss, batches)
                totals += losses
            else:
                rows = torch.tensor(places, device=device)
                theirs = [methods[k] for k in places]
                part, losses = step(theirs, some(runs, rows), loss, batches)
                put(runs, rows, part)
                totals.index_add_(0, rows, losses)
        frame.eval()
        # A run that diverged goes on unobserved: were it taken out, the others' products would
        # have another shape, and so might round otherwise.
        for k, total in enumerate(totals.tolist()):
            if not math.isfinite(total) and k not in failed:
                failed[k] = diverged(methods[k], epoch, total)
        if len(failed) == len(members):
            break
        watchers = {k: m.watch for k, m in enumerate(members) if m.watch and k not in failed}
        _show(runs, frame, epoch, watchers)
    return [failed.get(k) or head_of(runs, frame, k) for k in range(len(members))]


def _lock_step(draws: Sequence[Iterable[Step]]) -> Iterator[tuple[list[int], list[Step]]]:
    """Places and steps of those members who draw equal shapes at the same turn of an epoch."""
    for turn in zip_longest(*draws):
        alike: dict[str, tuple[list[int], list[Step]]] = {}
        for k, drawn in enumerate(turn):
            if drawn is not None:  # a member with fewer steps waits for the next epoch
                places, steps = alike.setdefault(_drawn_shape(drawn), ([], []))
                places.append(k)
                steps.append(drawn)
        yield from alike.values()


def _drawn_shape(drawn: Step) -> str:
    others = (drawn.more, drawn.drawn)
    return repr([drawn.batch.shape, *({k: v.shape for k, v in o.items()} for o in others)])


def gather(data: Data, steps: Sequence[Step]) -> Batches:
    """The batches of steps of equal shapes, all rows taken at once."""
    k, device = len(steps), data.y.device

    def together(parts: Sequence[Tensor]) -> Tensor:
        # CUDA reads pageable memory before it returns, so nothing need wait for what runs there.
        return torch.stack(list(parts)).to(device, non_blocking=data.y.is_cuda)

    def fields(batch: Batch) -> dict[str, Tensor]:
        named = {"x": batch.x, "y": batch.y, "g": batch.g, "index": batch.index}
        return {
            name: value.reshape(k, len(value) // k, *value.shape[1:])
            for name, value in named.items()
            if value is not None
        }

    first = steps[0]
    flat = Step(
        batch=together([s.batch for s in steps]).flatten(),
        more={name: together([s.more[name] for s in steps]).flatten() for name in first.more},
        drawn={name: together([s.drawn[name] for s in steps]) for name in first.drawn},
    )
    batch = data.batch(flat)
    more = {name: fields(part) for name, part in batch.more.items()}
    return Batches(own=fields(batch), more=more, drawn=dict(batch.drawn))


def _show(runs: Runs, frame: Head, epoch: int, watchers: Mapping[int, Watcher]) -> None:
    """Predict for all runs at once, on each features once, and tell every watcher its part."""
    asked = {k: dict(watch.features) for k, watch in watchers.items()}
    every = {id(x): x for features in asked.values() for x in features.values()}
    found = {key: predict_classes(runs, frame, x).cpu().numpy() for key, x in every.items()}
    for k, watch in watchers.items():
        classes: dict[Split, IntArray] = {s: found[id(x)][k] for s, x in asked[k].items()}
        watch.observe(epoch, classes, partial(head_of, runs, frame, k))


def head_of(runs: Runs, frame: Head, k: int) -> Head:
    """A copy of one run's head, in evaluation mode."""
    head = copy.deepcopy(frame)
    tensors = {
        name: value[k].detach().clone()
        for name, value in (*runs.parameters.items(), *runs.buffers.items())
    }
    head.load_state_dict(tensors, assign=True)
    return head.eval()
