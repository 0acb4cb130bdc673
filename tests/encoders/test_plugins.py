"""Encoders that others bring: by file, by installed package, image-only ones, broken ones."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from embedcal.encoders.base import Encoder
from embedcal.encoders.load import backbones, load_encoder
from embedcal.types import EmbedcalError

SOURCE = '''
from dataclasses import dataclass
import numpy as np
from embedcal.encoders.base import EncoderMeta

class Mean:
    """The mean colour: an image-only encoder."""
    meta = EncoderMeta(name="mean", weights="none", weights_sha256=SHA, library="mine 1",
                       preprocessing={"size": 8}, precision="fp32", shapes={"embedding": (3,)})
    def prepare(self, image):
        return np.array(image.convert("RGB").resize((8, 8)))
    def images(self, pixels, levels):
        return {"embedding": pixels.mean(axis=(1, 2), dtype=np.float64)}
    def text(self, prompts):
        raise AssertionError("image only")
    def projection(self):
        return None

@dataclass
class Settings:
    precision: str

def with_arguments(precision, device):
    found = Mean()
    found.settings = Settings(precision)
    return found

def needs(argument): return Mean()
def nothing(): return None
def breaks(): raise ValueError("no such\\nfile")
number = 3
'''


def plug_in(folder: Path, source: str = SOURCE, sha: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(source.replace("SHA", repr(sha)))
    return path


def refused(backbone: str, **options: str) -> str:
    with pytest.raises(EmbedcalError) as caught:
        load_encoder(backbone, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_image_only_encoder_from_a_file(tmp_path: Path) -> None:
    from PIL import Image

    path = plug_in(tmp_path)
    encoder = load_encoder(f"{path}:Mean")
    assert isinstance(encoder, Encoder)
    assert not encoder.meta.has_text
    assert encoder.meta.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    pixels = encoder.prepare(Image.new("L", (20, 30), 100))
    found = encoder.images(pixels[None], ("embedding",))["embedding"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[100, 100, 100]])
    assert encoder.text(["a"]) == {}
    assert encoder.projection() is None
    with pytest.raises(EmbedcalError, match="levels among embedding"):
        encoder.images(pixels[None], ("pooled",))


def test_changing_the_file_changes_the_identity(tmp_path: Path) -> None:
    before = load_encoder(f"{plug_in(tmp_path)}:Mean").meta.weights_sha256
    changed = plug_in(tmp_path, SOURCE + "\n# changed\n")
    assert load_encoder(f"{changed}:Mean").meta.weights_sha256 != before


def test_a_digest_of_its_own_is_kept(tmp_path: Path) -> None:
    assert load_encoder(f"{plug_in(tmp_path, sha='ab')}:Mean").meta.weights_sha256 == "ab"


def test_code_runs_only_when_its_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    plug_in(tmp_path, f"open({str(marker)!r}, 'w').close()\n" + SOURCE)
    monkeypatch.chdir(tmp_path)
    backbones()
    refused("mine", pretrained="random:0")
    refused("other.py:Mean")
    assert not marker.exists()
    load_encoder("mine.py:Mean")
    assert marker.exists()


def test_device_and_precision_are_handed_to_those_who_take_them(tmp_path: Path) -> None:
    path = plug_in(tmp_path)
    encoder = load_encoder(f"{path}:with_arguments", precision="bf16", device="cpu")
    assert encoder._encoder.settings.precision == "bf16"  # type: ignore[attr-defined]
    assert "precision fp32" in refused(f"{path}:Mean", precision="bf16")
    assert "drop it" in refused(f"{path}:Mean", pretrained="openai")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Mear", "found Mean, Settings, with_arguments, needs, nothing, breaks"),
        ("number", "class or function 'number'"),
        ("needs", "TypeError"),
        ("nothing", "NoneType without meta, prepare, images, text, projection"),
        ("breaks", "ValueError: no such"),
        ("", "path/to/file.py:Name"),
    ],
)
def test_what_is_no_encoder(name: str, says: str, tmp_path: Path) -> None:
    assert says in refused(f"{plug_in(tmp_path)}:{name}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('shapes={"embedding": (3,)}', "shapes={}"), "meta.shapes"),
        (('shapes={"embedding": (3,)}', 'shapes={"features": (3,)}'), "meta.shapes"),
        (('shapes={"embedding": (3,)}', 'shapes={"embedding": 3}'), "meta.shapes"),
        (("(3,)})", '(3,)}, text_shapes={"pooled": (3,)})'), "meta.text_shapes"),
        (("EncoderMeta(", "dict("), "EncoderMeta"),
        (("def projection(", "def other("), "without projection"),
        (("class Mean:", "1 / 0\nclass Mean:"), "ZeroDivisionError"),
        (("class Mean:", "class Mean"), "SyntaxError"),
    ],
)
def test_a_broken_encoder_is_refused_at_once(
    change: tuple[str, str], says: str, tmp_path: Path
) -> None:
    path = plug_in(tmp_path, SOURCE.replace(*change))
    assert says in refused(f"{path}:Mean")


def test_answers_are_checked_against_the_declared_shapes(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    wrong = plug_in(tmp_path, SOURCE.replace("axis=(1, 2)", "axis=(1, 2, 3)"))
    with pytest.raises(EmbedcalError, match=r"array \(2, 3\) as its meta declares, found an array"):
        load_encoder(f"{wrong}:Mean").images(pixels, ("embedding",))
    lacking = plug_in(tmp_path, SOURCE.replace('return {"embedding"', 'return {"other"'))
    with pytest.raises(EmbedcalError, match="found nothing"):
        load_encoder(f"{lacking}:Mean").images(pixels, ("embedding",))
    floats = plug_in(tmp_path, SOURCE.replace("((8, 8)))", "((8, 8))) / 255"))
    with pytest.raises(EmbedcalError, match=r"uint8, found an array .* of float64"):
        load_encoder(f"{floats}:Mean").prepare(Image.new("RGB", (8, 8)))


def test_an_installed_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real distribution on the path: metadata, entry point, module."""
    (tmp_path / "colour_encoder.py").write_text(SOURCE.replace("SHA", "''"))
    facts = tmp_path / "colour_encoder-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-encoder\nVersion: 1.2\n")
    points = "[embedcal.encoders]\nmean-colour = colour_encoder:Mean\nbroken = colour_encoder:no\n"
    (facts / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    assert "mean-colour" in backbones()
    assert "colour_encoder" not in sys.modules
    encoder = load_encoder("mean-colour")
    assert encoder.meta.shapes == {"embedding": (3,)}
    assert len(encoder.meta.weights_sha256) == 64
    assert "colour-encoder 1.2" in refused("broken")
    assert "did you mean mean-colour" in refused("mean-color", pretrained="random:0")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-encoder\nVersion: 1.3\n")
    assert load_encoder("mean-colour").meta.weights_sha256 != encoder.meta.weights_sha256
