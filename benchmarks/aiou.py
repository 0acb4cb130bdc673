"""Is a repaired head right for the right reasons? AIoU of every method on the embedded birds.

For each world a new set of scenes is drawn, whose masks are exact; for each method a head is
fitted, and its Grad-CAM maps are laid over the masks of the test images. A Markdown table is
printed: AIoU over all images and in the worst group with 95 % intervals, the same of centred
logits, IoU of the true class's map alone, the share of such maps that are 0 everywhere, accuracy
in the worst group. Then AIoU of each group, and whether methods with a better worst group have more
of it: rank correlations. ``--write`` puts the first table and the correlations between their marks
in docs/explanation/right-for-the-right-reasons.md.

Centred logits: adding one function of the image to every logit of a head changes no probability
and no decision, yet it changes the maps. Grad-CAM of the logits less their mean over the classes
is the same for all such heads, so that methods which write the same decision in different ways can
be compared by it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import numpy.typing as npt
import torch
from pages import EXPLANATION, markdown_table, put
from torch import Tensor, nn

from embedcal.cache import open_cache
from embedcal.caching import cache as make_cache
from embedcal.datasets.options import ReadOptions
from embedcal.evaluate import Overlap, Strata, iou, overlap
from embedcal.evaluate.overlap import adjusted
from embedcal.explaining.encoder import encoder_of
from embedcal.explaining.gradcam import class_gradients, class_maps, enlarged
from embedcal.explaining.readout import readout
from embedcal.explaining.regions import Regions
from embedcal.explaining.trunk import layer_of
from embedcal.fitting import fit_on
from embedcal.pictures import find
from embedcal.runs import Run
from embedcal.types import EmbedcalError, FloatArray, Split
from embedcal.workbench import Workbench

PAGE = EXPLANATION / "right-for-the-right-reasons.md"
TEST: Split = "test"
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table. ``plain`` and ``centred`` are AIOU, ``own`` IOU of the true class's map,
    ``empty`` the share of these that are 0 everywhere."""

    label: str
    plain: Overlap
    centred: Overlap
    own: float
    empty: float
    worst_group: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One head over one world: a value for each test image, (n,)."""

    plain: FloatArray
    centred: FloatArray
    own: FloatArray
    empty: FloatArray


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The test images of a world as all heads share them: a layer's output, masks and labels.

    ``rest`` is what of the trunk comes after the layer.
    """

    on: Workbench
    activations: Tensor
    regions: npt.NDArray[np.bool_]
    cells: Strata
    rest: nn.Module


def entries(names: Sequence[str] | None) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Label, method, rule and options of what is compared: every method with its defaults, and the
    settings of a name of their own that ``embedcal demo --all`` has.

    ERM is chosen by what is known without groups, as in the demo.
    """
    from embedcal.demo import every_entry

    for entry in every_entry():
        if entry.select is not None:  # the second way to select the same training
            continue
        if names is None or entry.method in names:
            select = "val.mean" if entry.method == "erm" else "val.worst_group"
            yield entry.label, entry.method, select, entry.options


def scenes(on: Workbench, layer: str) -> Scenes:
    """Run the trunk up to a layer once, for all heads."""
    cache = on.cache
    rows = on.split(TEST, "embedding").rows
    pictures = find(cache, int(rows[0]))
    encoder = encoder_of(cache, None, "cpu")
    encoder._trunk.requires_grad_(requires_grad=False)
    wanted, parts = layer_of(encoder, layer).module, []
    hook = wanted.register_forward_hook(lambda module, given, out: parts.append(out))
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            encoder._image_trunk(pictures.pixels(rows[start : start + BATCH], encoder.prepare))
    hook.remove()
    stages = list(encoder._trunk)
    return Scenes(
        on=on,
        activations=torch.cat(parts),
        regions=Regions(pictures, "mask")(rows),
        cells=on.strata(TEST, "embedding"),
        rest=nn.Sequential(*stages[stages.index(wanted) + 1 :]),
    )


def look(run: Run, at: Scenes) -> Seen:
    """Maps of all test images of a run's head, laid over the masks."""
    cache, y = at.on.cache, at.cells.y
    reads = readout(run.head(), cache.projection(), "cpu")
    classes, size = range(cache.n_classes), at.regions.shape[1:]
    found = {name: np.empty(len(y)) for name in ("plain", "centred", "own", "empty")}
    for start in range(0, len(y), BATCH):
        places = slice(start, start + BATCH)
        leaf = at.activations[places].clone().requires_grad_()
        logits = reads.of_trunk(at.rest(leaf))
        alpha = class_gradients(logits, leaf, classes, mean=(2, 3))
        cells, grid = leaf.detach().flatten(2).transpose(1, 2), (leaf.shape[2], leaf.shape[3])
        for name, weights in (("plain", alpha), ("centred", alpha - alpha.mean(1, keepdim=True))):
            maps = enlarged(class_maps(cells, weights, grid), size).numpy()
            there, own = at.regions[places], y[places]
            scores = iou(maps, there[:, None])
            scores[~there.any(axis=(1, 2))] = np.nan
            found[name][places] = adjusted(scores, own)
            if name == "plain":
                every = np.arange(len(own))
                found["own"][places] = scores[every, own]
                found["empty"][places] = ~maps[every, own].any(axis=(1, 2))
    return Seen(**found)


def table(
    worlds: Sequence[int], heads: int, rows: int, layer: str, names: Sequence[str] | None
) -> list[Line]:
    """Every entry over all worlds and head seeds; images of all worlds are one set of images."""
    chosen = list(entries(names))
    seen: dict[str, list[Seen]] = {label: [] for label, *_ in chosen}
    runs: dict[str, list[Run]] = {label: [] for label, *_ in chosen}
    cells: list[Strata] = []
    for world in worlds:
        report = make_cache("birds", backbone="tiny", read=ReadOptions(rows=rows, seed=world))
        with open_cache(report.path) as opened:
            at = scenes(Workbench(opened), layer)
            cells.append(at.cells)
            for label, method, select, options in list(chosen):
                seeds = range(1 if method == "zeroshot" else heads)
                try:
                    own = [fit_on(at.on, method, options, seed=s, select=select) for s in seeds]
                    looked = [look(run, at) for run in own]
                except EmbedcalError as error:  # a world as small as this, or a head without maps
                    print(f"left out: {label}: {error}", file=sys.stderr)
                    chosen = [entry for entry in chosen if entry[0] != label]
                    continue
                runs[label] += own
                seen[label].append(
                    Seen(**{name: _mean_of(looked, name) for name in vars(looked[0])})
                )
    whole = _joined(cells)
    return [
        Line(
            label=label,
            plain=overlap(np.concatenate([one.plain for one in seen[label]]), whole),
            centred=overlap(np.concatenate([one.centred for one in seen[label]]), whole),
            own=float(np.nanmean(np.concatenate([one.own for one in seen[label]]))),
            empty=float(np.mean(np.concatenate([one.empty for one in seen[label]]))),
            worst_group=100 * mean(float(run.test["worst_group"]) for run in runs[label]),
        )
        for label, *_ in chosen
    ]


def _mean_of(looked: Sequence[Seen], name: str) -> FloatArray:
    """The mean over head seeds of one value an image."""
    return np.mean([getattr(one, name) for one in looked], axis=0)


def _joined(cells: Sequence[Strata]) -> Strata:
    """The images of several worlds as one set."""
    return replace(
        cells[0],
        cell=np.concatenate([one.cell for one in cells]),
        sizes=np.sum([one.sizes for one in cells], axis=0),
        train_group_counts=None,
    )


def markdown(lines: Sequence[Line]) -> str:
    """The table of all methods."""
    heads = ("method", "AIoU", "worst group", "centred AIoU", "worst group", "IoU", "empty",
             "worst group's accuracy")  # fmt: skip
    rows = (
        (line.label, _of(line.plain), _worst(line.plain), _of(line.centred), _worst(line.centred),
         f"{line.own:.3f}", f"{100 * line.empty:.0f} %", f"{line.worst_group:.1f} %")
        for line in lines
    )  # fmt: skip
    return markdown_table(heads, rows, numbers=True)


def by_group(lines: Sequence[Line], groups: Sequence[str]) -> str:
    """A second table: the AIoU of each group."""
    rows = []
    for line in lines:
        assert line.plain.groups is not None
        rows.append((line.label, *(f"{v:.3f}" for v in line.plain.groups)))
    return markdown_table(("AIoU", *groups), rows, numbers=True)


def correlations(lines: Sequence[Line]) -> list[str]:
    """Spearman's, over all methods but zero-shot."""
    from scipy.stats import spearmanr

    remedies = [line for line in lines if line.label != "zeroshot"]
    if len(remedies) < 3:
        return []
    accuracy = [line.worst_group for line in remedies]
    columns = {
        "AIoU": [line.plain.mean for line in remedies],
        "AIoU of the worst group": [line.plain.worst_group for line in remedies],
        "centred AIoU": [line.centred.mean for line in remedies],
        "centred AIoU of the worst group": [line.centred.worst_group for line in remedies],
        "IoU": [line.own for line in remedies],
    }
    return [
        f"rank correlation with the worst group's accuracy, {name}: "
        f"{spearmanr(accuracy, values).statistic:+.2f}"
        for name, values in columns.items()
    ]


def _of(found: Overlap) -> str:
    low, high = found.mean_interval
    return f"{found.mean:.3f} ({low:.3f}–{high:.3f})"


def _worst(found: Overlap) -> str:
    assert found.worst_group is not None
    assert found.worst_group_interval is not None
    low, high = found.worst_group_interval
    return f"{found.worst_group:.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # Not 0, which the demo shows, and none at which the recipe of the world was looked at.
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--seeds", type=int, default=1, help="head seeds a method and world")
    parser.add_argument("--rows", type=int, default=2000, help="pictures a world")
    parser.add_argument("--layer", default="layer3", help="of the tiny CLIP: layer1 to layer4")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="by default all")
    parser.add_argument("--home", type=Path, help="keep worlds, caches and runs in this folder")
    parser.add_argument("--write", action="store_true", help=f"its table into {PAGE.name}")
    given = parser.parse_args()
    keep = nullcontext(str(given.home)) if given.home else tempfile.TemporaryDirectory()
    with keep as home:
        os.environ["EMBEDCAL_HOME"] = home
        lines = table(given.worlds, given.seeds, given.rows, given.layer, given.methods)
    groups = ("landbird, land", "landbird, water", "waterbird, land", "waterbird, water")
    print(markdown(lines), by_group(lines, groups), *correlations(lines), sep="\n\n")
    if given.write:
        text = "\n".join([markdown(lines), "", "```text", *correlations(lines), "```"])
        put(PAGE, "aiou", text)


if __name__ == "__main__":
    main()
