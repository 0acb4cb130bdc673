"""Solvers whose classifier is made of prompts: what they share beside their formula."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from embedcal.methods._bounds import at_least
from embedcal.methods._prompts import require
from embedcal.methods.base import Offer, Solver
from embedcal.types import Level


class TextSolver(Solver):
    """A linear head over the embedding, made without the seed.

    Each method declares its own option ``templates``, so that it stands where it belongs among the
    others: a dataclass would put an option of this class before all of them.
    """

    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, templates=0)

    @property
    @abstractmethod
    def templates(self) -> int:
        """How many templates of the prompts are used, the first ones; 0: all."""

    @property
    def n_templates(self) -> int:
        return self.templates

    @property
    def head_name(self) -> str:
        return "linear"

    @property
    def level(self) -> Level:
        return "embedding"


class FromBanks(TextSolver):
    """Reads banks of prompts and no label; a cache that lacks one is refused before any work."""

    @property
    @abstractmethod
    def banks(self) -> tuple[str, ...]:
        """Names of the banks; of those that a cache lacks the first is asked for."""

    @property
    def needs(self) -> frozenset[str]:
        # The projection for its logit scale.
        return frozenset({"projection", *(f"text.{bank}" for bank in self.banks)})

    def resolve(self, offer: Offer) -> Self:
        require(self.name, offer, *self.banks)
        return self
