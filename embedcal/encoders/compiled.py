"""A frozen trunk in another runtime: exported to ONNX, run by OpenVINO or ONNX Runtime.

Both run on the CPU in float32. Their arithmetic is ordered otherwise than torch's, so what they
give is held to torch's own answers (``check_parity``) before any of it is kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.encoders.programs import program
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor, nn

TORCH = "torch"
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}  # runtime -> extra of the package
RUNTIMES = (TORCH, *EXTRAS)
EXPORTER = ("onnx", "onnxscript")  # what torch needs to write the file that both read
PARITY = 0.99999  # least cosine of a row's features with torch's

Trunk = Callable[["Tensor"], "Tensor"]  # (b, 3, h, w) float32 -> the trunk's output, float32


def check_runtime(runtime: str, device: str = "cpu") -> None:
    """EmbedcalError for an unknown runtime, one that is not installed, or none for the device."""
    if runtime not in RUNTIMES:
        raise EmbedcalError(
            f"expected a runtime among {', '.join(RUNTIMES)}, found '{runtime}': use torch"
        )
    if runtime == TORCH:
        return
    missing = [name for name in (runtime, *EXPORTER) if find_spec(name) is None]
    if missing:
        raise EmbedcalError(
            f"expected {' and '.join(missing)} for --runtime {runtime}, found "
            f"{'it' if len(missing) == 1 else 'them'} not installed: pip install "
            f"'embedcal[{EXTRAS[runtime]}]', or use --runtime torch"
        )
    if device != "cpu":
        raise EmbedcalError(
            f"expected --device cpu with --runtime {runtime}, which runs there only, found "
            f"'{device}': drop one of them"
        )


def version(runtime: str) -> str:
    """The runtime and its version, for the record: "openvino 2026.4.1"."""
    from importlib.metadata import version as installed

    return f"{runtime} {installed(runtime)}"


class Elsewhere:
    """An image trunk in another runtime, compiled and held to torch's at its first batch.

    ``size`` is the (h, w) of the pictures. Not before the first batch, since exporting takes
    seconds and most commands on a cache encode no picture at all.
    """

    def __init__(self, trunk: nn.Module, runtime: str, size: tuple[int, int]) -> None:
        self._trunk, self._runtime, self._size = trunk, runtime, size
        self._run: Trunk | None = None

    def __call__(self, x: Tensor, features: Callable[[Tensor], Mapping[Any, Tensor]]) -> Tensor:
        """Pictures (b, 3, h, w) float32 -> what the trunk makes of them, float32.

        ``features`` maps such an output to what is compared with torch's by ``check_parity``.
        """
        if self._run is not None:
            return self._run(x)
        run = compiled(self._trunk, self._runtime, self._size)
        out, wanted = run(x), self._trunk(x)
        if out.shape != wanted.shape:
            raise EmbedcalError(
                f"expected a trunk's output {tuple(wanted.shape)} from {self._runtime}, found "
                f"{tuple(out.shape)}: use --runtime torch"
            )
        check_parity(features(out), features(wanted), runtime=self._runtime)
        self._run = run  # only now: after a refusal the next batch is checked again
        return out


def compiled(trunk: nn.Module, runtime: str, size: tuple[int, int]) -> Trunk:
    """``trunk`` as a function of pictures of one (h, w), any number at once, in another runtime.

    Exported once, and kept (``embedcal.encoders.programs``). It uses as many threads as torch does
    now. Raises EmbedcalError where the trunk cannot be exported or the runtime cannot run it.
    """
    try:
        with program(trunk, size, _export) as path:
            return _LOADERS[runtime](path)
    except Exception as error:  # whatever three libraries raise at a model that they do not know
        found = " ".join(str(error).split()) or "no message"
        raise EmbedcalError(
            f"expected a trunk that {runtime} can run, found {type(error).__name__}: "
            f"{found[:160]}{'...' * (len(found) > 160)}: use --runtime torch"
        ) from error


def _export(trunk: nn.Module, size: tuple[int, int], path: Path) -> None:
    """Write the trunk as ONNX with a free batch size, weights beside it: they may exceed 2 GB."""
    import torch

    # Two pictures, since torch.export takes a size of one to be fixed. Tensors that were made in
    # inference mode could not be saved. A ViT's fused attention, an operator that no exporter
    # knows, needs no switch: torch.export does not take it, as torch.jit.trace would.
    with torch.inference_mode(mode=False), torch.no_grad():
        example = torch.zeros(2, 3, *size, device=next(trunk.parameters()).device)
        program = torch.onnx.export(
            trunk,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=True)


def _openvino(path: Path) -> Trunk:
    """By OpenVINO. Its ``convert_model`` would send telemetry; reading a file does not."""
    import torch

    openvino: Any = importlib.import_module("openvino")
    model = openvino.Core().compile_model(
        path,
        "CPU",
        {
            # By default it rounds to bfloat16 wherever the processor is fast at that.
            "INFERENCE_PRECISION_HINT": "f32",
            # One batch at a time, which all threads share.
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(model(x.contiguous().numpy())[0])

    return run


def _onnxruntime(path: Path) -> Trunk:
    import torch

    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; it warns of nodes that it does not fold
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])

    return run


_LOADERS: Mapping[str, Callable[[Path], Trunk]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}


def check_parity(
    found: Mapping[Any, Tensor], wanted: Mapping[Any, Tensor], *, runtime: str
) -> None:
    """Hold features (b, ...) of each level to torch's; EmbedcalError for a cosine below PARITY.

    Rows that are not finite in torch either are left to whoever stores them, who can name them.
    """
    import torch

    for level, theirs in wanted.items():
        a, b = (x.reshape(len(x), -1).double() for x in (found[level], theirs))
        finite = b.isfinite().all(dim=1)
        cosine = torch.cosine_similarity(a, b, dim=1, eps=1e-30)
        cosine[(a == b).all(dim=1)] = 1.0  # zeros have no direction
        wrong = finite & ~(cosine >= PARITY)  # so that NaN is wrong too
        if wrong.any():
            raise EmbedcalError(
                f"expected {runtime} to give torch's features to a cosine of {PARITY}, found "
                f"{float(cosine[wrong].min()):.6f} at level {level} in {int(wrong.sum())} of "
                f"{len(a)} images of the first batch: use --runtime torch"
            )
