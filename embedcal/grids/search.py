"""Which settings of a space to try when there are too many for all: at random, or by Optuna."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from embedcal.errors import did_you_mean
from embedcal.grids.settings import Range, Setting, Space, settings_of
from embedcal.types import EmbedcalError

SEARCHES = ("random", "optuna")
ROUND = 8  # settings that Optuna proposes before it is told how they did


class Search(Protocol):
    """Settings in rounds; each round may answer to the scores of those before.

    ``listens`` says whether it wants to be told.
    """

    listens: bool

    def rounds(self) -> Iterator[Sequence[Setting]]: ...

    def tell(self, scores: Sequence[float | None]) -> None:
        """The validation score of each setting of the last round; None for one that failed."""


class Everything:
    """Every setting of every space, in one round."""

    listens = False

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._spaces = spaces

    def rounds(self) -> Iterator[Sequence[Setting]]:
        yield settings_of(self._spaces)

    def tell(self, scores: Sequence[float | None]) -> None: ...


class Random:
    """``budget`` settings of each space, drawn at random without repetition, in one round.

    Equal seeds draw equal settings, and a larger budget draws the same ones first.
    """

    listens = False

    def __init__(self, spaces: Sequence[Space], budget: int, seed: int) -> None:
        self._spaces, self._budget, self._seed = spaces, budget, seed

    def rounds(self) -> Iterator[Sequence[Setting]]:
        yield [
            setting
            for number, space in enumerate(self._spaces)
            for setting in self._drawn(space, random.Random(f"{self._seed}/{number}"))
        ]

    def _drawn(self, space: Space, draw: random.Random) -> Iterator[Setting]:
        seen: set[Any] = set()
        wanted = min(self._budget, space.size)
        while len(seen) < wanted:
            options = {name: _draw(axis, draw.random()) for name, axis in space.axes.items()}
            key = tuple(options.values())
            if key not in seen:
                seen.add(key)
                yield Setting(method=space.method, options=options)

    def tell(self, scores: Sequence[float | None]) -> None: ...


def _draw(axis: tuple[Any, ...] | Range, share: float) -> Any:
    return axis.at(share) if isinstance(axis, Range) else axis[int(share * len(axis))]


class Optuna:
    """``budget`` settings of each space by Optuna's tree-structured Parzen estimator.

    Bergstra et al. 2011. It proposes rounds of eight and is told their scores in order, so that
    equal seeds propose equal settings and a search that was interrupted goes on where it was.
    """

    listens = True

    def __init__(self, spaces: Sequence[Space], budget: int, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise EmbedcalError(
                "expected Optuna for --search optuna, found it missing: pip install "
                "'embedcal[search]', or use --search random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._spaces, self._budget = optuna, spaces, budget
        self._studies = [
            optuna.create_study(
                direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed + number)
            )
            for number in range(len(spaces))
        ]
        self._asked: list[tuple[Any, Any]] = []

    def rounds(self) -> Iterator[Sequence[Setting]]:
        for first in range(0, self._budget, ROUND):
            count = min(ROUND, self._budget - first)
            self._asked = [
                (study, study.ask(self._distributions(space)))
                for study, space in zip(self._studies, self._spaces, strict=True)
                for _ in range(count)
            ]
            spaces = [space for space in self._spaces for _ in range(count)]
            yield [
                Setting(method=space.method, options=_chosen(space, trial.params))
                for space, (_, trial) in zip(spaces, self._asked, strict=True)
            ]

    def _distributions(self, space: Space) -> dict[str, Any]:
        kinds = self._optuna.distributions
        found: dict[str, Any] = {}
        for name, axis in space.axes.items():
            if not isinstance(axis, Range):  # by position: lists are no categories to Optuna
                found[name] = kinds.CategoricalDistribution(tuple(range(len(axis))))
            elif axis.whole:
                found[name] = kinds.IntDistribution(int(axis.low), int(axis.high))
            else:
                found[name] = kinds.FloatDistribution(axis.low, axis.high, log=axis.logarithmic)
        return found

    def tell(self, scores: Sequence[float | None]) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        for (study, trial), score in zip(self._asked, scores, strict=True):
            study.tell(trial, score, state=failed if score is None else None)


def _chosen(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: params[name] if isinstance(axis, Range) else axis[params[name]]
        for name, axis in space.axes.items()
    }


def search_of(name: str, spaces: Sequence[Space], budget: int | None, seed: int) -> Search:
    """The search of that name over spaces; everything where there is no budget."""
    if name not in SEARCHES:
        raise EmbedcalError(
            f"expected --search to be one of {', '.join(SEARCHES)}, found '{name}': "
            + did_you_mean(name, SEARCHES, "take random, the default")
        )
    if budget is None:
        if name != "random":
            raise EmbedcalError(
                f"expected --budget beside --search {name}, found none: say how many settings of "
                "each method to try"
            )
        return Everything(spaces)
    if budget < 1:
        raise EmbedcalError(
            f"expected --budget of 1 or more, found {budget}: it is a number of settings, say 20"
        )
    return Random(spaces, budget, seed) if name == "random" else Optuna(spaces, budget, seed)
