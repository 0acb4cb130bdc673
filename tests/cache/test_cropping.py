"""The centre crop: torchvision's pixel for pixel, in the identity, the same as cropped files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder, make_manifest
from PIL import Image
from torchvision.transforms import CenterCrop

from embedcal.cache import BuildOptions, build_cache, explain_miss, open_cache
from embedcal.cache.build import identity_of
from embedcal.cache.cropping import center_crop
from embedcal.datasets.manifest import Manifest
from embedcal.encoders.decode import UnreadableImageError

SIZES = [(w, h) for w in (1, 5, 6, 7, 8, 12) for h in (4, 6, 7, 9)]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 100 + height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return image.quantize(16) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [1, 5, 6, 8])
def test_it_is_torchvisions(size: int, mode: str) -> None:
    for width, height in SIZES:
        if mode == "I;16":
            if size > min(width, height):
                continue  # torchvision cannot pad this mode
            image = Image.fromarray(np.arange(width * height, dtype=np.uint16).reshape(height, -1))
        else:
            image = noise(width, height, mode)
        ours, theirs = center_crop(image, size), CenterCrop(size)(image)
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size) == (image.mode, (size, size))
        assert ours.tobytes() == theirs.tobytes(), (width, height)
        assert np.array_equal(ours.convert("RGB"), theirs.convert("RGB"))


def test_by_hand() -> None:
    """Offsets are halves rounded to even; padding has its odd pixel at the far end."""
    row = np.arange(1, 8, dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(row, (4, 7)).copy())
    assert np.asarray(center_crop(image, 4))[0].tolist() == [3, 4, 5, 6]  # 1.5 -> 2
    assert np.asarray(center_crop(image, 6))[0].tolist() == [0] * 6  # a row of padding
    assert np.asarray(center_crop(image, 6))[1].tolist() == [1, 2, 3, 4, 5, 6]  # 0.5 -> 0
    assert np.asarray(center_crop(image, 10))[3].tolist() == [0, *range(1, 8), 0, 0]


def test_a_crop_that_is_a_bomb_is_no_image() -> None:
    with pytest.raises(UnreadableImageError, match="expected a crop of at most"):
        center_crop(noise(5, 5), 100_000)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Images of odd and even sizes, some smaller than the crop, and one that is none."""
    return files(tmp_path / "images", lambda image: image)


def files(root: Path, change) -> Manifest:
    root.mkdir()
    paths = []
    for width, height in SIZES:
        paths.append(f"{width}x{height}.png")
        change(noise(width, height)).save(root / paths[-1])
    (root / "none.png").write_bytes(b"no image")
    return make_manifest(root, [*paths, "none.png"])


@pytest.mark.parametrize("text", [True, False])
def test_a_cropped_cache_equals_a_cache_of_cropped_files(manifest, tmp_path, text) -> None:
    before = files(tmp_path / "cropped", CenterCrop(6))
    whole = {}
    for name, asked in (
        ("crop", replace(manifest, crop=6)), ("files", before), ("whole", manifest),
    ):  # fmt: skip
        report = build_cache(asked, NumpyEncoder(text=text), options=BuildOptions(tokens=True))
        with open_cache(report.path) as cache:
            whole[name] = [cache.read(level) for level in ("embedding", "pooled", "tokens")]
            crop = cache.meta.preprocessing.get("center_crop")
            assert crop == (6 if name == "crop" else None)
            assert cache.meta.ingredients.digest == cache.meta.identity
            assert np.flatnonzero(cache.samples.status).tolist() == [len(SIZES)]
    for ours, theirs, plain in zip(*whole.values(), strict=True):
        assert ours.tobytes() == theirs.tobytes()
        assert not np.allclose(ours, plain)


def test_it_is_identity_and_is_named(manifest: Manifest) -> None:
    encoder, options = NumpyEncoder(), BuildOptions()
    base, cropped = (
        identity_of(each, encoder, options) for each in (manifest, replace(manifest, crop=6))
    )
    assert base.digest != cropped.digest
    assert explain_miss(cropped, base) == ["preprocessing center_crop: wanted 6, found None"]
    assert explain_miss(base, cropped) == ["preprocessing center_crop: wanted None, found 6"]
    first = build_cache(manifest, encoder).path
    assert build_cache(replace(manifest, crop=6), encoder).path != first
    assert build_cache(replace(manifest, crop=6), encoder).reused


@pytest.mark.parametrize(
    ("crop", "image_only", "text", "applied"),
    [
        (None, 6, True, None), (None, 6, False, 6), (5, 6, True, 5), (5, 6, False, 5),
        (None, None, False, None),
    ],
)  # fmt: skip
def test_the_crop_of_a_data_set_is_for_encoders_without_text(
    manifest, crop, image_only, text, applied
) -> None:
    asked = replace(manifest, crop=crop, image_only_crop=image_only)
    report = build_cache(asked, NumpyEncoder(text=text))
    with open_cache(report.path) as cache:
        assert cache.meta.preprocessing.get("center_crop") == applied
    assert len(report.notes) == (applied == 6)
    assert all("cropped to 6 pixels" in note and "--crop none" in note for note in report.notes)
