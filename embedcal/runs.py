"""Runs on disk: what a fit was, what came out, and where it lies.

A folder of runs holds ``results.jsonl``, one line a run, and one folder a run, named by its id:
``run.json``, ``head.safetensors``, ``rules/RULE.safetensors`` (the head that each selection rule
would keep) and ``predictions.safetensors`` (validation and test logits under each rule). A run's
folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.heads import Head

RESULTS = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run under one selection rule. ``record`` is its line in ``results.jsonl``."""

    folder: Path
    record: Mapping[str, Any]
    reused: bool = field(default=False, compare=False)

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def val(self) -> Mapping[str, Any]:
        """Validation metrics by name; ``in_sample`` tells whether the method fitted this split."""
        return dict(self.record["val"])

    @property
    def test(self) -> Mapping[str, Any]:
        """Test metrics by name."""
        return dict(self.record["test"])

    def head(self, rule: str | None = None) -> Head:
        """The head that the run's rule keeps, or the one that another rule would keep."""
        from embedcal.heads import load_head

        name = f"rules/{rule}.safetensors" if rule else "head.safetensors"
        return load_head(self.folder / name)

    def predictions(self) -> dict[str, Tensor]:
        """Logits of the run's rule: ``val`` and ``test`` (n, C), rows in the cache's order."""
        rule = self.record["selection"]
        return {split: self.all_predictions()[f"{rule}/{split}"] for split in ("val", "test")}

    def all_predictions(self) -> dict[str, Tensor]:
        """Logits under every rule, by ``RULE/SPLIT``."""
        from safetensors.torch import load_file

        return load_file(self.folder / "predictions.safetensors")


def run_id(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits of the SHA-256 of everything that decides a result."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def store(
    folder: Path, record: Mapping[str, Any], heads: Mapping[str, Head], logits: Mapping[str, Tensor]
) -> Run:
    """Write a run whole, then its line. ``heads`` by rule, ``logits`` by rule and split."""
    from safetensors.torch import save_file

    from embedcal.heads import save_head

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        (part / "rules").mkdir()
        for rule, head in heads.items():
            save_head(head, part / "rules" / f"{rule}.safetensors")
        save_head(heads[record["selection"]], part / "head.safetensors")
        save_file({k: v.contiguous() for k, v in logits.items()}, part / "predictions.safetensors")
        _write_json(part / "run.json", record)
        part.chmod(0o755)  # mkdtemp's folders are private; a run's is as any other
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    append(folder.parent, record)
    return Run(folder=folder, record=record)


def reselect(run: Run, record: Mapping[str, Any]) -> Run:
    """Make another rule the run's own; nothing is trained again."""
    rule = record["selection"]
    shutil.copyfile(run.folder / "rules" / f"{rule}.safetensors", run.folder / "head.part")
    (run.folder / "head.part").replace(run.folder / "head.safetensors")
    _write_json(run.folder / "run.json", record)
    append(run.folder.parent, record)
    return Run(folder=run.folder, record=record, reused=True)


def load_run(folder: Path) -> Run | None:
    """The run in a folder, or None where there is no whole one."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EmbedcalError(
            f"expected a run in {folder}, found an unreadable run.json ({error}): delete the folder"
        ) from None
    return Run(folder=folder, record=record)


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to ``results.jsonl`` by a single write, so that lines never interleave."""
    line = json.dumps(record, allow_nan=False) + "\n"
    file = os.open(folder / RESULTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    part.replace(path)
