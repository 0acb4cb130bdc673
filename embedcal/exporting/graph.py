"""An image tower with its head as one ONNX file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.encoders.compiled import EXPORTER
from embedcal.exporting.facts import KEY
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedcal.exporting.portable import Portable

INPUT, OUTPUT = "pixels", "logits"
LARGEST = 2**31 - 2**24  # bytes of weights in one protobuf file, with room for the graph
NEEDED = ("onnxruntime", *EXPORTER)


def check_installed() -> None:
    """EmbedcalError where what writes or runs ONNX is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise EmbedcalError(
            f"expected {' and '.join(missing)} for --to onnx, found "
            f"{'it' if len(missing) == 1 else 'them'} not installed: pip install 'embedcal[onnx]'"
        )


def scorer(tower: nn.Module, head: Portable, facts: Mapping[str, Any]) -> nn.Module:
    """Pictures (b, 3, h, w) float32 from 0 to 1 -> logits (b, C); it normalises them itself.

    ``tower`` gives the features that ``head`` reads.
    """
    import torch
    from torch import nn

    from embedcal.exporting.score import HEADS

    class Scorer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower
            for name, value in head.tensors.items():
                self.register_buffer(f"head_{name}", value)
            for name in ("mean", "std"):
                value = torch.tensor(facts["preprocessing"][name]).view(1, 3, 1, 1)
                self.register_buffer(name, value)

        def forward(self, pixels: Tensor) -> Tensor:
            found = self.tower((pixels - self.get_buffer("mean")) / self.get_buffer("std"))
            features = found[0] if isinstance(found, tuple) else found  # CoCa's give tokens too
            tensors = {name: self.get_buffer(f"head_{name}") for name in head.tensors}
            return HEADS[head.kind](features, tensors, head.options)

    return Scorer().eval()


def write_graph(
    model: nn.Module, size: tuple[int, int], path: Path, facts: Mapping[str, Any], card: str
) -> None:
    """Write a :func:`scorer` of pictures of one (h, w) as one file with a free batch size.

    Raises EmbedcalError for a model that torch cannot export or one file cannot hold.
    """
    import torch

    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if held > LARGEST:
        raise EmbedcalError(
            f"expected an image tower of at most 2 GiB for one ONNX file, found "
            f"{held / 2**30:.1f} GiB: use --to open_clip"
        )
    try:
        # Two pictures, since torch.export takes a size of one to be fixed.
        with torch.inference_mode(mode=False), torch.no_grad(), _unfused():
            program = torch.onnx.export(
                model,
                (torch.zeros(2, 3, *size),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # whatever the exporter raises at a model that it does not know
        found = " ".join(str(error).split()) or "no message"
        raise EmbedcalError(
            f"expected a model that torch can export as ONNX, found {type(error).__name__}: "
            f"{found[:160]}{'...' * (len(found) > 160)}: use --to open_clip"
        ) from error
    assert program is not None
    program.model.metadata_props.update({KEY: json.dumps(facts), "README": card})
    program.save(path, external_data=False)


@contextmanager
def _unfused() -> Iterator[None]:
    """Without the fused path of torch's attention, an operator that no other runtime knows."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def run_graph(path: Path, pixels: Tensor) -> Tensor:
    """Pictures (b, 3, h, w) from 0 to 1 -> logits (b, C), by ONNX Runtime on the CPU."""
    import torch

    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; it warns of nodes that it does not fold
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {INPUT: pixels.numpy()})[0])
