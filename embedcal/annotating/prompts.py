"""Text features of an annotated attribute's values, by the encoder of the cache, kept beside it.

They are to an inferred attribute what the bank ``attribute`` is to the cache's own: its values
through the cache's templates, at the levels that the cache's banks have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.annotating.annotations import prompts_path
from embedcal.annotating.beside import keeping
from embedcal.cache import FeatureCache
from embedcal.types import EmbedcalError, FloatArray, TextBank

if TYPE_CHECKING:
    from embedcal.encoders.base import Encoder

BANK = "attribute"
BATCH = 256  # texts that go through the text tower at once


def encode_prompts(cache: FeatureCache, values: Sequence[str], encoder: Encoder) -> TextBank:
    """The values of an attribute through the templates of a cache: P prompts, T templates each.

    Un-normalised, float32, as the banks of a cache are. EmbedcalError where the cache has no text,
    or descriptions in place of templates, and where features are not finite.
    """
    templates = cache.meta.templates
    if not cache.banks or not templates:
        raise EmbedcalError(
            f"expected templates in {cache.meta.path.name}, found "
            f"{'descriptions alone' if cache.banks else 'image features alone'}: cache with "
            "--templates and an encoder that has a text tower"
        )
    texts = [line.replace("{}", value) for value in values for line in templates]
    found: dict[str, list[FloatArray]] = {}
    for start in range(0, len(texts), BATCH):
        for level, features in encoder.text(texts[start : start + BATCH]).items():
            found.setdefault(level, []).append(features)
    pooled = all(cache.text(bank).pooled is not None for bank in cache.banks)
    levels = {
        level: np.concatenate(parts).reshape(len(values), len(templates), -1).astype(np.float32)
        for level, parts in found.items()
        if level == "embedding" or pooled
    }
    for level, features in levels.items():
        if not np.isfinite(features).all():
            raise EmbedcalError(
                f"expected finite text features, found NaN or infinity in the {level} of "
                f"{', '.join(values)}: encode in fp32"
            )
    return TextBank(
        name=BANK,
        prompts=tuple(values),
        templates=templates,
        embedding=levels["embedding"],
        pooled=levels.get("pooled"),
    )


def write_prompts(cache: FeatureCache, attribute: str, bank: TextBank) -> Path:
    """Keep the prompts of an annotated attribute; the file's path."""
    from safetensors.numpy import save

    arrays = {"embedding": np.ascontiguousarray(bank.embedding)}
    if bank.pooled is not None:
        arrays["pooled"] = np.ascontiguousarray(bank.pooled)
    facts = {**_made_by(cache), "prompts": json.dumps(list(bank.prompts)), "sha256": _sum(arrays)}
    path = prompts_path(cache, attribute)
    with keeping(path) as part:
        part.write_bytes(save(arrays, metadata=facts))
    return path


def prompts(cache: FeatureCache, attribute: str) -> TextBank | None:
    """The prompts of an annotated attribute.

    None where there are none, and where what is there is damaged, or of another encoder or other
    templates than the cache's.
    """
    from safetensors import SafetensorError, safe_open

    path = prompts_path(cache, attribute)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as stored:
            facts = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        names = json.loads(facts["prompts"])
        sound = facts["sha256"] == _sum(arrays) and _made_by(cache).items() <= facts.items()
        sound = sound and arrays["embedding"].shape[0] == len(names)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        return None
    return TextBank(
        name=BANK,
        prompts=tuple(names),
        templates=cache.meta.templates,
        embedding=arrays["embedding"],
        pooled=arrays.get("pooled"),
    )


def _made_by(cache: FeatureCache) -> dict[str, str]:
    """What text features depend on beside the prompts."""
    meta = cache.meta
    return {
        "weights": meta.weights_sha256,
        "precision": meta.precision,
        "templates": json.dumps(list(meta.templates)),
    }


def _sum(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        state.update(arrays[name].tobytes())
    return state.hexdigest()
