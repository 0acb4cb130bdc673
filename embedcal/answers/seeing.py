"""What detect and explain answer: a JSON record, and a report for people of the same values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.figures import write
from embedcal.tables import facts, percent, plain_table, shown
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from embedcal.cache import FeatureCache
    from embedcal.detecting import Detection, Effect, Slice, Slices
    from embedcal.explaining import Explanation
    from embedcal.explaining.language import Language, Shift

FIGURES = (".png", ".svg", ".pdf")
SLICES, NAMES = 10, 3  # shown of a search for them; the JSON record has all


def detect_record(found: Detection, cache: Path, per_class: int) -> dict[str, Any]:
    """The first few attributes of each class, and how sure one can be of their presence."""
    return {
        "cache": str(cache),
        "of": found.of,
        "split": found.split,
        "detector": found.detector,
        "by": found.by,
        "tested": len(found.effects),
        "left_out": list(found.presence.left_out),
        "attributes": [_effect(each, found) for each in found.leading(per_class)],
        "agreement": [
            {
                "name": each.name,
                "attribute": each.attribute,
                "value": each.value,
                "images": each.n,
                "agreement": each.agreement,
                "auroc": each.auroc,
            }
            for each in found.agreements
        ],
    }


def _effect(effect: Effect, found: Detection) -> dict[str, Any]:
    return {
        "class": found.classes[effect.label],
        "attribute": effect.attribute,
        "n_with": effect.n_with,
        "n_without": effect.n_without,
        "accuracy_with": effect.accuracy_with,
        "accuracy_without": effect.accuracy_without,
        "delta": effect.delta,
        "interval": list(effect.interval),
        "p": effect.p,
        "p_adjusted": effect.p_adjusted,
        "mutual_information": effect.mutual_information,
        "confused": found.classes[effect.confused],
    }


def detect_report(record: Mapping[str, Any]) -> RenderableType:
    table = plain_table()
    for column in ("class", "attribute"):
        table.add_column(column, overflow="fold", min_width=8)
    for column in ("with", "without", "delta", "95 %", "p", "images"):
        table.add_column(column, justify="right", no_wrap=True)
    several = len({each["confused"] for each in record["attributes"]}) > 2
    if several:
        table.add_column("taken for", overflow="fold", min_width=9)
    for each in record["attributes"]:
        low, high = each["interval"]
        table.add_row(
            shown(each["class"]),
            shown(each["attribute"]),
            percent(each["accuracy_with"]),
            percent(each["accuracy_without"]),
            percent(each["delta"]),
            f"{percent(low)}, {percent(high)}",
            "<.001" if each["p_adjusted"] < 0.001 else f"{each['p_adjusted']:.3f}",
            f"{each['n_with']}/{each['n_without']}",
            *([shown(each["confused"])] if several else []),
        )
    lines: list[RenderableType] = [
        f"Accuracy of {shown(record['of'])} on {record['split']}, %, of images with an attribute "
        f"and without it, and how many they are. Found by {shown(record['detector'])}; "
        f"{record['tested']:,} pairs of attribute and class were tested, p counts them all "
        "(Benjamini-Hochberg)."
    ]
    if not record["attributes"]:
        lines = [
            "no attribute has enough images with it and without it in any class: give a lower "
            "--min-detect, or another --split"
        ]
    lines += [
        f"'{shown(each['name'])}' agrees with {shown(each['attribute'])} = {shown(each['value'])} "
        f"on {percent(each['agreement'])} % of {each['images']:,} images"
        for each in record["agreement"]
    ]
    if record["left_out"]:
        lines.append(f"{len(record['left_out']):,} names left out: the encoder cannot tell them")
    return Group(*([table] if record["attributes"] else []), *lines)


def slices_record(found: Slices, cache: Path) -> dict[str, Any]:
    """Every slice, those with most errors beyond their class's first."""
    return {
        "cache": str(cache),
        "of": found.of,
        "split": found.split,
        "slices": [_slice(each, found.classes) for each in found.slices],
    }


def _slice(each: Slice, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "class": classes[each.label],
        "images": len(each.rows),
        "errors": each.errors,
        "excess": each.excess,
        "accuracy": each.accuracy,
        "class_accuracy": each.class_accuracy,
        "confused": None if each.confused is None else classes[each.confused],
        "names": [{"name": name, "cosine": cosine} for name, cosine in each.names],
        "rows": each.rows.tolist(),
    }


def slices_report(record: Mapping[str, Any]) -> RenderableType:
    """The slices with more errors than their class would give them, ten at most."""
    table = plain_table()
    table.add_column("class", overflow="fold", min_width=8)
    for column in ("images", "errors", "accuracy", "class's"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("taken for", overflow="fold", min_width=9)
    table.add_column("nearest names", overflow="fold")
    worse = [each for each in record["slices"] if each["excess"] > 0]
    for each in worse[:SLICES]:
        table.add_row(
            shown(each["class"]),
            f"{each['images']:,}",
            f"{each['errors']:,}",
            percent(each["accuracy"]),
            percent(each["class_accuracy"]),
            shown(each["confused"] or ""),
            shown(", ".join(name["name"] for name in each["names"][:NAMES])),
        )
    found = (
        f"{len(record['slices']):,} slices of {shown(record['of'])} on {record['split']}, "
        f"{len(worse):,} with more errors than their class's accuracy would give them"
        f"{f'; the worst {SLICES} are shown' if len(worse) > SLICES else ''}. A slice is found by "
        "its errors: its accuracy, %, is no estimate for other images."
    )
    return Group(*([table] if worse else []), found)


def language_record(found: Sequence[Language], cache: Path, per_class: int) -> dict[str, Any]:
    """Of each run and class, the words whose weight changed most, from toward to away."""
    first = found[0]
    return {
        "language": {
            "cache": str(cache),
            "split": first.split,
            "words": len({shift.word for shift in first.shifts}),
            "runs": [
                {
                    "run": each.of,
                    "shifts": [
                        _shift(shift, each.classes)
                        for label in dict.fromkeys(shift.label for shift in each.shifts)
                        for shift in sorted(
                            each.of_class(label)[: max(1, per_class)], key=lambda s: -s.change
                        )
                    ],
                }
                for each in found
            ],
        }
    }


def _shift(shift: Shift, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "class": classes[shift.label],
        "images": shift.images,
        "word": shift.word,
        "zero_shot": shift.zero_shot,
        "run": shift.head,
        "change": shift.change,
        "interval": list(shift.interval),
    }


def language_report(record: Mapping[str, Any]) -> RenderableType:
    told = record["language"]
    parts: list[RenderableType] = []
    for run in told["runs"]:
        table = plain_table(shown(run["run"]))
        for column in ("class", "word"):
            table.add_column(column, overflow="fold", min_width=8)
        for column in ("zero-shot", "run", "change", "95 %", "images"):
            table.add_column(column, justify="right", no_wrap=True)
        for each in run["shifts"]:
            low, high = each["interval"]
            table.add_row(
                shown(each["class"]),
                shown(each["word"]),
                *(f"{each[key]:+.2f}" for key in ("zero_shot", "run", "change")),
                f"{low:+.2f}, {high:+.2f}",
                f"{each['images']:,}",
            )
        parts.append(table)
    parts.append(
        "Weight of a word in the decision for a class, from -1 to 1: the correlation of the "
        "margin with how much of the word an image shows, over the images of the class in "
        f"{told['split']}. Of {told['words']:,} words those that changed most are shown, from "
        "toward to away. Intervals are over images, not over trainings."
    )
    return Group(*parts)


def joined(reports: Sequence[RenderableType]) -> RenderableType:
    """Reports one after another, their plain lines still apart."""
    parts = (each.renderables if isinstance(each, Group) else [each] for each in reports)
    return Group(*(part for each in parts for part in each))


def named_figure(path: Path) -> Path:
    """A figure's path; EmbedcalError for a suffix that is none of a figure's."""
    if path.suffix.lower() not in FIGURES:
        raise EmbedcalError(
            f"expected a figure that ends in {', '.join(FIGURES)}, found {path.name}: rename it"
        )
    return path


def save(made: Figure, path: Path) -> None:
    """Write a figure; EmbedcalError for a suffix that is none of a figure's, or no room."""
    write(made, named_figure(path), mend="another place with -o")


def explain_record(
    found: Mapping[str, Explanation], cache: FeatureCache, path: Path
) -> dict[str, Any]:
    """Of each head and image: what it predicts, and how well its map lies on the object."""
    samples, classes = cache.samples, cache.meta.classes
    return {
        "figure": str(path),
        "heads": {
            name: [
                {
                    "row": int(row),
                    "id": samples.ids[int(row)],
                    "class": classes[int(each.labels[at])],
                    "predicted": classes[int(each.predicted[at])],
                    "aiou": _number(each.aiou, at),
                }
                for at, row in enumerate(each.rows)
            ]
            for name, each in found.items()
        },
    }


def _number(values: Any, at: int) -> float | None:
    value = math.nan if values is None else float(values[at])
    return None if math.isnan(value) else value


def explain_report(record: Mapping[str, Any]) -> RenderableType:
    table = plain_table()
    table.add_column("row", justify="right", no_wrap=True)
    table.add_column("class", overflow="fold")
    heads = record["heads"]
    for name in heads:
        table.add_column(shown(name), overflow="fold")
    for images in zip(*heads.values(), strict=True):
        cells = [str(images[0]["row"]), shown(images[0]["class"])]
        for image in images:
            score = "" if image["aiou"] is None else f", AIoU {image['aiou']:.2f}"
            cells.append(shown(image["predicted"] + score))
        table.add_row(*cells)
    return Group(table, facts({"figure": record["figure"]}))
