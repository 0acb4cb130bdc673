"""What solvers made of prompts share: banks, refusals, and the place of their options."""

from __future__ import annotations

from typing import Any

import pytest

from embedcal.methods import find
from embedcal.methods._text_solver import FromBanks, TextSolver
from embedcal.methods.base import Offer, options
from embedcal.types import EmbedcalError

BANKS = {
    "orth-proj": {"class", "attribute"},
    "orth-cal": {"class", "attribute", "pairs"},
    "roboshot": {"class", "pairs"},
    "perceptionclip": {"group"},
    "sage": {"class"},
}
NAMES = ("zeroshot", "ppa", *BANKS)


def offer(*banks: str) -> Offer:
    return Offer(
        levels=frozenset({"embedding"}), banks=frozenset(banks), projection=True, attributes=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_they_share_what_does_not_tell_them_apart(name: str) -> None:
    cls: Any = find(name)
    assert issubclass(cls, TextSolver)
    method = cls(templates=3)
    assert method.n_templates == 3
    assert (method.level, method.random, method.revision) == ("embedding", False, 1)
    assert options(cls)[-1].name == "templates"  # records of runs had it there before
    with pytest.raises(EmbedcalError, match="--templates of 0 or more, found -1: take 0"):
        cls(templates=-1)


@pytest.mark.parametrize("name", BANKS)
def test_every_bank_is_read_and_asked_for(name: str) -> None:
    cls: Any = find(name)
    assert issubclass(cls, FromBanks)
    banks = BANKS[name]
    assert cls().needs == {"projection", *(f"text.{bank}" for bank in banks)}
    method = cls(templates=1)
    assert method.resolve(offer(*banks)) is method
    for bank in banks:
        with pytest.raises(EmbedcalError, match=rf"for {name}, found .*: ") as error:
            method.resolve(offer(*(banks - {bank}), "other"))
        assert ("concept pairs" if bank == "pairs" else f"{bank} prompts") in str(error.value)


def test_options_may_ask_for_more() -> None:
    assert "text.context" in find("perceptionclip")(context="alone").needs
    assert "train.x" in find("sage")(scope="split").needs
    assert find("ppa")().needs == {"train.x", "train.y", "text.class"}
    assert find("zeroshot")().needs == {"text.class", "projection"}


def test_a_method_without_templates_is_no_method() -> None:
    class Bare(TextSolver):
        @property
        def needs(self) -> frozenset[str]:
            return frozenset()

        def solve(self, task: Any, seed: int) -> Any:
            return None

    with pytest.raises(TypeError, match="templates"):
        Bare()  # type: ignore[abstract]
