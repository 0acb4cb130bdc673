"""What other tools find in the files, read by the libraries that they read them with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from feature_worlds import CLASSES, PLACES, WIDTH, World

from embedcal.cache import open_cache
from embedcal.cache.importing import Names, import_features
from embedcal.datasets.places import remember
from embedcal.fitting import fit
from embedcal.interchange import export_features, find_run
from embedcal.types import EmbedcalError


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row by row, from the definition."""
    return np.array([[np.exp(v) / sum(np.exp(w) for w in row) for v in row] for row in logits])


def test_pandas_and_arrow_read_the_parquet_as_viewers_do(
    cache_of: Callable[..., Path], world: World, tmp_path: Path
) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_cache(cache_of()) as cache:
        out = export_features(cache, tmp_path / "x.parquet")
        fingerprint = cache.fingerprint
    frame = pd.read_parquet(out)
    assert list(frame) == [
        "id", "path", "split", "y", "class", "place", "place_name", "embedding",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), world.features)
    assert isinstance(frame["embedding"][0], np.ndarray)
    assert frame["class"].tolist() == [CLASSES[code] for code in world.y]
    named = [PLACES[code] if code >= 0 else None for code in world.place]
    values = frame["place_name"]
    assert values.astype(object).where(values.notna(), None).tolist() == named
    assert frame["split"].unique().tolist() == ["train", "val", "test"]
    schema = pq.read_schema(out)
    assert schema.field("embedding").type == pa.list_(pa.float32(), WIDTH)
    said = json.loads(schema.metadata[b"embedcal"])
    assert (said["level"], said["normalised"], said["fingerprint"]) == (
        "embedding", False, fingerprint,
    )  # fmt: skip


def test_hugging_face_datasets_reads_the_parquet(
    cache_of: Callable[..., Path], world: World, tmp_path: Path
) -> None:
    from datasets import Dataset

    with open_cache(cache_of()) as cache:
        out = export_features(cache, tmp_path / "x.parquet")
    found = Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "hub"))
    np.testing.assert_array_equal(np.array(found["embedding"], "f4"), world.features)


def test_numpy_and_safetensors_read_their_own(
    cache_of: Callable[..., Path], world: World, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    with open_cache(cache_of()) as cache:
        npz = export_features(cache, tmp_path / "x.npz")
        tensors = load_file(export_features(cache, tmp_path / "x.safetensors"))
        npy = export_features(cache, tmp_path / "x.npy")
    with np.load(npz, allow_pickle=False) as arrays:
        assert arrays["id"].tolist() == list(world.ids)
        for name, wanted in world.arrays().items():
            np.testing.assert_array_equal(arrays[name], wanted)
            np.testing.assert_array_equal(tensors[name], wanted)
    assert np.load(npy, mmap_mode="r").tobytes() == world.features.tobytes()
    assert bytes(tensors["path"][3]).rstrip(b"\0").decode() == world.paths[3]


def test_a_runs_predictions_go_along(
    cache_of: Callable[..., Path], world: World, tmp_path: Path
) -> None:
    import pandas as pd

    path = cache_of()
    with open_cache(path) as cache:
        run = fit("erm", cache, head="linear", epochs=2)
        assert find_run("last", path).id == find_run(run.id[:6], path).id == run.id
        assert find_run(str(run.folder), path).id == run.id
        frame = pd.read_parquet(export_features(cache, tmp_path / "x.parquet", run=run))
        with np.load(export_features(cache, tmp_path / "x.npz", run=run)) as arrays:
            codes, sure = arrays["prediction"], arrays["confidence"]
        export_features(cache, tmp_path / "x.npy", run=run)
    table = pd.read_csv(tmp_path / "x.csv", dtype={"id": str})
    for split in ("val", "test"):
        logits = run.predictions()[split].numpy().astype(np.float64)
        rows = frame["split"] == split
        assert frame["prediction"][rows].tolist() == [CLASSES[k] for k in logits.argmax(1)]
        np.testing.assert_allclose(frame["confidence"][rows], softmax(logits).max(1), rtol=1e-6)
        right = logits.argmax(1) == world.y[rows]
        assert frame["correct"][rows].tolist() == right.tolist()
        assert right.mean() == pytest.approx(getattr(run, split)["mean"])
        np.testing.assert_array_equal(codes[rows], logits.argmax(1))
        assert table["correct"][rows].astype(str).str.lower().tolist() == [
            str(bool(r)).lower() for r in right
        ]
    train = frame["split"] == "train"
    assert frame[train][["prediction", "confidence", "correct"]].isna().all(axis=None)
    assert (codes[train] == -1).all()
    assert np.isnan(sure[train]).all()


def test_a_run_over_another_cache_is_refused(cache_of: Callable[..., Path], tmp_path: Path) -> None:
    one, other = cache_of(), cache_of("float16", name="other")
    with open_cache(one) as cache, open_cache(other) as wrong:
        run = fit("erm", wrong, head="linear", epochs=1)
        with pytest.raises(EmbedcalError, match="expected a run over"):
            export_features(cache, tmp_path / "x.npz", run=run)
        with pytest.raises(EmbedcalError, match="expected a run, found none called 'last'"):
            find_run("last", one)
    assert not (tmp_path / "x.npz").exists()


def test_last_is_the_run_that_was_asked_for_last(
    cache_of: Callable[..., Path], tmp_path: Path
) -> None:
    """Wherever it lies, and though nothing was trained for it again; never one of another cache."""
    path, other = cache_of(), cache_of("float16", name="other")
    with open_cache(path) as cache, open_cache(other) as wrong:
        first = fit("erm", cache, head="linear", epochs=1, out=tmp_path / "runs")
        remember("run", first.folder)
        assert find_run("last", path).id == find_run(first.id[:5], path).id == first.id
        second = fit("erm", cache, head="linear", epochs=2, out=tmp_path / "runs")
        assert find_run("last", path).id == second.id
        remember("run", first.folder)
        assert find_run("last", path).id == first.id
        elsewhere = fit("erm", wrong, head="linear", epochs=1, out=tmp_path / "runs")
        remember("run", elsewhere.folder)
    assert find_run("last", path).id == second.id
    assert find_run("last", other).id == elsewhere.id


@pytest.mark.parametrize(
    ("out", "said", "match"),
    [
        ("x.txt", {}, "expected a form to write"),
        ("x.npz", {"format": "hdf"}, "found 'hdf'"),
        ("x.npz", {"splits": ["dev"]}, "found none for dev"),
        ("x.npz", {"splits": []}, "found none"),
        ("x.npz", {"level": "pooled"}, "found 'pooled'"),
        ("full", {}, "expected an empty folder"),
        ("full", {"format": "npz"}, "expected a file or none"),
        ("no/such/x.npz", {}, "No such file"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    out: str, said: dict, match: str, cache_of: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    with open_cache(cache_of()) as cache, pytest.raises(EmbedcalError, match=match) as raised:
        export_features(cache, tmp_path / out, **said)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "full" / "mine").read_text() == "kept"


@pytest.mark.parametrize("out", ["x.parquet", "x.npz", "x.safetensors", "x.npy", "folder"])
def test_a_writer_that_fails_leaves_what_was_there(
    out: str, cache_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedcal.interchange import outgoing

    def full(self: object, *args: object) -> None:
        raise OSError(28, os.strerror(28))
        yield

    before = tmp_path / out
    if out != "folder":
        before.write_bytes(b"old")
    monkeypatch.setattr(outgoing.Rows, "blocks", full)
    with open_cache(cache_of()) as cache, pytest.raises(EmbedcalError, match="No space left"):
        export_features(cache, before)
    assert before.read_bytes() == b"old" if out != "folder" else not before.exists()
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]


@pytest.mark.parametrize("name", ["y", "id", "embedding", "text/class/embedding"])
def test_an_attribute_that_is_called_like_another_column_is_refused(
    name: str, world: World, tmp_path: Path
) -> None:
    path = import_features(
        world.features, world.y, world.split, {name: world.place},
        names=Names(dataset="odd"), out=tmp_path / "odd.h5",
    )  # fmt: skip
    with open_cache(path) as cache, pytest.raises(EmbedcalError, match="called as nothing else"):
        export_features(cache, tmp_path / "x.parquet")
