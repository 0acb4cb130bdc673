"""Heads as files: whole round trips, and files that were made to do harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from embedcal.heads import HEADS, Head, ProjectionHead, load_head, save_head
from embedcal.types import EmbedcalError

State = dict[str, torch.Tensor]


def refused(path: Path, words: str = "expected") -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        load_head(path)
    message = str(error.value).replace(str(path), "")
    assert message.isprintable(), repr(message)
    assert len(message) < 500
    assert message.startswith("expected")


def test_a_saved_head_comes_back_to_the_bit(head: Head, model: Any, tmp_path: Path) -> None:
    x = model.x(head.level)
    path = tmp_path / "head.safetensors"
    save_head(head, path)
    again = load_head(path)
    for training in (False, True):
        assert torch.equal(head.train(training)(x), again.train(training)(x))
    assert type(again) is type(head)
    assert again.level == head.level
    assert again.config == head.config
    before, after = head.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(tmp_path.glob("*.part"))


def test_every_head_is_tried(head: Head) -> None:
    assert HEADS[head.name] is type(head)
    assert set(HEADS) == {
        "linear", "projection", "attnpool", "adapter", "mlp", "mapped", "context", "templates",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["projection", "attnpool"])
def test_options_come_back(name: str, model: Any, tmp_path: Path) -> None:
    cls: Any = HEADS[name]
    head = cls.start(
        model.projection, model.bank, scope="image+text_proj", temperature="fixed", prototype="mean"
    )
    save_head(head, tmp_path / "h")
    again: Any = load_head(tmp_path / "h")
    assert not again.logit_scale.requires_grad
    assert torch.equal(again.prototypes(), head.prototypes())
    assert (again.temperature, again.prototype) == ("fixed", "mean")


def test_a_projection_head_from_before_options_is_read(model: Any, tmp_path: Path) -> None:
    head = ProjectionHead.start(model.projection, model.bank, scope="image")
    write(tmp_path / "old", head, config="{}")
    again = load_head(tmp_path / "old")
    assert torch.equal(again(model.x("pooled")), head(model.x("pooled")))
    assert again.config == {"temperature": "trainable", "prototype": "normalised"}


def write(path: Path, head: Head, state: State | None = None, /, **metadata: str) -> None:
    told = {"format": "embedcal-head 1", "head": head.name, "config": json.dumps(head.config)}
    told |= metadata
    given = head.state_dict() if state is None else state
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in given.items()},
        path,
        metadata={name: value for name, value in told.items() if value != "none"},
    )


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": with_value(float("nan")),
    "infinity": with_value(float("inf")),
    "one more axis": lambda tensor: tensor[None],
    "longer": lambda tensor: tensor.repeat([2] * max(1, tensor.ndim)),
    "empty": lambda tensor: tensor[:0] if tensor.ndim else tensor.repeat(0),
    "half": lambda tensor: tensor.half(),
    "another precision": lambda tensor: tensor.double(),
    "integers": lambda tensor: tensor.long(),
    "booleans": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tensor_of_another_kind_is_refused(change: str, head: Head, tmp_path: Path) -> None:
    sized = [name for name, tensor in head.state_dict().items() if tensor.ndim]
    for name, tensor in head.state_dict().items():
        if change == "longer" and sized == [name]:
            continue  # no other tensor knows how long it is
        changed = CHANGES[change](tensor)
        write(tmp_path / "bad", head, {**head.state_dict(), name: changed})
        refused(tmp_path / "bad", "tensor")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.float8_e5m2])
def test_a_head_of_another_precision_is_refused(
    dtype: torch.dtype, head: Head, tmp_path: Path
) -> None:
    """float32 and float64 are read back as they are; less is no precision to train in."""
    state = {name: tensor.to(dtype) for name, tensor in head.state_dict().items()}
    write(tmp_path / "bad", head, state)
    refused(tmp_path / "bad", f"in float32, found {dtype}")
    save_head(head.double(), tmp_path / "double")
    assert all(p.dtype == torch.float64 for p in load_head(tmp_path / "double").parameters())


def test_missing_and_additional_tensors_are_refused(head: Head, tmp_path: Path) -> None:
    state = head.state_dict()
    for name in state.keys() - {"image_bias"}:  # a projection may have none
        write(tmp_path / "bad", head, {n: t for n, t in state.items() if n != name})
        refused(tmp_path / "bad", "tensor")
    for name in ("more", "\x1b[2J\nred", "weight.", "x" * 9999, "‮"):
        write(tmp_path / "bad", head, {**state, name: torch.zeros(2)})
        refused(tmp_path / "bad", "expected no tensors but")
    write(tmp_path / "bad", head, {})
    refused(tmp_path / "bad", "tensor")


@pytest.mark.parametrize(
    "config",
    [
        "none", "", "{", "null", "[]", "3", '"a"', '{"a": 1}', '{"__class__": "os.system"}',
        "[" * 100_000, '{"a":' * 100_000, '{"\x1b[2J\\n": 1}', "\x1b[2J\n", "9" * 5000,
    ],
)  # fmt: skip
def test_a_config_of_something_else_is_refused(config: str, head: Head, tmp_path: Path) -> None:
    write(tmp_path / "bad", head, config=config)
    refused(tmp_path / "bad", "config|option")


ODD = [None, [], {}, "", "sideways\n\x1b[2J", True, -1, 0.5, 10**40, float("nan"), float("inf")]


def test_an_option_of_another_kind_is_refused(head: Head, tmp_path: Path) -> None:
    for name in head.config:
        for odd in ODD:
            right = {(bool, "normalise"), (float, "residual"), (float, "temperature")}
            if (type(odd), name) in right and odd in (True, 0.5) and name in head.config:
                continue  # these are of the right kind
            write(tmp_path / "bad", head, config=json.dumps({**head.config, name: odd}))
            refused(tmp_path / "bad", "option|number of heads")
        less = {n: v for n, v in head.config.items() if n != name}
        write(tmp_path / "less", head, config=json.dumps(less))
        if isinstance(head, ProjectionHead):
            assert load_head(tmp_path / "less").config.keys() == head.config.keys()
        else:
            refused(tmp_path / "less", "expected option")


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_that_do_not_divide_the_width(
    heads: int, model: Any, make_head: Any, tmp_path: Path
) -> None:
    head = make_head("attnpool/image", model)
    write(tmp_path / "bad", head, config=json.dumps({**head.config, "heads": heads}))
    refused(tmp_path / "bad", f"divides the attention pool's width 8, found {heads}")


@pytest.mark.parametrize(
    ("which", "changed", "words"),
    [
        ("context/with-class", {"temperature": 0.0}, "'temperature' above 0"),
        ("context/with-class", {"infer": "alone"}, "tensor 'contexts', found none"),
        ("context/alone", {"infer": "with-class"}, "no tensors but"),
        ("templates/cosines", {"keep": 0}, "'keep' from 1 to the 5 templates, found 0"),
        ("templates/cosines", {"keep": 6}, "'keep' from 1 to the 5 templates, found 6"),
    ],
)
def test_options_that_do_not_fit_the_tensors(
    which: str, changed: dict[str, Any], words: str, model: Any, make_head: Any, tmp_path: Path
) -> None:
    head = make_head(which, model)
    write(tmp_path / "bad", head, config=json.dumps({**head.config, **changed}))
    refused(tmp_path / "bad", words)


def test_a_negative_variance_is_refused(model: Any, make_head: Any, tmp_path: Path) -> None:
    head = make_head("adapter", model)
    state = head.state_dict()
    write(tmp_path / "bad", head, {**state, "running_var": -state["running_var"]})
    refused(tmp_path / "bad", "running_var")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"head": "none"}, "one of the heads linear, .* found ''"),
        ({"head": "mlp\n"}, r"one of the heads linear, .* found 'mlp\\n'"),
        ({"format": "embedcal-head 2"}, "expected 'embedcal-head 1'.*newer embedcal"),
        ({"format": "\x1b[2J"}, "expected 'embedcal-head 1'"),
    ],
)
def test_another_kind_or_version_is_refused(
    told: dict[str, str], words: str, head: Head, tmp_path: Path
) -> None:
    write(tmp_path / "bad", head, **told)
    refused(tmp_path / "bad", words)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "embedcal-head 1")


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def one(dtype: str, shape: list[int], end: int, data: bytes | None = None) -> bytes:
    told = {"format": "embedcal-head 1", "head": "linear", "config": "{}"}
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}
    return raw({"__metadata__": told, "weight": entry}, bytes(end) if data is None else data)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a head",
        b"\x80\x04cos\nsystem\n",
        b"PK\x03\x04" + bytes(60),
        raw({}, length=2**63),
        raw({}, length=2**40),
        raw(b"[" * 10_000),
        raw(b"\xff\xfe{}"),
        raw({"__metadata__": {"format": 1}}),
        one("F32", [2**40, 2**40], 16),
        one("F32", [4], 4 * 2**40, b""),
        one("F32", [-1], 4),
        *(one(dtype, [2, 2], size) for dtype, size in [
            ("F4", 2), ("F8_E4M3", 4), ("F8_E8M0", 4), ("U16", 8), ("U64", 32), ("C64", 32),
            ("F6_E2M3", 3), ("STRING", 4),
            ("\x1b[2J\n" * 50, 4),
        ]),
    ],
)  # fmt: skip
def test_another_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(content)
    refused(tmp_path / "bad")


def test_a_cut_or_flipped_file_is_refused_or_read_whole(
    model: Any, make_head: Any, tmp_path: Path
) -> None:
    """No byte of the header, changed to anything, makes more than one line."""
    save_head(make_head("adapter", model), tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    for end in range(0, len(good), 97):
        (tmp_path / "bad").write_bytes(good[:end])
        refused(tmp_path / "bad")
    header = struct.unpack("<Q", good[:8])[0]
    for at in range(0, header + 8, 5):
        for flip in (0x01, 0x80):
            (tmp_path / "bad").write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            with suppress(EmbedcalError):  # anything else is a traceback
                load_head(tmp_path / "bad")


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing")
    refused(tmp_path)
