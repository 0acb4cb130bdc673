"""From a source and a backbone to a cache: read the manifest, load the encoder, build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.datasets.places import data_dir, last_cache, remember_last_cache
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.cache import BuildOptions, BuildReport
    from embedcal.cache.encoding import Progress
    from embedcal.datasets.manifest import Manifest
    from embedcal.datasets.options import ReadOptions
    from embedcal.encoders.base import Encoder

EMBEDDED = ("birds", "digits")  # made from what the package brings: there tiny is the backbone


def cache(  # noqa: PLR0913 - the front door: each is an option of the command
    source: str | Path,
    *,
    backbone: str | None = None,
    pretrained: str | None = None,
    precision: str = "fp32",
    runtime: str = "torch",
    device: str = "auto",
    root: str | Path | None = None,
    out: str | Path | None = None,
    templates: str | None = None,
    pairs: str | Path | Mapping[str, Any] | None = None,
    read: ReadOptions | None = None,
    build: BuildOptions | None = None,
    shard: str | None = None,
    extend: str | Path | None = None,
    explain_miss: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Encode a data set once into one HDF5 file; an equal cache that exists is returned at once.

    Args:
        source: a benchmark's name (``waterbirds``, ``birds``), a CSV file, or a folder.
        backbone: ``tiny``, OpenAI's or open_clip's name, ``path/to/file.py:Name``; by default
            ``tiny`` for the embedded data sets, else ``RN50``.
        pretrained: a tag of open_clip's, or a file with weights.
        precision: arithmetic of the encoder, ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16
            where the device has matrix units for it, else fp32.
        runtime: what runs the image trunk, ``torch``; ``openvino`` or ``onnxruntime`` on the CPU,
            held to torch's features on the first batch.
        device: ``auto`` is the accelerator where there is one.
        root: folder of the images.
        out: the file; by default one named by its content in the user's data directory.
        templates: ``openai`` (the 80, the default), ``simple``, ``photo2``, or a file with one per
            line; of a JSON file of several lists the one under the data set's name, or
            ``FILE#KEY``.
        pairs: concept pairs, from a TOML file or a mapping: two prompts each, by role (``reject``,
            ``accept``, ``equal``); by default those of a named data set, ``none`` for none.
        read: how the source is read: columns, class names, prompts, descriptions, crop.
        build: what is kept, batch size, threads, what an unreadable image does; ``out``,
            ``templates`` and ``pairs`` of it too, each where it is not given here.
        shard: ``"2/5"`` builds that part of the rows, for ``embedcal merge``.
        extend: an older cache of the same encoding, of which rows with the same image bytes are
            copied.
        explain_miss: note how the cache used last differs from the one asked for.
        progress: called while building.

    Returns:
        Where the file is, its rows, the rows that could not be read, rates by stage.

    Raises:
        EmbedcalError: for anything that the user can mend.

    Example:
        >>> import embedcal
        >>> read = embedcal.ReadOptions(rows=240)
        >>> report = embedcal.cache("birds", read=read, templates="simple", out="small.h5")
        >>> report.path.name, report.rows, report.skipped
        ('small.h5', 240, ())
        >>> embedcal.cache("birds", read=read, templates="simple", out="small.h5").reused
        True
    """
    from embedcal.cache import BuildOptions, build_cache
    from embedcal.cache.sharding import part_of
    from embedcal.datasets.options import ReadOptions
    from embedcal.datasets.prompts import pairs_for
    from embedcal.datasets.read import read_manifest
    from embedcal.encoders.load import load_encoder
    from embedcal.encoders.templates import choose, load

    part = part_of(shard) if shard is not None else None
    asked, given = read or ReadOptions(), build or BuildOptions()
    named = "openai" if templates is None and given.templates is None else templates
    listed = None if named is None else load(named)  # before anything that takes time
    renamed = asked.classes is not None or asked.attributes is not None
    unasked, concepts = pairs is None and given.pairs is None, given.pairs
    if pairs is not None or unasked:
        concepts = pairs_for(pairs, str(source), renamed=renamed)
    manifest = read_manifest(source, root=root, options=asked)
    if named is not None and listed is not None:
        given = replace(given, templates=choose(listed, named, manifest.name))
    encoder = load_encoder(
        backbone or ("tiny" if str(source) in EMBEDDED else "RN50"),
        pretrained=pretrained,
        precision=precision,
        runtime=runtime,
        device=_device(device, runtime),
    )
    if unasked and not encoder.meta.has_text:
        concepts = None  # nobody asked for them, so nobody has to be told
    options = replace(given, pairs=concepts, out=Path(out) if out is not None else given.out)
    missed = _explain(manifest, encoder, options) if explain_miss else ()
    report = build_cache(
        manifest,
        encoder,
        options=options,
        progress=progress,
        shard=part,
        extend=Path(extend) if extend is not None else None,
    )
    if part is None:  # a shard is nothing to work on
        remember_last_cache(report.path)
    return replace(report, notes=(*missed, *report.notes))


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
    from embedcal.cache import explain_miss, open_cache
    from embedcal.cache.build import identity_of

    before = last_cache()
    if before is None or not before.is_file():
        return ("no cache was used before on this machine",)
    with open_cache(before) as cache:
        wanted, found = identity_of(manifest, encoder, options), cache.meta.ingredients
    differences = explain_miss(wanted, found)
    known = {row.tobytes() for row in found.rows if row.any()}  # zeros: there were no bytes
    shared = sum(row.tobytes() in known for row in wanted.rows)
    if differences and shared and not explain_miss(replace(wanted, rows=found.rows), found):
        differences.append(
            f"{shared} of {len(wanted.rows)} images are in it: --extend {before} encodes only the "
            "others"
        )
    return tuple(f"{before.name} does not serve: {line}" for line in differences) or (
        f"{before.name} has the same encoding",
    )


def _device(name: str, runtime: str) -> str:
    if name != "auto":
        return name
    if runtime != "torch":
        return "cpu"
    from embedcal.heads import torch_device

    return torch_device(name)
