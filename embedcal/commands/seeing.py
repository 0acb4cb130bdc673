"""Commands that look into what a head does: detect, explain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedcal.commands import completing
from embedcal.commands.shared import (
    Backbone,
    CacheFile,
    Device,
    Json,
    Pretrained,
    answer,
    row_numbers,
    say,
)

if TYPE_CHECKING:
    from embedcal.cache import FeatureCache
    from embedcal.detecting import DetectOptions
    from embedcal.runs import Run
    from embedcal.types import FloatArray

SplitName = Annotated[Literal["train", "val", "test"], typer.Option(help="of whose images")]
Root = Annotated[Path | None, typer.Option(help="folder of the images; else found by digest")]


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="which attributes does a class's accuracy hang on?")(detect)
    app.command(short_help="where does a head look?")(explain)


def detect(
    run: Annotated[
        str | None,
        typer.Option(
            help="whose errors: its folder, id, or last; else zero-shot",
            autocompletion=completing.run_names,
        ),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="a file of names, one a line; else the list that ships",
            autocompletion=completing.vocabularies,
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            help="clip, owlvit, or a table of attributes", autocompletion=completing.detectors
        ),
    ] = "clip",
    by: Annotated[
        Literal["delta", "mi"], typer.Option(help="ranking; mi: mutual information")
    ] = "delta",
    split: SplitName = "val",
    per_class: Annotated[int, typer.Option(help="attributes shown of each class")] = 5,
    min_detect: Annotated[int, typer.Option(help="images with and without it")] = 10,
    slices: Annotated[
        bool, typer.Option("--slices", help="group the errors instead; words only name the groups")
    ] = False,
    root: Root = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """For every candidate attribute and class: accuracy with it and without it.

    With --slices, groups of images that fail in the same way, without any attribute: a mixture
    model finds them by their errors, so their accuracy is no estimate for other images.

    Example: embedcal detect --split test
    """
    from embedcal.answers.seeing import detect_record, detect_report, slices_record, slices_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.detecting import DetectOptions
    from embedcal.detecting import detect as search
    from embedcal.detecting import slices as group
    from embedcal.errors import EmbedcalError
    from embedcal.interchange import find_run
    from embedcal.progress import progress

    if slices and (detector, by) != ("clip", "delta"):
        raise EmbedcalError(
            "expected --slices without --detector and --by, found them: slices are found by errors "
            "alone; drop them"
        )
    path = which_cache(cache)
    with open_cache(path) as opened, progress() as bars:
        of = find_run(run, path) if run else None
        options = DetectOptions(
            min_detect=min_detect,
            root=root,
            backbone=backbone,
            pretrained=pretrained,
            device=device,
            progress=lambda done, total: bars.stage("detect", done, total),
        )
        if slices:
            grouped = group(opened, of, vocabulary=vocabulary, split=split, options=options)
            record = slices_record(grouped, path)
        else:
            found = search(
                opened,
                of,
                vocabulary=vocabulary,
                detector=detector,
                by=by,
                split=split,
                options=options,
            )
            record = detect_record(found, path, per_class)
    report = slices_report(record) if slices else detect_report(record)
    answer(record, report, as_json=as_json)


def explain(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="folders, ids, or last; zero-shot for a run's name",
            autocompletion=completing.heads,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the figure: .png, .svg or .pdf")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="rows of the cache: 3,17,250")] = None,
    group: Annotated[int | None, typer.Option(help="only of this group, y * A + a")] = None,
    worst: Annotated[int, typer.Option(help="so many that the first run gets most wrong")] = 6,
    of: Annotated[
        Literal["label", "predicted", "rival"], typer.Option(help="the class that maps are of")
    ] = "label",
    layer: Annotated[str | None, typer.Option(help="of the encoder, for maps")] = None,
    language: Annotated[
        bool, typer.Option("--language", help="words that each run moved toward, or away from")
    ] = False,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="words for --language, as for detect", autocompletion=completing.vocabularies
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="whose decision, for --language; default: all",
            autocompletion=completing.classes,
        ),
    ] = None,
    per_class: Annotated[int, typer.Option(help="words shown of each class")] = 10,
    split: SplitName = "test",
    region: Annotated[
        Literal["auto", "mask", "box"], typer.Option(help="what counts as the object")
    ] = "auto",
    root: Root = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="the encoder, for --language, where the cache's name of it does not find it",
            autocompletion=completing.backbones,
        ),
    ] = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Grad-CAM of some images under one head or several, side by side, as a figure (-o).

    With --language, the words that each run's decision moved toward or away from, compared to
    zero-shot; the figure is then made only where -o asks for it.

    Example: embedcal explain zero-shot last --worst 6 -o why.png
    """
    from embedcal.answers.seeing import (
        explain_record,
        explain_report,
        joined,
        language_record,
        language_report,
        named_figure,
        save,
    )
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.datasets.places import check_place
    from embedcal.detecting import DetectOptions
    from embedcal.errors import EmbedcalError
    from embedcal.explaining import Sources, choose, figure
    from embedcal.explaining import explain as look
    from embedcal.explaining.language import language as told
    from embedcal.interchange import find_run

    if out is None and not language:
        raise EmbedcalError(
            "expected a file for the figure, found none: name it with -o, or ask for --language"
        )
    if out is not None:
        check_place(named_figure(out))
    path = which_cache(cache)
    record: dict[str, Any] = {}
    reports: list[Any] = []
    with open_cache(path) as opened:
        heads = {
            name: None if name == "zero-shot" else find_run(name, path)
            for name in runs or ["zero-shot"]
        }
        if language:
            where = DetectOptions(backbone=backbone, pretrained=pretrained, device=device)
            words = _words(opened, vocabulary, where)
            asked = None if class_name is None else [_class(class_name, opened.meta.classes)]
            found = [
                told(run, opened, words, split=split, classes=asked, device=device)
                for run in _fitted(heads.values())
            ]
            record |= language_record(found, path, per_class)
            reports.append(language_report(record))
        if out is not None:
            if rows is None:
                first = next(iter(heads.values()))
                chosen = choose(first, opened, split, group=group, count=worst).tolist()
            else:
                chosen = row_numbers(rows)
            sources = Sources(root=root, pretrained=pretrained, region=region)
            if layer is not None:
                sources = replace(sources, layer=layer)
            seen = {
                name if run is None else f"{run.record['method']} {run.id}": look(
                    run, opened, chosen, sources=sources, device=device
                )
                for name, run in heads.items()
            }
            for note in dict.fromkeys(each.note for each in seen.values() if each.note):
                say(note)
            save(figure(seen, opened, of), out)
            record |= explain_record(seen, opened, out)
            reports.append(explain_report(record))
    answer(record, joined(reports), as_json=as_json)


def _words(
    cache: FeatureCache, vocabulary: str | None, options: DetectOptions
) -> dict[str, FloatArray]:
    from embedcal.detecting import word_directions
    from embedcal.progress import progress

    with progress() as bars:
        seen = replace(options, progress=lambda done, total: bars.stage("words", done, total))
        return word_directions(cache, vocabulary, seen)


def _fitted(heads: Iterable[Run | None]) -> list[Run]:
    from embedcal.errors import EmbedcalError

    found = [run for run in heads if run is not None]
    if not found:
        raise EmbedcalError(
            "expected a run after --language, found zero-shot alone, to which runs are compared: "
            "name a run, or last"
        )
    return found


def _class(name: str, classes: Sequence[str]) -> int:
    from embedcal.errors import EmbedcalError

    if name not in classes:
        listed = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise EmbedcalError(
            f"expected a class of the cache after --class, found '{name}': choose among {listed}"
        )
    return classes.index(name)
