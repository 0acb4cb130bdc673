"""Commands that take a run to new images: predict, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedcal.commands import completing
from embedcal.commands.shared import SKIPPED, Device, Json, Seed, answer

if TYPE_CHECKING:
    from embedcal.runs import Run

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="its folder, id, or last", autocompletion=completing.run_names
    ),
]
RunCache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="the run's cache; by default where it was made",
        autocompletion=completing.caches,
    ),
]
SHOWN = 10  # predictions that a person is shown where no CSV is asked for


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="classes of image files, by a run's head")(predict)
    app.command(short_help="make a run's probabilities honest, by one temperature")(calibrate)


def predict(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="its folder, id, or last; or zero-shot",
            autocompletion=completing.heads,
        ),
    ],
    images: Annotated[
        Path,
        typer.Argument(help="a folder, a .csv with a column path, a .txt list, or one image"),
    ],
    csv: Annotated[
        Path | None, typer.Option("--csv", help="write predictions here, or go on with it")
    ] = None,
    neighbours: Annotated[int, typer.Option(help="nearest training rows for each image")] = 0,
    temperature: Annotated[
        str,
        typer.Option(
            help="divides the logits; calibrated: what calibrate found",
            autocompletion=completing.words("calibrated"),
        ),
    ] = "1",
    root: Annotated[Path | None, typer.Option(help="folder of the paths in a .csv or .txt")] = None,
    batch_size: Annotated[int, typer.Option(help="images encoded at once")] = 64,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="the encoder, where it is code in a file", autocompletion=completing.backbones
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="the file of its weights, where the cache came from one")
    ] = None,
    device: Device = "auto",
    cache: RunCache = None,
    as_json: Json = False,
) -> None:
    """Class, probability and margin of every image, through the encoder that made the cache.

    With --csv nothing is done twice: a run that was stopped goes on where it stood. Images that
    cannot be read are listed, and the exit status is then 3.

    Example: embedcal predict last photos --csv predictions.csv
    """
    from embedcal.answers.predicting import predict_record, predict_report
    from embedcal.caching import which_cache
    from embedcal.predicting import PredictOptions
    from embedcal.predicting import predict as run_over
    from embedcal.progress import progress

    with progress() as bars:
        found = run_over(
            None if run == "zero-shot" else _run(run, cache),
            images,
            cache=which_cache(cache) if run == "zero-shot" else cache,
            csv=csv,
            neighbours=neighbours,
            temperature=_temperature(temperature),
            options=PredictOptions(
                root=root,
                batch_size=batch_size,
                device=device,
                backbone=backbone,
                pretrained=pretrained,
                keep=None if as_json else SHOWN,
                progress=lambda done: bars.stage("images", done, done),
            ),
        )
    record = predict_record(found)
    answer(record, predict_report(record, found.rows), as_json=as_json)
    if not found.ok:
        raise typer.Exit(SKIPPED)


def calibrate(
    run: RunName,
    split: Annotated[
        Literal["val", "test"], typer.Option(help="fit to val, or to a half of test")
    ] = "val",
    plot: Annotated[
        Path | None, typer.Option(help="a reliability diagram: .png, .svg or .pdf")
    ] = None,
    seed: Seed = 0,
    cache: RunCache = None,
    as_json: Json = False,
) -> None:
    """Fit one temperature to validation data and store it beside the run, for predict.

    Predicted classes never change. Calibration error by group, before and after, on test.

    Example: embedcal calibrate last --plot reliability.png
    """
    from embedcal.answers.predicting import calibrate_record, calibrate_report, check_figure
    from embedcal.answers.seeing import save
    from embedcal.cache import open_cache
    from embedcal.predicting import calibrate as fit
    from embedcal.predicting import draw

    if plot is not None:
        check_figure(plot)
    found_run = _run(run, cache)
    if cache is None:
        found = fit(found_run, split=split, seed=seed)
    else:
        with open_cache(cache) as opened:
            found = fit(found_run, opened, split=split, seed=seed)
    if plot is not None:
        save(draw(found), plot)
    record = calibrate_record(found, plot)
    answer(record, calibrate_report(record), as_json=as_json)
    if found.file is None:
        raise typer.Exit(SKIPPED)


def _run(name: str, cache: Path | None) -> Run:
    """The run of that name; a folder is one wherever the cache lies."""
    from embedcal.caching import which_cache
    from embedcal.interchange import find_run

    whole = (Path(name) / "run.json").is_file()
    return find_run(name, Path(name) if whole else which_cache(cache))


def _temperature(text: str) -> float | Literal["calibrated"]:
    from embedcal.errors import EmbedcalError

    if text == "calibrated":
        return "calibrated"
    try:
        return float(text)
    except ValueError:
        raise EmbedcalError(
            f"expected a number or calibrated after --temperature, found '{text}': leave it out "
            "for 1"
        ) from None
