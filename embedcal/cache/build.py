"""From a manifest and an encoder to a finished cache: resumed, reused or relabelled if possible."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from embedcal.cache.contents import (
    Arrays,
    assemble,
    copied_arrays,
    label_arrays,
    manifest_fingerprint,
    projection_arrays,
    same_labels,
    text_arrays,
)
from embedcal.cache.cropping import crop_for
from embedcal.cache.digests import digest_files, digest_table
from embedcal.cache.encoding import (
    BuildOptions,
    Clock,
    Progress,
    encode_images,
    unreadable,
    worker_count,
)
from embedcal.cache.format import OK
from embedcal.cache.identity import Identity, explain_miss, file_name
from embedcal.cache.layout import StoredFile
from embedcal.cache.verification import verify
from embedcal.cache.view import FeatureCache, open_cache
from embedcal.cache.writer import CacheWriter
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.places import data_dir
from embedcal.encoders.base import Encoder
from embedcal.types import LEVELS, EmbedcalError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was done. ``seconds`` by stage: hash, text, decode, encode, write, total.

    ``decode`` is the threads' time over their number; ``limiting`` names the stage that the others
    waited for. ``skipped`` lists (id, path, reason) of unreadable rows of the whole cache.
    ``resumed`` counts rows that an earlier, interrupted call had written.
    """

    path: Path
    rows: int
    skipped: tuple[tuple[str, str, str], ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    encoded: int = 0
    reused: bool = False
    relabelled: bool = False
    resumed: int = 0
    limiting: str = ""
    notes: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> dict[str, float]:
        """Rate of each stage on its own, for the images that this call encoded."""
        stages = ("decode", "encode", "write")
        busy = {stage: self.seconds.get(stage, 0.0) for stage in stages}
        return {stage: self.encoded / time for stage, time in busy.items() if time > 0}


def identity_of(manifest: Manifest, encoder: Encoder, options: BuildOptions) -> Identity:
    """What the cache of this request would be; hashes every image that is not yet known."""
    return _identity(manifest, encoder, options, _silent)


def build_cache(
    manifest: Manifest,
    encoder: Encoder,
    *,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """One pass of a frozen encoder over every image and prompt, into one file.

    A cache with the same identity, labels and paths is returned at once. With other labels, its
    features are copied and nothing is encoded. An interrupted build goes on where it stopped. An
    image that cannot be read keeps its row (status 1, zeros) unless ``on_error`` is "raise".
    Raises ``EmbedcalError`` for a full disk, another writer, a file that changes meanwhile,
    non-finite features, or an ``out`` that holds something else.
    """
    options = options or BuildOptions()
    progress = progress or _silent
    clock = Clock()
    if not len(manifest):
        raise EmbedcalError("expected at least one row, found an empty manifest: add images")
    with clock("hash"):
        identity = _identity(manifest, encoder, options, progress)
    labels = label_arrays(manifest, identity)
    target, moved = cache_target(manifest, encoder.meta.name, identity, options.out)
    notes = (*_notes(manifest, encoder), *moved)
    with CacheWriter(target) as writer, ExitStack() as opened:
        relatives = [opened.enter_context(cache) for cache in _relatives(target, identity)]
        for cache in relatives:
            mine = cache.meta.path == target or not _is_named(options.out)
            if mine and same_labels(cache.stored, labels, manifest):
                return _report(cache.meta.path, clock, options, reused=True, notes=notes)
        part = writer.found()
        if part is not None:
            opened.enter_context(part)
            if part.head.identity != identity.digest:
                notes = (*notes, f"replaced an unfinished file of another encoding: {writer.part}")
                part = None
        whole = None
        if part is not None and _goes_on(part, labels, manifest, options):
            writer.resume(part, batch_size=options.batch_size)
        else:
            whole = next((cache.stored for cache in relatives if verify(cache.meta.path).ok), None)
            source = whole or part
            fixed, facts = _text_and_facts(encoder, identity, source, options, clock, progress)
            contents = assemble(manifest, encoder.meta, identity, {**labels, **fixed}, facts)
            writer.create(contents, rows_from=source, batch_size=options.batch_size)
        copied = writer.rows_done
        if copied < len(manifest):
            encode_images(
                writer,
                manifest,
                encoder,
                identity.rows,
                options=options,
                clock=clock,
                progress=progress,
            )
        with clock("write"):
            path = writer.finish()
        done = {"relabelled": True} if whole is not None else {"resumed": copied}
        encoded = len(manifest) - copied
        return _report(path, clock, options, encoded=encoded, notes=notes, **done)


def _goes_on(part: StoredFile, labels: Arrays, manifest: Manifest, options: BuildOptions) -> bool:
    same_batches = part.attributes["batch_size"] == options.batch_size
    return same_batches and same_labels(part, labels, manifest)


def _is_named(out: Path | None) -> TypeGuard[Path]:
    """Whether ``out`` is a file rather than a folder of caches."""
    return out is not None and not out.is_dir()


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def _identity(
    manifest: Manifest, encoder: Encoder, options: BuildOptions, progress: Progress
) -> Identity:
    meta = encoder.meta
    levels, crop = _levels(encoder, options), crop_for(manifest, meta)
    prompts = {bank: given for bank, given in manifest.prompts.items() if given and meta.has_text}
    descriptions = {bank: each for bank, each in manifest.descriptions.items() if bank in prompts}
    templates = options.templates if prompts.keys() - descriptions.keys() else ()
    for template in templates:
        if "{}" not in template:
            raise EmbedcalError(
                f"expected {{}} in every template, found {template!r}: write {{}} where the prompt "
                "goes"
            )
    if prompts.keys() - descriptions.keys() and not templates:
        raise EmbedcalError('expected at least one template, found none: give "a photo of a {}."')
    rows = digest_files(
        [manifest.root / path for path in manifest.paths],
        workers=worker_count(options.workers),
        table=digest_table(),
        trust=not options.rehash,
        progress=lambda done: progress("hash", done, len(manifest)),
    )
    return Identity(
        encoder=meta.name,
        weights_sha256=meta.weights_sha256,
        preprocessing={**meta.preprocessing, **({} if crop is None else {"center_crop": crop})},
        precision=meta.precision,
        levels=levels,
        templates=templates,
        prompts=prompts,
        rows=rows,
        descriptions=descriptions,
    )


def _notes(manifest: Manifest, encoder: Encoder) -> tuple[str, ...]:
    """What is done, or left undone, because the encoder has no text tower."""
    meta, notes = encoder.meta, []
    crop = crop_for(manifest, meta)
    if crop is not None and manifest.crop is None:
        notes.append(
            f"images are cropped to {crop} pixels at the centre, as is usual for {manifest.name} "
            f"with an encoder without a text tower such as {meta.name}: --crop none leaves it out"
        )
    if manifest.descriptions and not meta.has_text:
        notes.append(f"descriptions are left out: {meta.name} has no text tower")
    return tuple(notes)


def _levels(encoder: Encoder, options: BuildOptions) -> dict[str, str]:
    shapes = encoder.meta.shapes
    if "embedding" not in shapes or (options.tokens and "tokens" not in shapes):
        missing = "tokens" if "embedding" in shapes else "embedding"
        raise EmbedcalError(
            f"expected an encoder that gives {missing}, found {', '.join(shapes) or 'nothing'} "
            f"from {encoder.meta.name}: choose another encoder or leave {missing} out"
        )
    kept = [level for level in LEVELS if level in shapes and (level != "tokens" or options.tokens)]
    return {level: options.store_tokens if level == "tokens" else options.store for level in kept}


def cache_target(
    manifest: Manifest, encoder: str, identity: Identity, out: Path | None
) -> tuple[Path, tuple[str, ...]]:
    """The file to write, and a note where something there had to be moved aside.

    In a folder of caches each set of labels has a file of its own, so that runs keep the cache
    that they were made from. A file that was named is replaced, but only by its own encoding.
    """
    if _is_named(out):
        if out.exists():
            with open_cache(out) as cache:
                differences = explain_miss(identity, cache.meta.ingredients)
            if differences:
                raise EmbedcalError(
                    f"expected the same encoding in {out}, found another "
                    f"({'; '.join(differences)}): remove it or name another file with --out"
                )
        return out, ()
    path = (out or data_dir() / "caches") / file_name(manifest.name, encoder, identity.digest)
    labels = manifest_fingerprint(manifest, identity)
    for candidate in (path, path.with_name(f"{path.stem}-{labels[:10]}.h5")):
        if not candidate.exists():
            return candidate, ()
        try:
            with open_cache(candidate) as cache:
                if cache.fingerprint == labels:
                    return candidate, ()
        except EmbedcalError as error:
            aside = candidate.with_name(candidate.name + ".damaged")
            candidate.replace(aside)
            return candidate, (f"moved aside to {aside}: {error}",)
    raise AssertionError("two fingerprints that agree in ten digits")


def _relatives(target: Path, identity: Identity) -> Iterator[FeatureCache]:
    """Finished caches beside the target with the same encoding; the target itself first."""
    beside = sorted(target.parent.glob(f"*{identity.digest[:10]}*.h5"))
    for path in dict.fromkeys([target, *beside]):
        if path.exists():
            try:
                cache = open_cache(path)
            except EmbedcalError as error:
                log.warning("not reused: %s", error)
                continue
            if cache.meta.identity == identity.digest:
                yield cache
            else:
                cache.close()


def _text_and_facts(
    encoder: Encoder,
    identity: Identity,
    source: StoredFile | None,
    options: BuildOptions,
    clock: Clock,
    progress: Progress,
) -> tuple[Arrays, dict[str, Any]]:
    """Text and projection, copied where a file of the same encoding has them."""
    if source is not None:
        facts = {name: source.attributes[name] for name in ("weights", "library", "batch_size")}
        if source.head.state == "building" and facts["batch_size"] != options.batch_size:
            facts["batch_size"] = 0  # it varies from here on
        return copied_arrays(source), facts
    with clock("text"):
        text = text_arrays(encoder, identity, lambda done, total: progress("text", done, total))
    return {**text, **projection_arrays(encoder.projection())}, {"batch_size": options.batch_size}


def _report(path: Path, clock: Clock, options: BuildOptions, **facts: Any) -> BuildReport:
    """Read back from the finished file, which thereby proves to open."""
    with open_cache(path) as cache:
        samples = cache.samples
        skipped = tuple(
            (samples.ids[row], samples.paths[row], samples.reasons[row])
            for row in np.flatnonzero(samples.status != OK)
        )
        if skipped and options.on_error == "raise":
            raise unreadable(*skipped[0])
        return BuildReport(
            path=path,
            rows=len(cache),
            skipped=skipped,
            seconds=clock.seconds(),
            limiting=clock.limiting(),
            **facts,
        )
