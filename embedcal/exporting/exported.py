"""What an export left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Form = Literal["open_clip", "safetensors", "onnx"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder or a file that holds a run's head. ``files`` are bytes by name.

    ``whole``: the head is inside the model, which then answers texts as well; else it stands
    beside the unmodified one, or by itself. ``difference`` is the largest by which a logit of what
    was written differed from the run's own head in torch, on pictures of noise, and ``largest`` the
    largest of these logits; both None where no model was written.
    """

    path: Path
    to: Form
    run: str
    head: str
    whole: bool
    files: Mapping[str, int]
    difference: float | None = None
    largest: float | None = None
    notes: tuple[str, ...] = ()
