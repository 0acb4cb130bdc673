"""Real photographs and real features, where EMBEDCAL_TEST_DATA names a folder that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedcal.cache import BuildOptions, open_cache, verify
from embedcal.caching import cache
from embedcal.encoders.load import load_encoder
from embedcal.fitting import fit
from embedcal.interchange import import_from


@pytest.mark.slow
def test_real_photographs_through_a_true_shape_rn50(real_data: Path, tmp_path: Path) -> None:
    """88 photographs, random weights: shapes, counts, and features equal to open_clip's own."""
    import open_clip
    import torch
    from PIL import Image

    folder = real_data / "waterbirds-sample"
    report = cache(
        "waterbirds", root=folder, backbone="RN50", pretrained="random:0",
        out=tmp_path / "sample.h5", build=BuildOptions(tokens=True, batch_size=22),
    )  # fmt: skip
    assert report.rows == 88
    assert not report.skipped
    assert verify(report.path).ok
    with open_cache(report.path) as opened:
        assert opened.meta.shapes == {"tokens": (49, 2048), "pooled": (2048,), "embedding": (1024,)}
        assert any("3,498" in line or "3498" in line for line in opened.meta.warnings)
        assert opened.text("class").embedding.shape == (2, 80, 1024)
        stored = opened.read("embedding")
        tokens = opened.tokens(np.array([5]))
        rows = [0, 41, 87]
        paths = [folder / opened.samples.paths[row] for row in rows]
    encoder = load_encoder("RN50", pretrained="random:0")
    pixels = np.stack([encoder.prepare(Image.open(path)) for path in paths])
    again = encoder.images(pixels, ["embedding"])["embedding"]
    np.testing.assert_allclose(stored[rows], again, rtol=1e-4, atol=1e-5 * np.abs(again).max())
    assert tokens.shape == (1, 49, 2048)

    transform = open_clip.image_transform(224, is_train=False)
    for path, row in zip(paths, pixels, strict=True):
        theirs = transform(Image.open(path))
        mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
        std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
        ours = (torch.tensor(row).permute(2, 0, 1) / 255 - mean) / std
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_methods_order_on_real_features_as_the_literature_says(
    real_data: Path, tmp_path: Path
) -> None:
    """ERM's worst group under 0.60, Group DRO's at least 0.10 above it, DFR's at 0.80 or more."""
    path = import_from(
        real_data / "waterbirds-effnetlite0.npz",
        name="waterbirds", attributes=("place",), classes="landbird,waterbird",
        values="land,water", out=tmp_path / "effnet.h5",
    )  # fmt: skip
    with open_cache(path) as opened:
        assert opened.meta.rows == 11788
        worst = {
            name: fit(name, opened).test["worst_group"] for name in ("erm", "group-dro", "dfr")
        }
    assert worst["erm"] < 0.60
    assert worst["group-dro"] >= worst["erm"] + 0.10
    assert worst["dfr"] >= 0.80


@pytest.mark.slow
def test_the_embedded_world_behaves_as_it_must() -> None:
    """On a world that nobody tuned on: zero-shot leans on the background, methods mend it."""
    from embedcal.demo import demo

    rows = {row.method: row for row in demo(seed=31).rows}
    assert rows["zeroshot"].worst_group < 0.50
    assert rows["zeroshot"].train_weighted > 0.85
    assert rows["erm"].worst_group <= rows["dfr"].worst_group - 0.20
    assert rows["dfr"].worst_group >= 0.80
    assert rows["group-dro"].worst_group >= 0.80
    assert rows["cfr"].worst_group >= rows["erm"].worst_group + 0.10
