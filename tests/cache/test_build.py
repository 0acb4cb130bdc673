"""Building: bad images, bad encoders, files that change, memory, and what limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

import embedcal.cache.reading as reading
from embedcal.cache import BuildOptions, build_cache, open_cache
from embedcal.cache.contents import cut_reason
from embedcal.cache.format import REASON_BYTES
from embedcal.types import EmbedcalError

OPTS = BuildOptions(**OPTIONS)


def test_skipped_rows_are_listed_and_kept(manifest, encoder) -> None:
    report = build_cache(manifest, encoder, options=OPTS)
    assert [(i, p) for i, p, _ in report.skipped] == [
        (manifest.ids[row], manifest.paths[row]) for row in (5, 20)
    ]
    assert report.rows == 37
    assert build_cache(manifest, encoder, options=OPTS).skipped == report.skipped


def test_on_error_raise_stops_at_the_first(manifest, encoder) -> None:
    options = replace(OPTS, on_error="raise")
    with pytest.raises(EmbedcalError, match="PIL knows for 'id-set2/0005"):
        build_cache(manifest, encoder, options=options)
    build_cache(manifest, encoder, options=OPTS)
    with pytest.raises(EmbedcalError, match="id-set2/0005"):
        build_cache(manifest, encoder, options=options)  # a finished cache is no excuse


def test_a_batch_without_any_image_is_not_encoded(manifest, encoder) -> None:
    for path in manifest.paths[:8]:
        (manifest.root / path).write_bytes(b"")
    report = build_cache(manifest, encoder, options=OPTS)
    assert encoder.image_rows == 29
    assert len(report.skipped) == 9
    with open_cache(report.path) as cache:
        assert not cache.read()[:8].any()
        assert cache.samples.reasons[0] == "the file is empty"


@pytest.mark.parametrize("level", ["embedding", "pooled", "tokens"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_refused_with_their_names(manifest, level, value) -> None:
    class Broken(NumpyEncoder):
        def images(self, pixels, levels):
            out = super().images(pixels, levels)
            if self.image_rows == 16:
                out[level].reshape(len(pixels), -1)[3, 1] = value
            return out

    with pytest.raises(EmbedcalError, match=f"level {level} for 'id-{manifest.paths[11]}'"):
        build_cache(manifest, Broken(), options=OPTS)


def test_values_beyond_float16_are_refused(manifest) -> None:
    class Large(NumpyEncoder):
        def images(self, pixels, levels):
            return {name: x * 1e6 for name, x in super().images(pixels, levels).items()}

    with pytest.raises(EmbedcalError, match=r"beyond float16 at level tokens.*float32"):
        build_cache(manifest, Large(), options=OPTS)
    build_cache(manifest, Large(), options=replace(OPTS, store_tokens="float32"))


def test_an_encoder_that_breaks_its_word(manifest) -> None:
    class Wide(NumpyEncoder):
        def images(self, pixels, levels):
            return {name: x[:, :-1] for name, x in super().images(pixels, levels).items()}

    class Sizes(NumpyEncoder):
        def prepare(self, image):
            return np.zeros((8, 8 + image.getpixel((0, 0))[0] % 2, 3), np.uint8)

    for encoder, message in [(Wide(), "meta.shapes"), (Sizes(), "pictures of one size")]:
        with pytest.raises(EmbedcalError, match=message):
            build_cache(manifest, encoder, options=OPTS)


def test_non_finite_text_is_refused(manifest) -> None:
    class Broken(NumpyEncoder):
        def text(self, prompts):
            return {name: x * np.nan for name, x in super().text(prompts).items()}

    with pytest.raises(EmbedcalError, match="bank 'class'"):
        build_cache(manifest, Broken(), options=OPTS)


def test_a_file_that_changes_between_hashing_and_decoding(manifest) -> None:
    last = manifest.root / manifest.paths[-1]

    class Meddler(NumpyEncoder):
        def text(self, prompts):
            last.write_bytes((manifest.root / manifest.paths[0]).read_bytes())
            return super().text(prompts)

    with pytest.raises(EmbedcalError, match=f"found others in .*{last.name}"):
        build_cache(manifest, Meddler(), options=OPTS)
    assert build_cache(manifest, NumpyEncoder(), options=OPTS).rows == 37


def test_a_template_needs_a_place_for_the_prompt(manifest, encoder) -> None:
    with pytest.raises(EmbedcalError, match="in every template, found 'a photo'"):
        build_cache(manifest, encoder, options=replace(OPTS, templates=("{}", "a photo")))
    with pytest.raises(EmbedcalError, match="at least one template"):
        build_cache(manifest, encoder, options=replace(OPTS, templates=()))


def test_templates_are_filled_in_not_formatted(manifest, encoder) -> None:
    options = replace(OPTS, templates=("{} {0.__class__} {x}",))
    with open_cache(build_cache(manifest, encoder, options=options).path) as cache:
        assert cache.meta.templates == options.templates


def test_an_empty_manifest(manifest, encoder) -> None:
    empty = make_manifest(manifest.root, (), attributes=())
    with pytest.raises(EmbedcalError, match="at least one row"):
        build_cache(empty, encoder)


def test_tokens_need_an_encoder_that_has_them(manifest) -> None:
    encoder = NumpyEncoder()
    encoder.meta = replace(encoder.meta, shapes={"embedding": (6,)})
    with pytest.raises(EmbedcalError, match="gives tokens, found embedding"):
        build_cache(manifest, encoder, options=OPTS)
    with open_cache(build_cache(manifest, encoder).path) as cache:
        assert cache.meta.levels == {"embedding": "float32"}


def test_at_most_three_batches_are_in_memory(tmp_path, monkeypatch) -> None:
    """Images decoded but not yet encoded, counted at every moment."""
    alive, most = 0, 0
    decode = reading.decode

    def counted(data, prepare):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return decode(data, prepare)

    class Slow(NumpyEncoder):
        def images(self, pixels, levels):
            nonlocal alive
            out = super().images(pixels, levels)
            alive -= len(pixels)
            return out

    monkeypatch.setattr(reading, "decode", counted)
    root = tmp_path / "images"
    manifest = make_manifest(root, make_images(root, 96))
    build_cache(manifest, Slow(pause=0.03), options=replace(OPTS, workers=4))
    assert 16 < most <= 24
    assert alive == 0


@pytest.mark.parametrize(("pause", "limiting"), [(0.05, "encode"), (0.0, "decode")])
def test_the_limiting_stage_is_named(manifest, monkeypatch, pause, limiting) -> None:
    import time

    decode = reading.decode

    def slow(data, prepare):
        time.sleep(0.0 if pause else 0.02)
        return decode(data, prepare)

    monkeypatch.setattr(reading, "decode", slow)
    report = build_cache(manifest, NumpyEncoder(pause=pause), options=OPTS)
    assert report.limiting == limiting
    assert {"hash", "text", "decode", "encode", "write", "total"} <= report.seconds.keys()
    rates = report.images_per_second
    assert min(rates, key=rates.get) == limiting


def test_progress_is_told(manifest, encoder) -> None:
    seen: list[tuple[str, int, int]] = []
    build_cache(manifest, encoder, options=OPTS, progress=lambda *step: seen.append(step))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["hash", "text", "images"]
    assert ("hash", 37, 37) in seen
    assert ("text", 10, 10) in seen
    assert [done for stage, done, _ in seen if stage == "images"] == [0, 8, 16, 24, 32, 37]


@pytest.mark.parametrize("reason", ["short", "ä" * 100, "x" * 95 + "€", "nul\0inside", "\udc80"])
def test_reasons_fit_and_stay_text(reason) -> None:
    cut = cut_reason(reason)
    assert len(cut) <= REASON_BYTES
    assert b"\0" not in cut
    cut.decode("utf-8")


def test_box_and_masks_are_kept(manifest, encoder) -> None:
    box = np.arange(148, dtype=np.float32).reshape(37, 4)
    box[3] = np.nan
    masks = tuple("" if i % 2 else f"m/{i}.png" for i in range(37))
    given = replace(manifest, box=box, masks=masks)
    with open_cache(build_cache(given, encoder, options=OPTS).path) as cache:
        np.testing.assert_array_equal(cache.samples.box, box)
        assert cache.samples.masks == masks
    assert build_cache(given, encoder, options=OPTS).reused  # NaN is equal to itself here


@pytest.mark.parametrize("bad", ["a\0b", "\udcff"])
def test_names_that_cannot_be_stored(manifest, encoder, bad) -> None:
    with pytest.raises(EmbedcalError):
        build_cache(replace(manifest, classes=("ok", bad)), encoder, options=OPTS)
