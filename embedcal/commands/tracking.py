"""The command that mirrors runs into a tracker: track."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedcal.commands import completing
from embedcal.commands.shared import CacheFile, Json, answer, named_runs


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="runs into TensorBoard, MLflow, W&B or trackio")(track)


def track(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="folders of runs, ids, or last; by default the grid used last",
            autocompletion=completing.runs,
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            help="tensorboard, mlflow, wandb, trackio", autocompletion=completing.trackers
        ),
    ] = "tensorboard",
    project: Annotated[
        str, typer.Option(help="the project, the experiment, the folder")
    ] = "embedcal",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder to write; else the tracker's own")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="look again until the grid is done")
    ] = False,
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Mirror runs into a tracker. What is there already is left alone; the runs stay as they are.

    Example: embedcal track runs --to mlflow
    """
    from embedcal.answers.tracking import track_record, track_report
    from embedcal.progress import progress
    from embedcal.tracking import follow as again
    from embedcal.tracking import track as run

    folders = named_runs(runs, cache)
    with progress() as bars:
        found = (again if follow else run)(
            folders,
            to,
            project=project,
            out=out,
            progress=lambda done, total: bars.stage("track", done, total),
        )
    record = track_record(found)
    answer(record, track_report(record), as_json=as_json)
