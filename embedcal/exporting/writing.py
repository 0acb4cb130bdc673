"""From a run to what others load: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedcal.atomic import atomic
from embedcal.cache import FeatureCache, open_cache
from embedcal.datasets.printable import printable
from embedcal.exporting.card import card
from embedcal.exporting.checkpoint import (
    calibrate,
    model_of,
    module_of,
    write_folder,
    write_tensors,
)
from embedcal.exporting.exported import FORMS, Exported, Form
from embedcal.exporting.facts import KEY, class_bank, facts_of
from embedcal.exporting.portable import TEXT, Portable, class_texts, portable
from embedcal.runs import Run, check_over
from embedcal.types import EmbedcalError, Level

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.encoders.clip import ClipEncoder
    from embedcal.heads import Head

SUFFIXES: Mapping[Form, str] = {"safetensors": ".safetensors", "onnx": ".onnx"}
CLASSIFIER = "classifier"


def export(
    run: Run,
    cache: FeatureCache | None = None,
    *,
    to: Form = "open_clip",
    out: str | Path,
    pretrained: str | None = None,
    backbone: str | None = None,
) -> Exported:
    """Write a run's head, under the rule that the run stands under, for use without embedcal.

    Args:
        run: a finished run.
        cache: its cache, open; by default opened where the run's record says.
        to: ``open_clip`` is a folder that open_clip loads as ``local-dir:FOLDER``. CLIP's own heads
            (projection, attention pool) are then inside the model; others lie beside the unmodified
            one. ``safetensors`` is one file with the head and the unit rows (C, d) of a zero-shot
            classifier, for features that are there already. ``onnx`` is one file from pixels
            (b, 3, h, w) between 0 and 1 to logits (b, C).
        out: the folder, which must be new or empty, or the file, which must be new.
        pretrained: the file of the encoder's weights, where the cache was made from one.
        backbone: the name of the encoder, where the cache's does not find it.

    Returns:
        What was written. A model was read again and gave the logits of the run's own head on
        pictures of noise, up to 1e-4 of the largest.

    Raises:
        EmbedcalError: for a run over another cache, weights that cannot be had or are others, an
            encoder that is not open_clip's, a head without an export, and a place that is taken or
            cannot be written to.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("erm", cache, epochs=2)
        ...     done = embedcal.export(run, cache, out="birds-model")
        >>> sorted(done.files)[0], done.whole
        ('README.md', True)
    """
    if cache is None:
        with open_cache(_recorded(run)) as opened:
            return export(run, opened, to=to, out=out, pretrained=pretrained, backbone=backbone)
    place = _place(out, to)
    check_over(run, cache)
    if to == "onnx":
        from embedcal.exporting.graph import check_installed

        check_installed()
    head = run.head()
    carried = portable(head)
    if to == "safetensors":
        return _write_safetensors(run, cache, carried, place)
    encoder = _encoder(cache, to, pretrained, backbone)
    return _write_model(run, cache, (head, carried), encoder, (to, place))


def _recorded(run: Run) -> Path:
    path = Path(str(run.record["cache"].get("path", "")))
    if not path.is_file():
        raise EmbedcalError(
            f"expected the cache of run {run.id} at {printable(str(path), longest=300)}, found "
            "none: name it with --cache"
        )
    return path


def _place(out: str | Path, to: str) -> Path:
    """Where to write, checked before anything is computed."""
    if to not in FORMS:
        raise EmbedcalError(
            f"expected a form among {', '.join(FORMS)}, found '{printable(to)}': take onnx for one "
            "file from pixels to logits"
        )
    place = Path(out).expanduser()
    shown = printable(str(place), longest=300)
    suffix = SUFFIXES.get(to, "")
    if suffix and place.suffix != suffix:
        raise EmbedcalError(
            f"expected a name that ends in {suffix} for --to {to}, found '{shown}': rename it"
        )
    if not place.absolute().parent.is_dir():
        raise EmbedcalError(
            f"expected a folder to write into, found none at "
            f"{printable(str(place.parent), longest=300)}: make it first"
        )
    taken = place.exists() and not (not suffix and place.is_dir() and not any(place.iterdir()))
    if taken or place.is_symlink():
        raise EmbedcalError(
            f"expected a new place to export to, found {shown} there already: remove it, or name "
            "another"
        )
    return place


def _encoder(
    cache: FeatureCache, to: str, pretrained: str | None, backbone: str | None
) -> ClipEncoder:
    """The cache's encoder in float32, held to its weights and its preprocessing."""
    from embedcal.encoders.again import check_preprocessing, encoder_again

    meta = cache.meta
    if not meta.library.startswith("open_clip "):
        raise EmbedcalError(
            f"expected an encoder of open_clip's for --to {to}, found {meta.backbone}: use --to "
            "safetensors"
        )
    encoder = encoder_again(
        meta,
        backbone=backbone,
        pretrained=pretrained,
        precision="fp32",
        remedy="give their file with --pretrained",
    )
    check_preprocessing(encoder, meta)
    from embedcal.encoders.clip import ClipEncoder

    assert isinstance(encoder, ClipEncoder)
    return encoder


def _write_safetensors(run: Run, cache: FeatureCache, head: Portable, place: Path) -> Exported:
    facts = facts_of(run, cache, head)
    tensors, notes = dict(head.tensors), []
    rows = _classifier(run, cache, head)
    if rows is None:
        notes.append("no zero-shot classifier: the cache has no class prompts")
    else:
        tensors[CLASSIFIER] = rows
    text = card(run, cache, facts, to="safetensors", level=head.level, whole=False)
    metadata = {KEY: json.dumps(facts), "README": text}
    with atomic(place) as part:
        write_tensors(tensors, part, metadata)
    return Exported(
        path=place,
        to="safetensors",
        run=run.id,
        head=head.kind,
        whole=False,
        files=_sizes(place),
        notes=tuple(notes),
    )


def _classifier(run: Run, cache: FeatureCache, head: Portable) -> Tensor | None:
    """Unit rows (C, d) of the classes' texts: the head's own, else the cache's."""
    import torch
    from torch.nn import functional as F

    from embedcal.heads import prototypes

    if TEXT in head.tensors and head.tensors[TEXT].ndim == 2:
        return F.normalize(head.tensors[TEXT], dim=-1)
    bank = class_bank(run, cache)
    return None if bank is None else prototypes(torch.tensor(bank.embedding))


def _write_model(
    run: Run,
    cache: FeatureCache,
    heads: tuple[Head, Portable],
    encoder: ClipEncoder,
    target: tuple[Form, Path],
) -> Exported:
    from embedcal.exporting.checked import (
        held,
        logits_of,
        noise,
        score_folder,
        zero_to_one,
    )
    from embedcal.heads import ClipHead

    (head, carried), (to, place) = heads, target
    pixels = noise(encoder)
    wanted = logits_of(encoder, head, pixels)  # before the model changes
    inside = isinstance(head, ClipHead)
    if inside:
        calibrate(model_of(encoder), head)
        carried = class_texts(carried)
    facts = facts_of(run, cache, carried)
    text = card(run, cache, facts, to=to, level=head.level, whole=inside)
    with atomic(place, folder=to == "open_clip") as part:
        if to == "open_clip":
            write_folder(part, encoder, carried, facts, text)
            difference, largest = held(lambda: score_folder(part, pixels), wanted)
        else:
            from embedcal.exporting.graph import run_graph, scorer, write_graph

            module = scorer(module_of(encoder, carried.level), carried, facts)
            write_graph(module, encoder._size, part, facts, text)
            difference, largest = held(lambda: run_graph(part, zero_to_one(pixels)), wanted)
    return Exported(
        path=place,
        to=to,
        run=run.id,
        head=head.name,
        whole=inside,
        files=_sizes(place),
        difference=difference,
        largest=largest,
        notes=_notes(cache, head.level),
    )


def _notes(cache: FeatureCache, level: Level) -> tuple[str, ...]:
    notes = []
    stored = cache.meta.levels[level]
    if stored != "float32":
        notes.append(
            f"the head was fitted to features that were rounded to {stored}, and gets them as they "
            "are from now on: a prediction that was a near tie may differ"
        )
    if cache.meta.precision != "fp32":
        notes.append(
            f"the cache's features were made in {cache.meta.precision}, the export computes in "
            "float32: a prediction that was a near tie may differ"
        )
    crop = cache.meta.preprocessing.get("center_crop")
    if crop is not None:
        notes.append(
            f"pictures were cut to their middle {crop} x {crop} pixels first, which open_clip's "
            "preprocessing does not do: score.py and README.md do"
        )
    return tuple(notes)


def _sizes(place: Path) -> dict[str, int]:
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return {file.name: file.stat().st_size for file in files}
