"""Weights & Biases: a run each, offline unless ``WANDB_MODE`` says otherwise."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from embedcal.tracking.adapters.base import Tracker
from embedcal.tracking.mirrored import Mirrored

INDEX = "embedcal.jsonl"  # beside W&B's folders, which a sync may clean away


class Adapter(Tracker):
    """Folders ``OUT/wandb/offline-run-...``, which ``wandb sync`` uploads; ``OUT`` is else here.

    W&B knows a run of an offline folder only once it is uploaded, so a line in ``INDEX`` says of
    each that it is whole. Nothing about the machine, the code or the packages is recorded.
    """

    packages = ("wandb",)

    def __init__(self, project: str, out: Path | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb: Any = import_module("wandb")
        self._mode = os.environ.get("WANDB_MODE") or "offline"
        self._project = project
        self._out = out if out is not None else Path(os.environ.get("WANDB_DIR") or ".")
        self._folder = self._out / "wandb"
        self._folder.mkdir(parents=True, exist_ok=True)
        offline = self._mode == "offline"
        self.where = str(self._folder) if offline else f"project {project}, {self._mode}"
        folder = shlex.quote(str(self._folder))
        self.look = f"wandb sync {folder}/offline-run-*" if offline else "https://wandb.ai"
        self._known = set(self._whole())

    def holds(self, key: str) -> bool:
        return (self._project, self._mode, key) in self._known

    def add(self, run: Mirrored) -> None:
        if all(key != run.key for _, _, key in self._known):  # W&B's folders name no project
            for left in self._folder.glob(f"offline-run-*-{run.key}"):  # of a killed process
                shutil.rmtree(left, ignore_errors=True)
        online = self._mode == "online"
        made = self._wandb.init(
            project=self._project,
            id=run.key,
            name=run.name,
            group=run.method,
            config=dict(run.settings),
            dir=str(self._out),
            mode=self._mode,
            resume="allow" if online else None,
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        if not (online and made.resumed and made.summary.get("test/mean") is not None):
            for epoch, values in run.curve:
                made.log(dict(values), step=epoch)
            made.summary.update(dict(run.summary))
        made.finish()
        line = {"project": self._project, "mode": self._mode, "run": run.key}
        with (self._folder / INDEX).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._known.add((self._project, self._mode, run.key))

    def close(self) -> None:
        self._wandb.teardown()  # it has a process of its own

    def _whole(self) -> Iterator[tuple[str, str, str]]:
        """Project, mode and key of every line, whichever project or mode it is of."""
        try:
            lines = (self._folder / INDEX).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # torn
                found = json.loads(line)
                yield str(found["project"]), str(found["mode"]), str(found["run"])
