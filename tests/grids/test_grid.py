"""What a grid's command promises: nothing twice, more on demand, failures told and passed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from grids_for_tests import lines, outcome, times_done

from embedcal.grids import Tally, grid, load
from embedcal.runs import load_run
from embedcal.types import EmbedcalError

ERM = "erm:lr=1e-3,1e-2:epochs=1"
BAD = "erm:optimizer=sgd:lr=1e38:epochs=3"
PLAIN = {"engine": "sequential"}


@pytest.fixture
def fitted(monkeypatch):
    """Seeds and ids of whatever is fitted."""
    from embedcal import fitting

    found, fit_new = [], fitting.fit_new

    def note(method, wanted, place):
        found.append(place.id(method))
        return fit_new(method, wanted, place)

    monkeypatch.setattr("embedcal.fitting.fit_new", note)
    monkeypatch.setattr("embedcal.grids.jobs.fit_new", note)
    return found


def test_the_same_command_repeats_nothing_and_gives_the_same(cache, tmp_path, fitted) -> None:
    first = grid([ERM], cache, out=tmp_path, seeds=2, **PLAIN)
    assert len(fitted) == 4
    again = grid([ERM], cache, out=tmp_path, seeds=2, **PLAIN)
    assert len(fitted) == 4
    assert (first.reused, again.reused) == (0, 4)
    assert json.dumps(again.records) == json.dumps(  # but for the curves, which no line has
        [{k: v for k, v in r.items() if k != "curve"} for r in first.records]
    )
    assert again.best == first.best
    assert [r["seed"] for r in again.records] == [0, 1, 0, 1]
    assert [r["options"]["lr"] for r in again.records] == [1e-3, 1e-3, 1e-2, 1e-2]
    assert len(lines(tmp_path)) == 4


def test_more_seeds_and_settings_do_only_what_is_new(cache, tmp_path, fitted) -> None:
    grid([ERM], cache, out=tmp_path, seeds=2, **PLAIN)
    more = grid([ERM], cache, out=tmp_path, seeds=3, **PLAIN)
    assert (len(fitted), more.reused, len(more.records)) == (6, 4, 6)
    wider = grid(["erm:lr=1e-3,1e-2,1:epochs=1"], cache, out=tmp_path, seeds=3, **PLAIN)
    assert (len(fitted), wider.reused) == (9, 6)
    some = grid([ERM], cache, out=tmp_path, seeds=[2, 7, 2], **PLAIN)
    assert (len(fitted), some.reused, len(some.records)) == (11, 2, 4)
    assert len(load(tmp_path).asked) == 11


def test_another_rule_does_nothing_again(cache, tmp_path, fitted) -> None:
    grid([ERM, "dfr:c=1:refits=1"], cache, out=tmp_path, seeds=2, **PLAIN)
    done = len(fitted)
    for select in ("val.mean", "last", "val.worst_class"):
        other = grid(
            [ERM, "dfr:c=1:refits=1"], cache, out=tmp_path, seeds=2, select=select, **PLAIN
        )
        assert (len(fitted), other.reused, other.select) == (done, 6, select)
        assert other.best is not None
    oracle = grid([ERM], cache, out=tmp_path, seeds=2, select="oracle.worst_group", **PLAIN)
    assert len(fitted) == done + 4  # nobody keeps an oracle's head unless asked
    assert all("oracle.worst_group" in r["rules"] for r in oracle.records)


def test_settings_that_resolve_to_one_run_are_one_run(cache, tmp_path, fitted) -> None:
    found = grid(
        ["erm:lr=1e-2:epochs=1", "erm:epochs=1", ERM], cache, out=tmp_path, seeds=1, **PLAIN
    )
    assert len(fitted) == len(found.records) == 2


def test_a_method_that_draws_nothing_runs_once_whatever_the_seeds(photos, tmp_path, fitted) -> None:
    for seeds in (1, 5, [3, 4]):
        found = grid(["zeroshot"], photos, out=tmp_path, seeds=seeds, **PLAIN)
        assert len(found.records) == 1
    assert len(fitted) == 2  # the first seed of the last command is another


def test_a_failed_run_is_recorded_and_the_rest_goes_on(cache, tmp_path, fitted) -> None:
    found = grid([BAD, ERM], cache, out=tmp_path, seeds=2, **PLAIN)
    assert [r["status"] for r in found.records] == ["failed"] * 2 + ["done"] * 4
    for record in found.failed:
        assert "finite" in record["reason"]
        assert "\n" not in record["reason"]
        assert load_run(tmp_path / record["id"]) is None
        assert {"id", "method", "variant", "head", "options", "seed", "cache", "seconds"} <= set(
            record
        )
        assert "rules" not in record
    done = len(fitted)
    again = grid([BAD, ERM], cache, out=tmp_path, seeds=2, **PLAIN)
    assert (len(fitted), again.reused, len(again.failed)) == (done, 6, 2)
    retried = grid([BAD, ERM], cache, out=tmp_path, seeds=2, retry_failed=True, **PLAIN)
    assert (len(fitted), retried.reused, len(retried.failed)) == (done + 2, 4, 2)
    assert retried.best == found.best


def test_a_second_look_that_fails_leaves_a_finished_run_finished(
    cache, tmp_path, monkeypatch
) -> None:
    from embedcal.grids import jobs

    grid([ERM], cache, out=tmp_path, seeds=1, **PLAIN)

    def broken(*args, **kwargs):
        raise RuntimeError("no second look")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "fit_new", broken)
        found = grid([ERM], cache, out=tmp_path, seeds=1, select="val.env", **PLAIN)
        assert [record["status"] for record in found.records] == ["failed"] * len(found.records)
    again = grid([ERM], cache, out=tmp_path, seeds=1, **PLAIN)
    assert again.done
    assert not again.failed


def test_a_bug_in_a_run_is_a_record_with_its_traceback(cache, tmp_path, monkeypatch) -> None:
    def stumble(*args, **kwargs):
        raise ZeroDivisionError("two\nlines")

    with monkeypatch.context() as patch:
        patch.setattr("embedcal.train.train", stumble)
        found = grid(["erm:epochs=1", "dfr:c=1:refits=1"], cache, out=tmp_path, seeds=1, **PLAIN)
    (failed,), (_,) = found.failed, found.done
    assert failed["reason"] == "ZeroDivisionError: two"
    assert "Traceback" in (tmp_path / failed["id"] / "failed.json").read_text()
    assert "Traceback" not in (tmp_path / "results.jsonl").read_text()
    mended = grid(["erm:epochs=1"], cache, out=tmp_path, seeds=1, retry_failed=True, **PLAIN)
    assert len(mended.done) == 1
    assert not (tmp_path / failed["id"] / "failed.json").exists()
    assert grid(["erm:epochs=1"], cache, out=tmp_path, seeds=1, **PLAIN).reused == 1


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_a_stage_is_done_once_for_all_that_start_from_it(engine, cache, tmp_path) -> None:
    specs = ["jtt:upweight=2,5,9:epochs=1:stage_epochs=1"]
    found = grid(specs, cache, out=tmp_path, seeds=2, engine=engine)
    assert [r["status"] for r in found.records] == ["done"] * 6
    assert len({r["stage"] for r in found.records}) == 2
    done = times_done(tmp_path)
    assert len(done) == 8
    assert set(done.values()) == {1}
    assert set(load(tmp_path).asked) == {r["id"] for r in found.records}
    also = grid(["erm:epochs=1"], cache, out=tmp_path, seeds=2, engine=engine)
    assert also.done


def test_a_stage_that_fails_fails_those_that_start_from_it(cache, tmp_path) -> None:
    for engine in ("sequential", "batched"):
        found = grid(
            ["jtt:epochs=1:stage_epochs=3:lr=1e38:optimizer=sgd", "erm:epochs=1"],
            cache,
            out=tmp_path / engine,
            seeds=1,
            engine=engine,
        )
        assert [r["status"] for r in found.records] == ["failed", "done"]
        assert "finite" in found.failed[0]["reason"]


def test_a_watch_is_told_of_everything(cache, tmp_path) -> None:
    told: list[Tally] = []
    found = grid([BAD, ERM], cache, out=tmp_path, seeds=2, watch=told.append, **PLAIN)
    last = told[-1]
    assert (last.total, last.done, last.failed, last.running, last.reused) == (6, 4, 2, 0, 0)
    assert last.best == found.best
    assert all(a.done + a.failed <= b.done + b.failed for a, b in pairwise(told))
    grid([BAD, ERM], cache, out=tmp_path, seeds=2, watch=told.append, **PLAIN)
    assert (told[-1].total, told[-1].reused) == (6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "gpu"}, "sequential, processes"),
        ({"seeds": 0}, "one seed or more"),
        ({"seeds": []}, "one seed or more"),
        ({"seeds": [-1]}, "a seed from 0"),
        ({"select": "val.best"}, "rule"),
        ({"attribute": "colour"}, "expected an attribute of"),
        ({"search": "optuna"}, "--budget"),
        ({"budget": 0}, "--budget of 1"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(options, message, cache, tmp_path):
    with pytest.raises(EmbedcalError, match=message) as caught:
        grid([ERM], cache, out=tmp_path / "g", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "g").exists()


def test_far_too_many_runs_are_refused(cache, tmp_path) -> None:
    many = ",".join(f"{i}" for i in range(1, 400))
    with pytest.raises(EmbedcalError, match=r"at most 100,000 runs.*--budget"):
        grid([f"erm:epochs={many}:batch_size={many}"], cache, out=tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_without_a_folder_a_grid_has_its_own_and_more_seeds_go_there(cache) -> None:
    first = grid([ERM], cache, seeds=1, **PLAIN)
    again = grid([ERM], cache, seeds=2, **PLAIN)
    other = grid(["erm:epochs=1"], cache, seeds=1, **PLAIN)
    assert first.folder == again.folder != other.folder
    assert (again.reused, len(again.records)) == (2, 4)


def test_a_folder_that_cannot_be_written_is_one_line(cache, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EmbedcalError, match="expected") as caught:
            grid([ERM], cache, out=out, seeds=1, **PLAIN)
        assert "\n" not in str(caught.value)


def test_records_outlive_a_change_of_the_working_folder(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = grid([ERM], cache, out="runs", seeds=1, **PLAIN)
    assert grid([ERM], cache, out=tmp_path / "runs", seeds=1, **PLAIN).reused == 2
    assert len(outcome(first.folder)) == 2


@pytest.mark.slow
def test_a_script_needs_no_main_guard(made: Path, tmp_path: Path) -> None:
    """Workers of ``spawn`` would run the script again; loky's do not."""
    script = tmp_path / "script.py"
    script.write_text(
        "from embedcal.cache import open_cache\n"
        "from embedcal.grids import grid\n"
        "print('begun')\n"
        f"with open_cache({str(made)!r}) as cache:\n"
        "    found = grid(['dfr:c=1,0.1:refits=1'], cache, seeds=1, engine='processes', jobs=2,\n"
        f"                 out={str(tmp_path / 'g')!r})\n"
        "print(len(found.done), 'done')\n"
    )
    environment = {**os.environ, "EMBEDCAL_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.stdout == "begun\n2 done\n", ran.stderr
