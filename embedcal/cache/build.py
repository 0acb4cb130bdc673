"""From a manifest and an encoder to a finished cache: resumed, reused or relabelled if possible."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from embedcal.cache.contents import (
    Arrays,
    assemble,
    copied_arrays,
    label_arrays,
    projection_arrays,
    prompt_arrays,
    row_text,
    same_labels,
    text_arrays,
)
from embedcal.cache.cropping import crop_for
from embedcal.cache.encoding import (
    BuildOptions,
    Clock,
    Progress,
    encode_images,
    hash_images,
    levels_of,
    unreadable,
)
from embedcal.cache.extending import Extension, Weaver, extension, same_text
from embedcal.cache.format import OK, PAIRS, SHARD
from embedcal.cache.identity import Identity
from embedcal.cache.layout import StoredFile
from embedcal.cache.sharding import (
    Part,
    Shard,
    listed,
    open_any,
    rows_of,
    shard_labels,
    shard_target,
    span_of,
    verify_any,
)
from embedcal.cache.target import cache_target, is_named
from embedcal.cache.view import FeatureCache, open_cache
from embedcal.cache.writer import CacheWriter, whole_batches
from embedcal.datasets.manifest import Manifest
from embedcal.encoders.base import Encoder
from embedcal.types import EmbedcalError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was done. ``seconds`` by stage: hash, text, decode, encode, write, total.

    ``decode`` is the threads' time over their number; ``limiting`` the stage that others waited
    for; ``skipped`` (id, path, reason) of unreadable rows; ``resumed`` counts rows of an earlier,
    interrupted call, ``copied`` those of an extended cache; ``shard`` (i, n): shard i of n.

    Example:
        >>> import embedcal
        >>> embedcal.cache("birds", read=embedcal.ReadOptions(rows=240), out="new.h5").encoded
        240
    """

    path: Path
    rows: int
    skipped: tuple[tuple[str, str, str], ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    encoded: int = 0
    reused: bool = False
    relabelled: bool = False
    resumed: int = 0
    copied: int = 0
    shard: tuple[int, int] | None = None
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
    shard: Part | None = None,
    extend: Path | None = None,
) -> BuildReport:
    """One pass of a frozen encoder over every image and prompt, into one file.

    A cache with the same identity, labels and paths is returned at once. With other labels, its
    features are copied and nothing is encoded. An interrupted build goes on where it stopped. An
    image that cannot be read keeps its row (status 1, zeros) unless ``on_error`` is "raise".
    ``shard`` builds one part of the rows, for ``join_shards``. ``extend`` is an older cache of
    this encoder: rows with the same image bytes are copied from it, and only the others encoded,
    in other batches than in a fresh build, which moves their last bits. ``EmbedcalError`` for a
    full disk, another writer, files that change, non-finite features, another thing at ``out``.
    """
    options = options or BuildOptions()
    progress = progress or _silent
    clock = Clock()
    if not len(manifest):
        raise EmbedcalError("expected at least one row, found an empty manifest: add images")
    whole, span = manifest, None
    if shard is not None:
        span = span_of(shard, len(whole), options.batch_size)
        manifest = rows_of(whole, span)
    with clock("hash"):
        identity = _identity(manifest, encoder, options, progress)
    moved: tuple[str, ...] = ()
    if shard is None or span is None:
        labels = label_arrays(manifest, identity)
        target, moved = cache_target(manifest, encoder.meta.name, identity, options.out)
    else:
        labels = shard_labels(whole, identity, shard, span)
        target = shard_target(whole, identity, shard, span, options.out)
    notes = (*_notes(manifest, encoder, options), *moved)
    report = partial(_report, clock=clock, options=options)

    def finished(relatives: Sequence[FeatureCache]) -> Path | None:
        for cache in relatives:
            mine = cache.meta.path == target or not is_named(options.out)
            if mine and same_labels(cache.stored, labels, manifest):
                return cache.meta.path
        return None

    with ExitStack() as opened:  # nothing is written to reuse a file, and nobody waited for
        found = finished([*map(opened.enter_context, _relatives(target, identity))])
    if found is not None:
        return report(found, reused=True, notes=notes)
    with CacheWriter(target) as writer, ExitStack() as opened:
        relatives = [*map(opened.enter_context, _relatives(target, identity))]
        if (found := finished(relatives)) is not None:  # by another process meanwhile
            return report(found, reused=True, notes=notes)
        given = None
        if extend is not None:
            given = extension(opened.enter_context(open_cache(extend)), identity)
        task = _Task(writer, manifest, encoder, identity, given, options, clock, progress)
        part = writer.found()
        if part is not None:
            opened.enter_context(part)
            kind = f"{SHARD}part" in part.arrays
            if part.head.identity != identity.digest or kind != (shard is not None):
                notes = (*notes, f"replaced an unfinished file of another encoding: {writer.part}")
                part = None
        same = None
        if part is not None and task.goes_on(part, labels):
            writer.resume(part, task.cut)
        else:
            same = next((c.stored for c in relatives if verify_any(c.meta.path).ok), None)
            source = same or part
            encoded = shard is None or shard.number == 1  # text is in the first shard
            fixed, facts = task.text_and_facts(source, features=encoded)
            contents = assemble(manifest, encoder.meta, identity, {**labels, **fixed}, facts)
            writer.create(contents, rows_from=source, cut=task.cut)
        done: dict[str, Any] = (
            {"relabelled": True} if same is not None else {"resumed": writer.rows_done}
        )
        done |= task.encode()
        with clock("write"):
            path = writer.finish()
        return report(path, notes=notes, **done)


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def _identity(
    manifest: Manifest, encoder: Encoder, options: BuildOptions, progress: Progress
) -> Identity:
    meta = encoder.meta
    levels, crop = levels_of(encoder, options), crop_for(manifest, meta)
    prompts = {bank: given for bank, given in manifest.prompts.items() if given and meta.has_text}
    descriptions = {bank: each for bank, each in manifest.descriptions.items() if bank in prompts}
    pairs = options.pairs if meta.has_text else None
    if pairs is not None:
        prompts[PAIRS] = pairs.prompts
        descriptions[PAIRS] = tuple((text,) for text in pairs.prompts)  # encoded as they are
    asked = ("a photo of a {}.",) if options.templates is None else options.templates
    templates = asked if prompts.keys() - descriptions.keys() else ()
    for template in templates:
        if "{}" not in template:
            raise EmbedcalError(
                f"expected {{}} in every template, found {template!r}: write {{}} where the prompt "
                "goes"
            )
    if prompts.keys() - descriptions.keys() and not templates:
        raise EmbedcalError('expected at least one template, found none: give "a photo of a {}."')
    return Identity(
        encoder=meta.name,
        weights_sha256=meta.weights_sha256,
        preprocessing={**meta.preprocessing, **({} if crop is None else {"center_crop": crop})},
        precision=meta.precision,
        levels=levels,
        templates=templates,
        prompts=prompts,
        rows=hash_images(manifest, options, progress),
        descriptions=descriptions,
        pairs=() if pairs is None else pairs.pairs,
    )


def _notes(manifest: Manifest, encoder: Encoder, options: BuildOptions) -> tuple[str, ...]:
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
    if options.pairs is not None and not meta.has_text:
        notes.append(f"concept pairs are left out: {meta.name} has no text tower")
    return tuple(notes)


def _relatives(target: Path, identity: Identity) -> Iterator[FeatureCache]:
    """Finished files beside the target with the same encoding; the target itself first."""
    beside = sorted(target.parent.glob(f"*{identity.digest[:10]}*.h5"))
    for path in dict.fromkeys([target, *beside]):
        if path.exists():
            try:
                cache = open_any(path)
            except EmbedcalError as error:
                log.warning("not reused: %s", error)
                continue
            # Other shards may be without text, and are somebody's parts of another whole.
            usable = path == target or not isinstance(cache, Shard)
            if usable and cache.meta.identity == identity.digest:
                yield cache
            else:
                cache.close()


@dataclass(frozen=True)
class _Task:
    """Everything that one build is about."""

    writer: CacheWriter
    manifest: Manifest
    encoder: Encoder
    identity: Identity
    given: Extension | None
    options: BuildOptions
    clock: Clock
    progress: Progress

    @property
    def batch_size(self) -> int:
        """As recorded: 0 where rows come from an older cache of other batches."""
        size = self.options.batch_size
        return size if self.given is None or self.given.old.meta.batch_size == size else 0

    def goes_on(self, part: StoredFile, labels: Arrays) -> bool:
        same_batches = part.attributes["batch_size"] == self.batch_size
        return same_batches and same_labels(part, labels, self.manifest)

    def cut(self, rows: int) -> int:
        """How many leading rows an interrupted build keeps: those of whole batches."""
        size, total = self.options.batch_size, len(self.manifest)
        cut = whole_batches(total, size) if self.given is None else self.given.cut(size)
        return cut(rows)

    def text_and_facts(
        self, source: StoredFile | None, *, features: bool
    ) -> tuple[Arrays, dict[str, Any]]:
        """Text and projection, copied where a file of the same encoding has them.

        Without ``features`` no more than the prompts.
        """
        if source is not None:
            facts = {name: source.attributes[name] for name in ("weights", "library", "batch_size")}
            if source.head.state == "building" and facts["batch_size"] != self.batch_size:
                facts["batch_size"] = 0  # it varies from here on
            return copied_arrays(source), facts
        facts = {"batch_size": self.batch_size}
        if not features:
            return prompt_arrays(self.identity), facts
        if self.given is not None:
            old = self.given.old
            facts["library"] = listed(old.meta.library, self.encoder.meta.library)
            if same_text(old, self.identity):
                return copied_arrays(old.stored), facts
        with self.clock("text"):
            told = partial(self.progress, "text")
            text = text_arrays(self.encoder, self.identity, told)
        return {**text, **projection_arrays(self.encoder.projection())}, facts

    def encode(self) -> dict[str, int]:
        """Write every row that is missing; how many were encoded, and how many copied."""
        before, total = self.writer.rows_done, len(self.manifest)
        if self.given is None:
            if before < total:
                self._encode(self.writer, self.manifest, self.identity.rows)
            return {"encoded": total - before}
        weaver, new = Weaver(self.writer, self.given), self.given.new
        encoded = len(new) - weaver.rows_done
        if encoded:
            manifest = rows_of(self.manifest, new)
            self._encode(cast(CacheWriter, weaver), manifest, self.identity.rows[new])
        weaver.copy_until(total)
        return {"encoded": encoded, "copied": total - before - encoded}

    def _encode(
        self, writer: CacheWriter, manifest: Manifest, digests: npt.NDArray[np.uint8]
    ) -> None:
        encode_images(
            writer,
            manifest,
            self.encoder,
            digests,
            options=self.options,
            clock=self.clock,
            progress=self.progress,
        )


def _report(path: Path, *, clock: Clock, options: BuildOptions, **facts: Any) -> BuildReport:
    """Read back from the finished file, which thereby proves to open."""
    with open_any(path) as cache:
        if isinstance(cache, Shard):
            facts["shard"] = (cache.part.number, cache.part.count)
        stored = cache.stored
        odd = np.flatnonzero(stored.read("/samples/status") != OK)
        skipped = tuple(row_text(stored, row) for row in odd.tolist())
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
