"""The baseline in clip-retrieval's way gives the model's embeddings; else it proves nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

FILE = Path(__file__).parents[2] / "benchmarks" / "clip_retrieval.py"


@pytest.fixture(scope="module")
def way() -> Iterator[ModuleType]:
    """``benchmarks/clip_retrieval.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("clip_retrieval_for_tests", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class Plain(torch.nn.Module):
    """An image's pixels through one matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(12, 5))

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).float() / 255


def test_parts_hold_the_models_embeddings_at_unit_length(way: ModuleType, tmp_path: Path) -> None:
    paths = []
    for i in range(7):
        rows = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rows).save(paths[-1])
    model, out = Plain(), tmp_path / "out"
    way.retrieve(model, way.Named(paths, pixels), out, batch_size=2, workers=0, part=3)
    with torch.no_grad():
        wanted = torch.stack([model.encode_image(pixels(Image.open(p))[None])[0] for p in paths])
    wanted /= wanted.norm(dim=1, keepdim=True)
    assert np.abs(way.read(out, paths) - wanted.numpy()).max() < 1e-3  # float16
    assert np.abs(way.read(out, paths[::-1]) - wanted.numpy()[::-1]).max() < 1e-3

    stored = sorted((out / "img_emb").iterdir())
    assert [p.name for p in stored] == [f"img_emb_{i}.npy" for i in range(3)]
    assert [np.load(p).shape for p in stored] == [(3, 5), (2, 5), (2, 5)]
    assert {np.load(p).dtype for p in stored} == {np.dtype(np.float16)}
    second = pd.read_parquet(out / "metadata" / "metadata_1.parquet")
    assert list(second["image_path"]) == [str(paths[1]), str(paths[4])]
