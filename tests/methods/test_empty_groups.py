"""Every method, rule and comparison where groups have no rows in train, in val, in test, anywhere.

The groups are of the product of two attributes, as made by ``world``. The same rows under one
attribute that has no value for the combination that never occurs have to give the same runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "cache"))
from encoders_for_tests import NumpyEncoder

from embedcal.answers.comparison import comparison_report
from embedcal.answers.runs import run_report
from embedcal.cache import BuildOptions, build_cache, import_features, open_cache
from embedcal.comparing import compare
from embedcal.comparing.recorded import number
from embedcal.datasets.manifest import Attribute, Manifest
from embedcal.datasets.prompts import read_pairs
from embedcal.evaluate import RULES
from embedcal.fitting import fit_on
from embedcal.grids import grid
from embedcal.methods import find, names
from embedcal.methods.base import Gradient, options
from embedcal.tables import show
from embedcal.train import Data
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

CLASSES, VALUES = ("crow", "duck", "gull"), ("land, day", "land, night", "sea, day")
# Rows of each class and value in train, val and test. "sea, night" never occurs. The duck is seen
# at "sea, day" in val only, the gull at "land, night" in test only, and in train at one value.
ROWS = {
    (0, 0): (40, 9, 9), (0, 1): (0, 6, 7), (0, 2): (12, 0, 6),
    (1, 0): (9, 6, 0), (1, 1): (35, 8, 9), (1, 2): (0, 5, 0),
    (2, 0): (30, 8, 8), (2, 1): (0, 0, 6), (2, 2): (0, 0, 0),
}  # fmt: skip
UNKNOWN = 5  # further rows of each class and split whose time is not known

QUICK: dict[str, dict[str, Any]] = {
    "afr": {"epochs": 3, "stage_epochs": 1},
    "cfr": {"epochs": 1, "stage_epochs": 1},
    "cnc": {"epochs": 1},
    "con-adapter": {"epochs": 2, "positives": 8, "negatives": 8, "cell_size": 8, "hidden": 8},
    "jtt": {"epochs": 1, "stage_epochs": 1, "upweight": 3},
    "dfr": {"c": (0.3,), "refits": 2, "halves": 2},
}
FURTHER: list[tuple[str, dict[str, Any]]] = [
    ("cfr", {"neg": "nns", "stage_select": "val.worst_group", "calibration": "erm"}),
    ("dfr", {"balance": "class"}),
    ("group-dro", {"sampler": "iid"}),
    ("group-dro", {"variant": "group_dro", "adjustment": 2.0, "normalise_loss": "on"}),
    ("group-dro", {"variant": "cvar", "adjustment": 2.0, "min_var_weight": 0.1}),
    ("group-dro", {"head": "linear", "optimizer": "sgd"}),
    ("linear-probe", {"balance": "group"}),
    ("linear-probe", {"balance": "class"}),
    ("spurious", {"vs_weight": 1.0, "ls_weight": 0.0}),
    ("spurious", {"vs_weight": 1.0, "vs_sets": "group", "sampler": "group"}),
    *((name, {"sampler": "group"}) for name in ("erm", "clip", "jtt", "cfr")),
]
# The start of these counts groups that never occur, as the official codes do.
COUNTS_ALL = {("group-dro", "group_dro"), ("rwg", "weights"), ("rwg", "sqrt")}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names():
        for variant in find(name).variants:
            if (name, variant) != ("cfr", "official"):
                yield name, {"variant": variant}
    yield from FURTHER


def filled(name: str, given: dict[str, Any]) -> dict[str, Any]:
    trained = (
        {"epochs": 2, "batch_size": 32, "lr": 0.02} if issubclass(find(name), Gradient) else {}
    )
    known = {item.name for item in options(find(name))}
    return {k: v for k, v in {**trained, **QUICK.get(name, {}), **given}.items() if k in known}


def cells() -> tuple[np.ndarray, ...]:
    """y, place, time, split of every row; time is -1 where it is not known."""
    rows = [
        (y, v // 2, v % 2, split)
        for (y, v), counts in ROWS.items()
        for split, count in enumerate(counts)
        for _ in range(count)
    ]
    rows += [(y, 0, -1, s) for y in range(3) for s in range(3) for _ in range(UNKNOWN)]
    return tuple(np.random.default_rng(0).permutation(np.array(rows)).T)


def make_cache(folder: Path, *, one: bool = False, hidden: bool = False) -> Path:
    """The rows through an encoder of random weights, with one attribute or with two.

    With ``hidden`` the time of a gull is not known in train, so that its class is in no group.
    """
    y, place, time, split = cells()
    if hidden:
        time = np.where((y == 2) & (split == 0), -1, time)
    rng = np.random.default_rng(1)
    paths = tuple(f"{i}.png" for i in range(len(y)))
    for i, path in enumerate(paths):
        pixels = rng.integers(50, 150, (8, 8, 3))
        pixels[2 * y[i] : 2 * y[i] + 2, :, 0] += 100
        pixels[:, 4 * place[i] : 4 * place[i] + 4, 1] += 60
        pixels[4 * max(time[i], 0) :, :, 2] += 30
        Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
    scene = np.where(time < 0, -1, 2 * place + time)
    both = (
        Attribute(name="place", values=("land", "sea"), labels=place),
        Attribute(name="time", values=("day", "night"), labels=time),
    )
    manifest = Manifest(
        name="holes",
        root=folder,
        ids=paths,
        paths=paths,
        y=y,
        split=split,
        classes=CLASSES,
        attributes=(Attribute(name="scene", values=VALUES, labels=scene),) if one else both,
        prompts={
            "class": CLASSES,
            "attribute": ("land", "sea", "day", "night"),
            "group": tuple(f"{name} {place}" for name in CLASSES for place in ("land", "sea")),
        },
        warnings=(),
    )
    templates = ("a photo of a {}.", "{}", "the {}", "one {}")
    pairs = {"reject": [["land", "sea"]], "accept": [["crow", "duck"]], "equal": [["a", "b"]]}
    out = BuildOptions(
        out=folder / f"{one}.h5", templates=templates, pairs=read_pairs(pairs), batch_size=64
    )
    return build_cache(manifest, NumpyEncoder(), options=out).path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workbench, Workbench]]:
    """The rows under the product of place and time, and under one attribute without the hole."""
    folder = tmp_path_factory.mktemp("holes")
    with (
        open_cache(make_cache(folder)) as product,
        open_cache(make_cache(folder, one=True)) as single,
    ):
        yield Workbench(product, ("time", "place")), Workbench(single)


def check_finite(record: dict[str, Any]) -> None:
    """Numbers wherever there are rows, null wherever there are none."""
    for split in ("val", "test"):
        found = record[split]
        sizes = found["group_sizes"]
        assert [value is None for value in found["groups"]] == [size == 0 for size in sizes]
        present = [value for value in found["groups"] if value is not None]
        assert found["worst_group"] == min(present)
        assert found["group_mean"] == pytest.approx(sum(present) / len(present))
        for name, value in found.items():
            if isinstance(value, float):
                assert math.isfinite(value), name
        ends = found["interval"]
        assert [low is None for low, _ in ends["groups"]] == [size == 0 for size in sizes]
        low, high = ends["worst_group"]
        assert 0 <= low <= found["worst_group"] <= high <= 1
        assert all(math.isfinite(end) for end in ends["train_weighted"] + ends["mean"])
    for rule in record["rules"].values():
        assert rule["val"]["worst_group"] is not None
    for point in record["curve"]:
        assert all(math.isfinite(value) for value in point.values())


def without_hole(values: list[Any]) -> list[Any]:
    """Entries of the twelve groups (3 x 4) less those of the value that never occurs."""
    return [value for k, value in enumerate(values) if k % 4 != 3]


@pytest.mark.parametrize(
    ("name", "given"),
    list(cases()),
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
)
def test_a_method_does_not_mind_groups_without_rows(
    name: str, given: dict[str, Any], world: tuple[Workbench, Workbench], tmp_path: Path
) -> None:
    product, single = world
    given = filled(name, given)
    found = fit_on(product, name, given, seed=1, out=tmp_path / "a", device="cpu")
    check_finite(dict(found.record))
    again = fit_on(single, name, given, seed=1, out=tmp_path / "b", device="cpu")
    if (name, given.get("variant")) in COUNTS_ALL:
        return
    for rule, logits in found.all_predictions().items():
        other = again.all_predictions()[rule]
        if name == "group-dro":  # sums over four and over three values round differently
            np.testing.assert_allclose(logits, other, rtol=1e-4, atol=1e-4)
        else:
            assert (logits == other).all(), rule
    for split in ("val", "test"):
        ours, theirs = found.record[split], again.record[split]
        for metric in ("mean", "worst_group", "group_mean", "train_weighted", "classes"):
            assert ours[metric] == pytest.approx(theirs[metric])
        for metric in ("groups", "group_sizes"):
            assert without_hole(ours[metric]) == theirs[metric]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("afr", {}), ("cfr", {"sampler": "group", "pos": "rps"}), ("cnc", {}), ("con-adapter", {}),
        ("cfr", {"sampler": "group", "neg": "nns"}), ("dfr", {}), ("group-dro", {}), ("rwg", {}),
        ("group-dro", {"variant": "cvar"}), ("jtt", {"sampler": "group"}), ("subg", {}),
        ("spurious", {"vs_weight": 1.0}),
    ],
)  # fmt: skip
def test_a_class_of_unknown_attribute_in_train(
    name: str, given: dict[str, Any], tmp_path: Path
) -> None:
    """Who reads groups of train never sees that class, and runs all the same."""
    with open_cache(make_cache(tmp_path, hidden=True)) as cache:
        on = Workbench(cache)
        seen = on.split("train", "embedding")
        assert 2 not in seen.y[seen.g >= 0]
        check_finite(dict(fit_on(on, name, filled(name, given), out=tmp_path / "runs").record))


@pytest.mark.parametrize(
    ("name", "given"), [("dfr", {"variant": "train"}), ("linear-probe", {"balance": "group"})]
)
def test_who_needs_every_class_says_so(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    with open_cache(make_cache(tmp_path, hidden=True)) as cache:
        with pytest.raises(EmbedcalError, match="found none of class 2: label the attr") as error:
            fit_on(Workbench(cache), name, given, out=tmp_path / "runs")
        assert "\n" not in str(error.value)
        other = {**filled(name, given), "balance": "class"}
        check_finite(dict(fit_on(Workbench(cache), name, other, out=tmp_path / "runs").record))


def test_official_cfr_says_in_one_line_why_it_cannot(
    world: tuple[Workbench, Workbench], tmp_path: Path
) -> None:
    with pytest.raises(EmbedcalError, match="expected two classes for cfr") as error:
        fit_on(world[0], "cfr", filled("cfr", {"variant": "official"}), out=tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_group_dro_stay_off_groups_without_rows(
    world: tuple[Workbench, Workbench],
) -> None:
    on = world[0]
    method = find("group-dro")(batch_size=32).resolve(on.offer)
    assert isinstance(method, Gradient)
    task, generator = on.task(method), torch.Generator().manual_seed(0)
    plan = method.prepare(task, generator)
    head, state = method.start_head(task, generator), method.init(plan)
    data = Data.on_device(task.train, "cpu")
    there = np.bincount(task.train.g, minlength=12) > 0
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    for step in method.steps(task, plan, 1, generator):
        assert ((state.q.numpy() > 0) == there).all()
        loss, state = method.loss(head, state, data.batch(step), hyper)
        assert torch.isfinite(loss)
    assert ((state.q.numpy() > 0) == there).all()


def test_many_engines_agree(world: tuple[Workbench, Workbench], tmp_path: Path) -> None:
    specs = ["group-dro:epochs=2", "rwg:epochs=2", "spurious:vs_weight=1.0:epochs=2"]
    records = []
    for engine in ("sequential", "batched"):
        found = grid(
            specs, world[0].cache, seeds=2, attribute=["time", "place"], engine=engine,
            out=tmp_path / engine, device="cpu",
        )  # fmt: skip
        assert not found.failed
        records.append({record["id"]: record for record in found.done})
    one, other = records
    assert one.keys() == other.keys()
    for name, record in one.items():
        for split in ("val", "test"):
            ours, theirs = record[split], other[name][split]
            assert ours["group_sizes"] == theirs["group_sizes"]
            assert ours["worst_group"] == pytest.approx(theirs["worst_group"], abs=0.13)
            assert [v is None for v in ours["groups"]] == [v is None for v in theirs["groups"]]


@pytest.mark.parametrize("select", [rule.name for rule in RULES])
def test_runs_are_chosen_and_compared(
    select: str, world: tuple[Workbench, Workbench], tmp_path: Path
) -> None:
    for seed in range(2):
        for name in ("erm", "group-dro", "dfr"):
            run = fit_on(
                world[0], name, filled(name, {}), seed=seed, select=select, out=tmp_path / "runs"
            )
            show(run_report(run, world[0].cache.group_names()))
    cells_of_test = world[0].strata("test", "embedding")
    found = compare([tmp_path / "runs"], select=select, oracle=select.startswith("oracle"))
    show(comparison_report(found))
    (block,) = found.blocks
    assert block.group_names == world[0].cache.group_names()
    assert len(block.rows) == 3
    assert len(block.pairs) == 2
    for row in block.rows:
        assert row.interval is not None
        assert all(map(math.isfinite, (row.mean, row.deviation, row.validation, *row.interval)))
        assert [math.isnan(number(v)) for v in row.metrics["groups"]] == [
            size == 0 for size in cells_of_test.group_sizes
        ]
    for pair in block.pairs:
        ends = (pair.difference.difference, *pair.difference.interval, pair.adjusted)
        assert all(map(math.isfinite, ends))


def unlabelled(world: Workbench, folder: Path, splits: tuple[int, ...]) -> Path:
    """The same features with no attribute known in some splits."""
    samples = world.cache.samples
    gone = np.isin(samples.split, splits)
    labels = {k: np.where(gone, -1, v) for k, v in samples.attributes.items()}
    return import_features(
        world.cache.read("embedding"), samples.y, samples.split, labels, out=folder / "less.h5"
    )


def test_val_without_a_known_attribute(world: tuple[Workbench, Workbench], tmp_path: Path) -> None:
    """Selection falls back to classes; what needs groups of val says so, in one line."""
    with open_cache(unlabelled(world[0], tmp_path, (1,))) as cache:
        on = Workbench(cache)
        run = fit_on(on, "group-dro", filled("group-dro", {}), out=tmp_path / "runs")
        assert run.record["selection"] == "val.worst_class"
        assert set(run.record["rules"]) == {"val.worst_class", "val.mean", "last"}
        assert "worst_group" not in run.val
        assert run.test["worst_group"] == min(v for v in run.test["groups"] if v is not None)
        with pytest.raises(EmbedcalError, match=r"none in val of less\.h5: choose val\.w"):
            fit_on(on, "erm", {"epochs": 1}, select="val.worst_group", out=tmp_path / "runs")
        with pytest.raises(EmbedcalError, match="expected rows of known attribute in val"):
            fit_on(on, "dfr", {}, out=tmp_path / "runs")
        done = grid(["erm:epochs=1"], cache, seeds=2, engine="sequential", out=tmp_path / "grid")
        assert done.best is not None


def test_train_or_test_without_a_known_attribute(
    world: tuple[Workbench, Workbench], tmp_path: Path
) -> None:
    with open_cache(unlabelled(world[0], tmp_path, (0, 2))) as cache:
        on = Workbench(cache)
        run = fit_on(on, "erm", {"epochs": 1}, out=tmp_path / "runs")
        assert run.record["selection"] == "val.worst_group"
        assert run.val["worst_group"] is not None
        assert "worst_group" not in run.test
        assert "train_weighted" not in run.val
        assert fit_on(on, "dfr", filled("dfr", {}), out=tmp_path / "runs").val["group_sizes"]
        with pytest.raises(EmbedcalError, match="expected rows of known attribute in train"):
            fit_on(on, "group-dro", {}, out=tmp_path / "runs")
        with pytest.raises(EmbedcalError, match=r"found none in test of less\.h5"):
            fit_on(on, "erm", {"epochs": 1}, select="oracle.worst_group", out=tmp_path / "runs")
