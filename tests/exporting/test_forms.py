"""One file: the head alone as a matrix, and pixels to logits as ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported_for_tests import Small, fresh
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from embedcal.exporting import export, graph
from embedcal.exporting.checked import TOLERANCE
from embedcal.exporting.score import HEADS, center_crop, load_head
from embedcal.types import EmbedcalError


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    return tensors, json.loads(metadata["embedcal"]), metadata["README"]


# -- safetensors -----------------------------------------------------------------------------------


def test_a_projection_goes_out_with_the_rows_of_its_classes(small: Small, tmp_path: Path) -> None:
    run = small.runs["both"]
    done = export(run, small.cache, to="safetensors", out=tmp_path / "head.safetensors")
    assert (done.difference, done.whole, done.head) == (None, False, "projection")
    assert done.files == {"head.safetensors": done.path.stat().st_size}
    tensors, facts, card = read(done.path)
    assert set(tensors) == {"image_weight", "image_bias", "text", "logit_scale", "classifier"}
    assert tensors["classifier"].shape == (2, 128)
    np.testing.assert_allclose(np.linalg.norm(tensors["classifier"], axis=1), 1, atol=1e-6)
    # By NumPy, from pooled vectors, as the formula says.
    x = small.cache.split("test", "pooled").x
    z = unit(x @ tensors["image_weight"].T + tensors["image_bias"])
    found = np.exp(tensors["logit_scale"]) * z @ tensors["classifier"].T
    np.testing.assert_allclose(found, run.predictions()["test"], atol=1e-4)
    assert facts["level"] == "pooled"
    assert facts["classes"] == ["left", "right|hand"]
    assert facts["logit_scale"] == pytest.approx(float(tensors["logit_scale"]))
    assert facts["fingerprint"] == small.cache.fingerprint
    assert len(facts["templates"]) == 7
    assert facts["formula"] in card


def test_the_classifier_is_zero_shots_where_a_head_has_no_texts(
    small: Small, tmp_path: Path
) -> None:
    out = tmp_path / "linear.safetensors"
    tensors, facts, _ = read(export(small.runs["zeroshot"], to="safetensors", out=out).path)
    bank = small.cache.text("class").embedding[:, :3]  # the run took three templates
    wanted = unit(unit(bank).mean(1))
    np.testing.assert_allclose(tensors["classifier"], wanted, atol=1e-6)
    assert len(facts["templates"]) == 3
    assert facts["options"] == {"normalise": True}
    x = small.cache.split("test").x
    logits = unit(x) @ tensors["weight"].T + tensors["bias"]
    np.testing.assert_allclose(
        logits, small.runs["zeroshot"].predictions()["test"], rtol=1e-5, atol=1e-4
    )
    scale = np.exp(facts["logit_scale"])
    np.testing.assert_allclose(logits, scale * unit(x) @ tensors["classifier"].T, atol=1e-3)


def test_an_attention_pool_goes_out_with_its_heads(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "pool.safetensors"
    tensors, facts, _ = read(
        export(small.runs["attnpool"], small.cache, to="safetensors", out=out).path
    )
    assert facts["options"]["heads"] == 8
    assert facts["level"] == "tokens"
    assert {"q_proj.weight", "positional_embedding", "text", "classifier"} <= set(tensors)


def test_a_temperature_that_was_calibrated_goes_along(small: Small, tmp_path: Path) -> None:
    run = small.runs["projection"]
    file = run.folder / "calibration.json"
    told = {"format": "embedcal-calibration 1", "run": run.id, "rule": run.record["selection"]}
    from embedcal.predicting import calibration

    file.write_text(json.dumps({**told, "format": calibration.FORMAT, "temperature": 2.5}))
    try:
        _, facts, card = read(
            export(run, small.cache, to="safetensors", out=tmp_path / "a.safetensors").path
        )
    finally:
        file.unlink()
    assert facts["temperature"] == 2.5
    assert "| temperature | 2.5, by which" in card
    _, facts, card = read(
        export(run, small.cache, to="safetensors", out=tmp_path / "b.safetensors").path
    )
    assert facts["temperature"] == 1.0
    assert "| temperature |" not in card


@pytest.mark.parametrize("size", [(30, 21), (31, 90), (51, 50), (10, 10)])
def test_the_scripts_crop_is_the_caches(size: tuple[int, int]) -> None:
    from embedcal.cache.cropping import center_crop as wanted

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for side in (20, 31, 50):
        assert np.array_equal(np.array(center_crop(image, side)), np.array(wanted(image, side)))
    assert center_crop(image, None) is image


# -- onnx ------------------------------------------------------------------------------------------

RUN = """
import json
import numpy as np, onnxruntime
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import CenterCrop
path, files = sys.argv[1], json.loads(sys.argv[2])
session = onnxruntime.InferenceSession(path)
facts = json.loads(session.get_modelmeta().custom_metadata_map["embedcal"])
prepared = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["preprocessing"].items()}
prepared.pop("decoder")
steps = image_transform_v2(PreprocessCfg(**prepared), is_train=False)
steps.transforms.pop()  # the graph normalises
images = [CenterCrop(facts["center_crop"])(Image.open(file)) for file in files]
x = np.stack([steps(image).numpy() for image in images])
assert 0 <= x.min() and x.max() <= 1
whole = session.run(["logits"], {"pixels": x})[0]
single = session.run(None, {"pixels": x[:1]})[0]
assert np.abs(single - whole[:1]).max() < 1e-4
assert "torch" not in type(session).__module__
print(json.dumps([facts["classes"], whole.tolist()]))
"""


@pytest.mark.slow
def test_pixels_to_logits_in_another_runtime(small: Small, tmp_path: Path) -> None:
    """Any number of pictures, from their files to the run's predictions, in a fresh process."""
    pytest.importorskip("onnxruntime")
    run, cache = small.runs["both"], small.cache
    done = export(run, cache, to="onnx", out=tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert done.whole
    assert done.difference is not None
    assert done.largest is not None
    assert 0 < done.difference < TOLERANCE * max(1, done.largest)
    examples = cache.split("test")
    root = small.path.parent / "data"
    files = [str(root / cache.samples.paths[row]) for row in examples.rows]
    classes, logits = json.loads(fresh(RUN, str(done.path), json.dumps(files)))
    wanted = run.predictions()["test"].numpy()
    assert classes == list(cache.meta.classes)
    assert np.argmax(logits, 1).tolist() == wanted.argmax(1).tolist()
    np.testing.assert_allclose(logits, wanted, atol=TOLERANCE * max(1, np.abs(wanted).max()))
    metadata = {item.key: item.value for item in onnx.load(done.path).metadata_props}
    assert metadata["README"].startswith("---\nlibrary_name: onnx\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attnpool", "pooled", "adapter", "zeroshot"])
def test_every_kind_of_head_becomes_a_graph(small: Small, name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = export(small.runs[name], small.cache, to="onnx", out=tmp_path / "m.onnx")
    assert done.difference is not None
    assert done.whole == (name == "attnpool")


def test_a_graph_that_answers_otherwise_is_not_kept(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "check_installed", lambda: None)
    monkeypatch.setattr(graph, "write_graph", lambda _, __, path, *rest: path.write_bytes(b"x"))
    for harm in (1.0, float("nan")):
        monkeypatch.setattr(graph, "run_graph", lambda _, x, h=harm: torch.full((len(x), 2), h))
        with pytest.raises(EmbedcalError, match=r"expected the run's own logits .*nothing was wri"):
            export(small.runs["both"], small.cache, to="onnx", out=tmp_path / "m.onnx")
    monkeypatch.setattr(graph, "run_graph", lambda _, x: torch.zeros(len(x), 3))
    with pytest.raises(
        EmbedcalError, match=r"logits \(3, 2\) of what was exported, found \(3, 3\)"
    ):
        export(small.runs["both"], small.cache, to="onnx", out=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class Choosing(torch.nn.Module):
    """A model that looks at its values, which no exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))


def test_what_cannot_be_a_graph_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EmbedcalError, match=r"torch can export as ONNX, .*use --to open_clip$"):
        graph.write_graph(Choosing(), (8, 8), tmp_path / "m.onnx", {}, "")
    monkeypatch.setattr(graph, "LARGEST", 10)
    with pytest.raises(EmbedcalError, match=r"at most 2 GiB .*found 0.0 GiB: use --to open_clip"):
        graph.write_graph(torch.nn.Linear(9, 9), (8, 8), tmp_path / "m.onnx", {}, "")
    monkeypatch.setattr(graph, "find_spec", lambda name: None if "onnx" in name else True)
    with pytest.raises(EmbedcalError, match=r"onnxruntime and onnx and onnxscript .* 'embedcal\["):
        graph.check_installed()


def test_the_fused_path_is_as_it_was_after_an_error() -> None:
    before = torch.backends.mha.get_fastpath_enabled()

    def fail() -> None:
        with graph._unfused():
            assert not torch.backends.mha.get_fastpath_enabled()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_the_script_knows_every_head(small: Small, tmp_path: Path) -> None:
    """All of the package's heads but the attention pool, which goes out inside the model."""
    from embedcal.exporting.portable import FORMULAS
    from embedcal.heads import HEADS as KNOWN

    assert set(KNOWN) == set(FORMULAS) - {"text"}
    assert set(HEADS) == set(FORMULAS) - {"attnpool"}
    done = export(
        small.runs["adapter"], small.cache, to="safetensors", out=tmp_path / "a.safetensors"
    )
    tensors, facts = load_head(done.path)
    x = torch.tensor(small.cache.split("test").x)
    found = HEADS[facts["head"]](x, tensors, facts["options"])
    torch.testing.assert_close(found, small.runs["adapter"].predictions()["test"])


def test_a_head_without_a_formula_is_refused(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedcal.exporting.portable import portable

    head = small.runs["pooled"].head()
    monkeypatch.setattr(type(head), "name", "tree")
    with pytest.raises(EmbedcalError, match=r"a head among projection, attnpool, .*found 'tree'"):
        portable(head)
    assert replace(portable(small.runs["both"].head()), level="tokens").kind == "projection"
