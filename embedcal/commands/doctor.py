"""The command that looks at the installation and the machine: doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from embedcal.commands.shared import Json, answer

BROKEN = 2  # a part that embedcal cannot do without


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="is everything installed, and how fast is this machine?")(doctor)


def doctor(
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="measure, ten seconds at most")
    ] = True,
    as_json: Json = False,
) -> None:
    """Versions, devices, threads, folders, a speed check, and advice. It opens no connection.

    The status is 2 where something that embedcal needs is broken, and 0 otherwise.

    Example: embedcal doctor
    """
    from embedcal.answers.doctor import doctor_record, doctor_report
    from embedcal.doctor import examine
    from embedcal.progress import progress

    with progress() as bars:
        found = examine(speed=speed, step=lambda done, of: bars.stage("measure", done, of))
    record = doctor_record(found)
    answer(record, doctor_report(record), as_json=as_json)
    if not record["ok"]:
        raise typer.Exit(BROKEN)
