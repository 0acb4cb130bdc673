"""What a method is. Naming it registers it: one file gives a command, a grid name and tests.

A method is a frozen dataclass whose fields are its options. There are two kinds, and each method
is final: :class:`Solver` computes its head at once (zero-shot, DFR); :class:`Gradient` states a
loss, and the one training loop in ``embedcal.train`` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Self, get_args, get_type_hints

import torch
from torch import Tensor

from embedcal.heads import Head, LinearHead, ProjectionHead
from embedcal.types import EmbedcalError, Level, Task

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


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Options in, head out. Subclasses set ``name`` and cite their paper in the docstring."""

    name: ClassVar[str] = ""
    revision: ClassVar[int] = 1  # raised when results change for equal options
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    source: ClassVar[str] = ""  # SHA-256 of the file that a user named, part of a run's identity

    variant: str = option("paper", "which reading of the paper or its code")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in options(type(self)):
            choices = self.variants if item.name == "variant" else item.metadata["choices"]
            value = getattr(self, item.name)
            if choices and value not in choices:
                raise EmbedcalError(
                    f"expected --{item.name.replace('_', '-')} of {self.name} to be one of "
                    f"{', '.join(choices)}, found '{value}'"
                )
            if not choices and not _admits(hints[item.name], value):
                raise EmbedcalError(
                    f"expected {item.name} of {self.name} to be {hints[item.name]}, found {value!r}"
                )

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

    def record(self) -> dict[str, Any]:
        """Every resolved option by name, as JSON holds it."""
        return {
            item.name: list(v) if isinstance(v := getattr(self, item.name), tuple) else v
            for item in options(type(self))
            if item.name != "variant"
        }


@dataclass(frozen=True, kw_only=True)
class Solver(Method):
    """A method that computes its head at once, without the training loop."""

    selection: ClassVar[str] = "none"  # how it chooses among its own candidates

    @property
    def fits_val(self) -> bool:
        """Whether its last fit uses validation rows, so that figures on them are in-sample."""
        return False

    @abstractmethod
    def solve(self, task: Task, seed: int) -> Head:
        """Task -> fitted head; the same head for the same seed."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's examples as tensors on the device; ``g`` only if the method declares it."""

    x: Tensor  # (b, d)
    y: Tensor  # (b,)
    g: Tensor | None
    index: Tensor  # (b,) positions in the training split


State = Any
Plan = Any


@dataclass(frozen=True, kw_only=True)
class Gradient(Method):
    """A method trained by gradient steps; its parts are pure, so that runs can be stacked."""

    head: str = option(
        "auto",
        "what is trained: CLIP's projection, a linear probe, or projection where the cache has one",
        choices=("auto", "projection", "linear"),
    )
    scope: str = option(
        "image",
        "projection head: train the image projection, or the text projection too",
        choices=("image", "image+text_proj"),
    )
    sampler: str = option(
        "iid",
        "batches: every example once an epoch, or equally often by group or class",
        choices=("iid", "group", "class"),
    )
    optimizer: str = option("adamw", "update rule", choices=("adamw", "sgd"))
    lr: float = option(1e-3, "learning rate", grid=(1e-4, 3e-4, 1e-3, 3e-3))
    weight_decay: float = option(1e-4, "weight decay", grid=(0.0, 1e-4, 1e-2))
    momentum: float = option(0.9, "momentum of sgd")
    epochs: int = option(30, "passes over the training split")
    batch_size: int = option(128, "examples a step")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0)):
            if not getattr(self, name) >= least:
                raise EmbedcalError(
                    f"expected {name} of {self.name} to be at least {least}, found "
                    f"{getattr(self, name)}"
                )

    def resolve(self, offer: Offer) -> Self:
        usable = offer.projection and "class" in offer.banks and "pooled" in offer.levels
        if self.head == "projection" and not usable:
            raise EmbedcalError(
                "expected a cache with a projection and class prompts for --head projection, "
                "found image features alone: use --head linear"
            )
        if self.head != "auto":
            return self
        return replace(self, head="projection" if usable else "linear")

    @property
    def head_name(self) -> str:
        return self.head

    @property
    def level(self) -> Level:
        return "pooled" if self.head == "projection" else "embedding"

    @property
    def needs(self) -> frozenset[str]:
        needs = {"train.x", "train.y"}
        if self.head == "projection":
            needs |= {"projection", "text.class"}
        if self.sampler == "group":
            needs |= {"train.g"}
        return frozenset(needs)

    def hyper(self) -> dict[str, float]:
        """The numeric options that the loss reads, by name."""
        return {
            item.name: float(getattr(self, item.name))
            for item in options(type(self))
            if item.metadata["hyper"]
        }

    def prepare(self, task: Task) -> Plan:
        """Whatever is computed once, before the first step."""
        return None

    def start_head(self, task: Task, generator: torch.Generator) -> Head:
        """The head before the first step."""
        if self.head == "projection":
            assert task.projection is not None  # resolve() saw to it
            return ProjectionHead.start(task.projection, task.bank("class"), scope=self.scope)
        width = task.train.x.shape[1]
        return LinearHead.start(width, task.n_classes, generator, normalise=True)

    def init(self, plan: Plan) -> State:
        """The method's own state before the first step: weights of groups, centroids, ..."""
        return ()

    @abstractmethod
    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        """The scalar to minimise over one batch, and the state after it."""


def options(cls: type[Method]) -> list[Field[Any]]:
    """The fields of a method that are options, in the order of their declaration."""
    return [item for item in fields(cls) if "help" in item.metadata]


def default_of(item: Field[Any]) -> Any:
    """An option's default; every option has one."""
    assert item.default is not MISSING
    return item.default


def _admits(hint: Any, value: Any) -> bool:
    """Whether a value is of an option's type; an int is a float, a bool is neither."""
    kinds = get_args(hint) or (hint,)
    if hint in (float, int) or float in kinds or int in kinds:
        if isinstance(value, bool):
            return False
        if float in kinds and isinstance(value, int):
            return True
    if getattr(hint, "__origin__", None) is tuple:
        return isinstance(value, tuple)
    return isinstance(value, kinds)
