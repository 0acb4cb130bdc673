"""Mistakes that a newcomer makes, in Python and in the shell: one line each, and nothing lost."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedcal
from embedcal.cache import FeatureCache, open_cache
from embedcal.grids import seeds_of
from embedcal.interchange.predictions import find_run
from embedcal.sharded import cache as on_ray
from embedcal.types import EmbedcalError

api: Any = embedcal  # what is wrong on purpose is wrong for a type checker too


@pytest.fixture
def cache(birds: Path) -> Any:
    with open_cache(birds) as opened:
        yield opened


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: api.fit("erm", str(cache.meta.path)),
        lambda cache: api.fit("erm", None),
        lambda cache: api.grid(["erm"], str(cache.meta.path)),
    ],
)
def test_a_path_in_place_of_an_open_cache(call: Callable[[FeatureCache], Any], cache: Any) -> None:
    with pytest.raises(EmbedcalError, match=r"expected an open cache, found .*embedcal\.open"):
        call(cache)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda cache: api.compare(None), "folders of runs, found None: give the path"),
        (lambda cache: api.results([None]), "folders of runs, found None: give the path"),
        (lambda cache: api.report(3), "folders of runs, found 3: give the path"),
        (lambda cache: api.grid([{}], cache), r"a method for a grid, found \{\}: write text"),
        (lambda cache: api.grid("erm", cache), r"found 'erm': write \['erm'\]"),
        (lambda cache: api.fit(None, cache), "the name of a method, found None: embedcal methods"),
        (lambda cache: api.open(None), "the path of a cache, found None: give its file"),
    ],
)
def test_nothing_in_place_of_something_is_one_line(
    call: Callable[[FeatureCache], Any], said: str, cache: FeatureCache
) -> None:
    with pytest.raises(EmbedcalError, match=f"^expected .*{said}"):
        call(cache)


@pytest.mark.parametrize("jobs", [0, -2])
@pytest.mark.parametrize(
    "call",
    [
        lambda cache, jobs: api.grid(["zeroshot"], cache, out="g", jobs=jobs),
        lambda cache, jobs: api.leaderboard(cache, ["zeroshot"], out="g", jobs=jobs),
        lambda cache, jobs: api.study("samplers", [cache], out="g", jobs=jobs),
        lambda cache, jobs: api.reproduce("birds-quick", out="g", jobs=jobs),
        lambda cache, jobs: on_ray("birds", out="g", jobs=jobs),
    ],
    ids=["grid", "leaderboard", "study", "reproduce", "cache"],
)
def test_fewer_than_one_process_are_refused_before_anything_is_made(
    call: Callable[[FeatureCache, int], Any],
    jobs: int,
    cache: FeatureCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmbedcalError, match=f"--jobs of 1 or more, found {jobs}: leave it out"):
        call(cache, jobs)
    assert not Path("g").exists()


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, 1 << 63, 10**30, None])
def test_what_is_no_seed_is_one_line(seed: Any, cache: FeatureCache, tmp_path: Path) -> None:
    for call in (
        lambda: api.fit("zeroshot", cache, seed=seed, out=tmp_path),
        lambda: seeds_of([0, seed]),
    ):
        with pytest.raises(EmbedcalError, match=r"expected a seed from 0 to 2\*\*63 - 1, found"):
            call()


@pytest.mark.parametrize("seeds", [0, 10**11, [], "12"])
def test_what_are_no_seeds_is_one_line(seeds: Any) -> None:
    with pytest.raises(EmbedcalError, match="seeds"):
        seeds_of(seeds)


def test_numbers_of_numpy_are_seeds(cache: FeatureCache, tmp_path: Path) -> None:
    int_of_numpy: Any = np.int64(3)
    assert seeds_of(int_of_numpy) == (0, 1, 2)
    assert seeds_of(np.array([4, 1, 4])) == (4, 1)
    mine, theirs = (
        api.fit("erm", cache, epochs=1, seed=seed, out=tmp_path) for seed in (3, int_of_numpy)
    )
    assert mine.id == theirs.id
    assert theirs.reused


def test_options_may_be_numbers_of_numpy_and_lists(cache: FeatureCache) -> None:
    from embedcal.fitting import configure

    given = {"epochs": np.int64(2), "lr": np.float64(1e-3)}
    assert configure("erm", given) == configure("erm", {"epochs": 2, "lr": 1e-3})
    assert configure("dfr", {"c": [1.0, np.float64(0.1)]}) == configure("dfr", {"c": (1.0, 0.1)})
    for c in ((0.0,), ()):
        with pytest.raises(EmbedcalError, match="expected --c to be positive numbers"):
            configure("dfr", {"c": c})


def test_a_whole_number_is_the_float_that_it_stands_for(
    cache: FeatureCache, tmp_path: Path
) -> None:
    """Equal options have one id, and a head whose file holds the number can be read again."""
    from embedcal.fitting import configure

    run = api.fit("perceptionclip", cache, temperature=3, out=tmp_path)
    assert run.head().config["temperature"] == 3.0
    assert api.fit("perceptionclip", cache, temperature=3.0, out=tmp_path).id == run.id
    whole, real = (configure("dfr", {"c": c}).record() for c in ([1, 2], [1.0, 2.0]))
    assert json.dumps(whole) == json.dumps(real)
    assert json.dumps(configure("dfr", {"refits": 2}).record()["refits"]) == "2"


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("erm", {"lr": math.inf}),
        ("erm", {"lr": 10**400}),
        ("erm", {"momentum": math.nan}),
        ("erm", {"weight_decay": math.inf}),
        ("perceptionclip", {"temperature": math.nan}),
        ("dfr", {"c": (math.nan,)}),
        ("dfr", {"c": [1.0, -math.inf]}),
    ],
)
def test_numbers_that_are_not_finite_are_one_line(method: str, options: dict[str, Any]) -> None:
    from embedcal.fitting import configure

    (name,) = options
    told = rf"expected --{name.replace('_', '-')} of {method} to be finite, found .*: give, say, "
    with pytest.raises(EmbedcalError, match=told):
        configure(method, options)


@pytest.mark.parametrize("c", [["0.1"], [1.0, None], [True]])
def test_items_of_a_list_are_of_its_type(c: list[Any]) -> None:
    from embedcal.fitting import configure

    with pytest.raises(
        EmbedcalError, match="expected --c of dfr to be a list, each item a number, found"
    ):
        configure("dfr", {"c": c})


def test_a_figure_and_its_csv_are_two_files(tmp_path: Path) -> None:
    from embedcal.answers.mapping import check_places

    check_places(tmp_path / "m.png", tmp_path / "m.csv")
    with pytest.raises(EmbedcalError, match="expected two files"):
        check_places(tmp_path / "m.png", tmp_path / "m.png")


def test_nobody_is_told_to_unpickle(tmp_path: Path) -> None:
    for name in ("x.npz", "x.npy"):
        np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        (tmp_path / name).write_bytes((tmp_path / "objects.npy").read_bytes())
        with pytest.raises(EmbedcalError, match=r"found (pickled objects|Array can't)") as caught:
            api.import_from(tmp_path / name, out=tmp_path / "c.h5")
        assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("draws", [-1, 10**12])
def test_draws_that_cannot_be_made(draws: Any) -> None:
    y = np.array([0, 1, 0, 1])
    with pytest.raises(EmbedcalError, match="draws"):
        api.evaluate(y, y, y, draws=draws)


def test_a_home_that_cannot_be_written_costs_no_answer(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(
        f"{sys.executable} -m embedcal fit zeroshot --cache {cache.meta.path} --json "
        f"--out {tmp_path / 'runs'}",
        EMBEDCAL_HOME=str(tmp_path / "file"),
    )
    assert done.returncode == 0, done.stderr
    assert '"method": "zeroshot"' in done.stdout


def test_a_split_and_boxes_of_the_command_line_reach_the_reader(tmp_path: Path) -> None:
    from PIL import Image

    for row in range(12):
        Image.new("RGB", (40, 40), (20 * row, 0, 0)).save(tmp_path / f"{row}.png")
    lines = [f"{row}.png,{'ab'[row % 2]}" for row in range(12)]
    (tmp_path / "x.csv").write_text("\n".join(["path,y", *lines]) + "\n")
    asked = f"{sys.executable} -m embedcal cache {tmp_path / 'x.csv'} --backbone tiny"
    asked += f" --templates simple --out {tmp_path / 'x.h5'}"
    done = run(f"{asked} --split 0.5,0.25,0.25 --split-seed 3")
    assert done.returncode == 0, done.stderr
    with open_cache(tmp_path / "x.h5") as opened:
        assert [len(opened.split(split)) for split in ("train", "val", "test")] == [6, 3, 3]  # type: ignore[arg-type]
    for more in ("--split nonsense", "--split 0.5,0.25,0.25 --boxes nothere.json"):
        done = run(f"{asked} {more}")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), more


@pytest.mark.parametrize("images", [np.zeros((2, 3)), b"ab", [1, 2]])
def test_images_that_are_no_paths(images: Any, cache: FeatureCache, tmp_path: Path) -> None:
    run = api.fit("zeroshot", cache, out=tmp_path / "runs")
    with pytest.raises(EmbedcalError, match="expected paths of images, found"):
        api.predict(run, images, cache=cache)


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_damaged_predictions_are_one_line(damage: str, cache: FeatureCache, tmp_path: Path) -> None:
    from safetensors import numpy as tensors

    run = api.fit("zeroshot", cache, out=tmp_path)
    file = run.folder / "predictions.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "text":
        file.write_text("no tensors")
    else:
        stored: Any = tensors
        stored.save_file({"else": np.zeros(3)}, file)
    calls: list[Callable[[], object]] = [lambda: run.strata("val")]
    if damage != "other":
        calls.append(run.all_predictions)
    for call in (*calls, lambda: run.logits("none", "val")):
        with pytest.raises(EmbedcalError, match=r"found it damaged .* fit it again"):
            call()


def test_lines_of_results_that_are_a_folder(cache: FeatureCache, tmp_path: Path) -> None:
    api.fit("zeroshot", cache, out=tmp_path)
    (tmp_path / "results.jsonl").unlink()
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(EmbedcalError, match="expected lines of results"):
        api.fit("zeroshot", cache, out=tmp_path)


def test_a_folder_to_merge_into_that_is_a_file(cache: FeatureCache, tmp_path: Path) -> None:
    api.fit("zeroshot", cache, out=tmp_path / "a")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EmbedcalError, match="expected to write into"):
        api.merge([tmp_path / "a"], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_last_is_a_run_of_this_cache_and_not_of_another_of_its_name(
    birds: Path, tmp_path: Path
) -> None:
    other = tmp_path / "one" / birds.name
    other.parent.mkdir()
    shutil.copy(birds, other)
    with open_cache(other) as cache:
        mine = api.fit("zeroshot", cache)
    read = api.ReadOptions(rows=220, seed=5)
    second = tmp_path / "two" / birds.name
    api.cache("birds", backbone="tiny", read=read, out=second)
    with open_cache(second) as cache:
        theirs = api.fit("zeroshot", cache)
    assert find_run("last", other).id == mine.id
    assert find_run("last", second).id == theirs.id
    with pytest.raises(EmbedcalError, match="expected a run, found none"):
        find_run("", other)


def test_counts_of_classes_without_rows_of_train(cache: FeatureCache, tmp_path: Path) -> None:
    from embedcal.answers.caches import info_record, info_report
    from embedcal.cache import import_features

    rng = np.random.default_rng(0)
    path = import_features(
        rng.normal(size=(8, 4)), np.zeros(8, int), np.full(8, 2), {"place": np.arange(8) % 2},
        out=tmp_path / "test-only.h5",
    )  # fmt: skip
    with open_cache(path) as opened:
        record = info_record(opened)
        counts = record["groups"]["counts"]
        assert [len(each) for each in counts.values()] == [len(opened.group_names())] * 3
        assert sum(counts["test"]) == 8
        assert info_report(record) is not None


@pytest.mark.parametrize("counts", [[np.nan, 2, 1, 1], [-1, 2, 1, 1], [0, 0, 0, 0]])
def test_training_counts_that_are_none(counts: list[float]) -> None:
    y, groups = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 0])
    with pytest.raises(EmbedcalError, match="training counts"):
        api.evaluate(y, y, groups, train_group_counts=np.array(counts))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_without_room_is_one_line() -> None:
    done = run(f"{sys.executable} -m embedcal methods --json > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("embedcal: expected room to write")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["report", "cache"])
def test_a_path_that_is_too_long_is_one_line(words: str) -> None:
    done = run(f"{sys.executable} -m embedcal {words} {'a' * 300}")
    assert done.returncode == 2
    assert done.stderr.startswith("embedcal: expected to reach aaa")
    assert os.strerror(errno.ENAMETOOLONG) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user")
def test_a_path_that_may_not_be_looked_at_is_one_line() -> None:
    """As another user, once what the command imports has been read as root."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "runs").mkdir()
        code = (
            "import os, sys\n"
            "from embedcal.cli import main\n"
            f"for uid, path in ((0, {'a' * 300!r}), (65534, {folder + '/runs'!r})):\n"
            "    os.setuid(uid)\n"
            "    sys.argv = ['embedcal', 'report', path]\n"
            "    try:\n"
            "        main()\n"
            "    except SystemExit as stop:\n"
            "        assert stop.code == 2\n"
        )
        done = run(f"{sys.executable} -c {shlex.quote(code)}")
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[1].startswith(f"embedcal: expected to reach {folder}/runs")
    assert os.strerror(errno.EACCES) in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize("words", ["fit --help", "methods --json", "methods"])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    done = run(f"set -o pipefail; {sys.executable} -m embedcal {words} | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_our_signs(birds: Path, tmp_path: Path) -> None:
    with open_cache(birds) as cache:
        api.grid(["erm:epochs=1"], cache, seeds=2, out=tmp_path / "g")
    done = run(f"{sys.executable} -m embedcal compare {tmp_path / 'g'}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "erm" in done.stdout


def test_a_broken_width_is_no_width() -> None:
    for columns in ("0", "-3", "x"):
        done = run(f"{sys.executable} -m embedcal methods", COLUMNS=columns)
        assert "group-dro" in done.stdout, columns
