"""Methods that train nothing, at Waterbirds' size, once the cache is open: seconds against one."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from measure import Reading, Row, Spread, interleaved, spread
from PIL import Image
from rich.console import Console
from rich.table import Table
from synthetic import TEMPLATES, WATERBIRDS, FeatureEncoder, manifest_of

from embedcal.cache import BuildOptions, FeatureCache, build_cache, open_cache
from embedcal.datasets.prompts import PAIRS, read_pairs
from embedcal.fitting import configure, fit
from embedcal.heads import predict
from embedcal.methods.base import Solver
from embedcal.types import SPLITS, FloatArray, Level
from embedcal.workbench import Workbench

METHODS = ("zeroshot", "orth-proj", "orth-cal", "roboshot", "perceptionclip", "sage")
TRAINED = "ppa"  # fits two heads: beside them for reference
BOUND = 1.0  # seconds
PROMPTS = {
    "class": ("landbird", "waterbird"),
    "attribute": ("land background", "water background"),
    "context": ("bird on land", "bird on water"),
    "group": (
        "landbird on land",
        "landbird on water",
        "waterbird on land",
        "waterbird on water",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one method in each turn.

    ``fit`` is all of ``embedcal.fit`` over an open cache: features read, solved, predicted, judged
    with intervals, stored. ``answer`` is its head and the logits of all rows, features in memory.
    """

    method: str
    fit: Spread
    answer: Spread


class UnitEncoder(FeatureEncoder):
    """RN50's shapes, with image embeddings of length one."""

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        found = dict(super().images(pixels, levels))
        rows = found["embedding"]
        found["embedding"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return found


def unit_cache(folder: Path, rows: tuple[int, int, int], templates: int) -> Path:
    """A finished cache with every bank of prompts, and the package's concept pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    split = np.repeat(np.arange(3), rows)
    manifest = manifest_of(folder, ["pixel.png"] * sum(rows), split)
    options = BuildOptions(
        out=folder / "features.h5",
        templates=tuple(f"a photo of a {{}}, number {i}." for i in range(templates)),
        pairs=read_pairs(PAIRS / "waterbirds.toml"),
    )
    manifest = replace(manifest, prompts=PROMPTS)
    return build_cache(manifest, UnitEncoder(), options=options).path


def times(
    methods: Sequence[str], cache: FeatureCache, folder: Path, repetitions: int
) -> list[Times]:
    """Every method once a turn, after one turn that is forgotten."""
    on = Workbench(cache)
    tasks: dict[str, Callable[[], object]] = {}
    for name in methods:
        tasks[f"fit {name}"] = lambda name=name: _fit(name, cache, folder)
        tasks[f"answer {name}"] = lambda name=name: _answer(name, on)
    seconds = interleaved(tasks, repetitions=repetitions)
    return [
        Times(
            method=name,
            fit=spread(seconds[f"fit {name}"]),
            answer=spread(seconds[f"answer {name}"]),
        )
        for name in methods
    ]


def _fit(name: str, cache: FeatureCache, folder: Path) -> object:
    """A run that is not there yet: a folder of its own each time."""
    return fit(name, cache, out=Path(tempfile.mkdtemp(dir=folder)), device="cpu")


def _answer(name: str, on: Workbench) -> object:
    method = configure(name, {}).resolve(on.offer)
    assert isinstance(method, Solver)
    head = method.solve(on.task(method), 0)
    return [predict(head, on.features(split, method.level, "cpu")) for split in SPLITS]


def measured(
    *, rows: tuple[int, int, int], templates: int, repetitions: int, methods: Sequence[str]
) -> list[Times]:
    """The times of some methods over a cache of so many rows, made for them."""
    with tempfile.TemporaryDirectory() as folder:
        path = unit_cache(Path(folder), rows, templates)
        with open_cache(path) as cache:
            return times(methods, cache, Path(folder), repetitions)


def measure(*, quick: bool) -> list[Row]:
    """A row a method, each against the bound; the one that trains has none."""
    rows = (600, 150, 600) if quick else WATERBIRDS
    found = measured(
        rows=rows,
        templates=8 if quick else TEMPLATES,
        repetitions=3 if quick else 9,
        methods=(*METHODS, TRAINED),
    )
    return [
        Row(
            name=f"{each.method}, {sum(rows):,} rows, cache open",
            ours=Reading(what="embedcal.fit", value=each.fit.median, unit="s"),
            baseline=Reading(what="bound", value=BOUND, unit="s"),
            ratio=Spread(
                median=each.fit.median / BOUND,
                low=each.fit.low / BOUND,
                high=each.fit.high / BOUND,
            ),
            target=None if each.method == TRAINED else 1.0,
            at_most=True,
            note=f"head and logits alone {each.answer.median:.3f} s"
            + (" (trains two heads)" if each.method == TRAINED else ""),
            facts={"answer": each.answer.median},
        )
        for each in found
    ]


def table(found: Sequence[Times], rows: int, templates: int) -> Table:
    """Medians, and ranges in brackets."""
    shown = Table(title=f"{rows:,} rows of 1024 numbers, {templates} templates, cache open")
    for name in ("method", "embedcal.fit, s", "head and logits, s", f"under {BOUND:g} s"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    for each in found:
        under = "no" if each.fit.median >= BOUND else "in the median"
        under = "yes" if each.fit.high < BOUND else under
        shown.add_row(
            f"{each.method} (trains)" if each.method == TRAINED else each.method,
            _range(each.fit),
            _range(each.answer),
            "-" if each.method == TRAINED else under,
        )
    return shown


def _range(seconds: Spread) -> str:
    return f"{seconds.median:.3f} ({seconds.low:.3f}-{seconds.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="turns that are counted")
    parser.add_argument("--templates", type=int, default=TEMPLATES, help="of every prompt")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=(*METHODS, TRAINED),
        default=(*METHODS, TRAINED),
        metavar="METHOD",
        help="by default all that train nothing, and ppa for reference",
    )
    parser.add_argument("--quick", action="store_true", help="an eighth of the rows")
    given = parser.parse_args()
    for name in ("repeats", "templates"):
        if getattr(given, name) < 1:
            parser.error(f"expected --{name} of 1 or more, found {getattr(given, name)}")
    train, val, test = (count // 8 if given.quick else count for count in WATERBIRDS)
    with tempfile.TemporaryDirectory() as home:
        os.environ["EMBEDCAL_HOME"] = home
        found = measured(
            rows=(train, val, test),
            templates=given.templates,
            repetitions=given.repeats,
            methods=given.methods,
        )
    Console(width=None if Console().is_terminal else 100).print(
        table(found, train + val + test, given.templates)
    )
    print(f"median (range) of {given.repeats} turns, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
