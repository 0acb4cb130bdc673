"""Text features of names, by the encoder that made a cache, kept beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedcal.annotating.beside import beside, digest, keeping, kept
from embedcal.cache import FeatureCache
from embedcal.detecting.options import DetectOptions
from embedcal.types import EmbedcalError, FloatArray

if TYPE_CHECKING:
    from embedcal.encoders.base import Encoder

TINY = "tiny"
logger = logging.getLogger(__name__)
BLOCK = 64  # names encoded between two reports of progress


def wording(cache: FeatureCache, names: Sequence[str], options: DetectOptions) -> FloatArray:
    """Unit text features (K, d) of names: nrm(mean_t nrm(e_kt)) over the templates t.

    Names that were asked for before, of this encoder and these templates, are read from a file
    beside the cache; the encoder is loaded only for new ones.
    """
    if not cache.banks:
        raise EmbedcalError(
            f"expected a cache of an encoder with a text tower, found none in "
            f"{cache.meta.path.name}: cache with a CLIP, or bring a table of attributes"
        )
    file = f"text-{_content(cache, options)}.safetensors"
    known = _read(kept(cache, file))
    missing = [name for name in dict.fromkeys(names) if name not in known]
    if missing:
        known |= dict(zip(missing, _encode(cache, missing, options), strict=True))
        try:
            _write(beside(cache, file), known, options)
        except EmbedcalError as error:
            logger.warning("the text features are not kept for the next time: %s", error)
    return np.stack([known[name] for name in names])


def encoder_of(cache: FeatureCache, options: DetectOptions) -> Encoder:
    """The encoder that made the cache, by ``encoder_again``; ``options`` may name it anew.

    EmbedcalError where it is not found, or has not the cache's width.
    """
    from embedcal.encoders.again import REMEDY, encoder_again
    from embedcal.heads import torch_device

    encoder = encoder_again(
        cache.meta,
        backbone=options.backbone,
        pretrained=options.pretrained,
        device=torch_device(options.device),
    )
    width = encoder.meta.text_shapes.get("embedding")
    if width != cache.meta.shapes["embedding"]:
        raise EmbedcalError(
            f"expected the weights that made {cache.meta.path.name}, found others: {REMEDY}"
        )
    return encoder


def meaningless(cache: FeatureCache, names: Sequence[str]) -> frozenset[str]:
    """Names in which the cache's encoder is known to see nothing.

    Those of which the tiny CLIP's captions never spoke. It has met the words of the templates as
    well, but at random under any picture, so that "a painting" is to it whatever the noise made it.
    """
    if cache.meta.backbone != TINY:
        return frozenset()
    from embedcal.datasets.birds.species import SPECIES
    from embedcal.encoders.tiny.captions import PHRASES

    spoken = {word for text in (*PHRASES, *(one.name for one in SPECIES)) for word in text.split()}
    return frozenset(name for name in names if not spoken.issuperset(name.casefold().split()))


def _content(cache: FeatureCache, options: DetectOptions) -> str:
    meta = cache.meta
    return digest(
        {
            "weights": meta.weights_sha256 or [options.backbone, options.pretrained],
            "precision": meta.precision,
            "templates": list(options.templates),
        }
    )


def _encode(
    cache: FeatureCache, names: Sequence[str], options: DetectOptions
) -> Iterator[FloatArray]:
    with quiet():
        encoder = encoder_of(cache, options)
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            prompts = [line.replace("{}", name) for name in block for line in options.templates]
            found = encoder.text(prompts)["embedding"].astype(np.float64)
            yield from unit(unit(found).reshape(len(block), len(options.templates), -1).mean(1))
            options.progress(start + len(block), len(names))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the tiny CLIP's list of words that it does not know: of a vocabulary, most of it."""
    log = logging.getLogger("embedcal.encoders.load")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def unit(x: FloatArray) -> FloatArray:
    """Rows (..., d) of length 1; zeros stay zeros."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    found: FloatArray = x / np.where(length > 0, length, 1)
    return found


def _read(path: Path) -> dict[str, FloatArray]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, "numpy") as stored:
            names = json.loads(stored.metadata()["names"])
            return dict(zip(names, stored.get_tensor("embedding"), strict=True))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}  # what is not whole is made again


def _write(path: Path, known: dict[str, FloatArray], options: DetectOptions) -> None:
    from safetensors.numpy import save

    facts = {"names": json.dumps(list(known)), "templates": json.dumps(list(options.templates))}
    array = np.stack(list(known.values())).astype(np.float32)
    with keeping(path) as part:
        part.write_bytes(save({"embedding": array}, metadata=facts))
