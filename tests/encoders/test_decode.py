"""Pixel parity with open_clip's transform on every kind of file, and what is unreadable."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from embedcal.encoders.base import Encoder
from embedcal.encoders.decode import UnreadableImageError, decode
from embedcal.encoders.load import load_encoder
from embedcal.types import EmbedcalError

RNG = np.random.default_rng(7)


def picture(height: int = 90, width: int = 130, bands: int = 3) -> np.ndarray:
    """Smooth colours with some noise: both the resize and the JPEG encoder have work to do."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / (9 + 3 * k)) * np.cos(y / (7 + k)) for k in range(bands)]
    noise = RNG.normal(0, 12, (height, width, bands))
    return np.clip(np.stack(planes, axis=-1) + noise, 0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(height: int = 90, width: int = 130) -> Image.Image:
    return Image.fromarray(picture(height, width))


def palette(transparency: bytes | int | None) -> bytes:
    image = rgb().quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    return saved(image, "PNG", **options)


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    return saved(rgb(), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [rgb(), Image.fromarray(255 - picture())]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(rgb(), "JPEG", quality=85),
    "progressive jpeg": lambda: saved(rgb(), "JPEG", progressive=True),
    "png": lambda: saved(rgb(), "PNG"),
    "webp": lambda: saved(rgb(), "WEBP", lossless=True),
    "bmp": lambda: saved(rgb(), "BMP"),
    "grey": lambda: saved(rgb().convert("L"), "PNG"),
    "grey jpeg": lambda: saved(rgb().convert("L"), "JPEG"),
    "black and white": lambda: saved(rgb().convert("1"), "PNG"),
    "grey with alpha": lambda: saved(Image.fromarray(picture(bands=2), "LA"), "PNG"),
    "alpha": lambda: saved(Image.fromarray(picture(bands=4), "RGBA"), "PNG"),
    "palette": lambda: palette(None),
    "palette, one transparent colour": lambda: palette(3),
    "palette, alpha for each colour": lambda: palette(bytes(range(0, 256, 4))),
    "cmyk": lambda: saved(rgb().convert("CMYK"), "JPEG"),
    "ycbcr tiff": lambda: saved(rgb().convert("YCbCr"), "TIFF", compression="tiff_lzw"),
    "16 bit": lambda: saved(Image.fromarray(picture()[..., 0].astype(np.uint16) * 257), "PNG"),
    "32 bit": lambda: saved(Image.fromarray(picture()[..., 0].astype(np.int32)), "TIFF"),
    "float": lambda: saved(Image.fromarray(picture()[..., 0].astype(np.float32)), "TIFF"),
    "exif rotated": with_exif,
    "one pixel high": lambda: saved(rgb(1, 40), "PNG"),
    "one pixel": lambda: saved(rgb(1, 1), "PNG"),
    "odd sizes": lambda: saved(rgb(227, 63), "PNG"),
    "already at size": lambda: saved(rgb(64, 64), "PNG"),
    "palette already at size": lambda: saved(rgb(64, 64).quantize(32), "PNG"),
    "larger": lambda: saved(rgb(301, 500), "JPEG"),
    "animated": animated,
}


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny")


def open_clips_floats(data: bytes, size: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remark on palettes with alpha
        return image_transform(size, is_train=False)(Image.open(io.BytesIO(data)))


def our_floats(pixels: np.ndarray, encoder: Encoder) -> torch.Tensor:
    facts = encoder.meta.preprocessing
    mean, std = (torch.tensor(facts[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_open_clips(kind: str, tiny: Encoder) -> None:
    data = FILES[kind]()
    pixels = decode(data, tiny.prepare)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert torch.equal(our_floats(pixels, tiny), open_clips_floats(data, 64))


def test_pixels_of_real_photographs_are_open_clips(real_data: Path, tiny: Encoder) -> None:
    photographs = sorted((real_data / "waterbirds-sample").rglob("*.jpg"))
    assert len(photographs) == 88
    for path in photographs:
        data = path.read_bytes()
        pixels = decode(data, tiny.prepare)
        assert torch.equal(our_floats(pixels, tiny), open_clips_floats(data, 64)), path.name


def test_the_encoder_sees_the_same_floats(tiny: Encoder) -> None:
    """What reaches the trunk is bit for bit ToTensor and Normalize of open_clip."""
    data = FILES["jpeg"]()
    pixels = decode(data, tiny.prepare)
    seen: list[torch.Tensor] = []
    trunk = tiny._trunk  # type: ignore[attr-defined]
    handle = trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    tiny.images(pixels[None], ["embedding"])
    handle.remove()
    assert torch.equal(seen[0][0], open_clips_floats(data, 64))


def test_threads_give_what_one_thread_gives(tiny: Encoder) -> None:
    files = [make() for make in FILES.values()] * 4
    alone = [decode(data, tiny.prepare) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, tiny.prepare), files))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds hardly any data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"id,path\n1,a.jpg\n", "not an image"),
    "a web page": (lambda: b"<html>404</html>", "not an image"),
    "truncated jpeg": (lambda: saved(rgb(), "JPEG")[:-400], "truncated"),
    "truncated png": (lambda: saved(rgb(), "PNG")[:-4000], ""),
    "truncated gif": (lambda: animated()[:600], ""),
    "header only": (lambda: saved(rgb(), "JPEG")[:30], ""),
    "zeros in the middle": (
        lambda: (lambda d: d[:2000] + bytes(4000) + d[6000:])(saved(rgb(), "PNG")),
        "",
    ),
    "bomb, where PIL warns": (lambda: png_header(10_000, 10_000), "bomb"),
    "bomb, where PIL raises": (lambda: png_header(60_000, 60_000), "bomb"),
    "no width": (lambda: png_header(0, 10), ""),
    "a thread whose resize needs gigabytes": (lambda: saved(rgb(1, 65_000), "PNG"), "resized"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable(kind: str, tiny: Encoder) -> None:
    make, reason = BROKEN[kind]
    with pytest.raises(UnreadableImageError) as caught:
        decode(make(), tiny.prepare)
    assert reason in caught.value.reason
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    assert isinstance(caught.value, EmbedcalError)


def test_a_bomb_is_refused_where_warnings_are_only_printed(tiny: Encoder) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with pytest.raises(UnreadableImageError, match="bomb"):
            decode(png_header(10_000, 10_000), tiny.prepare)


def test_pils_own_limit_is_the_limit(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES["png"]()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 130 - 1)
    with pytest.raises(UnreadableImageError, match="bomb"):
        decode(data, tiny.prepare)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data, tiny.prepare).shape == (64, 64, 3)


def test_a_mistake_in_prepare_is_not_blamed_on_the_image() -> None:
    def prepare(_: Image.Image) -> np.ndarray:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        decode(FILES["png"](), prepare)


def test_random_damage_never_gives_another_error(tiny: Encoder) -> None:
    """Bytes flipped in a hundred files: either pixels or a reason."""
    sources = [FILES[kind]() for kind in ("jpeg", "png", "animated", "ycbcr tiff", "webp")]
    for seed in range(100):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(sources[seed % len(sources)], np.uint8).copy()
        at = rng.integers(0, len(data), 20)
        data[at] = rng.integers(0, 256, 20)
        with contextlib.suppress(UnreadableImageError):
            assert decode(data.tobytes(), tiny.prepare).shape == (64, 64, 3)
