"""What a method is. Naming it registers it: one file gives a command, a grid name and tests.

A method is a frozen dataclass whose fields are its options. There are two kinds, and each method
is final: :class:`Solver` computes its head at once (zero-shot, DFR); :class:`Gradient` states a
loss, and the one training loop in ``embedcal.train`` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Self, get_type_hints

import torch
from torch import Tensor

from embedcal.errors import did_you_mean
from embedcal.heads import AttnPoolHead, Head, LinearHead, ProjectionHead
from embedcal.methods._bounds import at_least, held
from embedcal.methods._drawing import Batch as Batch
from embedcal.methods._drawing import Step as Step
from embedcal.methods._drawing import batches as batches
from embedcal.methods._drawing import cut_by_class as cut_by_class
from embedcal.methods._drawing import fixed_part as fixed_part
from embedcal.methods._handed import Marks as Marks
from embedcal.methods._handed import Solved as Solved
from embedcal.methods._handed import Stage as Stage
from embedcal.methods._handed import Staged as Staged
from embedcal.types import EmbedcalError, IntArray, Level, Task

REGISTRY: dict[str, type[Method]] = {}


def option(
    default: Any,
    help: str,
    *,
    grid: Sequence[Any] = (),
    choices: Sequence[str] = (),
    hyper: bool = False,
) -> Any:
    """An option of a method: its default, its help, what a default grid tries, what it admits.

    ``hyper`` marks a number that the loss reads as a tensor, so that runs can be stacked.
    """
    return field(
        default=default,
        metadata={"help": help, "grid": tuple(grid), "choices": tuple(choices), "hyper": hyper},
    )


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a cache has to give, without the data: decides ``auto`` options."""

    levels: frozenset[str]
    banks: frozenset[str]
    projection: bool
    attributes: bool
    attnpool: bool = False


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Options in, head out. Subclasses set ``name`` and cite their paper in the docstring."""

    name: ClassVar[str] = ""
    revision: ClassVar[int] = 1  # raised when results change for equal options
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    source: ClassVar[str] = ""  # SHA-256 of the file that a user named, part of a run's identity
    random: ClassVar[bool] = True  # whether the seed changes the result

    variant: str = option("paper", "which reading of the paper or its code")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for item in options(type(self)):
            choices = self.variants if item.name == "variant" else item.metadata["choices"]
            value = getattr(self, item.name)
            if choices and value not in choices:
                raise EmbedcalError(
                    f"expected --{item.name.replace('_', '-')} of {self.name} to be one of "
                    f"{', '.join(choices)}, found '{value}': "
                    + did_you_mean(str(value), choices, f"take {item.default}, the default")
                )
            if not choices:
                object.__setattr__(self, item.name, held(self, item, hints[item.name]))

    @classmethod
    def summary(cls) -> str:
        """The docstring's first line: what the method minimises or computes."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    def resolve(self, offer: Offer) -> Self:
        """The same method with every ``auto`` option decided by what the cache offers."""
        return self

    @property
    @abstractmethod
    def head_name(self) -> str:
        """Which head comes out."""

    @property
    @abstractmethod
    def level(self) -> Level:
        """Which image features it eats."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Everything that it reads: ``train.y``, ``val.g``, ``text.class``, ...

        What is not named here is withheld. The labels among it are a run's "labels used".
        """

    @property
    def n_templates(self) -> int:
        """How many templates of its text banks it sees, the first ones; 0: all."""
        return 0

    @property
    def stage(self) -> Stage | None:
        """The run to start from, if there is one; its result is the task's ``stage``."""
        return None

    def marks(self, task: Task) -> Marks | None:
        """The rows that it takes for rare, where it looks for them; ``task.stage`` is there."""
        return None

    def account(self, head: Head, parts: Iterable[Tensor]) -> Mapping[str, Any]:
        """What else to record, as JSON holds it, of how a finished head judges images.

        ``parts`` are features (n, ...) of a split, part by part; most methods have nothing to say.
        """
        return {}

    def record(self) -> dict[str, Any]:
        """Every resolved option by name, as JSON holds it."""
        return dict(self._record)

    @cached_property
    def _record(self) -> Mapping[str, Any]:
        return {
            item.name: list(v) if isinstance(v := getattr(self, item.name), tuple) else v
            for item in options(type(self))
            if item.name != "variant"
        }


@dataclass(frozen=True, kw_only=True)
class Solver(Method):
    """A method that computes its head at once, without the training loop."""

    @property
    def selection(self) -> str:
        """How it chooses among its own candidates, as a selection rule's name."""
        return "none"

    @property
    def fits_val(self) -> bool:
        """Whether its last fit uses validation rows, so that figures on them are in-sample."""
        return False

    @abstractmethod
    def solve(self, task: Task, seed: int) -> Head:
        """Task -> fitted head; the same head for the same seed."""

    def solved(self, task: Task, seed: int) -> Solved:
        """:meth:`solve` and the rows that it marks; for those that find them while they solve."""
        return Solved(head=self.solve(task, seed), marks=self.marks(task))

    @property
    def stack_key(self) -> Hashable | None:
        """Runs of equal keys are solved together, by :meth:`solve_stack`; None: each alone."""
        return None

    @classmethod
    def solve_stack(cls, methods: Sequence[Self], task: Task, seeds: Sequence[int]) -> list[Head]:
        """The heads of several runs over one task, each as :meth:`solve` gives it alone."""
        return [method.solve(task, seed) for method, seed in zip(methods, seeds, strict=True)]


State = Any
Plan = Any
CLIP_HEADS: dict[str, type[ProjectionHead | AttnPoolHead]] = {
    "projection": ProjectionHead,
    "attnpool": AttnPoolHead,
}


@dataclass(frozen=True, kw_only=True)
class Gradient(Method):
    """A method trained by gradient steps; its parts are pure, so that runs can be stacked."""

    head: str = option(
        "auto",
        "what is trained: CLIP's projection, a linear probe, or projection where the cache has one",
        choices=("auto", "projection", "attnpool", "linear"),
    )
    scope: str = option(
        "image",
        "CLIP's heads: train the image projection, or the text projection too",
        choices=("image", "image+text_proj"),
    )
    temperature: str = option(
        "trainable",
        "CLIP's heads: trainable from 1/0.07, from the pretrained scale on, or fixed there",
        choices=("trainable", "pretrained", "fixed"),
    )
    prototype: str = option(
        "normalised",
        "CLIP's heads: class prototypes are the normalised mean of unit templates, or the mean",
        choices=("normalised", "mean"),
    )
    templates: int = option(0, "use only the first so many templates of each prompt; 0: all")
    features: str = option(
        "normalised",
        "linear head: eat unit embeddings, or embeddings as they are",
        choices=("normalised", "embedding"),
    )
    sampler: str = option(
        "iid",
        "batches: every example once an epoch, or equally often by group or class",
        choices=("iid", "group", "class"),
    )
    optimizer: str = option("adamw", "update rule", choices=("adamw", "sgd"))
    lr: float = option(
        0.0, "learning rate; 0: 1e-3, or 1e-2 for a linear head", grid=(1e-4, 3e-4, 1e-3, 3e-3)
    )
    weight_decay: float = option(1e-4, "weight decay", grid=(0.0, 1e-4, 1e-2))
    momentum: float = option(0.9, "momentum of sgd")
    epochs: int = option(30, "passes over the training split")
    batch_size: int = option(128, "examples a step; 0: all at once")
    clip_norm: float = option(0.0, "clip the norm of each step's gradient to this; 0: never")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, epochs=1, batch_size=0, lr=0, weight_decay=0, clip_norm=0, templates=0)

    def resolve(self, offer: Offer) -> Self:
        usable = offer.projection and "class" in offer.banks and "pooled" in offer.levels
        if self.head == "projection" and not usable:
            raise EmbedcalError(
                "expected a cache with a projection and class prompts for --head projection, "
                "found image features alone: use --head linear"
            )
        if self.head == "attnpool":
            if not offer.attnpool or "class" not in offer.banks:
                raise EmbedcalError(
                    "expected a cache with an attention pool and class prompts for --head "
                    "attnpool, found none: CLIP's ResNets have one; use --head projection"
                )
            if "tokens" not in offer.levels:
                raise EmbedcalError(
                    "expected tokens in the cache for --head attnpool, found none: cache again "
                    "with --keep tokens, or use --head projection"
                )
        auto = "projection" if usable else "linear"
        chosen = replace(self, head=auto) if self.head == "auto" else self
        return replace(chosen, lr=chosen.step_size)

    @property
    def step_size(self) -> float:
        """The learning rate that is used: a linear head on unit features needs a larger one."""
        return self.lr or (1e-2 if self.head == "linear" else 1e-3)

    @property
    def head_name(self) -> str:
        return self.head

    @property
    def n_templates(self) -> int:
        return self.templates

    @property
    def level(self) -> Level:
        levels: dict[str, Level] = {"projection": "pooled", "attnpool": "tokens"}
        return levels.get(self.head, "embedding")

    @property
    def needs(self) -> frozenset[str]:
        needs = {"train.x", "train.y"}
        if self.head in CLIP_HEADS:
            needs |= {"projection", "text.class"}
        if self.sampler == "group":
            needs |= {"train.g"}
        return frozenset(needs)

    def step_work(self, task: Task) -> int:
        """Multiplications of a step's largest product, which say whether a second thread pays."""
        n, *cells, width = task.train.x.shape
        outputs = width if cells else task.n_classes  # tokens meet the pool's square matrices
        if self.head_name == "projection" and task.projection is not None:
            outputs = task.projection.image_weight.shape[0]
        return int((self.batch_size or n) * width * outputs)

    def hyper(self) -> dict[str, float]:
        """The numeric options that the loss reads, by name."""
        return {
            item.name: float(getattr(self, item.name))
            for item in options(type(self))
            if item.metadata["hyper"]
        }

    def prepare(self, task: Task, generator: torch.Generator) -> Plan:
        """Whatever is computed once, before the first step; ``task.stage`` is there by now."""
        return None

    def start_head(self, task: Task, generator: torch.Generator) -> Head:
        """The head before the first step."""
        if self.head in CLIP_HEADS:
            assert task.projection is not None  # resolve() saw to it
            return CLIP_HEADS[self.head].start(
                task.projection,
                task.bank("class"),
                scope=self.scope,
                temperature=self.temperature,
                prototype=self.prototype,
            )
        width = task.train.x.shape[1]
        normalise = self.features == "normalised"
        return LinearHead.start(width, task.n_classes, generator, normalise=normalise)

    def rows(self, task: Task, plan: Plan) -> IntArray | None:
        """Positions in train (m,) to train on, repeats included; None is every one, once."""
        return None

    def steps(
        self, task: Task, plan: Plan, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        """What each step of one epoch (from 1) draws.

        By default batches of ``rows`` as the sampler draws them.
        """
        rows = self.rows(task, plan)
        labels = None
        if self.sampler != "iid":
            labels = task.train.g if self.sampler == "group" else task.train.y
            labels = labels if rows is None else labels[rows]
        n = len(task.train.x) if rows is None else len(rows)
        for index in batches(n, self.batch_size, generator, labels, task.train.x, rows):
            yield Step(batch=index if rows is None else torch.from_numpy(rows)[index])

    def init(self, plan: Plan) -> State:
        """The method's own state before the first step: weights of groups, centroids, ..."""
        return ()

    @abstractmethod
    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        """The scalar to minimise over one batch, and the state after it."""


@cache
def _hints(cls: type[Method]) -> dict[str, Any]:
    return get_type_hints(cls)


@cache
def options(cls: type[Method]) -> list[Field[Any]]:
    """The fields of a method that are options, in the order of their declaration."""
    return [item for item in fields(cls) if "help" in item.metadata]


def default_of(item: Field[Any]) -> Any:
    """An option's default; every option has one."""
    assert item.default is not MISSING
    return item.default
