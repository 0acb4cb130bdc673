"""What a report shows, gathered and frozen: a page's templates work nothing out themselves.

Texts are as they stand in files; they are escaped where they are written, in ``page``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedcal.comparing.comparison import Block, Row
from embedcal.comparing.effects import MethodEffects
from embedcal.evaluate import Interval, Intervals

if TYPE_CHECKING:
    from markupsafe import Markup

    from embedcal.detecting import Effect


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing. ``markup`` is inline SVG or an image; ``words`` say what is to be seen in it."""

    name: str
    title: str
    markup: Markup
    words: str
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the comparison, with intervals of every accuracy; None without predictions."""

    row: Row
    intervals: Intervals | None
    second: str

    @property
    def average(self) -> float | None:
        """The accuracy beside the compared one: on average over rows or training groups."""
        found: float | None = self.row.metrics.get(self.second)
        return found

    @property
    def average_interval(self) -> Interval | None:
        return getattr(self.intervals, self.second, None)

    @property
    def groups(self) -> tuple[float, ...]:
        return tuple(self.row.metrics.get("groups", ()))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One setting of a method over its seeds; ``chosen``: the comparison's row is made of it."""

    method: str
    setting: str
    chosen: bool
    seeds: int
    validation: float
    worst: float
    interval: Interval | None
    average: float
    labels_used: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Configurations:
    """Those shown, best by validation first, out of ``total``; the first ``tested`` of them have
    intervals."""

    shown: tuple[Configuration, ...]
    total: int
    tested: int


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Rows of each group, or of each class where there are no groups, by split."""

    what: str
    names: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Validation accuracies (seed, epoch) of the row in one ``place``, trained in epochs."""

    label: str
    worst: tuple[tuple[float, ...], ...]
    mean: tuple[tuple[float, ...], ...]
    kept: tuple[int, ...]
    place: int

    @property
    def epochs(self) -> int:
        return len(self.worst[0])

    @property
    def told(self) -> tuple[float, float, float, float]:
        """Means over seeds: worst in the first, best and last epoch, and the mean in the last."""
        worst = [sum(values) / len(values) for values in zip(*self.worst, strict=True)]
        last = [values[-1] for values in self.mean]
        return worst[0], max(worst), worst[-1], sum(last) / len(last)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image: where it stands in the cache, what it is, and what it was taken for.

    ``picture`` is a data URI, empty where the file is not there; ``margin`` the logit of its class
    less the largest other one, None where nobody asked.
    """

    row: int
    id: str
    label: str
    prediction: str
    right: bool
    margin: float | None
    picture: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    title: str
    note: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An attribute to be judged: what hangs on it, and images with it and without it."""

    attribute: str
    effects: tuple[Effect, ...]
    present: tuple[Shot, ...]
    absent: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What ``detect`` found, and the attributes of which the page asks a verdict."""

    of: str
    split: str
    detector: str
    tested: int
    effects: tuple[Effect, ...]
    classes: tuple[str, ...]
    judged: tuple[Judged, ...]
    agreements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Grad-CAM of a few rows: the figure, and in words what each head makes of each image."""

    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Maps of embeddings before and after, with the silhouettes of each space."""

    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What to type to get the same runs: of grids, and of single runs, as many as are shown."""

    grids: tuple[str, ...]
    runs: tuple[tuple[str, str], ...]
    total: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """All of one cache under one choice of attributes; what there is nothing of is None or empty.

    ``notes`` say what was left out of the page, and why.
    """

    name: str
    subject: str
    heading: str
    block: Block
    facts: Mapping[str, str]
    lead: str
    lines: tuple[Line, ...]
    groups: Groups | None
    configurations: Configurations
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...]
    effects: tuple[tuple[MethodEffects, Figure], ...]
    mapped: Mapped | None
    explained: Explained | None
    galleries: tuple[Gallery, ...]
    detected: Detected | None
    commands: Commands
    notes: tuple[str, ...]

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """The key and title of every section that the page has, in order."""
        grouped = len(self.lines[0].groups) == len(self.block.group_names) > 0
        known = (
            (True, "verdict", "Verdict"),
            (True, "setup", "What was run on what"),
            (True, "methods", "Accuracy on test"),
            (grouped, "by-group", "Accuracy by group"),
            (self.curves, "training", "Training"),
            (self.configurations.total > len(self.lines), "configurations", "All settings"),
            (self.effects, "sensitivity", "What the options matter"),
            (self.mapped, "map", "Embeddings before and after"),
            (self.explained, "gradcam", "Where the heads look"),
            (self.galleries, "errors", "Errors"),
            (self.detected, "attributes", "Attributes to judge"),
            (True, "commands", "Commands that made the runs"),
        )
        return tuple((key, title) for there, key, title in known if there)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    runs: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    command: str
