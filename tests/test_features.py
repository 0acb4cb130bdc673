"""Tokens stay in the file: what is read is what a step asks for, and training is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import BuildOptions, FeatureCache, open_cache
from embedcal.caching import cache
from embedcal.datasets.options import ReadOptions
from embedcal.features import Resident, StoredRows, Streamed, features
from embedcal.fitting import configure, fit
from embedcal.methods.base import Gradient
from embedcal.train import train
from embedcal.types import Examples
from embedcal.workbench import Workbench


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 300 birds with their tokens, as they are stored by default: float16."""
    home = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(home))
        read, build = ReadOptions(rows=300, seed=77), BuildOptions(tokens=True)
        return cache("birds", backbone="tiny", read=read, build=build).path


def test_stored_tokens_index_like_the_array_that_they_stand_for(tokens: Path) -> None:
    with open_cache(tokens) as opened:
        rows = opened.split("val", "embedding").rows
        whole, stored = opened.tokens(rows), StoredRows(opened, "tokens", rows)
        assert len(stored) == len(rows)
        assert stored.shape == whole.shape
        some = np.array([3, 0, 3, len(rows) - 1])
        np.testing.assert_array_equal(stored[some], whole[some])
        np.testing.assert_array_equal(stored[5:9][np.array([1])], whole[[6]])
        keep = rows % 2 == 0
        np.testing.assert_array_equal(stored[keep][np.arange(3)], whole[keep][:3])
        streamed = features(stored, "cpu")
        assert isinstance(streamed, Streamed)
        resident = features(whole, "cpu")
        assert isinstance(resident, Resident)
        index = torch.tensor([7, 2, 2])
        assert torch.equal(streamed.take(index), resident.take(index))


def test_training_reads_no_more_than_a_batch_at_once(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = FeatureCache.take

    def counted(self: FeatureCache, level: Any, rows: Any) -> Any:
        asked.append(len(rows))
        return read(self, level, rows)

    monkeypatch.setattr(FeatureCache, "take", counted)
    monkeypatch.setattr("embedcal.heads.prediction.ELEMENTS", 16 * 4 * 512)
    with open_cache(tokens) as opened:
        fit("erm", opened, head="attnpool", epochs=2, batch_size=16, out=tmp_path)
    assert max(asked) == 16
    assert sum(asked) > 2 * 100  # the whole split, twice


def test_a_run_over_the_file_is_the_run_over_memory(tokens: Path) -> None:
    with open_cache(tokens) as opened:
        on = Workbench(opened)
        method = configure("erm", {"head": "attnpool", "epochs": 1}).resolve(on.offer)
        assert isinstance(method, Gradient)
        task = on.task(method)
        streamed = train(method, task, seed=0).state_dict()
        arrays = {**task.train.arrays, "x": opened.tokens(on.split("train", "tokens").rows)}
        held = replace(task, train=Examples(split="train", arrays=arrays))
        resident = train(method, held, seed=0).state_dict()
    for name, value in streamed.items():
        assert torch.equal(value, resident[name]), name


def test_what_a_method_changes_in_place_is_seen_by_nobody_else(birds: Path) -> None:
    with open_cache(birds) as opened:
        on = Workbench(opened)
        method = configure("cfr", {"neg": "nns", "space": "embedding"}).resolve(on.offer)
        task, kept = on.task(method), on.split("train", method.level)
        y = kept.y.copy()
        for x in (task.train.x, task.train.at("embedding")):
            with pytest.raises(ValueError, match="read-only"):
                x -= x.mean(0)
        task.train.y[:] = 0
        np.testing.assert_array_equal(on.task(method).train.y, y)
        np.testing.assert_array_equal(kept.y, y)
        assert kept.x.flags.writeable  # whoever lends arrays of their own may go on with them


def test_rows_in_the_file_are_no_way_to_the_cache(tokens: Path) -> None:
    with open_cache(tokens) as opened:
        method = configure("erm", {"head": "linear"}).resolve(Workbench(opened).offer)
        task = Workbench(opened, memory=1000).task(method)
        assert isinstance(task.train.x, StoredRows)
        public = {name for name in dir(task.train.x) if not name.startswith("_")}
        assert public == {"level", "by_blocks", "shape", "nbytes_whole"}
