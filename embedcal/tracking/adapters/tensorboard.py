"""TensorBoard: one folder of events a run, with its settings for the HParams tab."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from embedcal.tracking.adapters.base import Tracker
from embedcal.tracking.mirrored import Mirrored


class Adapter(Tracker):
    """Folders ``OUT/PROJECT/KEY``, each of which appears whole; ``OUT`` is else ``tensorboard``."""

    packages = ("tensorboard",)

    def __init__(self, project: str, out: Path | None) -> None:
        root = out if out is not None else Path("tensorboard")
        self._folder = root / project
        self.where = str(self._folder)
        self.look = f"tensorboard --logdir {shlex.quote(str(root))}"
        writing = "tensorboard.summary.writer.event_file_writer"
        self._writer: Any = import_module(writing).EventFileWriter
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        self._hparams: Any = import_module("tensorboard.plugins.hparams.summary_v2")

    def holds(self, key: str) -> bool:
        return (self._folder / key).is_dir()

    def add(self, run: Mirrored) -> None:
        part = self._folder / f".{run.key}.part"
        shutil.rmtree(part, ignore_errors=True)
        writer = self._writer(str(part))
        try:
            self._put(writer, self._hparams.hparams_pb(dict(run.settings), trial_id=run.key), 0)
            for epoch, values in run.curve:
                self._put(writer, self._scalars(values), epoch)
            self._put(writer, self._scalars(run.summary), run.epoch)
        finally:
            writer.close()
        part.replace(self._folder / run.key)

    def close(self) -> None: ...

    def _put(self, writer: Any, summary: Any, step: int) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, summary=summary)
        writer.add_event(event)

    def _scalars(self, values: Mapping[str, float]) -> Any:
        made = self._summaries.Summary
        return made(
            value=[made.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
