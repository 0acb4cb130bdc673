"""What predict and calibrate answer: a JSON record, and a report for people of the same values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.answers.seeing import named_figure
from embedcal.tables import facts, interval, labels_used, percent, plain_table, shown
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.predicting import Calibration, Predicted, Predictions, Rows, Score

LISTED = 10  # images and reasons shown; the JSON record has all


def predict_record(found: Predictions) -> dict[str, Any]:
    """Counts by class and what could not be read; every prediction where no CSV has them."""
    record: dict[str, Any] = {
        "run": found.run,
        "method": found.method,
        "rule": found.rule,
        "temperature": found.temperature,
        "calibrated_temperature": found.calibration,
        "csv": None if found.csv is None else str(found.csv),
        "predicted": found.predicted,
        "reused": found.reused,
        "classes": dict(found.counts),
        "passed_over": found.passed_over,
        "unreadable": [{"path": name, "reason": reason} for name, reason in found.unreadable],
    }
    if found.csv is None:
        record["images"] = [_predicted(each) for each in found.rows]
    return record


def _predicted(each: Predicted) -> dict[str, Any]:
    return {
        "path": each.name,
        "class": each.class_name,
        "probability": each.probability,
        "second": each.second,
        "margin": each.margin,
        "neighbours": [
            {
                "row": near.row,
                "id": near.id,
                "path": near.path,
                "class": near.class_name,
                "similarity": near.similarity,
            }
            for near in each.neighbours
        ],
    }


def predict_report(record: Mapping[str, Any], rows: Sequence[Predicted]) -> RenderableType:
    """The first predictions, where no CSV has them; a summary; what could not be read."""
    parts: list[RenderableType] = []
    if record["csv"] is None and rows:
        parts.append(_first(rows))
        if record["predicted"] > LISTED:
            parts.append(f"the first {LISTED} of {record['predicted']:,}: --csv FILE has them all")
    parts.append(facts(_summary(record)))
    unreadable = record["unreadable"]
    if unreadable:
        table = plain_table(f"{len(unreadable):,} could not be read")
        table.add_column("image", overflow="fold")
        table.add_column("why", overflow="fold")
        for each in unreadable[:LISTED]:
            table.add_row(shown(each["path"]), shown(each["reason"]))
        parts.append(table)
        if len(unreadable) > LISTED:
            parts.append(f"the first {LISTED} of {len(unreadable):,}: --json lists them all")
    return Group(*parts)


def _first(rows: Sequence[Predicted]) -> RenderableType:
    table = plain_table()
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("prob., %", justify="right")
    table.add_column("margin, %", justify="right")
    near = any(each.neighbours for each in rows)
    if near:
        table.add_column("nearest rows of train", overflow="fold")
    for each in rows[:LISTED]:
        told = "\n".join(
            f"{one.row} {shown(one.class_name)} {one.similarity:.2f}" for one in each.neighbours
        )
        table.add_row(
            shown(each.name),
            shown(each.class_name),
            percent(each.probability),
            percent(each.margin),
            *([told] if near else []),
        )
    return table


def _summary(record: Mapping[str, Any]) -> dict[str, object]:
    total = sum(record["classes"].values())
    there = f" ({record['reused']:,} were there)" if record["reused"] else ""
    counted = sorted(record["classes"].items(), key=lambda pair: -pair[1])
    several = ", ".join(f"{name} {count:,}" for name, count in counted[:LISTED] if count)
    found: dict[str, object] = {
        "run": shown(f"{record['run']} ({record['method']}, {record['rule']})"),
        "temperature": _temperature(record),
        "predicted": f"{total:,} images{there}",
    }
    if several:
        more = len([count for _, count in counted if count]) > LISTED
        found["classes"] = shown(several + (", ..." if more else ""))
    if record["passed_over"]:
        found["passed over"] = f"{record['passed_over']:,} files that are no images by name"
    if record["csv"] is not None:
        found["csv"] = shown(record["csv"])
    return found


def _temperature(record: Mapping[str, Any]) -> str:
    value, known = record["temperature"], record["calibrated_temperature"]
    if known is not None and value == known:
        return f"{value:.4g}, calibrated"
    if known is not None:
        return f"{value:.4g}, not calibrated: --temperature calibrated would use {known:.4g}"
    return f"{value:.4g}, not calibrated"


def check_figure(path: Path) -> None:
    """Before any work: a figure's suffix, and a folder that is there. EmbedcalError otherwise."""
    named_figure(path)
    if not path.absolute().parent.is_dir():
        raise EmbedcalError(
            f"expected a folder for {path}, found none: make it, or choose another place"
        )


def calibrate_record(found: Calibration, plot: Path | None) -> dict[str, Any]:
    """The temperature, where it was learnt, and scores before and after on both sets of rows."""
    return {
        "run": found.run.id,
        "method": found.run.record["method"],
        "rule": found.rule,
        "temperature": found.temperature,
        "where": found.where,
        "in_sample": found.in_sample,
        "labels_used": list(found.labels_used),
        "file": None if found.file is None else str(found.file),
        "plot": None if plot is None else str(plot),
        "fitted": {"split": found.fitted.split, "rows": len(found.fitted)}
        | _scored(found.fitted.rows),
        "judged": {"split": found.judged.split, "rows": len(found.judged)}
        | _scored(found.judged.rows),
    }


def _scored(rows: Sequence[Rows]) -> dict[str, Any]:
    return {"all": _rows(rows[0]), "groups": {each.name: _rows(each) for each in rows[1:]}}


def _rows(each: Rows) -> dict[str, Any]:
    sides = {
        "before": (each.before, each.confidence[0], each.classwise[0], each.chance[0]),
        "after": (each.after, each.confidence[1], each.classwise[1], each.chance[1]),
    }
    return {
        "rows": each.n,
        "accuracy": each.accuracy,
        **{
            side: {
                "confidence": confidence,
                "ece_classwise": classwise,
                "ece_by_chance": chance,
                **{name: _score(score) for name, score in measured.items()},
            }
            for side, (measured, confidence, classwise, chance) in sides.items()
        },
        "change": {name: _score(score) for name, score in each.change.items()},
    }


def _score(score: Score) -> dict[str, Any]:
    return {"value": score.value, "interval": [score.low, score.high]}


WHY = {
    "lowest": "every row that it was fitted to is right, so that the NLL falls without end towards "
    "a temperature of 0",
    "highest": "the logits tell these rows apart no better than none would, so that the NLL falls "
    "without end towards equal probabilities",
    "flat": "every logit of a row is the same, so that no temperature changes anything",
}


def calibrate_report(record: Mapping[str, Any]) -> RenderableType:
    """What was learnt and from what; calibration errors by group; other measures of all rows."""
    fitted, judged = record["fitted"], record["judged"]
    of = f"{fitted['split']}{' (one half)' if fitted['split'] == 'test' else ''}"
    on = f"{judged['split']}{' (the other half)' if fitted['split'] == 'test' else ''}"
    pairs: dict[str, object] = {
        "run": shown(f"{record['run']} ({record['method']}, {record['rule']})"),
        "temperature": f"{record['temperature']:.4g}, fitted to {fitted['rows']:,} rows of {of}",
        "labels": f"{labels_used(record['labels_used'])}, for the temperature",
    }
    parts: list[RenderableType] = [
        facts(pairs),
        _groups(judged, on),
        "sure: the mean of the largest probability. ECE: expected calibration error, 15 bins, with "
        "its interval. chance: the ECE that a calibrated head would show on so few rows.",
        _measures(judged, on),
    ]
    if record["where"] != "inside":
        parts.append(
            f"NOT STORED: {WHY[record['where']]}; {record['temperature']:.4g} is where the search "
            "ends. Calibrate on rows that the head has not seen."
        )
    elif record["in_sample"]:
        parts.append(
            "IN-SAMPLE: the method had fitted these rows of val itself. It is surer and more often "
            "right there than on new images, so this temperature is likely to be too low: "
            "--split test fits it to a half of test instead."
        )
    places = {name: record[key] for name, key in (("stored", "file"), ("figure", "plot"))}
    known = {name: shown(place) for name, place in places.items() if place is not None}
    if known:
        parts.append(facts(known))
    return Group(*parts)


def _groups(judged: Mapping[str, Any], on: str) -> RenderableType:
    """Two lines for each group, before and after."""
    table = plain_table(f"{judged['rows']:,} rows of {on}, %")
    table.padding = (0, 1, 0, 0)  # seven columns, to fit into 60 characters
    table.add_column("", overflow="fold", min_width=8)
    table.add_column("right", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in ("sure", "ECE", "95 %", "chance"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, each in [("all", judged["all"]), *judged["groups"].items()]:
        sides = [each[side] for side in ("before", "after")]
        table.add_row(
            f"{shown(name)}\n{each['rows']:,} rows",
            percent(each["accuracy"]),
            "before\nafter",
            "\n".join(percent(side["confidence"]) for side in sides),
            "\n".join(percent(side["ece"]["value"]) for side in sides),
            "\n".join(interval(side["ece"]["interval"]) for side in sides),
            "\n".join(percent(side["ece_by_chance"]) for side in sides),
            style="bold" if name == "all" else None,
        )
    return table


def _measures(judged: Mapping[str, Any], on: str) -> RenderableType:
    table = plain_table(f"all {judged['rows']:,} rows of {on}")
    table.add_column("", overflow="fold")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    table.add_column("95 %", justify="right", no_wrap=True)
    each = judged["all"]
    names = {"nll": "NLL, nats", "brier": "Brier score", "ece_equal_mass": "ECE, equal mass, %"}
    for key, name in names.items():
        scale = 100 if key == "ece_equal_mass" else 1
        digits = 1 if key == "ece_equal_mass" else 3
        change = each["change"][key]
        low, high = (f"{scale * end:+.{digits}f}" for end in change["interval"])
        table.add_row(
            name,
            f"{scale * each['before'][key]['value']:.{digits}f}",
            f"{scale * each['after'][key]['value']:.{digits}f}",
            f"{scale * change['value']:+.{digits}f}",
            f"{low}, {high}",
        )
    before, after = (each[side]["ece_classwise"] for side in ("before", "after"))
    table.add_row(
        "ECE, classwise, %", percent(before), percent(after), f"{100 * (after - before):+.1f}", ""
    )
    return table
