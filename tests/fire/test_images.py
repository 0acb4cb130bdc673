"""Every kind of file that calls itself an image, in one build: a row each, features or a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder, make_manifest
from faults_for_tests import CalmEncoder
from PIL import Image

from embedcal.cache import BuildOptions, build_cache, open_cache
from embedcal.datasets import ReadOptions, read_manifest
from embedcal.types import EmbedcalError

RNG = np.random.default_rng(3)


def rgb(height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(rgb(), "JPEG", exif=exif)


def declared(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds hardly any data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


READABLE: dict[str, Callable[[], bytes]] = {
    "plain": lambda: saved(rgb(), "PNG"),
    "cmyk": lambda: saved(rgb().convert("CMYK"), "JPEG"),
    "16 bit": lambda: saved(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
    "palette": lambda: saved(rgb().quantize(16), "PNG"),
    "animated": lambda: saved(rgb(), "GIF", save_all=True, append_images=[rgb(), rgb()]),
    "rotated": rotated,
    "grey": lambda: saved(rgb().convert("L"), "PNG"),
    "alpha": lambda: saved(rgb().convert("RGBA"), "PNG"),
    "one pixel": lambda: saved(rgb(1, 1), "PNG"),
    "large": lambda: saved(Image.new("RGB", (5000, 4000)), "PNG"),
    "jpeg called png": lambda: saved(rgb(), "JPEG"),
}
UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated jpeg": (lambda: saved(rgb(200, 300), "JPEG")[:-500], "truncated"),
    "truncated png": (lambda: saved(rgb(200, 300), "PNG")[:-5000], ""),
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"<html>404</html>", "not an image"),
    "bomb where PIL warns": (lambda: declared(10_000, 10_000), "bomb"),
    "bomb where PIL raises": (lambda: declared(60_000, 60_000), "bomb"),
    "no width": (lambda: declared(0, 10), ""),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for name, make in READABLE.items():
        (root / f"{name}.png").write_bytes(make())
    for name, (make, _) in UNREADABLE.items():
        (root / f"{name}.png").write_bytes(make())
    (root / "loop.png").symlink_to("loop.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    return root


NAMES = [*READABLE, *UNREADABLE, "loop", "dangling"]


def test_each_keeps_its_place_with_features_or_a_reason(folder, tmp_path) -> None:
    manifest = make_manifest(folder, [f"{name}.png" for name in NAMES])
    options = BuildOptions(out=tmp_path / "c.h5", batch_size=4)
    report = build_cache(manifest, CalmEncoder(), options=options)
    bad = [*UNREADABLE, "loop", "dangling"]
    assert [path for _, path, _ in report.skipped] == [f"{name}.png" for name in bad]
    encoder = CalmEncoder()
    with open_cache(report.path) as cache:
        assert cache.samples.paths == tuple(f"{name}.png" for name in NAMES)
        features = cache.read()
        for row, name in enumerate(NAMES):
            reason = cache.samples.reasons[row]
            if name in READABLE:
                data = io.BytesIO((folder / f"{name}.png").read_bytes())
                pixels = encoder.prepare(Image.open(data))
                wanted = encoder.images(pixels[None], ["embedding"])["embedding"][0]
                np.testing.assert_array_equal(features[row], wanted, err_msg=name)
                assert reason == ""
            else:
                assert not features[row].any()
                assert reason.strip()
                assert "\n" not in reason
                assert name not in UNREADABLE or UNREADABLE[name][1] in reason


def test_odd_things_in_place_of_files(tmp_path) -> None:
    """A pipe, a folder and a device are named before an image is opened; none is waited for."""
    root = tmp_path / "images"
    (root / "folder.png").mkdir(parents=True)
    os.mkfifo(root / "pipe.png")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "good.png").write_bytes(saved(rgb(), "PNG"))
    names = ["folder", "pipe", "device", "good"]
    lines = ["path,y,split", *(f"{name}.png,{i % 2},train" for i, name in enumerate(names))]
    (root / "t.csv").write_text("\n".join(lines))
    with pytest.raises(EmbedcalError) as error:
        read_manifest(root / "t.csv", options=ReadOptions(allow_outside_root=True))
    for line in (2, 3, 4):
        assert f"line {line}" in str(error.value)
    with pytest.raises(EmbedcalError, match="path outside the root"):
        read_manifest(root / "t.csv")
    # A manifest made by hand gets no further: the rows are unreadable.
    manifest = make_manifest(root, [f"{name}.png" for name in names])
    options = BuildOptions(out=tmp_path / "c.h5")
    report = build_cache(manifest, NumpyEncoder(), options=options)
    assert [path for _, path, _ in report.skipped] == ["folder.png", "pipe.png", "device.png"]


@pytest.mark.parametrize("name", UNREADABLE)
def test_on_error_raise_stops_at_the_first(folder, tmp_path, name) -> None:
    manifest = make_manifest(folder, ["plain.png", f"{name}.png", "grey.png"])
    options = BuildOptions(out=tmp_path / "c.h5", on_error="raise")
    with pytest.raises(EmbedcalError) as error:
        build_cache(manifest, NumpyEncoder(), options=options)
    assert f"for 'id-{name}.png'" in str(error.value)
    assert "\n" not in str(error.value)
    assert build_cache(manifest, NumpyEncoder(), options=replace(options, on_error="skip")).skipped
