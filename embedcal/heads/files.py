"""Heads as files: safetensors with a JSON config, read back without trusting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from embedcal.datasets.printable import printable
from embedcal.heads.base import Head
from embedcal.types import EmbedcalError

FORMAT = "embedcal-head 1"


def save_head(head: Head, path: Path) -> None:
    """Write a head as safetensors; the file appears whole or not at all."""
    metadata = {"format": FORMAT, "head": head.name, "config": json.dumps(head.config)}
    part = path.with_name(path.name + ".part")
    tensors = {k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    save_file(tensors, part, metadata=metadata)
    part.replace(path)


def load_head(path: Path) -> Head:
    """Read what :func:`save_head` wrote. Raises EmbedcalError for any other file."""
    from embedcal.heads import HEADS

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # In memory of their own, which is aligned: read where they lie in the file, products
            # with them may differ in the last bit from those of the head that was saved.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise EmbedcalError(
            f"expected a head saved by embedcal at {path}, found {printable(str(error))}: name a "
            "run's head.safetensors"
        ) from None
    if metadata.get("format") != FORMAT:
        raise EmbedcalError(
            f"expected '{FORMAT}' in {path}, found '{printable(str(metadata.get('format')))}': it "
            "is another file, or a newer embedcal wrote it"
        )
    name = metadata.get("head", "")
    if name not in HEADS:
        raise EmbedcalError(
            f"expected one of the heads {', '.join(HEADS)} in {path}, found '{printable(name)}': "
            "a newer embedcal wrote it"
        )
    try:
        return HEADS[name].from_state(state, _config(metadata.get("config", "")))
    except EmbedcalError as error:
        raise EmbedcalError(
            f"{error}, in {path}: the file is damaged, or embedcal did not write it; delete "
            "the run's folder and fit it again"
        ) from None


def _config(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise EmbedcalError(f"expected a config in JSON, found '{printable(text)}'")
    return config
