"""What a recipe is: a published table, and all that is needed to measure it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedcal.encoders.load import OPENAI, TINY

OVERLAP = ("aiou", "aiou_worst_group")  # the metrics that are no accuracies
REGIONS = ("auto", "mask", "box")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The cache that some rows need, and how it is had.

    ``source`` and ``backbone`` are what ``embedcal cache`` is told, ``dataset`` the name that the
    cache then has (by default the source's). ``weights`` are the names that it may record for
    them; ``rows``, ``width`` (of the embedding) and ``templates`` (a name that ``--templates``
    takes, or the texts themselves) have to be these where given. ``attribute``, one or a
    list, makes the groups.
    ``trained`` are options of every trained method over this cache. ``fetch`` are sentences on
    what to get and where to put it, ``command`` what to type then, where the usual one won't do.
    """

    name: str
    source: str
    backbone: str
    dataset: str = ""
    weights: tuple[str, ...] = ()
    rows: int | None = None
    seed: int | None = None
    width: int | None = None
    tokens: bool = False
    templates: str | tuple[str, ...] = "openai"
    attribute: str | tuple[str, ...] | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)
    fetch: tuple[str, ...] = ()
    command: str = ""

    @property
    def called(self) -> str:
        """The data set's name in a cache."""
        return self.dataset or self.source

    @property
    def architecture(self) -> str:
        """The encoder's name in a cache: open_clip's."""
        return OPENAI.get(self.backbone, self.backbone.replace("/", "-"))

    @property
    def embedded(self) -> bool:
        """Whether all of it comes with the package, so that the cache is made when it is needed."""
        return self.source == "birds" and self.backbone == TINY


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What is run: a method with options, a list of values for each that is to be tried.

    ``select`` chooses epoch and configuration; empty: the recipe's rule.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    select: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the published table and what it is called here.

    ``metric`` is a name in a run's record, ``NAME.INDEX`` for an entry of a vector, or one of
    ``OVERLAP``. Where ``unmeasured`` gives a reason there is none. With a ``doubt`` the column's
    numbers are shown and never judged.
    """

    name: str
    metric: str = ""
    unmeasured: str = ""
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """By how many points ours may differ, for all columns or by column, and why by so many."""

    name: str
    points: float | Mapping[str, float]
    reason: str

    def of(self, column: str) -> float | None:
        """Points for a column; None where it names none."""
        return self.points.get(column) if isinstance(self.points, Mapping) else self.points


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the published table.

    ``values`` are its numbers in the order of the columns, accuracies in percent, AIOU as a
    fraction, ``nan`` where one cannot be read. ``run`` is what measures them. With a ``doubt`` the
    numbers are shown and never judged; ``unmeasured`` says why nothing can measure them.
    """

    name: str
    part: str
    values: tuple[float, ...]
    run: str = ""
    tolerance: str = ""
    doubt: str = ""
    unmeasured: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published table with everything that is needed to measure it again.

    ``source`` says where the numbers stand, ``verified`` how they were checked, ``ran`` who has
    run the recipe. ``trained`` are options of every trained method and ``tried`` tables of options
    that are tried in turn. ``region``, one of ``REGIONS``, is what of an image AIOU counts as the
    object. ``deviations`` are known differences between what the authors did and what is run here.
    """

    name: str
    title: str
    source: str
    verified: str
    ran: str
    parts: tuple[Part, ...]
    runs: tuple[Planned, ...]
    columns: tuple[Column, ...]
    tolerances: tuple[Tolerance, ...]
    rows: tuple[Row, ...]
    arxiv: str = ""
    seeds: int = 3
    select: str = "val.worst_group"
    region: str = "auto"
    trained: Mapping[str, Any] = field(default_factory=dict)
    tried: tuple[Mapping[str, Any], ...] = ()
    deviations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def tolerance(self, row: Row, column: Column) -> Tolerance | None:
        """What a number is judged by; None where it is not judged."""
        if row.doubt or row.unmeasured or column.doubt or column.unmeasured:
            return None
        return next((t for t in self.tolerances if t.name == row.tolerance), None)

    @property
    def overlaps(self) -> bool:
        """Whether any column is of AIOU, so that maps have to be made."""
        return any(column.metric in OVERLAP for column in self.columns)

    @property
    def judged(self) -> int:
        """How many of the numbers are judged."""
        return sum(
            value == value and self.tolerance(row, column) is not None  # nan is unreadable
            for row in self.rows
            for column, value in zip(self.columns, row.values, strict=True)
        )
