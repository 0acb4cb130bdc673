"""Every engine gives the same runs: ids to the letter, metrics to a tolerance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grids_for_tests import SPECS, judged, outcome, run_grid, times_done

from embedcal.grids import ENGINES, grid
from embedcal.grids.engines import processes
from embedcal.methods import find
from embedcal.types import EmbedcalError

PHOTOS = ["zeroshot", "erm:epochs=2", "cfr:calibration=erm:stage_epochs=1:epochs=1:neg=rns"]
SHARE = 0.06  # of a group's rows that float32 in another order may turn over: 1 of 17


def same(mine: dict, theirs: dict, share: float) -> None:
    """Equal but for accuracies, which may differ by ``share``."""
    assert set(mine) == set(theirs)
    for name, record in mine.items():
        other = theirs[name]
        for key in ("status", "labels_used", "stage", "options", "seed", "selection"):
            assert record[key] == other[key], (name, key)
        assert set(record["rules"]) == set(other["rules"])
        for split in ("val", "test"):
            for metric in ("mean", "worst_group"):
                found = (record[split][metric], other[split][metric])
                np.testing.assert_allclose(*found, atol=share, err_msg=f"{name} {metric}")


@pytest.fixture(scope="module")
def sequential(made: Path, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sequential")
    run_grid(made, folder, home=str(folder / "home"))
    return outcome(folder)


@pytest.mark.parametrize(
    "engine",
    [
        "batched",
        pytest.param("auto", marks=pytest.mark.slow),
        pytest.param("processes", marks=pytest.mark.slow),
    ],
)
def test_an_engine_gives_what_sequential_gives(engine, made, sequential, tmp_path) -> None:
    found = run_grid(made, tmp_path, engine=engine, jobs=2)
    assert len(found.done) == 15
    same(outcome(tmp_path), sequential, 0.0 if engine == "processes" else SHARE)
    assert set(times_done(tmp_path).values()) == {1}
    allowed = {"processes": {"processes"}, "batched": {"batched"}}.get(engine, set(ENGINES))
    assert {record["engine"] for record in found.records} <= allowed
    if engine == "processes":  # to the bit
        assert outcome(tmp_path) == sequential


@pytest.mark.parametrize("engine", ["batched", pytest.param("processes", marks=pytest.mark.slow)])
def test_engines_agree_over_a_cache_with_text(engine, photos, tmp_path) -> None:
    folders = {name: tmp_path / name for name in ("sequential", engine)}
    found = {
        name: grid(PHOTOS, photos, out=folder, seeds=1, engine=name, jobs=2)
        for name, folder in folders.items()
    }
    assert all(len(one.done) == 3 for one in found.values())
    same(*(outcome(folder) for folder in folders.values()), 0.0 if engine == "processes" else SHARE)


def test_one_engine_takes_up_what_another_began(made, sequential, tmp_path) -> None:
    run_grid(made, tmp_path, SPECS[:1], engine="batched", seeds=2)
    found = run_grid(made, tmp_path)
    assert (found.reused, len(found.done)) == (6, 15)
    assert set(outcome(tmp_path)) == set(sequential)
    assert set(times_done(tmp_path).values()) == {1}
    assert {r["engine"] for r in found.records} == {"batched", "sequential"}
    assert all(judged(r)["rules"] for r in found.records)


def test_auto_leaves_few_quick_runs_to_one_process(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "run", lambda *a, **k: pytest.fail("processes were started"))
    assert len(run_grid(made, tmp_path, ["dfr:c=1:refits=1"], engine="auto").done) == 3


COUNTING = '''
"""A method whose state holds a number beside a tensor."""
from dataclasses import dataclass
import torch
from torch.nn import functional as F
from embedcal.methods.base import Gradient, option


@dataclass(frozen=True, kw_only=True)
class Counting(Gradient):
    """Minimises the cross-entropy times the number in its state, and counts its steps."""

    name = "counting"
    power: float = option(1.0, "a factor", hyper=True)

    def init(self, plan):
        return 3, torch.zeros(())

    def loss(self, head, state, batch, hyper):
        factor, steps = state
        assert isinstance(factor, int)
        loss = F.cross_entropy(head(batch.x), batch.y) * factor * hyper["power"]
        return loss + 0 * steps, (factor, steps + 1)
'''


def test_a_method_of_ones_own_may_keep_plain_numbers_in_its_state(photos, tmp_path) -> None:
    file = tmp_path / "counting.py"
    file.write_text(COUNTING)
    for engine in ("sequential", "batched"):
        spec = f"{file}:power=1,2:epochs=2"
        found = grid([spec], photos, out=tmp_path / engine, seeds=2, engine=engine)
        assert [record.get("reason") for record in found.records] == [None] * 4
    same(outcome(tmp_path / "sequential"), outcome(tmp_path / "batched"), SHARE)


GREEDY = '''
"""A method that solves alone, and in a stack runs out of memory with all of it in its hands."""
import weakref
from dataclasses import dataclass
import numpy as np
from embedcal.methods.base import Solver, option
from embedcal.methods.linear_probe import LinearProbe

held = []


@dataclass(frozen=True, kw_only=True)
class Greedy(LinearProbe):
    """Fits a probe."""

    name = "greedy"
    number: int = option(0, "tells runs apart")

    @property
    def stack_key(self):
        return "all"

    @classmethod
    def solve_stack(cls, methods, task, seeds):
        assert not [array for array in held if array() is not None]
        if len(methods) > 1:
            array = np.zeros(1000)
            held.append(weakref.ref(array))
            raise MemoryError
        return super().solve_stack(methods, task, seeds)
'''


def test_a_stack_that_ran_out_of_memory_holds_none_while_its_halves_run(made, tmp_path) -> None:
    file = tmp_path / "greedy.py"
    file.write_text(GREEDY)
    find(str(file))  # once, so that all runs are of one class
    found = run_grid(made, tmp_path / "g", ["greedy:number=0,1,2,3"], engine="batched", seeds=1)
    assert [record.get("reason") for record in found.records] == [None] * 4


@pytest.mark.parametrize("engine", sorted({*ENGINES} - {"ray"}))
def test_a_device_that_is_not_there_fails_no_run(engine: str, made, tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match="a device that torch can use, found 'gpu'"):
        run_grid(made, tmp_path, ["erm:epochs=1"], engine=engine, seeds=1, device="gpu")
    assert len(run_grid(made, tmp_path, ["erm:epochs=1"], engine=engine, seeds=1).done) == 1
