"""What a cache says besides image features, as arrays ready to be laid out: labels, text, facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.checksums import BLOCK
from embedcal.cache.format import PAIR_ROLES, PAIR_ROWS, REASON_BYTES, SHARD, escape_name
from embedcal.cache.identity import Identity, fingerprint
from embedcal.cache.layout import StoredFile
from embedcal.cache.skeleton import Contents
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.scratch import scratch_array
from embedcal.encoders.base import Encoder, EncoderMeta
from embedcal.types import ROLES, EmbedcalError, FloatArray, Pair, Projection

Arrays = dict[str, npt.NDArray[Any]]
_TEXT_BATCH = 256  # prompts encoded together
_ROWS = 4096  # of text that are in memory together


def text_array(strings: Sequence[str], what: str) -> npt.NDArray[np.bytes_]:
    """Strings as fixed-length UTF-8, as long as the longest of them.

    They are gone through twice, block by block; a large array lies in pages of a file.
    """
    width = max((len(raw) for raw in _encoded(strings, what)), default=0)
    array = scratch_array((len(strings),), f"S{max(1, width)}")
    for start in range(0, len(strings), _ROWS):
        block = strings[start : start + _ROWS]
        array[start : start + len(block)] = [string.encode("utf-8") for string in block]
    return array


def _encoded(strings: Sequence[str], what: str) -> Iterator[bytes]:
    for string in strings:
        try:
            raw = string.encode("utf-8")
        except UnicodeEncodeError:
            raise EmbedcalError(
                f"expected {what} to be text, found bytes that are not UTF-8 in {string!r}: "
                "rename it"
            ) from None
        if b"\0" in raw:
            raise EmbedcalError(f"expected {what} without NUL characters, found one: remove it")
        yield raw


def row_text(file: StoredFile, row: int) -> tuple[str, str, str]:
    """Id, path and reason of one row, without the table."""
    paths = ("/samples/id", "/samples/path", "/samples/reason")
    name, path, reason = (file.rows(each, row, row + 1).item().decode("utf-8") for each in paths)
    return name, path, reason


def cut_reason(reason: str) -> bytes:
    """A reason that fits into its place, cut at a character."""
    raw = reason.replace("\0", " ").encode("utf-8", "backslashreplace")[:REASON_BYTES]
    return raw.decode("utf-8", "ignore").encode("utf-8")


def manifest_fingerprint(manifest: Manifest, identity: Identity) -> str:
    """Identity of the encoding together with everything that is learned from."""
    return fingerprint(
        identity.digest,
        ids=manifest.ids,
        y=manifest.y,
        split=manifest.split,
        classes=manifest.classes,
        attributes={a.name: (a.values, a.labels) for a in manifest.attributes},
        box=manifest.box,
    )


def label_arrays(manifest: Manifest, identity: Identity) -> Arrays:
    """The table of rows, class names, attributes and warnings."""
    arrays: Arrays = {
        "/samples/id": text_array(manifest.ids, "ids"),
        "/samples/path": text_array(manifest.paths, "paths"),
        "/samples/sha256": identity.rows,
        "/samples/y": np.asarray(manifest.y, "<i4"),
        "/samples/split": np.asarray(manifest.split, "|u1"),
    }
    if manifest.box is not None:
        arrays["/samples/box"] = np.asarray(manifest.box, "<f4")
    if manifest.masks is not None:
        arrays["/samples/mask"] = text_array(manifest.masks, "mask paths")
    arrays["/classes"] = text_array(manifest.classes, "class names")
    for attribute in manifest.attributes:
        if not attribute.name:
            raise EmbedcalError("expected every attribute to have a name, found none: name it")
        link = escape_name(attribute.name)
        arrays[f"/samples/attributes/{link}"] = np.asarray(attribute.labels, "<i4")
        arrays[f"/attributes/{link}"] = text_array(attribute.values, "attribute values")
    if manifest.warnings:
        arrays["/warnings"] = text_array(manifest.warnings, "warnings")
    return arrays


def text_arrays(
    encoder: Encoder,
    identity: Identity,
    progress: Callable[[int, int], None],
) -> Arrays:
    """Every prompt through every template, or its descriptions; none averaged.

    Nothing for image-only encoders.
    """
    arrays = prompt_arrays(identity)
    banks = {bank: _texts(identity, bank) for bank in identity.prompts}
    total = sum(map(len, banks.values()))
    done = 0
    for bank, texts in banks.items():
        prompts = identity.prompts[bank]
        each = len(texts) // len(prompts)
        parts: dict[str, list[FloatArray]] = {}
        for start in range(0, len(texts), _TEXT_BATCH):
            batch = texts[start : start + _TEXT_BATCH]
            for name, features in encoder.text(batch).items():
                parts.setdefault(name, []).append(features)
            done += len(batch)
            progress(done, total)
        path = f"/text/{escape_name(bank)}"
        for name, shape in encoder.meta.text_shapes.items():
            features = np.concatenate(parts[name]).astype("<f4")
            if not np.isfinite(features).all():
                raise EmbedcalError(
                    f"expected finite text features, found NaN or infinity in bank '{bank}': "
                    "encode in fp32, or check the weights"
                )
            arrays[f"{path}/{name}"] = features.reshape(len(prompts), each, *shape)
    return arrays


def prompt_arrays(identity: Identity) -> Arrays:
    """Templates, prompts, descriptions and pairs without their features."""
    arrays: Arrays = {}
    if identity.templates:
        arrays["/templates"] = text_array(identity.templates, "templates")
    for bank, prompts in identity.prompts.items():
        path = f"/text/{escape_name(bank)}"
        arrays[f"{path}/prompt"] = text_array(prompts, "prompts")
        if bank in identity.descriptions:
            described = text_array(_texts(identity, bank), "descriptions")
            arrays[f"{path}/text"] = described.reshape(len(prompts), -1)
    return arrays | pair_arrays(identity.pairs)


def pair_arrays(pairs: Sequence[Pair]) -> Arrays:
    """Concept pairs as two arrays: the rows of each, and its role by number."""
    if not pairs:
        return {}
    return {
        PAIR_ROWS: np.array([pair[:2] for pair in pairs], "<i4"),
        PAIR_ROLES: np.array([ROLES.index(role) for _, _, role in pairs], "|u1"),
    }


def _texts(identity: Identity, bank: str) -> list[str]:
    """What is encoded for a bank, prompt by prompt."""
    if bank in identity.descriptions:
        return [text for texts in identity.descriptions[bank] for text in texts]
    templates, prompts = identity.templates, identity.prompts[bank]
    return [template.replace("{}", prompt) for prompt in prompts for template in templates]


def projection_arrays(projection: Projection | None) -> Arrays:
    """The weights between pooled and embedding, by the format's names."""
    if projection is None:
        return {}
    arrays: Arrays = {}
    for name in ("image_weight", "image_bias", "text_weight"):
        weights = getattr(projection, name)
        if weights is not None:
            arrays[f"/projection/{name}"] = np.asarray(weights, "<f4")
    if projection.logit_scale is not None:
        arrays["/projection/logit_scale"] = np.array([projection.logit_scale], "<f8")
    for name, weights in projection.attnpool.items():
        arrays[f"/projection/attnpool/{escape_name(name)}"] = np.asarray(weights, "<f4")
    if projection.attnpool_heads:
        arrays["/projection/attnpool_heads"] = np.array([projection.attnpool_heads], "<i4")
    return arrays


def copied_arrays(source: StoredFile) -> Arrays:
    """Templates, text and projection of a file with the same identity."""
    return {
        path: source.read(path)
        for path in source.arrays
        if path.startswith(("/text/", "/projection/")) or path == "/templates"
    }


def same_labels(file: StoredFile, labels: Arrays, manifest: Manifest) -> bool:
    """Whether a file holds exactly these rows, labels, names and paths, byte for byte."""
    own = {
        path
        for path in file.arrays
        if path.startswith(("/samples/", "/attributes/", SHARD))
        or path in ("/classes", "/warnings")
    }
    own -= {"/samples/status", "/samples/reason", "/samples/crc32"}
    facts = (file.attributes["dataset"], file.attributes["attributes"])
    return (
        facts == (manifest.name, [attribute.name for attribute in manifest.attributes])
        and own == labels.keys()
        and all(_same_bytes(file, path, array) for path, array in labels.items())
    )


def _same_bytes(file: StoredFile, path: str, array: npt.NDArray[Any]) -> bool:
    stored = file.arrays[path]
    if (stored.dtype, stored.shape) != (array.dtype, array.shape):
        return False
    step = max(1, BLOCK // stored.row_bytes)
    spans = ((start, min(start + step, len(array))) for start in range(0, len(array), step))
    return all(file.rows(path, a, b).tobytes() == array[a:b].tobytes() for a, b in spans)


def assemble(
    manifest: Manifest,
    meta: EncoderMeta,
    identity: Identity,
    fixed: Arrays,
    facts: Mapping[str, Any],
) -> Contents:
    """Everything that is known before the first row; ``facts`` override root attributes."""
    n = len(manifest)
    attributes = {
        "dataset": manifest.name,
        "encoder": meta.name,
        "weights": meta.weights,
        "weights_sha256": meta.weights_sha256,
        "library": meta.library,
        "preprocessing": dict(identity.preprocessing),
        "precision": meta.precision,
        "levels": dict(identity.levels),
        "attributes": [attribute.name for attribute in manifest.attributes],
        "context_length": meta.context_length,
        "identity": identity.digest,
        "fingerprint": manifest_fingerprint(manifest, identity),
        **facts,
    }
    rows: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "/samples/status": (np.dtype("|u1"), (n,)),
        "/samples/reason": (np.dtype(f"S{REASON_BYTES}"), (n,)),
    }
    for level, kind in identity.levels.items():
        dtype = np.dtype(kind).newbyteorder("<")
        rows[f"/images/{level}"] = (dtype, (n, *meta.shapes[level]))  # type: ignore[index]
    return Contents(attributes=attributes, fixed=fixed, rows=rows)
