"""Groups by one attribute, by several, by all: names, labels, ids, runs, commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parent / "cache"))
from encoders_for_tests import NumpyEncoder, make_images, make_manifest

from embedcal.cache import (
    BuildOptions,
    FeatureCache,
    Names,
    build_cache,
    import_features,
    open_cache,
)
from embedcal.comparing.recorded import collect
from embedcal.evaluate import evaluate_strata
from embedcal.fitting import Place, configure, fit, fit_on
from embedcal.grids import grid, parse
from embedcal.grids.running import _own
from embedcal.reproducing import recipe
from embedcal.reproducing.recipe import Part
from embedcal.reproducing.supply import differences
from embedcal.studies import study
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

PLACES, TIMES, CAMERAS = ("land", "sea"), ("day", "night", "dusk"), ("a", "b")
PAIRS = tuple(f"{place}, {camera}" for place in PLACES for camera in CAMERAS)


def make_cache(path: Path, *, product: bool = False) -> Path:
    """Three attributes in the order place, time, camera; or place times camera as one."""
    rng = np.random.default_rng(3)
    n = 240
    y, place, time, camera = (rng.integers(0, k, n) for k in (2, 2, 3, 2))
    camera[rng.random(n) < 0.1] = -1
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[:, 0] += 2 * y
    x[:, 1] += 2 * place
    pair = np.where(camera < 0, -1, 2 * place + camera)
    labels = {"place": place, "time": time, "camera": camera}
    values = {"place": PLACES, "time": TIMES, "camera": CAMERAS}
    if product:
        labels, values = {"pair": pair}, {"pair": PAIRS}
    names = Names(dataset="made", classes=("crow", "duck"), values=values)
    return import_features(x, y, np.arange(n) % 3, labels, names=names, out=path)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[FeatureCache]:
    with open_cache(make_cache(tmp_path / "three.h5")) as cache:
        yield cache


@pytest.fixture
def one(tmp_path: Path) -> Iterator[FeatureCache]:
    with open_cache(make_cache(tmp_path / "one.h5", product=True)) as cache:
        yield cache


# -- ids -----------------------------------------------------------------------------------------

# By attribute, of dfr (its revision 2), group-dro and jtt; theirs from before several attributes
# could be named.
GOLDEN = {
    None: ("8e51e172081e", "9d9d17ef0010", "463535a0556c"),
    "place": ("f65deec5598c", "f1ab16e9a0b0", "d390da3ad517"),
    "camera": ("ac7dec4d536b", "7074ea1224db", "caacf42e8162"),
}
GOLDEN_FOLDERS = {None: "made-04b861f4", "place": "made-3b90b2e9"}


def test_ids_are_what_they_were(tmp_path: Path) -> None:
    i = np.arange(48)
    x = ((i[:, None] * 7 + np.arange(4)[None] * 3) % 11).astype(np.float32)
    labels = {"place": (i // 2) % 2, "camera": (i // 4) % 2}
    out = tmp_path / "made.h5"
    methods = (("dfr", {}), ("group-dro", {"lr": 1e-2}), ("jtt", {}))
    with open_cache(
        import_features(x, i % 2, i % 3, labels, names=Names(dataset="made"), out=out)
    ) as cache:
        for attribute, wanted in GOLDEN.items():
            on = Workbench(cache, attribute)
            place = Place(on=on, seed=1, runs=tmp_path, device="cpu")
            found = [place.id(configure(name, o).resolve(on.offer)) for name, o in methods]
            assert tuple(found) == wanted
        for attribute, name in GOLDEN_FOLDERS.items():
            spaces = [parse("erm:lr=1e-3,1e-2")]
            assert _own(Workbench(cache, attribute), spaces, None, "random").name == name


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (None, ("place", "time", "camera")),
        ([], ("place", "time", "camera")),
        ("time", ("time",)),
        (["time"], ("time",)),
        (("camera", "place"), ("place", "camera")),
        (["place", "camera", "place"], ("place", "camera")),
        (["camera", "time", "place"], ("place", "time", "camera")),
    ],
)
def test_a_choice_has_one_form(asked: Any, chosen: tuple[str, ...], three: FeatureCache) -> None:
    on = Workbench(three, asked)
    assert on.attributes == chosen
    assert on.n_attributes == np.prod([{"time": 3}.get(name, 2) for name in chosen])
    erm = configure("erm", {}).resolve(on.offer)
    ids = {
        Place(on=Workbench(three, form), seed=0, runs=Path(), device="cpu").id(erm)
        for form in (asked, chosen, list(reversed(chosen)))
    }
    assert len(ids) == 1


def test_an_unknown_name_is_refused_everywhere(three: FeatureCache, one: FeatureCache) -> None:
    for ask in (Workbench, FeatureCache.group_names, FeatureCache.n_attributes):
        with pytest.raises(EmbedcalError, match="found 'palce': choose place, time, camera"):
            ask(three, ["place", "palce"])  # type: ignore[operator]
    with pytest.raises(EmbedcalError, match="found 'time': choose pair"):
        Workbench(one, "time")


# -- the product of some is as one attribute of their pairs ---------------------------------------


def test_labels_names_and_metrics_of_a_product(three: FeatureCache, one: FeatureCache) -> None:
    both, pair = Workbench(three, ["camera", "place"]), Workbench(one)
    assert three.group_names(("camera", "place")) == one.group_names()
    assert three.attribute_values(["place", "camera"]) == PAIRS
    guess = np.random.default_rng(0).integers(0, 2, 80)
    for split in ("train", "val", "test"):
        ours, theirs = both.split(split, "embedding"), pair.split(split, "embedding")
        assert ours.arrays.keys() == theirs.arrays.keys()
        for name, array in ours.arrays.items():
            assert (array == theirs.arrays[name]).all(), name
        assert (ours.g == -1).any()
        cells = both.strata(split, "embedding")
        assert repr(evaluate_strata(guess, cells)) == repr(
            evaluate_strata(guess, pair.strata(split, "embedding"))
        )


@pytest.mark.parametrize("name", ["dfr", "group-dro", "rwg", "subg"])
def test_runs_over_a_product_are_equal_to_the_bit(
    name: str, three: FeatureCache, one: FeatureCache, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"c": (1.0,), "refits": 2} if name == "dfr" else {"epochs": 3}
    ours = fit(name, three, attribute=("camera", "place"), out=tmp_path / "a", **options)
    theirs = fit(name, one, out=tmp_path / "b", **options)
    assert ours.id != theirs.id
    assert ours.record["attributes"] == ["place", "camera"]
    found, wanted = ours.all_predictions(), theirs.all_predictions()
    assert found.keys() == wanted.keys()
    assert all((found[rule] == wanted[rule]).all() for rule in found)
    for split in ("val", "test"):
        assert ours.record[split] == theirs.record[split]


# -- where a choice goes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grid_in_processes_has_the_same_groups(three: FeatureCache, tmp_path: Path) -> None:
    specs = ["group-dro:epochs=2", "dfr:c=1:refits=2"]
    found = {
        engine: grid(
            specs, three, seeds=1, attribute=["camera", "place"], engine=engine, jobs=2,
            out=tmp_path / engine,
        )
        for engine in ("sequential", "processes")
    }  # fmt: skip
    one, other = ({record["id"]: record["test"] for record in done.done} for done in found.values())
    assert len(one) == 2
    assert one == other
    for record in found["processes"].done:
        assert record["attributes"] == ["place", "camera"]
        assert len(record["test"]["groups"]) == 8


def test_known_facts_for_a_node_are_of_the_choice(three: FeatureCache) -> None:
    from embedcal.grids.engines.ray import known_of
    from embedcal.sharing import gather, workbench

    on = Workbench(three, ["camera", "place"])
    known: Any = known_of(on)
    there = workbench(known, on.attributes, gather(on, ("embedding",)))
    assert there.attributes == on.attributes
    assert there.n_attributes == 4
    assert there.has_groups("val")
    assert (there.strata("test", "embedding").cell == on.strata("test", "embedding").cell).all()


def test_names_of_groups_in_a_comparison(three: FeatureCache, tmp_path: Path) -> None:
    choices: tuple[Any, ...] = (None, "time", ["camera", "place"])
    for attribute in choices:
        fit("erm", three, attribute=attribute, out=tmp_path / "runs", epochs=1)
    pools = collect(tmp_path / "runs")
    assert [pool.attributes for pool in pools] == [three.meta.chosen(c) for c in choices]
    for pool, attribute in zip(pools, choices, strict=True):
        names = three.group_names(attribute)
        assert pool.group_names(len(names), 2) == names
        gone = replace(pool, path="/nowhere.h5").group_names(len(names), 2)
        assert len(set(gone)) == len(names)


def test_a_study_of_a_choice(three: FeatureCache, tmp_path: Path) -> None:
    def run(**options: Any) -> Any:
        return study(
            "several-attributes", [three], quick=True, engine="sequential", out=tmp_path, **options
        )

    (block,) = run(attribute=["camera", "place"]).blocks
    assert block.attributes == ("place", "camera")
    assert block.metrics == ("worst_group", "worst_group by place", "worst_group by camera")
    assert not any("time" in row.label for row in block.rows)
    with pytest.raises(EmbedcalError, match=r"expected two attributes or more .* found time alone"):
        run(attribute="time")
    with pytest.raises(EmbedcalError, match="found 'palce'"):
        run(attribute=["place", "palce"])


def test_a_recipe_names_several(three: FeatureCache, tmp_path: Path) -> None:
    text = (Path(recipe.__code__.co_filename).parent / "recipes").glob("*.toml")
    source = next(t for path in text if 'attribute = "place"' in (t := path.read_text()))
    own = tmp_path / "own.toml"
    own.write_text(source.replace('attribute = "place"', 'attribute = ["place", "night"]'))
    assert recipe(own).parts[0].attribute == ("place", "night")
    part = Part(name="p", source="made", backbone="imported", attribute=("time", "night"))
    assert "it has no attribute 'night'" in differences(part, three)
    assert not [line for line in differences(part, three) if "'time'" in line]


def test_commands_take_the_option_again_and_again(three: FeatureCache, tmp_path: Path) -> None:
    from embedcal.cli import app

    def answer(*words: str) -> Any:
        found = CliRunner().invoke(app, [*words, "--cache", str(three.meta.path), "--json"])
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    out = ("--out", str(tmp_path / "runs"))
    both = ("--attribute", "camera", "--attribute", "place")
    first = answer("fit", "erm", "--epochs", "1", *both, *out)
    again = answer("fit", "erm", "--epochs", "1", *both[2:], *both[:2], *out)
    assert again["id"] == first["id"]
    assert first["attributes"] == ["place", "camera"]
    every = answer("fit", "erm", "--epochs", "1", *out)
    assert every["attributes"] == ["place", "time", "camera"]
    done = answer("grid", "erm:epochs=1", "--seeds", "1", "--engine", "sequential", *both, *out)
    assert json.dumps(done).count(first["id"]) >= 1
    shown = CliRunner().invoke(
        app, ["fit", "erm", "--epochs", "1", *both, "--cache", str(three.meta.path), *out]
    )
    assert "land, b" in shown.output


# -- prompts that stand for values -----------------------------------------------------------------


def test_context_prompts_are_of_the_attribute_that_makes_the_groups(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "images", make_images(tmp_path / "images", 60))
    contexts = ("on land", "on water", "u", "v", "w")
    prompts = {**manifest.prompts, "attribute": contexts, "context": contexts}
    manifest = replace(manifest, prompts=prompts)
    options = BuildOptions(
        out=tmp_path / "cache.h5", batch_size=8, templates=("a photo of a {}.", "{}")
    )
    path = build_cache(manifest, NumpyEncoder(), options=options).path
    given = {"variant": "official", "vs_weight": 1.0, "epochs": 1}
    with open_cache(path) as cache:
        method = configure("spurious", given).resolve(Workbench(cache).offer)
        for attribute, own in (("place", slice(0, 2)), ("a/b .", slice(2, 5))):
            on = Workbench(cache, attribute)
            bank = on.task(method).bank("context")
            assert bank.prompts == contexts[own]
            assert (bank.embedding == cache.text("context").embedding[own]).all()
            assert on.task(method).bank("attribute").prompts == contexts
            assert fit_on(on, "spurious", given, out=tmp_path / "runs").test["mean"] >= 0
        with pytest.raises(EmbedcalError, match=r"found the product of place, a/b \.: name one"):
            fit_on(Workbench(cache), "spurious", given, out=tmp_path / "runs")
