"""Commands on many runs: grid, merge, compare, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedcal.commands import completing
from embedcal.commands.caches import join
from embedcal.commands.many_runs import Engine, Jobs, RetryFailed, over_cache
from embedcal.commands.runs import Memory
from embedcal.commands.shared import (
    SKIPPED,
    Attribute,
    By,
    CacheFile,
    Device,
    Json,
    Judge,
    Oracle,
    Select,
    answer,
    named_runs,
    one_form,
    plain,
    selection,
)
from embedcal.errors import EmbedcalError

Folders = Annotated[
    list[str] | None,
    typer.Argument(
        help="folders of runs, or single runs; by default the grid used last",
        autocompletion=completing.folders,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="worst_group, train_weighted, mean, group_mean, worst_class, ...",
        autocompletion=completing.metrics,
    ),
]
Plot = Annotated[Path | None, typer.Option(help="draw it into this .svg or .png file")]


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="hundreds of runs over a cache, resumed by the same command")(grid)
    app.command(short_help="which method is better, and whether that holds")(compare)
    app.command(short_help="how much each option of a grid matters")(sensitivity)
    app.command(short_help="grids from several machines as one folder")(merge)


def grid(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD[:OPTION=VALUE,VALUE]...",
            help="cfr:neg=rns,nns erm dfr",
            autocompletion=completing.methods,
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="a TOML file of [[runs]]")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="how many, or which: 5, or 0,3,7 [the file's, or 5]")
    ] = None,
    cache: CacheFile = None,
    select: Select = None,
    oracle: Oracle = False,
    attribute: Attribute = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the grid's folder; one of its own")
    ] = None,
    device: Device = "auto",
    memory: Memory = None,
    engine: Engine = "auto",
    jobs: Jobs = None,
    default_grid: Annotated[
        bool, typer.Option("--default-grid", help="bare methods bring their own grids")
    ] = False,
    budget: Annotated[
        int | None, typer.Option(help="try so many settings of each method, not all")
    ] = None,
    search: Annotated[
        str,
        typer.Option(
            help="how they are chosen: random, optuna", autocompletion=completing.searches
        ),
    ] = "random",
    search_seed: Annotated[int, typer.Option(help="decides the search")] = 0,
    retry_failed: RetryFailed = False,
    as_json: Json = False,
) -> None:
    """Fit every setting with every seed; what is there already is not done again.

    lr=1e-5..1e-2 is a range for --budget; a list option joins its items: dfr:c=1+0.1

    Example: embedcal grid cfr:neg=rns,nns:lr=1e-4,1e-3 erm dfr --seeds 5
    """
    from embedcal.answers.grids import grid_record, grid_report
    from embedcal.grids import grid as run
    from embedcal.grids import parse, read_grid

    spaces = [parse(text) for text in specs or ()]
    settled: dict[str, Any] = {}
    if file is not None:
        more, keys = read_grid(file)
        spaces += more
        settled |= _file_keys(keys, file)
    if seeds is not None:
        settled["seeds"] = numbers(seeds)
    with over_cache(cache, attribute, memory) as (opened, view):
        found = run(
            spaces,
            opened,
            select=selection(select, oracle=oracle),
            attribute=attribute,
            out=out,
            device=device,
            memory=memory,
            engine=engine,
            jobs=jobs,
            default_grid=default_grid,
            budget=budget,
            search=search,
            search_seed=search_seed,
            retry_failed=retry_failed,
            watch=view,
            **settled,
        )
    answer(grid_record(found), grid_report(found), as_json=as_json)
    if found.failed:
        raise typer.Exit(SKIPPED)


def compare(
    runs: Folders = None,
    by: By = "method",
    select: Select = None,
    oracle: Oracle = False,
    metric: Metric = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="the row to compare with", autocompletion=completing.methods),
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="print a LaTeX table")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a Markdown table")] = False,
    plot: Plot = None,
    attribute: Judge = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            help="for --attribute, if it lies elsewhere now",
            autocompletion=completing.caches,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare methods over their seeds: means, intervals, paired differences, and what holds.

    Each row's configuration is chosen by the selection rule on validation, never on test.

    Example: embedcal compare --by method,neg --select val.worst_class
    """
    from embedcal.answers import comparison as answers
    from embedcal.answers.plots import check_plot, comparison_plot
    from embedcal.comparing import compare as run

    one_form(json=as_json, latex=latex, markdown=markdown)
    check_plot(plot)
    found = run(
        named_runs(runs, None),
        by=by,
        select=selection(select, oracle=oracle),
        oracle=oracle,
        metric=metric,
        baseline=baseline,
        attribute=attribute,
        cache=cache,
    )
    if plot is not None:
        comparison_plot(found, plot)
    report: Any = answers.comparison_report(found)
    if latex or markdown:
        report = plain(answers.latex(found) if latex else answers.markdown(found))
    answer(found.record, report, as_json=as_json)


def sensitivity(
    runs: Folders = None,
    method: Annotated[
        str | None,
        typer.Option(help="only this method's runs", autocompletion=completing.methods),
    ] = None,
    select: Select = None,
    oracle: Oracle = False,
    metric: Metric = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="whose accuracy")] = "val",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """How much each option of a grid matters: main effects, interactions, and what seeds leave.

    Example: embedcal sensitivity --method cfr --plot cfr.svg
    """
    from embedcal.answers.effects import sensitivity_report
    from embedcal.answers.plots import check_plot, sensitivity_plot
    from embedcal.comparing import sensitivity as run

    check_plot(plot)
    found = run(
        named_runs(runs, None),
        metric=metric,
        select=selection(select, oracle=oracle),
        oracle=oracle,
        method=method,
        split=split,
    )
    if plot is not None:
        sensitivity_plot(found, plot)
    answer(found.record, sensitivity_report(found), as_json=as_json)


def merge(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="folders of runs, or the shards of a cache", autocompletion=completing.shards
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the folder, or the cache, to merge them into")
    ],
    virtual: Annotated[
        bool, typer.Option("--virtual", help="shards: link their rows, do not copy them")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge the runs of several folders into one: every run once, nothing done again.

    Files instead of folders are shards of a cache (embedcal cache --shard): they become one cache.

    Example: embedcal merge from-laptop from-cluster --out all
    """
    if virtual or any(path.is_file() or path.suffix == ".h5" for path in folders):
        join(folders, out, virtual=virtual, as_json=as_json)
        return
    from embedcal.answers.grids import merge_record, merge_report
    from embedcal.grids.merging import merge as run

    found = run(folders, out)
    answer(merge_record(found), merge_report(found), as_json=as_json)


def numbers(text: str) -> int | tuple[int, ...]:
    """Seeds as a text: ``5`` is how many seeds; ``0,3,7`` is which."""
    try:
        listed = tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        listed = ()
    if not listed:
        raise EmbedcalError(
            f"expected --seeds as 5 or as 0,3,7, found '{text}': write how many, or which"
        )
    return listed if "," in text else listed[0]


def _file_keys(keys: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a grid's file may say beside its runs."""
    for key in keys:
        if key != "seeds":
            raise EmbedcalError(
                f"expected [[runs]] and seeds in {file}, found '{key}': options of the command "
                "are given on its line"
            )
    return keys
