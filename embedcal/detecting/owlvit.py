"""Boxes of named things by OWL-ViT, found once for every image and kept beside the cache.

Minderer et al. 2022, arXiv:2205.06230 (and OWLv2, arXiv:2306.09683). As Yang et al. 2023
(arXiv:2304.03916) use it: prompt "a photo of a NAME", a box counts for its best name only, and
where that scores ``threshold`` or more the attribute is in the image. Names are encoded once for
all images; the official processor tokenises and the model encodes them anew for each.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from embedcal.annotating.beside import beside, digest, keeping, kept, rows_digest
from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.detecting.options import OWLVIT, DetectOptions
from embedcal.detecting.presence import Presence
from embedcal.pictures import Pictures
from embedcal.types import EmbedcalError, FloatArray, IntArray

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "a photo of a {}"
KINDS = {"owlvit": "OwlViTForObjectDetection", "owlv2": "Owlv2ForObjectDetection"}
PROCESSORS = {"owlvit": "OwlViTProcessor", "owlv2": "Owlv2Processor"}
PART = 64  # images in one file of results; a killed run loses at most so many


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """m boxes: their image by cache row (m,), name (m,) as a position, score (m,), corners (m, 4).

    Corners are x0, y0, x1, y1 in pixels of the file.
    """

    row: IntArray
    name: IntArray
    score: FloatArray
    corners: FloatArray


Kept = tuple[IntArray, FloatArray, FloatArray]  # names, scores, corners


class Detector(Protocol):
    """What finds boxes: ``boxes`` of B candidates in each image, each with a score of each name.

    ``identity`` tells it from others that would find other boxes.
    """

    identity: str

    def names(self, prompts: Sequence[str]) -> Any:
        """What the names are to the detector, encoded once."""
        ...

    def __call__(
        self, images: Sequence[Image], names: Any
    ) -> Sequence[tuple[FloatArray, FloatArray]]:
        """For each image scores (B, K) between 0 and 1, and corners (B, 4) in its pixels."""
        ...


def owlvit_presence(
    cache: FeatureCache, names: Sequence[str], rows: IntArray, options: DetectOptions
) -> Presence:
    """Presence of names on encoded rows: 1 where a box of that name was kept.

    ``margin`` is the best kept score less the threshold, negative where there is none.
    """
    found = owlvit_boxes(cache, names, rows, options)
    place = np.full(len(cache), -1)
    place[rows] = np.arange(len(rows))
    best = np.zeros((len(rows), len(names)), np.float32)
    np.maximum.at(best, (place[found.row], found.name), found.score)
    return Presence(
        names=tuple(names),
        rows=rows,
        present=(best > 0).astype(np.int8),
        margin=best - np.float32(options.threshold),
    )


def owlvit_boxes(
    cache: FeatureCache, names: Sequence[str], rows: IntArray, options: DetectOptions
) -> Boxes:
    """Every kept box on encoded rows. What was found before, of the same names, is read again.

    Results are written a part of 64 images at a time, in a folder beside the cache that is named
    by model, names, threshold and rows; a killed run goes on behind its last part.
    """
    if options.root is None:
        raise EmbedcalError(
            "expected the folder of the images for owlvit, found none: name it with --root"
        )
    load = options.load or load_owlvit
    detector: Detector = load(options.model, options.device)
    content = digest([detector.identity, list(names), options.threshold, rows_digest(cache)])
    todo = [start for start in range(0, len(cache), PART) if _wanted(start, rows).size]
    encoded: Any = None
    parts = []
    for done, start in enumerate(todo):
        wanted = _wanted(start, rows)
        name = f"owlvit-{content}/{start:09d}.npz"
        known = _read(kept(cache, name))
        have = known[0] if known else np.zeros(0, np.int64)
        missing = np.setdiff1d(wanted, have)
        boxes = known[1] if known else _none()
        if missing.size:
            encoded = (
                detector.names([PROMPT.format(n) for n in names]) if encoded is None else encoded
            )
            boxes = _joined([boxes, _look(cache, detector, encoded, missing, options)])
            _write(beside(cache, name), np.union1d(have, missing), boxes)
        parts.append(_of(boxes, wanted))
        options.progress(min(len(rows), (done + 1) * PART), len(rows))
    return _joined(parts)


def keep(scores: FloatArray, corners: FloatArray, threshold: float) -> Kept:
    """Of B boxes with scores (B, K): the best name of each, where that scores enough."""
    best, top = scores.argmax(1), scores.max(1)
    kept = np.flatnonzero(top >= threshold)
    return best[kept], top[kept], corners[kept]


def _look(
    cache: FeatureCache, detector: Detector, encoded: Any, rows: IntArray, options: DetectOptions
) -> Boxes:
    assert options.root is not None
    pictures, found = Pictures(cache, options.root), []
    for start in range(0, len(rows), options.batch_size):
        block = rows[start : start + options.batch_size]
        images = [_upright(pictures, int(row)) for row in block]
        for row, (scores, corners) in zip(block, detector(images, encoded), strict=True):
            # As they are stored, so that what is found anew and what is read again are equal.
            name, score, kept = keep(
                scores.astype(np.float32), corners.astype(np.float32), options.threshold
            )
            found.append(Boxes(row=np.full(len(name), row), name=name, score=score, corners=kept))
    return _joined(found)


def _upright(pictures: Pictures, row: int) -> Image:
    """The picture of a row, upright and in RGB."""
    from PIL import Image, ImageOps

    from embedcal.encoders.decode import UnreadableImageError, decode

    def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))

    try:
        return Image.fromarray(decode(pictures.read(row), pixels))
    except UnreadableImageError as error:
        shown = printable(str(pictures.file(row)), longest=300)
        raise EmbedcalError(
            f"expected an image that can be read at {shown}, found: {error.reason}: leave row "
            f"{row} out"
        ) from None


def _wanted(start: int, rows: IntArray) -> IntArray:
    return rows[(rows >= start) & (rows < start + PART)]


def _none() -> Boxes:
    empty = np.zeros(0, np.int64)
    return Boxes(
        row=empty,
        name=empty,
        score=np.zeros(0, np.float32),
        corners=np.zeros((0, 4), np.float32),
    )


def _of(boxes: Boxes, rows: IntArray) -> Boxes:
    kept = np.isin(boxes.row, rows)
    return Boxes(
        row=boxes.row[kept],
        name=boxes.name[kept],
        score=boxes.score[kept],
        corners=boxes.corners[kept],
    )


def _joined(parts: Sequence[Boxes]) -> Boxes:
    parts = [*parts, _none()]
    return Boxes(
        row=np.concatenate([part.row for part in parts]),
        name=np.concatenate([part.name for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        corners=np.concatenate([part.corners for part in parts]),
    )


def _read(path: Path) -> tuple[IntArray, Boxes] | None:
    """The rows that were looked at, and their boxes; None where there is no whole file."""
    import zipfile

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            boxes = Boxes(
                row=stored["row"],
                name=stored["name"],
                score=stored["score"],
                corners=stored["corners"],
            )
            return stored["looked"], boxes
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(path: Path, looked: IntArray, boxes: Boxes) -> None:
    with keeping(path) as part, part.open("wb") as file:
        np.savez(
            file,
            looked=looked,
            row=boxes.row,
            name=boxes.name,
            score=boxes.score,
            corners=boxes.corners,
        )


class OwlVit:
    """OWL-ViT or OWLv2 of the package transformers, with its processor."""

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        from embedcal.encoders.digest import state_sha256

        self._model, self._processor, self._device = model.eval().to(device), processor, device
        size = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
        self.identity = f"{state_sha256(model.state_dict())} {digest(size)}"
        # OWLv2 pads a picture to a square on the right and below; OWL-ViT stretches it.
        self._square = "owlv2" in str(model.config.model_type)

    def names(self, prompts: Sequence[str]) -> Any:
        """Text embeddings (K, d) of the prompts; EmbedcalError for one that is too long."""
        import torch

        base, tokenizer = self._model.base_model, self._processor.tokenizer
        length = self._model.config.text_config.max_position_embeddings
        for prompt, ids in zip(prompts, tokenizer(list(prompts))["input_ids"], strict=True):
            if len(ids) > length:
                raise EmbedcalError(
                    f"expected prompts of at most {length} tokens for owlvit, found {len(ids)} in "
                    f"'{printable(prompt)}': shorten the name, or leave it out"
                )
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=length, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            found = [
                base.text_projection(base.text_model(input_ids=ids, attention_mask=mask)[1])
                for ids, mask in zip(
                    tokens["input_ids"].split(64), tokens["attention_mask"].split(64), strict=True
                )
            ]
            return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    def __call__(self, images: Sequence[Image], names: Any) -> list[tuple[FloatArray, FloatArray]]:
        """Scores and corners of each image's patches, one box a patch."""
        import torch

        pixels = self._processor.image_processor(images=list(images), return_tensors="pt")
        with torch.inference_mode():
            grid = self._model.image_embedder(pixel_values=pixels["pixel_values"].to(self._device))[
                0
            ]
            patches = grid.flatten(1, 2)  # (b, B, width)
            queries = names.expand(len(images), *names.shape).clone()  # the head writes into them
            logits = self._model.class_predictor(patches, queries)[0]
            boxes = self._model.box_predictor(patches, grid)
        found = []
        for image, scores, box in zip(
            images, logits.sigmoid().cpu().numpy(), boxes.cpu().numpy(), strict=True
        ):
            found.append((scores, corners_of(box, image.size, square=self._square)))
        return found


def corners_of(boxes: FloatArray, size: tuple[int, int], *, square: bool) -> FloatArray:
    """Corners (B, 4) in pixels from centres, widths and heights (B, 4) as fractions of an input.

    ``size`` is (width, height). A ``square`` input is as large as the longer side.
    """
    scale = np.array([max(size)] * 4 if square else [*size, *size], np.float64)
    x, y, w, h = boxes.T
    corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1) * scale
    return corners.clip(0, np.array([*size, *size]))


def load_owlvit(model: str, device: str = "auto") -> OwlVit:
    """A model by its name on the Hugging Face hub, or from a folder; safetensors only."""
    from embedcal.heads import torch_device

    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise EmbedcalError(
            "expected the package transformers for owlvit, found none: pip install "
            "'embedcal[detect]'"
        ) from None
    try:
        known = transformers.AutoConfig.from_pretrained(model).model_type
        if known not in KINDS:
            raise EmbedcalError(
                f"expected a model of {' or '.join(KINDS)}, found {printable(str(known))} in "
                f"'{printable(model)}': take {OWLVIT}"
            )
        kind = getattr(transformers, KINDS[known])
        found = kind.from_pretrained(model, use_safetensors=True)
        processor = getattr(transformers, PROCESSORS[known]).from_pretrained(model)
    except (OSError, ValueError) as error:
        told = printable(" ".join(str(error).split()), longest=160)
        raise EmbedcalError(
            f"expected the model '{printable(model)}' on this machine or a network to fetch it, "
            f"found neither ({told}): name a folder that holds it"
        ) from None
    return OwlVit(found, processor, torch_device(device))
