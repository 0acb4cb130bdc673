"""What cannot be exported, or not there, ends in one line, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exported_for_tests import Small
from safetensors import SafetensorError
from safetensors.torch import load_file

from embedcal.exporting import checkpoint, export
from embedcal.runs import Run
from embedcal.types import EmbedcalError


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(EmbedcalError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    ("to", "name", "says"),
    [
        ("open_clip", "there", "a new place to export to, found FOLDER/there there already"),
        ("open_clip", "file.txt", "found FOLDER/file.txt there already: remove it"),
        ("safetensors", "old.safetensors", "found FOLDER/old.safetensors there already"),
        ("safetensors", "head.bin", "ends in .safetensors for --to safetensors, found 'FOLDER/he"),
        ("onnx", "model", "ends in .onnx for --to onnx, found 'FOLDER/model': rename it"),
        ("open_clip", "no/where", "a folder to write into, found none at FOLDER/no: make it first"),
        ("torchscript", "x", "among open_clip, safetensors, onnx, found 'torchscript'"),
        ("open_clip", "link", "found FOLDER/link there already"),
    ],
)
def test_the_place_is_checked_first(
    small: Small, to: Any, name: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.tex").write_text("mine")
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "old.safetensors").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.rglob("*"))
    run = replace(small.runs["both"], folder=Path("/gone"))  # so that nothing could be computed
    told = refused(lambda: export(run, small.cache, to=to, out=tmp_path / name))
    assert says in told.replace(str(tmp_path), "FOLDER")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there" / "thesis.tex").read_text() == "mine"


def test_an_empty_folder_is_taken(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    done = export(small.runs["projection"], small.cache, out=out)
    names = {"README.md", "head.safetensors", "open_clip_config.json"}
    assert set(done.files) == names | {"open_clip_model.safetensors", "score.py"}
    assert {file.stat().st_mode & 0o777 for file in out.iterdir()} <= {0o644, 0o664}
    assert list(tmp_path.iterdir()) == [out]
    trained = small.runs["projection"].head().state_dict()["logit_scale"]
    assert float(load_file(out / checkpoint.WEIGHTS)["logit_scale"]) == float(trained)


def test_a_run_over_another_cache(small: Small, tmp_path: Path) -> None:
    run = small.runs["both"]
    made = {**run.record["cache"], "fingerprint": "0" * 64, "path": "other.h5"}
    other = replace(run, record={**run.record, "cache": made})
    told = refused(lambda: export(other, small.cache, out=tmp_path / "x"))
    assert f"a run over small.h5, found {run.id}, which is over other.h5: name that with" in told
    gone = {**made, "path": str(tmp_path / "gone.h5")}
    other = replace(run, record={**run.record, "cache": gone})
    told = refused(lambda: export(other, out=tmp_path / "x"))
    assert told.startswith(f"expected the cache of run {run.id} at {tmp_path}/gone.h5, found none")


class Elsewhere:
    """A cache with other facts."""

    def __init__(self, small: Small, **facts: Any) -> None:
        self.meta = replace(small.cache.meta, **facts)
        self.fingerprint = small.cache.fingerprint


@pytest.mark.parametrize(
    ("facts", "asked", "says"),
    [
        ({"library": "mine 1.0"}, {}, "an encoder of open_clip's for --to open_clip, found tiny"),
        ({"weights_sha256": "0" * 64}, {}, "weights that made small.h5, found others in embedded"),
        ({"backbone": "RN50", "weights": "lost.pt"}, {}, "give their file with --pretrained"),
        ({"preprocessing": {"size": [9, 9]}}, {}, "preprocessing that small.h5 was made with"),
        ({}, {"backbone": "ViT-B-23"}, "expected the encoder of small.h5, tiny with the weights"),
    ],
)
def test_an_encoder_that_is_not_the_caches(
    small: Small, facts: dict[str, Any], asked: dict[str, Any], says: str, tmp_path: Path
) -> None:
    cache: Any = Elsewhere(small, **facts)
    told = refused(lambda: export(small.runs["both"], cache, out=tmp_path / "x", **asked))
    assert says in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize(("to", "name"), [("open_clip", "x"), ("safetensors", "x.safetensors")])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    small: Small, to: Any, name: str, error: Exception, tmp_path: Path, monkeypatch: Any
) -> None:
    from safetensors import torch as written

    real, calls = written.save_file, []

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        calls.append(path)
        if len(calls) > (to == "open_clip"):  # the folder's second file
            path.write_bytes(b"half")
            raise error
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(written, "save_file", full)
    out = tmp_path / name
    told = refused(lambda: export(small.runs["both"], small.cache, to=to, out=out))
    assert told.startswith(f"expected to write {out}, found: ")
    assert "No space left on device" in told
    assert len(calls) == 1 + (to == "open_clip")
    assert not list(tmp_path.iterdir())


def test_an_encoder_without_a_config_of_open_clips(small: Small) -> None:
    from embedcal.encoders.load import load_encoder

    encoder: Any = load_encoder("tiny")
    encoder.meta = replace(encoder.meta, name="unheard-of")
    assert "an architecture of open_clip's for unheard-of, found none" in refused(
        lambda: checkpoint.config_of(encoder)
    )


def test_an_export_that_answers_otherwise_is_not_kept(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is read again and held to the run's own head before it gets its name."""
    from embedcal.exporting import writing

    monkeypatch.setattr(writing, "calibrate", lambda model, head: None)
    told = refused(lambda: export(small.runs["both"], small.cache, out=tmp_path / "x"))
    assert "expected the run's own logits from what was exported, found a difference of" in told
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_the_hubs_goes_along(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip reads such a tokenizer from the folder itself, whatever the config calls it."""
    from embedcal.encoders.load import load_encoder
    from embedcal.exporting.portable import class_texts, portable

    class Kept:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "tokenizer.json").write_text("{}")

    encoder: Any = load_encoder("tiny")
    monkeypatch.setattr(encoder, "_tokenizer", Kept())
    head = class_texts(portable(small.runs["both"].head()))
    checkpoint.write_folder(tmp_path, encoder, head, {"a": 1}, "card")
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == {}


def test_a_damaged_run_is_told(small: Small, tmp_path: Path) -> None:
    run = small.runs["both"]
    folder = tmp_path / "run"
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / f"{run.record['selection']}.safetensors").write_bytes(b"not a head")
    told = refused(
        lambda: export(Run(folder=folder, record=run.record), small.cache, out=tmp_path / "x")
    )
    assert "expected a head saved by embedcal" in told
