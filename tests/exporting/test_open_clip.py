"""What is exported, loaded in a fresh process without embedcal, predicts as the run did."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from exported_for_tests import (
    HEADS,
    WHOLE,
    add_configs,
    ask,
    cached,
    pictures,
    run_of,
    softmax,
)
from safetensors.torch import load_file

from embedcal.cache import FeatureCache, open_cache
from embedcal.encoders.tiny import model as tiny
from embedcal.exporting import Exported, export
from embedcal.exporting.checkpoint import TINY
from embedcal.runs import Run

QUICK = {"tiny": ("both", "attnpool", "pooled", "alone")}
EVERY = {
    "tiny": HEADS,
    "small-resnet": HEADS,
    "small-vit": tuple(name for name in HEADS if name != "attnpool"),
    "small-custom": tuple(name for name in HEADS if name != "attnpool"),
    "RN50": ("both", "attnpool", "pooled"),
}
CASES = [
    pytest.param(tower, name, marks=() if name in QUICK.get(tower, ()) else pytest.mark.slow)
    for tower, names in EVERY.items()
    for name in names
]
WHOLE_CASES = [case for case in CASES if case.values[1] in WHOLE]


@dataclass(frozen=True)
class World:
    """Runs of some heads over one cache, what they were exported as, and what that ``told``."""

    cache: FeatureCache
    files: list[Path]
    runs: dict[str, Run]
    exported: dict[str, Exported]
    told: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """A function from a tower's name to its world, made once with the heads that are asked for."""
    asked: dict[str, list[str]] = {}
    for item in request.session.items:
        if item.module is request.module and hasattr(item, "callspec"):
            known = item.callspec.params
            if "tower" in known:
                names = asked.setdefault(known["tower"], [])
                names += [known["name"]] if known["name"] not in names else []
    folder = tmp_path_factory.mktemp("towers")
    add_configs(folder)
    opened = []

    @cache
    def world(tower: str) -> World:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EMBEDCAL_HOME", str(folder / "home"))
            return _made(tower, asked[tower])

    def _made(tower: str, names: list[str]) -> World:
        table = pictures(folder / tower / "data", 36 if tower == "RN50" else 72)
        read = {"crop": 60} if tower in ("small-vit", "RN50") else {}
        path = cached(table, tower, folder / tower / "cache.h5", read=read)
        found = open_cache(path)
        opened.append(found)
        rows = found.split("test").rows
        files = [table.parent / found.samples.paths[row] for row in rows]
        runs = {name: run_of(name, found, folder / tower / "runs") for name in names}
        exported = {
            name: export(run, found, out=folder / tower / f"a {name}") for name, run in runs.items()
        }
        told = ask({name: (each.path, each.whole) for name, each in exported.items()}, files, found)
        return World(found, files, runs, exported, told)

    yield world
    for each in opened:
        each.close()


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_the_script_predicts_as_the_run_did(worlds, tower: str, name: str) -> None:
    world = worlds(tower)
    logits = world.runs[name].predictions()["test"].numpy()
    rows = list(csv.DictReader(world.told[name]["script"].splitlines()))
    assert [row["file"] for row in rows] == list(map(str, world.files))
    classes = [row["class"] for row in rows]
    probabilities = np.array([float(row["probability"]) for row in rows])
    names = world.cache.meta.classes
    wanted = [names[k] for k in logits.argmax(1)]
    if name not in ("zeroshot", "both", "mean", "attnpool"):  # lean to a class, as random CLIPs do
        assert 0.1 < (logits.argmax(1) == 0).mean() < 0.9, "one class alone would prove little"
    assert classes == wanted
    spread = np.ptp(probabilities)
    tolerance = min(1e-4, spread / 10)
    if (tower, name) == ("RN50", "attnpool"):  # where all files look alike to random weights
        tolerance = 1e-6  # as exactly as the script prints
    else:
        assert spread > 1e-4, "files that look alike would prove little"
    np.testing.assert_allclose(probabilities, softmax(logits).max(1), atol=tolerance)


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_what_is_not_trained_is_as_it_was(worlds, tower: str, name: str) -> None:
    world = worlds(tower)
    exported = world.exported[name]
    assert exported.whole == (name in WHOLE)
    assert exported.difference is not None
    assert exported.difference < 1e-4 * max(1.0, exported.largest)
    state = load_file(exported.path / "open_clip_model.safetensors")
    plain = load_file(world.exported[plainest(world)].path / "open_clip_model.safetensors")
    before = world.runs[plainest(world)].record["cache"]
    assert before["fingerprint"] == world.cache.fingerprint
    changed = {key for key in state if not torch.equal(state[key], plain[key])}
    image = {"visual.proj", "visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"}
    allowed = {
        "attnpool": {key for key in state if key.startswith("visual.attnpool.")},
        "both": image | {"text_projection", "text.text_projection"},
    }.get(name, image if name in WHOLE else set())
    assert changed <= allowed | ({"logit_scale"} if name in WHOLE else set())
    if name in WHOLE and plainest(world) not in WHOLE:
        assert "logit_scale" in changed
        assert len(changed) > 1
        assert name != "both" or changed & {"text_projection", "text.text_projection"}


def plainest(world: World) -> str:
    """A head that leaves the encoder alone, of those at hand."""
    return next((name for name in world.runs if name not in WHOLE), next(iter(world.runs)))


def check(found: Any, wanted: np.ndarray) -> None:
    assert np.argmax(found, 1).tolist() == wanted.argmax(1).tolist()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("tower", "name"), [case for case in WHOLE_CASES if case.values[1] != "mean"]
)
def test_plain_open_clip_gives_the_runs_logits_from_texts(worlds, tower: str, name: str) -> None:
    """The classifier comes from the exported text tower, tokenizer, and the cache's templates."""
    world = worlds(tower)
    check(world.told[name]["texts"], world.runs[name].predictions()["test"].numpy())


@pytest.mark.parametrize(("tower", "name"), WHOLE_CASES)
def test_the_code_on_the_card_runs(worlds, tower: str, name: str) -> None:
    world = worlds(tower)
    blocks = world.told[name]["card"]
    assert len(blocks) == (1 if name == "mean" else 2)
    for found in blocks:
        check(found, world.runs[name].predictions()["test"].numpy())


def test_the_tiny_architecture_is_the_packages_own() -> None:
    ours, config = tiny.build().state_dict(), open_clip.CLIP(**TINY).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in config.items()}
    assert str(tiny.build()) == str(open_clip.CLIP(**TINY))
    assert (
        tiny.build().visual.attnpool.num_heads == open_clip.CLIP(**TINY).visual.attnpool.num_heads
    )
