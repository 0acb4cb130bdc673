"""Weights from disk or from a seed into an open_clip model; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_by_openai() -> dict[str, str]:
    """SHA-256 -> open_clip architecture (the QuickGELU one) of OpenAI's TorchScript archives.

    OpenAI publishes each archive under an address that contains its digest.
    """
    from open_clip.pretrained import get_pretrained_url, list_pretrained_models_by_tag

    published = {}
    for architecture in list_pretrained_models_by_tag("openai"):
        url = get_pretrained_url(architecture, "openai")
        if architecture.endswith("-quickgelu") and "openaipublic" in url:
            published[url.split("/")[-2]] = architecture
    return published


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, which holds code besides tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def load_file(model: nn.Module, path: Path, architecture: str) -> None:
    """Load the weights in ``path`` into ``model``, strictly.

    safetensors, or a PyTorch file read with ``weights_only=True`` (a training checkpoint of
    open_clip's as well); a TorchScript archive only if its SHA-256 is one that OpenAI published.
    Position embeddings of another image size are refused, where open_clip would resize them.
    """
    if path.suffix not in SUFFIXES:
        raise EmbedcalError(
            f"expected weights in a file ending in {', '.join(SUFFIXES)}, found '{path.name}': "
            "convert it to safetensors"
        )
    state = _openai_archive(path, architecture) if is_torchscript(path) else _read(path)
    from open_clip.convert import convert_state_dict

    state = convert_state_dict(model, state)
    wanted = model.state_dict()
    if "logit_scale" in state and state["logit_scale"].numel() == 1:  # () or (1,) over the years
        state["logit_scale"] = state["logit_scale"].reshape(wanted["logit_scale"].shape)
    problem = _mismatch(wanted, state)
    if problem:
        raise EmbedcalError(
            f"expected weights of {architecture} in {path}, found {problem}: name the backbone "
            "that the file was made for"
        )
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    import torch
    from open_clip.factory import load_state_dict
    from safetensors import SafetensorError

    try:
        state = load_state_dict(str(path), weights_only=True)
    except pickle.UnpicklingError:
        raise EmbedcalError(
            f"expected nothing but tensors in {path}, found other pickled objects, which are "
            "never loaded because they can run code: save it as safetensors where you trust it"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise EmbedcalError(
            f"expected weights in {path}, found a file that cannot be read "
            f"({str(error).strip().splitlines()[0] if str(error) else type(error).__name__}): "
            "fetch it again"
        ) from None
    except (AttributeError, StopIteration, TypeError):
        state = None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise EmbedcalError(
            f"expected a dictionary of named tensors in {path}, found something else: save "
            "model.state_dict()"
        )
    return state


def _mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What keeps ``found`` from being loaded, by the first tensor concerned; "" if nothing."""
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - found.keys() - counters)
    extra = sorted(found.keys() - wanted.keys())
    if missing or extra:
        parts = [f"{len(missing)} missing ('{missing[0]}', ...)"] if missing else []
        parts += [f"{len(extra)} unknown ('{extra[0]}', ...)"] if extra else []
        return " and ".join(parts) + " tensors"
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name].shape != found[name].shape:
            return (
                f"'{name}' of shape {tuple(found[name].shape)} instead of "
                f"{tuple(wanted[name].shape)}"
            )
    return ""


def _openai_archive(path: Path, architecture: str) -> dict[str, Tensor]:
    digest = file_sha256(path)
    published = published_by_openai()
    if digest not in published:
        raise EmbedcalError(
            f"expected safetensors or a plain state dict, found a TorchScript archive ({path}) "
            f"that OpenAI did not publish (SHA-256 {digest[:12]}...), and such an archive can run "
            "code: save it as safetensors where you trust it"
        )
    if published[digest] != architecture:
        raise EmbedcalError(
            f"expected weights of {architecture}, found OpenAI's {published[digest]} in {path}: "
            f"use --backbone {published[digest]}"
        )
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and OpenAI's files are fixed
        archive = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    drop = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # not weights
    return {k: v for k, v in archive.state_dict().items() if k not in drop}


def randomise(model: nn.Module, seed: int) -> None:
    """Random weights of which every one matters, reproducible from ``seed``.

    open_clip's initial ResNet has zero gains at the end of every residual branch and trivial
    running statistics, so that branches are dead and a wrong batch norm goes unnoticed. Here
    convolutions keep the variance (He et al. 2015, arXiv 1502.01852) and batch norms get gains,
    shifts and statistics near the identity; all other parameters keep open_clip's distribution.
    The shares are small enough for the 60 blocks of RN50x64 to stay in float16's range.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                last = name.endswith("bn3") and "layer" in name
                assert module.running_mean is not None
                assert module.running_var is not None
                uniform(module.weight, *((0.2, 0.4) if last else (0.8, 1.2)))
                uniform(module.bias, -0.1, 0.1)
                uniform(module.running_mean, -0.1, 0.1)
                uniform(module.running_var, 0.8, 1.2)
            elif isinstance(module, nn.Conv2d) and module.bias is None and "layer" in name:
                fan_in = module.weight[0].numel()
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise * (2.0 / fan_in) ** 0.5)
