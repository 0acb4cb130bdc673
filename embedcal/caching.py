"""From a source and a backbone to a cache: read the manifest, load the encoder, build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedcal.datasets.places import data_dir, last_cache, remember_last_cache
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.cache import BuildOptions, BuildReport
    from embedcal.cache.encoding import Progress
    from embedcal.datasets.manifest import Manifest
    from embedcal.datasets.options import ReadOptions
    from embedcal.encoders.base import Encoder


def cache(  # noqa: PLR0913 - the front door: each is an option of the command
    source: str | Path,
    *,
    backbone: str | None = None,
    pretrained: str | None = None,
    precision: str = "fp32",
    device: str = "auto",
    root: str | Path | None = None,
    out: str | Path | None = None,
    templates: str = "openai",
    read: ReadOptions | None = None,
    build: BuildOptions | None = None,
    explain_miss: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Encode a data set once into one HDF5 file; an equal cache that exists is returned at once.

    Args:
        source: a benchmark's name (``waterbirds``, ``birds``), a CSV file, or a folder.
        backbone: ``tiny``, OpenAI's or open_clip's name, ``path/to/file.py:Name``; by default
            ``tiny`` for the embedded birds, else ``RN50``.
        pretrained: a tag of open_clip's, or a file with weights.
        precision: arithmetic of the encoder, ``fp32``, ``bf16`` or ``fp16``.
        device: ``auto`` is the accelerator where there is one.
        root: folder of the images.
        out: the file; by default one named by its content in the user's data directory.
        templates: ``openai`` (the 80), ``simple``, ``photo2``, or a file with one per line.
        read: how the source is read: columns, class names, prompts, strictness.
        build: what is kept, batch size, threads, what an unreadable image does.
        explain_miss: note how the cache used last differs from the one asked for.
        progress: called while building.

    Returns:
        Where the file is, its rows, the rows that could not be read, rates by stage.

    Raises:
        EmbedcalError: for anything that the user can mend.
    """
    from embedcal.cache import BuildOptions, build_cache
    from embedcal.datasets.read import read_manifest
    from embedcal.encoders.load import load_encoder
    from embedcal.encoders.templates import templates as read_templates

    lines = read_templates(templates)
    manifest = read_manifest(source, root=root, options=read)
    encoder = load_encoder(
        backbone or ("tiny" if str(source) == "birds" else "RN50"),
        pretrained=pretrained,
        precision=precision,
        device=_device(device),
    )
    options = replace(
        build or BuildOptions(), templates=lines, out=Path(out) if out is not None else None
    )
    missed = _explain(manifest, encoder, options) if explain_miss else ()
    report = build_cache(manifest, encoder, options=options, progress=progress)
    remember_last_cache(report.path)
    return replace(report, notes=(*missed, *report.notes))


def import_npz(
    file: Path,
    *,
    out: Path | None = None,
    name: str | None = None,
    features: str = "features",
    attributes: Sequence[str] = (),
    classes: str | None = None,
    values: str | None = None,
) -> Path:
    """A cache from an ``.npz`` of features (n, d), ``y`` (n,), ``split`` (n,) 0, 1, 2.

    ``attributes`` name further arrays (n,) of attribute values, -1 for unknown. ``classes`` and
    ``values`` are names separated by commas. Nothing in the file is unpickled.
    Raises EmbedcalError for a missing array, and for whatever the arrays themselves get wrong.
    """
    from zipfile import BadZipFile

    from embedcal.cache import import_features
    from embedcal.cache.importing import Names
    from embedcal.datasets.options import attributes_of, names_of

    wanted = (features, "y", "split", *attributes)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            missing = [array for array in wanted if array not in arrays.files]
            if missing:
                raise EmbedcalError(
                    f"expected arrays {', '.join(wanted)} in {file}, found "
                    f"{', '.join(arrays.files)}: name others with --features and --attribute"
                )
            found = {array: arrays[array] for array in wanted}
    except (OSError, ValueError, BadZipFile) as error:
        raise EmbedcalError(f"expected an .npz of plain arrays at {file}, found {error}") from None
    given = attributes_of(values) if values else {}
    named = dict.fromkeys(attributes[:1], given) if isinstance(given, str) else given
    path = import_features(
        found[features],
        found["y"],
        found["split"],
        {attribute: found[attribute] for attribute in attributes},
        names=Names(
            dataset=name or file.stem,
            classes=names_of(classes, what="class names") or (),
            values={k: names_of(v, what="value names") or () for k, v in named.items()},
        ),
        out=out,
    )
    remember_last_cache(path)
    return path


def which_cache(path: str | Path | None) -> Path:
    """The cache to use: the one named, else the one used last, else the only one there is.

    Raises EmbedcalError that lists the candidates where it cannot be told.
    """
    if path is not None:
        return Path(path)
    remembered = last_cache()
    if remembered is not None and remembered.is_file():
        return remembered
    found = sorted((data_dir() / "caches").glob("*.h5"))
    if len(found) == 1:
        return found[0]
    listed = ": name one with --cache, " + ", ".join(map(str, found)) if found else ""
    raise EmbedcalError(
        f"expected a cache to work on, found {len(found) or 'none'} in {data_dir() / 'caches'}"
        + (listed or ": make one, for instance with 'embedcal cache birds --backbone tiny'")
    )


def _explain(manifest: Manifest, encoder: Encoder, options: BuildOptions) -> tuple[str, ...]:
    """How the cache used last differs from what is asked for now."""
    from embedcal.cache import explain_miss, identity_of, open_cache

    before = last_cache()
    if before is None or not before.is_file():
        return ("no cache was used before on this machine",)
    with open_cache(before) as cache:
        differences = explain_miss(identity_of(manifest, encoder, options), cache.meta.ingredients)
    return tuple(f"{before.name} does not serve: {line}" for line in differences) or (
        f"{before.name} has the same encoding",
    )


def _device(name: str) -> str:
    if name != "auto":
        return name
    from embedcal.heads import torch_device

    return torch_device(name)
