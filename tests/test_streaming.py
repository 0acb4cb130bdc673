"""Features left in the file: the shuffle's statistics, ids, equality with memory, refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from embedcal.cache import FeatureCache, import_features, join_shards, open_cache
from embedcal.features import Resident, StoredRows, Streamed, features
from embedcal.fitting import Place, configure, fit, fit_on
from embedcal.grids import grid
from embedcal.heads import predict
from embedcal.methods import names
from embedcal.methods._drawing import batches
from embedcal.methods.base import Gradient, Solver
from embedcal.streaming import (
    BLOCK,
    WINDOW,
    block_order,
    left_in_file,
    limit,
    machine_memory,
    size,
    spread,
)
from embedcal.train import train
from embedcal.types import EmbedcalError, Examples
from embedcal.workbench import Workbench

QUICK: dict[str, dict[str, Any]] = {
    "con-adapter": {"positives": 16, "negatives": 16},
    "jtt": {"stage_epochs": 1},
    "cfr": {"stage_epochs": 1},
    "afr": {"stage_epochs": 1},
}
TIGHT = 20_000  # bytes: less than any split of 600 birds at any level


@pytest.fixture
def cache(birds: Path) -> Iterator[FeatureCache]:
    with open_cache(birds) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 rows of 24 float16 numbers, sorted by class."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(4)
    y, place = np.arange(900) // 450, rng.integers(0, 2, 900)
    x = rng.normal(size=(900, 24))
    x[:, 0] += 2 * y
    x[:, 1] += 2 * place
    split = rng.integers(0, 3, 900)
    return import_features(x.astype(np.float16), y, split, {"place": place}, out=folder / "made.h5")


# The shuffle


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 31, 32, 33, 96, 257])
def test_every_row_comes_once(n: int) -> None:
    for seed in range(5):
        order = block_order(n, seeded(seed), block=4, window=8)
        assert order.dtype == torch.int64
        assert sorted(order.tolist()) == list(range(n))


def test_a_window_holds_whole_blocks_and_bounds_all_distances() -> None:
    block, window, n = 4, 8, 250  # the last block has two rows
    for seed in range(5):
        order = block_order(n, seeded(seed), block=block, window=window).tolist()
        place = {row: at for at, row in enumerate(order)}
        for first in range(0, n, block):
            at = [place[row] for row in range(first, min(first + block, n))]
            assert max(at) - min(at) < block * window
        spans = [[place[row] for row in range(f, min(f + block, n))] for f in range(0, n, block)]
        for at in range(n):  # no more than a window's blocks are begun and not yet done
            assert sum(min(span) <= at <= max(span) for span in spans) <= window


def test_what_fits_into_one_window_is_shuffled_like_anything_in_memory() -> None:
    """All 24 orders of four rows in two blocks, each as often: chi-square with 23 degrees."""
    generator, seen = seeded(1), dict[tuple[int, ...], int]()
    draws = 4800
    for _ in range(draws):
        order = tuple(block_order(4, generator, block=2, window=2).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 24
    expected = draws / 24
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 49.7  # p = 0.001


def test_each_row_is_as_likely_at_each_place() -> None:
    n, draws, generator = 32, 6000, seeded(2)
    seen = np.zeros((n, n))
    for _ in range(draws):
        seen[np.arange(n), block_order(n, generator, block=4, window=3).numpy()] += 1
    share = seen / draws
    error = math.sqrt((1 / n) * (1 - 1 / n) / draws)
    assert np.abs(share - 1 / n).max() < 5 * error  # 1024 cells


@pytest.mark.parametrize("share", [0.5, 0.125])
def test_a_file_sorted_by_class_gives_batches_of_the_stated_deviation(share: float) -> None:
    """Mean and variance of a class's share, against the closed form of the module's docstring."""
    block, window, blocks, b = 4, 8, 32, 16
    n, draws, generator = block * blocks, 4000, seeded(3)
    y = (np.arange(n) < share * n).astype(float)
    first = np.array(
        [
            y[block_order(n, generator, block=block, window=window)[:b].numpy()].mean()
            for _ in range(draws)
        ]
    )
    v = share * (1 - share)
    v_window = v / window * (blocks - window) / (blocks - 1)
    rows = block * window
    wanted = v_window + (v - v_window) / b * (rows - b) / (rows - 1)
    assert abs(first.mean() - share) < 4 * math.sqrt(wanted / draws)
    # The variance of a variance of nearly normal draws is 2 / draws of its square.
    assert abs(first.var() / wanted - 1) < 4 * math.sqrt(2 / draws)
    assert wanted > 1.2 * v / b * (n - b) / (n - 1)  # a whole shuffle's, told apart by this test


def test_the_stated_figures_are_those_of_the_constants() -> None:
    b, rows = 128, BLOCK * WINDOW
    ours = 1 / WINDOW + (1 - 1 / WINDOW) / b * (rows - b) / (rows - 1)
    assert rows == 16_384
    assert f"{math.sqrt(ours):.3f} {math.sqrt(1 / b):.3f}" == "0.108 0.088"
    import embedcal.streaming

    said = embedcal.streaming.__doc__ or ""
    for figure in ("0.108", "0.088", "16,384", f"blocks of {BLOCK} ", f"each {WINDOW} blocks"):
        assert figure in said


def repeated(n: int, rare: int, copies: int) -> np.ndarray:
    """The rows of an epoch that has ``rare`` rows of n, equally far apart, so many times."""
    times = np.ones(n, int)
    times[:: n // rare] = copies
    return np.repeat(np.arange(n), times)


def test_without_repeats_nothing_is_spread() -> None:
    rows = np.array([3, 4, 9, 1, 7])
    assert torch.equal(spread(rows), torch.arange(5))
    plain = block_order(100, seeded(1), block=4, window=3)
    assert torch.equal(block_order(100, seeded(1), rows=np.arange(100), block=4, window=3), plain)


@pytest.mark.parametrize("seed", range(3))
def test_copies_are_an_equal_way_apart_and_each_comes_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(50), rng.integers(1, 9, 50))
    rows = rows if seed else rng.permutation(rows)
    order = spread(rows).numpy()
    assert sorted(order) == list(range(len(rows)))
    lie = rows[order]
    for row in range(50):
        at = np.flatnonzero(lie == row)
        steps = np.diff([*at, at[0] + len(rows)])
        assert steps.min() >= 50 // len(at) - 1  # an m-th of the rows lie between
    assert sorted(block_order(len(rows), seeded(seed), rows=rows, block=4, window=3)) == list(
        range(len(rows))
    )


def test_copies_of_a_row_fall_to_windows_like_cards_to_hands() -> None:
    """Their number in the first window, against the closed form of the module's docstring."""
    n, rare, m, block, window, draws = 2048, 32, 33, 8, 16, 3000
    rows = repeated(n, rare, m)
    blocks = len(rows) // block
    assert len(rows) % block == 0
    generator = seeded(4)

    def counts(given: np.ndarray | None) -> np.ndarray:
        draws_of_it = []
        for _ in range(draws):
            order = block_order(len(rows), generator, rows=given, block=block, window=window)
            draws_of_it.append(np.sum(rows[order[: block * window].numpy()] == 0))
        return np.array(draws_of_it)

    found = counts(rows)
    mean = window * m / blocks
    wanted = mean * (1 - m / blocks) * (blocks - window) / (blocks - 1)
    assert abs(found.mean() - mean) < 4 * math.sqrt(wanted / draws)
    assert abs(found.var() / wanted - 1) < 5 * math.sqrt((2 + 1 / mean) / draws)
    assert counts(None).var() > 3 * wanted  # side by side they would be in five blocks


def test_repeated_rows_are_in_every_batch_as_in_a_whole_shuffle() -> None:
    """The share of them, in a file where they lie anywhere: no block is of them alone."""
    n, rare, m, block, window, b, draws = 2048, 32, 33, 8, 16, 32, 3000
    rows = repeated(n, rare, m)
    often = np.bincount(rows)[rows] > 1
    share, generator = often.mean(), seeded(5)

    def variance(given: np.ndarray | None) -> float:
        first = []
        for _ in range(draws):
            order = block_order(len(rows), generator, rows=given, block=block, window=window)
            first.append(often[order[:b].numpy()].mean())
        assert abs(np.mean(first) - share) < 4 * math.sqrt(2 * share * (1 - share) / b / draws)
        return float(np.var(first))

    whole = share * (1 - share) / b * (len(rows) - b) / (len(rows) - 1)
    assert variance(rows) < whole * (1 + 4 * math.sqrt(2 / draws))
    assert variance(None) > 1.5 * whole


def test_only_what_exceeds_memory_is_drawn_by_blocks(cache: FeatureCache) -> None:
    rows = np.arange(500)
    far = StoredRows(cache, "embedding", rows, by_blocks=True)
    near = replace(far, by_blocks=False)
    for x, wanted in ((far, block_order), (near, torch.randperm), (None, torch.randperm)):
        order = torch.cat([*batches(500, 32, seeded(7), x=x)])
        assert torch.equal(order, wanted(500, generator=seeded(7)))  # type: ignore[operator]
    labels = rows % 3
    drawn = [torch.cat([*batches(500, 32, seeded(7), labels, x)]) for x in (far, None)]
    assert torch.equal(*drawn)  # by weights: the same rows, wherever they lie


def test_more_rows_than_torch_can_weigh_are_drawn_by_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcal.methods._drawing.MOST", 1000)
    labels = np.repeat([0, 1, 2], [4000, 100, 900])[np.random.default_rng(5).permutation(5000)]
    order = torch.cat([*batches(5000, 64, seeded(8), labels)]).numpy()
    drawn = np.bincount(labels[order])
    assert np.abs(drawn - 5000 / 3).max() < 4 * math.sqrt(5000 * 2 / 9)
    rare = np.bincount(order, minlength=5000)[labels == 1]
    assert abs(rare.mean() - 5000 / 3 / 100) < 2
    assert rare.min() > 0


# The limit


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GB", 2_000_000_000),
        ("1.5 gb", 1_500_000_000),
        ("500MB", 500_000_000),
        ("3KiB", 3072),
        (" 1TiB ", 2**40),
        ("0B", 0),
        (12, 12),
    ],
)
def test_a_limit_is_a_size(text: str | int, count: int) -> None:
    assert limit(text) == count


@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "2 potatoes", "", "iB", "1e9B", "2GB\n3", -1])
def test_what_is_no_size_gets_one_line(text: Any) -> None:
    with pytest.raises(EmbedcalError, match="expected --memory as a size such as 2GB") as error:
        limit(text)
    assert "\n" not in str(error.value)


def test_the_default_is_half_of_what_the_machine_or_its_container_has(tmp_path: Path) -> None:
    assert limit(None) == machine_memory() // 2
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine_memory(tmp_path) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory(tmp_path) == machine_memory(tmp_path / "none") > 2**28


def test_people_are_told_what_stays_in_the_file() -> None:
    shapes = {"tokens": (49, 2048), "pooled": (2048,), "embedding": (1024,)}
    (line,) = left_in_file(250_000, shapes, "1.5GB")
    assert line == "left in the file, as the limit is 1.5 GB: pooled (2.0 GB)"
    assert left_in_file(250_000, shapes, "3GB") == []
    assert [size(c) for c in (999, 1000, 2.05e9, 3e15)] == [
        "999 bytes",
        "1.0 KB",
        "2.0 GB",
        "3,000.0 TB",
    ]


# Rows in the file


def test_stored_rows_are_the_array_that_they_stand_for(made: Path) -> None:
    with open_cache(made) as opened:
        whole = opened.split("train")
        stored = StoredRows(opened, "embedding", whole.rows, by_blocks=True)
        assert (stored.shape, len(stored)) == (whole.x.shape, len(whole))
        assert stored.nbytes_whole == whole.x.nbytes
        some = np.array([3, 0, 3, len(whole) - 1])
        found = stored[some]
        assert found.dtype == np.float32  # float16 in the file
        np.testing.assert_array_equal(found, whole.x[some])
        np.testing.assert_array_equal(stored[5:9][np.array([1])], whole.x[[6]])
        keep = whole.y == 1
        assert stored[keep].by_blocks
        np.testing.assert_array_equal(stored[keep][np.arange(3)], whole.x[keep][:3])
        streamed, resident = features(stored, "cpu"), features(whole.x, "cpu")
        assert isinstance(streamed, Streamed)
        assert isinstance(resident, Resident)
        for ours, theirs in zip(streamed.split(64), resident.split(64), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 50])
def test_rows_are_read_block_by_block(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Blocks of seven rows, the last one short or not; a bad number is found in any of them."""
    monkeypatch.setattr("embedcal.cache.gathering.CHUNK", 7 * 24 * 2)
    rows = np.random.default_rng(count).permutation(900)[:count]
    with open_cache(made) as opened:
        np.testing.assert_array_equal(opened.take("embedding", rows), opened.read()[rows])
    spoilt = Path(shutil.copy(made, tmp_path / "spoilt.h5"))
    last = int(rows.max())  # in the order of the file
    with h5py.File(spoilt, "r+") as file:
        file["images/embedding"][last, 3] = np.inf
    with open_cache(spoilt) as opened:
        with pytest.raises(EmbedcalError, match=rf"NaN or infinity .* in rows {last}:"):
            opened.take("embedding", rows)
        opened.take("embedding", rows[rows != last])


@pytest.mark.parametrize("read", [np.asarray, torch.as_tensor, torch.tensor, list, sum])
def test_who_wants_them_whole_is_told_how_much_that_is(made: Path, read: Any) -> None:
    with open_cache(made) as opened:
        stored = StoredRows(opened, "embedding", np.arange(500), by_blocks=True)
        with pytest.raises(EmbedcalError, match=r"48\.0 KB of embedding features.*--memory"):
            read(stored)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache of 37 images, whole and as a virtual one over three shards."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "cache"))
    from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

    from embedcal.cache import BuildOptions, build_cache
    from embedcal.cache.sharding import Part

    folder = tmp_path_factory.mktemp("linked")
    manifest = make_manifest(folder / "images", make_images(folder / "images", 37))
    whole = BuildOptions(out=folder / "whole.h5", **{**OPTIONS, "batch_size": 4})
    build_cache(manifest, NumpyEncoder(), options=whole)
    parts = []
    for number in (1, 2, 3):
        options = replace(whole, out=folder / f"{number}.h5")
        part = Part(number, 3)
        parts.append(build_cache(manifest, NumpyEncoder(), options=options, shard=part).path)
    return folder / "whole.h5", join_shards(parts, folder / "linked.h5", virtual=True).path


def test_rows_of_a_virtual_cache_are_read_from_its_shards(linked: tuple[Path, Path]) -> None:
    with open_cache(linked[0]) as whole, open_cache(linked[1]) as opened:
        rows = np.array([36, 0, 12, 12, 35, 20, 1])
        for level in ("pooled", "embedding", "tokens"):
            np.testing.assert_array_equal(opened.take(level, rows), whole.take(level, rows))
            twice = whole.read(level)[[12, 12]]
            np.testing.assert_array_equal(opened.take(level, rows[2:4]), twice)
        none = opened.take("pooled", rows[:0])
        assert none.shape == (0, *whole.meta.shapes["pooled"])
        np.testing.assert_array_equal(opened.split("train").x, whole.split("train").x)
        assert not opened.stored._joined  # nothing was copied into memory


def test_a_file_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    """Pages that may be written to would be refused: the system promises no more than it has."""
    from embedcal.cache.gathering import pages
    from embedcal.cache.layout import Stored

    count = 4 * machine_memory() // 4096
    with (tmp_path / "sparse").open("wb") as file:
        try:
            file.truncate(512 + 4096 * count)
        except OSError as error:
            pytest.skip(f"no file of this size here: {error}")
        file.seek(512 + 4096 * (count - 1))
        file.write(np.float32(7).tobytes())

    there = Stored(512, np.dtype("<f4"), (count, 1024))
    with (tmp_path / "sparse").open("rb") as file:
        held = lambda: nullcontext(file)  # noqa: E731
        stored = SimpleNamespace(arrays={"/images/embedding": there}, held=held)
        found = pages(stored, "/images/embedding")  # type: ignore[arg-type]
        assert found.shape == (count, 1024)
        assert found[-1, 0] == 7
        assert not found.flags.writeable
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "1":
            with pytest.raises(OSError, match="Cannot allocate"):
                np.memmap(file, np.float32, "c", 512, (count, 1024))


# Runs


def test_ids_of_runs_in_memory_are_what_they_were(cache: FeatureCache, tmp_path: Path) -> None:
    def ids(memory: int | None) -> list[str]:
        on = Workbench(cache, None, memory)
        place = Place(on=on, seed=0, runs=tmp_path, device="cpu")
        return [place.id(configure(name, {}).resolve(on.offer)) for name in names()]

    whole, roomy, tight = ids(None), ids(10**12), ids(TIGHT)
    assert whole == roomy
    for name, ours, theirs in zip(names(), whole, tight, strict=True):
        method = configure(name, {})
        draws = isinstance(method, Gradient) or method.stage is not None
        assert (ours != theirs) == draws, name


def test_a_streamed_run_is_the_run_over_memory_in_the_same_order(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads, curve and predictions to the bit, where memory is shuffled by blocks too."""
    options = {"epochs": 2, "batch_size": 32}
    streamed = fit("erm", cache, out=tmp_path / "a", memory=TIGHT, **options)
    assert streamed.record["streamed"] == {"block": BLOCK, "window": WINDOW, "version": 2}
    plain = fit("erm", cache, out=tmp_path / "b", **options)
    assert "streamed" not in plain.record
    assert streamed.id != plain.id

    def by_blocks(n: int, b: int, generator: Any, *_: Any) -> Any:
        return torch.split(block_order(n, generator), b)

    monkeypatch.setattr("embedcal.methods.base.batches", by_blocks)
    same = fit("erm", cache, out=tmp_path / "c", **options)
    assert same.id == plain.id
    assert same.record["curve"] == streamed.record["curve"]
    for name, value in same.all_predictions().items():
        assert torch.equal(value, streamed.all_predictions()[name]), name
    assert not torch.equal(plain.predictions()["test"], streamed.predictions()["test"])


def test_a_streamed_run_is_found_again_and_told_from_the_other(
    cache: FeatureCache, tmp_path: Path
) -> None:
    first = fit("erm", cache, out=tmp_path, memory=TIGHT, epochs=1)
    again = fit("erm", cache, out=tmp_path, memory="50KB", epochs=1)  # any limit that it exceeds
    other = fit("erm", cache, out=tmp_path, epochs=1)
    assert (again.reused, again.id) == (True, first.id)
    assert not other.reused


def test_training_holds_no_more_than_a_batch(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = FeatureCache.take

    def counted(self: FeatureCache, level: Any, rows: Any) -> Any:
        asked.append(len(rows))
        return read(self, level, rows)

    monkeypatch.setattr(FeatureCache, "take", counted)
    monkeypatch.setattr("embedcal.heads.prediction.ELEMENTS", 40 * 24)
    with open_cache(made) as opened:
        fit("erm", opened, epochs=2, batch_size=16, out=tmp_path, memory=1000)
        n = len(opened.split_labels("train")["y"])
    assert max(asked) == 40
    assert sum(asked) > 2 * n


@pytest.mark.parametrize("name", names())
def test_every_method_runs_or_says_how_much_memory_it_needs(
    name: str, cache: FeatureCache, tmp_path: Path
) -> None:
    options = dict(QUICK.get(name, {}))
    on = Workbench(cache, None, TIGHT)
    method = configure(name, options).resolve(on.offer)
    if isinstance(method, Gradient):
        options["epochs"] = 1
    solves = isinstance(method, Solver) and method.needs & {"train.x", "val.x"}
    if solves or name == "con-adapter":  # which clusters or contrasts what is in memory
        with pytest.raises(EmbedcalError, match=r" KB of .*--memory") as error:
            fit_on(on, name, options, out=tmp_path)
        assert "\n" not in str(error.value)
    else:
        run = fit_on(on, name, options, out=tmp_path)
        assert ("streamed" in run.record) == isinstance(method, Gradient)


def test_a_solver_gets_arrays_where_those_that_it_reads_fit(
    cache: FeatureCache, tmp_path: Path
) -> None:
    """DFR over val alone: train stays in the file, val is read; and the run is that of memory."""
    method = configure("dfr", {"c": (1.0,), "refits": 1}).resolve(Workbench(cache).offer)
    assert isinstance(method, Solver)
    width = cache.meta.shapes[method.level][0]
    both = 4 * width * sum(len(cache.split_labels(s)["y"]) for s in ("train", "val"))
    everything = 4 * width * len(cache)
    assert both < everything
    on = Workbench(cache, None, both)
    assert on.streams(method.level)
    options = {"c": (1.0,), "refits": 1}
    held = fit_on(on, "dfr", options, out=tmp_path / "a")
    plain = fit("dfr", cache, out=tmp_path / "b", **options)
    assert held.id == plain.id
    assert torch.equal(held.predictions()["test"], plain.predictions()["test"])
    assert isinstance(on.split("train", method.level).x, StoredRows)
    with pytest.raises(EmbedcalError, match="dfr, which reads all of train"):
        fit_on(Workbench(cache, None, both - 1), "dfr", options, out=tmp_path / "c")


def test_what_a_method_may_see_stays_the_same(made: Path) -> None:
    with open_cache(made) as opened:
        for name in ("erm", "group-dro"):
            method = configure(name, {}).resolve(Workbench(opened).offer)
            ours = Workbench(opened, None, 0).task(method)
            theirs = Workbench(opened).task(method)
            for split in ("train", "val"):
                a, b = getattr(ours, split).arrays, getattr(theirs, split).arrays
                assert a.keys() == b.keys()
                for key in a:
                    some = np.arange(len(b[key]))
                    np.testing.assert_array_equal(a[key][some], b[key])


def test_a_virtual_cache_streams_to_the_same_run(linked: tuple[Path, Path], tmp_path: Path) -> None:
    runs = []
    for path in linked:
        with open_cache(path) as opened:
            options = {"head": "linear", "epochs": 2, "batch_size": 4}
            runs.append(fit("erm", opened, out=tmp_path / path.stem, memory=0, **options))
            assert not opened.stored._joined
    assert runs[0].id == runs[1].id
    assert torch.equal(runs[0].predictions()["val"], runs[1].predictions()["val"])


def test_engines_agree_on_what_is_streamed(made: Path, tmp_path: Path) -> None:
    outcome = {}
    with open_cache(made) as opened:
        for engine in ("sequential", "processes", "batched"):
            found = grid(
                ["erm:epochs=2:lr=1e-2,1e-1"],
                opened,
                seeds=2,
                out=tmp_path / engine,
                engine=engine,
                jobs=1,
                memory="1KB",
            )
            assert not found.failed
            outcome[engine] = {r["id"]: (r["streamed"], r["test"]["groups"]) for r in found.done}
        with pytest.raises(EmbedcalError, match="--engine processes"):
            grid(["erm"], opened, out=tmp_path / "ray", engine="ray", memory=0)
    assert outcome["sequential"] == outcome["processes"]
    assert outcome["batched"].keys() == outcome["sequential"].keys()


def test_prediction_in_blocks_is_prediction(made: Path) -> None:
    with open_cache(made) as opened:
        on, whole = Workbench(opened, None, 0), Workbench(opened)
        method = configure("erm", {"epochs": 1}).resolve(on.offer)
        assert isinstance(method, Gradient)
        head = train(method, whole.task(method), seed=0)
        for split in ("val", "test"):
            ours = predict(head, on.features(split, "embedding", "cpu"), batch_size=50)
            theirs = predict(head, torch.as_tensor(whole.split(split, "embedding").x))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_labels_are_read_without_a_feature_or_a_name(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(made) as opened:
        theirs = opened.split("val")
        monkeypatch.setattr(type(opened.stored), "text", None)
        found = Workbench(opened, None, 0).split("val", "embedding")
        assert isinstance(found, Examples)
        np.testing.assert_array_equal(found.y, theirs.y)
        np.testing.assert_array_equal(found.g, theirs.g)
        assert "samples" not in vars(opened)


def test_on_the_command_line(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from embedcal.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["embedcal", *words])
            with pytest.raises(SystemExit) as end:
                main()
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out, out.err

    shared = ["--cache", str(birds), "--epochs", "1", "--out", str(tmp_path), "--json"]
    status, out, err = run("fit", "erm", *shared, "--memory", "50KB")
    assert status == 0, err
    assert json.loads(out)["streamed"] == {"block": BLOCK, "window": WINDOW, "version": 2}
    assert "left in the file, as the limit is 50.0 KB" in err
    status, out, err = run("fit", "erm", *shared, "--memory", "lots")
    assert (status, out) == (2, "")
    assert "expected --memory as a size" in err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache six times the limit, and one a quarter of it: what a fit of its own process takes.

    Anonymous memory is held to the bound of any fit and to the stricter one for streamed
    fits. Resident memory has pages of the file in it, which the system may take back; as no page
    stays mapped, it is bounded all the same.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import memory as measured

    found, limit, width = {}, 40_000_000, 512
    rng = np.random.default_rng(6)
    for n in (30_000, 120_000):
        y = rng.integers(0, 2, n)
        x = rng.standard_normal((n, width), np.float32)
        x[:, 0] += y
        (tmp_path / str(n)).mkdir()
        path = tmp_path / str(n) / "wide.h5"
        split = (rng.random(n) < 0.3) * rng.integers(1, 3, n)
        import_features(x, y, split, {"place": y}, out=path)
        del x
        found[n] = measured.in_child(path, "erm", limit)
    small, large = found[30_000], found[120_000]
    assert large["features"] > 6 * limit
    assert large["above"] < 1.5 * large["features"] + 200e6
    for each in found.values():
        bound = measured.STREAMED + measured.EACH * each["rows"]
        assert each["above"] < bound, found
        assert each["resident"] < bound, found
    grown = large["rows"] - small["rows"]
    assert large["above"] - small["above"] < measured.EACH * grown + 20e6, found


def test_jtt_spreads_its_copies_when_it_streams(cache: FeatureCache) -> None:
    """In one window they would be all together; in memory the draws are those of before."""
    on = Workbench(cache, None, TIGHT)
    method = configure("jtt", {"upweight": 20}).resolve(on.offer)
    assert isinstance(method, Gradient)
    task = on.task(method)
    plan = torch.ones(len(task.train), dtype=torch.int64)
    plan[::40] = 20
    rows = method.rows(task, plan)
    assert rows is not None
    drawn = torch.cat([step.batch for step in method.steps(task, plan, 1, seeded(3))])
    wanted = torch.from_numpy(rows)[block_order(len(rows), seeded(3), rows=rows)]
    assert torch.equal(drawn, wanted)
    near = Workbench(cache).task(method)
    drawn = torch.cat([step.batch for step in method.steps(near, plan, 1, seeded(3))])
    assert torch.equal(
        drawn, torch.from_numpy(rows)[torch.randperm(len(rows), generator=seeded(3))]
    )
