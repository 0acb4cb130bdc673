"""Folders of runs with made-up results, as embedcal.runs lays them out, nothing fitted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from embedcal.evaluate import as_dict, evaluate_strata, strata

SIZES = {"val": (120, 110, 60, 60), "test": (300, 280, 140, 130)}
COUNTS = (3498, 184, 56, 1057)


def cells_of(split: str, attributes: bool = True):
    group = np.repeat(np.arange(4), SIZES[split])
    return strata(group // 2, group % 2 if attributes else None, 2, 2 * attributes, COUNTS)


class Grid:
    """Writes runs into one folder. ``accuracies`` are of the four groups; a seed draws the rest.

    All methods of one grid share a difficulty of each image, so that their errors coincide.
    """

    def __init__(self, folder: Path, *, cache: str = "c0", attributes: bool = True) -> None:
        self.folder, self.cache, self.attributes = folder, cache, attributes
        self.hard = {s: np.random.default_rng(5).random(sum(n)) for s, n in SIZES.items()}

    def run(
        self,
        method: str,
        seed: int,
        accuracies: tuple[float, ...],
        *,
        val: tuple[float, ...] | None = None,
        options: dict[str, Any] | None = None,
        rules: tuple[str, ...] = ("val.worst_group", "val.worst_class", "val.mean", "last"),
        head: str = "projection",
        labels: tuple[str, ...] = ("train.y", "val.g", "val.y"),
        in_sample: bool = False,
        worst_env: float | None = None,
        predictions: bool = True,
    ) -> dict[str, Any]:
        record = self.identity(method, seed, options, head)
        rng = np.random.default_rng(int(record["id"], 16) % 2**32)
        logits, measured = {}, {}
        for split, group_accuracies in (("val", val or accuracies), ("test", accuracies)):
            cells = cells_of(split, self.attributes)
            right = 0.7 * self.hard[split] + 0.3 * rng.random(len(cells))
            group = np.repeat(np.arange(4), SIZES[split])
            correct = np.zeros(len(cells), dtype=bool)
            for g, accuracy in enumerate(group_accuracies):
                rows = np.flatnonzero(group == g)
                correct[rows[np.argsort(right[rows])[: round(accuracy * len(rows))]]] = True
            chosen = np.where(correct, cells.y, 1 - cells.y)
            measured[split] = as_dict(evaluate_strata(chosen, cells))
            for name in rules:
                logits[f"{name}/{split}"] = np.eye(2, dtype=np.float32)[chosen]
        measured["val"]["in_sample"] = in_sample
        if worst_env is not None:  # judged by a rule of environments
            measured["val"]["worst_env"] = worst_env
            record["environments"] = {"sizes": [[170, 60], [116, 4]], "joined": [1]}
        entry = {"epoch": 3, "labels_used": list(labels), **measured}
        record |= {
            "status": "done",
            "rules": dict.fromkeys(rules, entry),
            "selection": rules[0],
            "seconds": 1.5,
        }
        if predictions:
            self._store(record, logits)
        return self.append(record)

    def fail(self, method: str, seed: int, options: dict[str, Any] | None = None) -> None:
        record = self.identity(method, seed, options, "projection")
        self.append(record | {"status": "failed", "reason": "diverged", "seconds": 0.1})

    def identity(self, method, seed, options, head) -> dict[str, Any]:
        known = {
            "method": method,
            "variant": "paper",
            "head": head,
            "options": options or {},
            "seed": seed,
            "cache": {
                "path": f"/nowhere/{self.cache}.h5",
                "fingerprint": self.cache * 8,
                "dataset": "birds",
                "backbone": "tiny",
                "rows": 1200,
            },
            "attributes": ["background"] if self.attributes else [],
            "stage": None,
        }
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
        return {"id": digest, **known}

    def append(self, record: dict[str, Any]) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record

    def _store(self, record: dict[str, Any], logits: dict[str, np.ndarray]) -> None:
        folder = self.folder / record["id"]
        folder.mkdir(parents=True, exist_ok=True)
        known = {
            "n_classes": 2,
            "n_attributes": dict.fromkeys(SIZES, 2 * self.attributes),
            "train_group_counts": np.reshape(COUNTS, (2, 2)).tolist() if self.attributes else None,
        }
        cells = {f"cell/{s}": cells_of(s, self.attributes).cell.astype(np.int32) for s in SIZES}
        file = folder / "predictions.safetensors"
        save_file({**logits, **cells}, file, metadata={"strata": json.dumps(known)})
        (folder / "run.json").write_text(json.dumps(record))
