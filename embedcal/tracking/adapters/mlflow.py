"""MLflow: an experiment, and in it a run with parameters, metrics and tags for each run."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from embedcal.tracking.adapters.base import Tracker
from embedcal.tracking.mirrored import Mirrored
from embedcal.types import EmbedcalError

KEY = "embedcal.run"  # the tag that holds our key
BATCH = 500  # metrics in one request: MLflow takes 1000 things in all
PARAMETERS = 100  # in one request
PAGE = 1000
DONE = "FINISHED"
LEFT = 600  # seconds after which nobody writes a run any more


class Adapter(Tracker):
    """A database ``OUT/mlflow.db`` with artifacts beside it, or where ``MLFLOW_TRACKING_URI`` says.

    Sends no usage statistics, unless ``MLFLOW_DISABLE_TELEMETRY`` says so.
    """

    packages = ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, project: str, out: Path | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow: Any = import_module("mlflow")
        for name in ("mlflow", "alembic"):  # each step of making tables is a line
            logging.getLogger(name).setLevel(logging.WARNING)
        self._entities: Any = import_module("mlflow.entities")
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(out / 'mlflow.db').absolute().as_posix()}"
        else:
            uri = mlflow.get_tracking_uri()
        self.where = f"experiment {project} of {uri}"
        self.look = f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._experiment = self._found(project, out)
        self._known = set(self._whole())

    def holds(self, key: str) -> bool:
        return key in self._known

    def add(self, run: Mirrored) -> None:
        now = int(1000 * time.time())
        made = self._client.create_run(
            self._experiment, run_name=run.name, tags={KEY: run.key, "method": run.method}
        )
        try:
            self._write(made.info.run_id, run, now)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                self._client.delete_run(made.info.run_id)
            raise
        self._known.add(run.key)

    def _write(self, name: str, run: Mirrored, now: int) -> None:
        metric, param = self._entities.Metric, self._entities.Param
        settings = [param(key, str(value)) for key, value in run.settings.items()]
        for some in _cut(settings, PARAMETERS):
            self._client.log_batch(name, params=some)
        points = [*run.curve, (run.epoch, run.summary)]
        metrics = [metric(k, v, now, step) for step, values in points for k, v in values.items()]
        for some in _cut(metrics, BATCH):
            self._client.log_batch(name, metrics=some)
        self._client.set_terminated(name, status=DONE)

    def close(self) -> None: ...

    def _found(self, project: str, out: Path | None) -> str:
        there = self._client.get_experiment_by_name(project)
        if there is None:
            place = (out / "artifacts").absolute().as_uri() if out is not None else None
            return str(self._client.create_experiment(project, artifact_location=place))
        if there.lifecycle_stage != "active":
            raise EmbedcalError(
                f"expected an experiment {project} that is in use, found it deleted: restore it in "
                "MLflow, or choose another --project"
            )
        return str(there.experiment_id)

    def _whole(self) -> Iterator[str]:
        """Keys of the runs that were finished; what a killed process left is taken away.

        A run that is not finished may be another process's, which writes it at this moment.
        """
        token, before = None, 1000 * (time.time() - LEFT)
        while True:
            page = self._client.search_runs([self._experiment], max_results=PAGE, page_token=token)
            for run in page:
                key = run.data.tags.get(KEY)
                if key and run.info.status == DONE:
                    yield key
                elif key and run.info.start_time < before:
                    self._client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                return


def _cut(things: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(things), size):
        yield list(things[start : start + size])
