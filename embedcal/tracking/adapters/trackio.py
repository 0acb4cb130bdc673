"""trackio: one database a project on this machine, which its own dashboard shows."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from embedcal.tracking.adapters.base import Tracker
from embedcal.tracking.mirrored import Mirrored
from embedcal.types import EmbedcalError

PLACE = "TRACKIO_DIR"


class Adapter(Tracker):
    """The project's database in ``OUT``, or where ``TRACKIO_DIR`` or trackio itself says.

    A run is written in one transaction, by what trackio's own imports of other files write with;
    its ``init`` asks the network for a user's name, and samples the machine.
    """

    packages = ("trackio",)

    def __init__(self, project: str, out: Path | None) -> None:
        if out is not None:  # read once, when trackio is imported
            os.environ[PLACE] = str(out.absolute())
        self._storage: Any = import_module("trackio.sqlite_storage").SQLiteStorage
        place = Path(import_module("trackio.utils").TRACKIO_DIR)
        if out is not None and place.absolute() != out.absolute():
            raise EmbedcalError(
                f"expected trackio to write into {out}, found it at work in {place} already: begin "
                "a new Python process, or leave --out away"
            )
        try:
            self._storage.validate_project_name(project)
        except ValueError as error:
            raise EmbedcalError(
                f"expected a name of a project that trackio takes, found '{project}': choose "
                "another --project"
            ) from error
        self._project = project
        self.where = str(self._storage.get_project_db_path(project))
        set_it = f"{PLACE}={shlex.quote(str(place))} " if out is not None else ""
        self.look = f"{set_it}trackio show --project {shlex.quote(project)}"
        self._known = set(self._storage.get_runs(project))

    def holds(self, key: str) -> bool:
        return key in self._known

    def add(self, run: Mirrored) -> None:
        points = [*run.curve, (run.epoch, run.summary)]
        created = {"_Created": datetime.now(UTC).isoformat(), "_Group": run.method}
        self._storage.bulk_log(
            project=self._project,
            run=run.key,
            metrics_list=[dict(values) for _, values in points],
            steps=[step for step, _ in points],
            config={**run.settings, **created, "_Username": None},
        )
        self._known.add(run.key)

    def close(self) -> None: ...
