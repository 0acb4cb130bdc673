"""From a name to an encoder: names, activations, files, plug-ins, and what is refused."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import save_file

from embedcal.encoders import load, weights
from embedcal.encoders.base import Encoder
from embedcal.encoders.load import OPENAI, backbones, load_encoder
from embedcal.types import EmbedcalError

SMALL = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two small architectures in open_clip's own registry; they differ in the image size."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "embedcal-small.json").write_text(json.dumps(SMALL))
    large = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "image_size": 48}}  # type: ignore[dict-item]
    (folder / "embedcal-large.json").write_text(json.dumps(large))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def small(small_models: None) -> Encoder:
    return load_encoder("embedcal-small", pretrained="random:3")


def state(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in encoder._model.state_dict().items()}  # type: ignore[attr-defined]


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises(EmbedcalError) as caught:
        load_encoder(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- names ---------------------------------------------------------------------------------------


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys, embedcal.encoders.load as load, embedcal.encoders.templates as t\n"
        "assert {'tiny', 'RN50', 'ViT-L/14@336px'} <= set(load.backbones())\n"
        "t.templates('photo2')\n"
        "heavy = {'torch', 'open_clip', 'torchvision', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_openai_mean_quick_gelu() -> None:
    assert len(OPENAI) == 9
    for name, architecture in OPENAI.items():
        assert open_clip.get_model_config(architecture)["quick_gelu"] is True
        assert load._architecture(name, None) == architecture
        assert load._architecture(name, "openai") == architecture
        assert "openai" in _PRETRAINED[architecture]
    assert set(OPENAI) <= set(backbones())


@pytest.mark.parametrize("model", [m for m in _PRETRAINED if open_clip.get_model_config(m)])
def test_an_activation_that_is_not_the_weights_is_refused(model: str) -> None:
    """Every pair of open_clip's own table, some two hundred."""
    quick = open_clip.get_model_config(model).get("quick_gelu", False)
    for tag, facts in _PRETRAINED[model].items():
        if model in OPENAI:  # RN50 is OpenAI's name too and means the QuickGELU model
            assert load._architecture(model, tag) == OPENAI[model]
        elif facts.get("quick_gelu", False) == quick:
            assert load._architecture(model, tag) == model
        else:
            with pytest.raises(EmbedcalError, match="QuickGELU"):
                load._architecture(model, tag)


@pytest.mark.parametrize(
    ("backbone", "pretrained", "use"),
    [
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32,openai", None, "ViT-B-32-quickgelu"),
        ("ViT-L-14-336", "openai", "ViT-L-14-336-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32"),
        ("ViT-B/32", "laion2b_s34b_b79k", "ViT-B-32"),
    ],
)
def test_the_refusal_says_which_name_to_use(
    backbone: str, pretrained: str | None, use: str
) -> None:
    message = refused(backbone, pretrained=pretrained)
    assert "QuickGELU" in message
    assert message.endswith(f"use --backbone {use}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RN5O", "RN50"),
        ("ViT-L/14@336", "ViT-L/14@336px"),
        ("vit-b-32", "ViT-B-32"),
        ("tinny", "tiny"),
    ],
)
def test_did_you_mean(name: str, meant: str) -> None:
    message = refused(name, pretrained="random:0")
    assert "did you mean" in message
    assert meant in message.split("did you mean")[1]


def test_did_you_mean_a_tag() -> None:
    assert "did you mean laion2b_s34b_b79k" in refused("ViT-B-32", pretrained="laion2b_s34b_b79")


def test_a_name_of_open_clip_needs_pretrained_and_lists_tags_that_fit() -> None:
    message = refused("ViT-B-32")
    assert "--pretrained" in message
    assert "laion2b_s34b_b79k" in message
    assert "openai" not in message  # those are the QuickGELU model's


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32-quickgelu,openai", "hf-hub:laion/none"])
def test_weights_that_cannot_be_had_offline(name: str) -> None:
    message = refused(name)
    assert "--pretrained FILE" in message
    assert "network" in message


def test_nothing_is_printed_and_no_log_handler_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    level = logging.getLogger().level
    refused("RN50")
    load_encoder("embedcal-small", pretrained="random:0")
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().level == level
    assert capfd.readouterr() == ("", "")


def test_two_sources_of_weights() -> None:
    assert "drop one" in refused("ViT-B-32,laion2b_e16", pretrained="datacomp_xl_s13b_b90k")


@pytest.mark.parametrize("seed", ["random:", "random:x", "random:-1"])
def test_a_seed_is_a_whole_number(seed: str) -> None:
    assert "random:SEED" in refused("embedcal-small", pretrained=seed)


def test_device_and_precision_are_checked() -> None:
    assert "fp32, bf16, fp16" in refused("tiny", precision="fp8")
    assert "device of this machine" in refused("tiny", device="abacus")
    if not torch.cuda.is_available():
        assert refused("tiny", device="cuda").endswith("use cpu")


# -- what is loaded ------------------------------------------------------------------------------


def test_the_tiny_clip(caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_encoder("tiny")
    assert encoder.meta.name == "tiny"
    assert encoder.meta.preprocessing["size"] == [64, 64]
    assert set(encoder.meta.shapes) == {"tokens", "pooled", "embedding"}
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    assert encoder.images(pixels, ("embedding",))["embedding"].shape == (1, 128)
    for _ in range(2):
        encoder.text(["a photo of a zeppelin."])
    assert [r.message for r in caplog.records if "zeppelin" in r.message] == [
        "the tiny CLIP does not know: zeppelin"
    ]
    assert "drop it" in refused("tiny", pretrained="openai")


def test_random_weights_are_those_of_their_seed(small: Encoder) -> None:
    again = load_encoder("embedcal-small", pretrained="random:3").meta
    other = load_encoder("embedcal-small", pretrained="random:4").meta
    assert again == small.meta
    assert other.weights_sha256 != small.meta.weights_sha256
    assert small.meta.weights == "random:3"


def test_no_gain_of_a_random_resnet_is_zero() -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        48,
        open_clip.CLIPVisionCfg(image_size=64, layers=(1, 1, 1, 1), width=8, head_width=64),
        open_clip.CLIPTextCfg(width=32, heads=2, layers=1),
    )
    assert any(not m.weight.any() for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    weights.randomise(model, 0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.weight.min() > 0.1
            assert module.running_var.std() > 0.01
            assert module.running_mean.std() > 0.01


# -- weights on disk -----------------------------------------------------------------------------


def written(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".pt":  # as open_clip's training script writes it
        wrapped = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}
        torch.save(wrapped, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
def test_weights_on_disk(name: str, small: Encoder, tmp_path: Path) -> None:
    path = written(tmp_path / name, state(small))
    encoder = load_encoder("embedcal-small", pretrained=str(path))
    assert encoder.meta.weights == name
    assert encoder.meta.weights_sha256 == small.meta.weights_sha256  # content, not container
    found, wanted = (e.images(PIXELS, ("embedding",))["embedding"] for e in (encoder, small))
    assert np.array_equal(found, wanted)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.pth", "w.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(name: str, zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    if zipped:
        torch.save({"weight": torch.zeros(2), "trap": Trap(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(marker)))
    message = refused("embedcal-small", pretrained=str(path))
    assert "never loaded" in message
    assert not marker.exists()
    if zipped:
        torch.load(path, weights_only=False)
        assert marker.exists()  # the trap would have worked


@pytest.fixture(scope="module")
def archive(small: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real TorchScript archive with weights that would fit."""
    path = tmp_path_factory.mktemp("archive") / "small.pt"
    model = small._model  # type: ignore[attr-defined]
    tokens = open_clip.get_tokenizer("embedcal-small")(["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, (torch.zeros(2, 3, 32, 32), tokens), check_trace=False).save(path)
    return path


def test_a_torchscript_archive_is_refused(archive: Path) -> None:
    message = refused("embedcal-small", pretrained=str(archive))
    assert "OpenAI did not publish" in message
    assert weights.file_sha256(archive)[:12] in message


def test_a_torchscript_archive_with_a_published_digest_is_loaded(
    archive: Path, small: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = weights.file_sha256(archive)
    monkeypatch.setattr(weights, "published_by_openai", lambda: {digest: "embedcal-small"})
    encoder = load_encoder("embedcal-small", pretrained=str(archive))
    assert encoder.meta.weights_sha256 == small.meta.weights_sha256
    monkeypatch.setattr(weights, "published_by_openai", lambda: {digest: "RN50-quickgelu"})
    message = refused("embedcal-small", pretrained=str(archive))
    assert message.endswith("use --backbone RN50-quickgelu")


def test_openais_digests() -> None:
    published = weights.published_by_openai()
    assert sorted(published.values()) == sorted(OPENAI.values())
    digest = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    assert published[digest] == "RN50-quickgelu"


def test_what_is_no_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("anything.txt", "x")
    assert not weights.is_torchscript(tmp_path / "w.pt")
    assert "cannot be read" in refused("embedcal-small", pretrained=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(100)])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused("embedcal-small", pretrained=str(tmp_path / name))
    assert "cannot be read" in message or "never loaded" in message


def test_weights_of_another_model(small: Encoder, tmp_path: Path) -> None:
    tensors = state(small)
    path = written(tmp_path / "w.safetensors", tensors)
    message = refused("embedcal-large", pretrained=str(path))  # open_clip would resize
    assert "'visual.positional_embedding' of shape (5, 64) instead of (10, 64)" in message
    assert "missing" in refused("RN50", pretrained=str(path))
    partial = {k: v for k, v in tensors.items() if k != "visual.proj"} | {"odd": torch.zeros(1)}
    message = refused("embedcal-small", pretrained=str(written(path, partial)))
    assert "1 missing ('visual.proj', ...) and 1 unknown ('odd', ...)" in message


def test_a_file_that_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "w.pt")
    assert "named tensors" in refused("embedcal-small", pretrained=str(tmp_path / "w.pt"))
    (tmp_path / "w.npz").write_bytes(b"x")
    assert ".safetensors" in refused("embedcal-small", pretrained=str(tmp_path / "w.npz"))


def test_preprocessing_of_a_file_is_what_all_published_weights_share() -> None:
    siglip = load._preprocessing_of("ViT-B-16-SigLIP")
    assert siglip is not None
    assert siglip["resize_mode"] == "squash"
    assert load._preprocessing_of("ViT-L-14") is None  # its tags disagree
    assert load._preprocessing_of("embedcal-small") is None
