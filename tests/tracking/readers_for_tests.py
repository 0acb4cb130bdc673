"""What a tracker holds, read back by the tracker's own reader: settings and points by key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

Held = dict[str, tuple[dict[str, Any], dict[str, list[tuple[int, float]]]]]


def read(to: str, out: Path, project: str) -> Held:
    """By key: the settings, and for each metric its points (step, value)."""
    return {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb, "trackio": _trackio}[
        to
    ](out, project)


def _tensorboard(out: Path, project: str) -> Held:
    events = import_module("tensorboard.backend.event_processing.event_accumulator")
    plugin = import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    found: Held = {}
    for folder in sorted((out / project).iterdir()):
        held = events.EventAccumulator(str(folder))
        held.Reload()
        tag = "_hparams_/session_start_info"
        content = held.SummaryMetadata(tag).plugin_data.content
        start = plugin.HParamsPluginData.FromString(content).session_start_info
        settings = {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}
        points = {
            name: [(each.step, each.value) for each in held.Scalars(name)]
            for name in held.Tags()["scalars"]
        }
        found[folder.name] = (settings, points)
    return found


def _mlflow(out: Path, project: str) -> Held:
    client = import_module("mlflow").MlflowClient(f"sqlite:///{(out / 'mlflow.db').as_posix()}")
    experiment = client.get_experiment_by_name(project)
    found: Held = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.status == "FINISHED"
        points = {
            name: sorted(
                (m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        found[run.data.tags["embedcal.run"]] = (dict(run.data.params), points)
    return found


def _trackio(out: Path, project: str) -> Held:
    storage = import_module("trackio.sqlite_storage").SQLiteStorage
    found: Held = {}
    for run in import_module("trackio").Api().runs(project):
        points: dict[str, list[tuple[int, float]]] = {}
        for row in storage.get_logs(project, run.name):
            for name, value in row.items():
                if name not in ("step", "timestamp"):
                    points.setdefault(name, []).append((row["step"], value))
        found[run.name] = (run.config or {}, points)
    return found


def _wandb(out: Path, project: str) -> Held:
    proto = import_module("wandb.proto.wandb_internal_pb2")
    found: Held = {}
    for path in sorted(out.glob("wandb/offline-run-*/run-*.wandb")):
        settings: dict[str, Any] = {}
        points: dict[str, list[tuple[int, float]]] = {}
        summary: dict[str, float] = {}
        key = None
        for data in _records(path.read_bytes()):
            record = proto.Record.FromString(data)
            if record.HasField("run"):
                key = record.run.run_id
                assert record.run.project == project
                settings |= {each.key: json.loads(each.value_json) for each in _of(record.run)}
            if record.HasField("config"):
                settings |= {e.key: json.loads(e.value_json) for e in record.config.update}
            if record.HasField("history"):
                for each in record.history.item:
                    name = each.key or ".".join(each.nested_key)
                    if name[0] != "_":
                        at = (record.history.step.num, json.loads(each.value_json))
                        points.setdefault(name, []).append(at)
            if record.HasField("summary"):
                for each in record.summary.update:
                    name = each.key or ".".join(each.nested_key)
                    summary[name] = json.loads(each.value_json)
        assert key not in (None, *found)
        for name, value in summary.items():
            if name[0] != "_":
                points.setdefault(name, []).append((-1, value))  # a summary has no step
        found[key] = (settings, points)
    return found


def _of(run: Any) -> Any:
    return run.config.update if run.HasField("config") else ()


def _records(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """Records of W&B's file: a head of 7 bytes, then LevelDB's log format."""
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        kind = data[at + 6]
        if not kind:
            return
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, or the last part
            yield whole
            whole = b""
