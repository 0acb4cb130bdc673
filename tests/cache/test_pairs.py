"""Concept pairs in a cache: a bank with rows and roles, part of the identity, of format 2 alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

from embedcal.cache import BuildOptions, build_cache, explain_miss, open_cache, verify
from embedcal.cache.build import identity_of
from embedcal.cache.checksums import digest
from embedcal.cache.format import PAIR_ROLES, PAIR_ROWS, USER_BLOCK, parse_head
from embedcal.cache.importing import Text, import_features
from embedcal.cache.merging import join_shards
from embedcal.cache.sharding import part_of
from embedcal.datasets.manifest import Manifest
from embedcal.types import EmbedcalError, Pairs, TextBank

PAIRS = Pairs(
    prompts=("on land", "on {} w\u00e4ter", "perching", "webbed"),
    pairs=((0, 1, "reject"), (2, 3, "accept"), (1, 0, "equal"), (0, 1, "reject")),
)
OPTS = BuildOptions(**OPTIONS)


@pytest.fixture
def plain(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path / "images", make_images(tmp_path / "images", 20))


def build(manifest: Manifest, encoder: NumpyEncoder | None = None, **options: Any) -> Any:
    how = {name: options.pop(name) for name in ("shard", "extend") if name in options}
    options = {"pairs": PAIRS, **OPTIONS, **options}
    return build_cache(manifest, encoder or NumpyEncoder(), options=BuildOptions(**options), **how)


def test_each_prompt_is_encoded_once_and_as_it_is(plain: Manifest) -> None:
    encoder = NumpyEncoder()
    path = build(plain, encoder).path
    assert encoder.text_rows == 4 + 2 * (2 + 3)
    with open_cache(path) as cache:
        assert verify(path).ok
        assert cache.banks == ("attribute", "class", "pairs")
        bank = cache.text("pairs")
        assert (bank.prompts, bank.pairs, bank.templates) == (PAIRS.prompts, PAIRS.pairs, ())
        wanted = encoder.text(PAIRS.prompts)
        np.testing.assert_array_equal(bank.embedding[:, 0], wanted["embedding"])
        np.testing.assert_array_equal(bank.pooled[:, 0], wanted["pooled"])
        assert bank.embedding.shape[1] == 1
        assert bank.first(1) is bank
        assert cache.text("class").pairs == ()
        assert cache.text("class").first(1).pairs == ()
        assert cache.meta.ingredients.digest == cache.meta.identity
        assert cache.meta.format_version == 2


def test_another_reader_finds_them(plain: Manifest) -> None:
    with h5py.File(build(plain).path, "r") as file:
        assert file.attrs["format_version"] == 2
        assert file["text/pairs/prompt"].asstr()[...].tolist() == list(PAIRS.prompts)
        assert file["text/pairs/rows"][...].tolist() == [[0, 1], [2, 3], [1, 0], [0, 1]]
        assert file["text/pairs/role"][...].tolist() == [0, 1, 2, 0]


def test_they_are_identity_and_what_differs_is_named(plain: Manifest) -> None:
    encoder = NumpyEncoder()

    def of(pairs: Pairs | None) -> Any:
        return identity_of(plain, encoder, replace(OPTS, pairs=pairs))

    base, told = of(None), of(PAIRS)
    assert "pairs" not in base.document()
    assert json.loads(json.dumps(told.document()))["pairs"][1] == [2, 3, "accept"]
    turned = of(replace(PAIRS, pairs=((1, 0, "reject"), *PAIRS.pairs[1:])))
    other = of(replace(PAIRS, pairs=((0, 1, "accept"), *PAIRS.pairs[1:])))
    assert len({each.digest for each in (base, told, turned, other)}) == 4
    (line,) = explain_miss(other, told)
    assert line.startswith("concept pairs: number 0 is wanted (0, 1, 'accept'), found (0, 1, 'rej")
    assert "prompts of bank 'pairs': wanted 4, found 0" in explain_miss(told, base)


def test_reused_relabelled_and_left_out(plain: Manifest) -> None:
    encoder = NumpyEncoder()
    first = build(plain, encoder)
    counted = encoder.text_rows
    assert build(plain, encoder).reused
    second = build(replace(plain, y=1 - plain.y), encoder)
    assert second.relabelled
    assert encoder.text_rows == counted
    with open_cache(first.path) as one, open_cache(second.path) as two:
        assert one.text("pairs").pairs == two.text("pairs").pairs
    assert not build(plain, encoder, pairs=None).reused
    image_only = build(plain, NumpyEncoder(text=False))
    assert image_only.notes == ("concept pairs are left out: numpy/tiny@8px has no text tower",)
    with open_cache(image_only.path) as cache:
        assert cache.banks == ()


@pytest.mark.parametrize("count", [2, 3])
def test_joined_shards_are_the_single_build(plain: Manifest, tmp_path: Path, count: int) -> None:
    single = build(plain, out=tmp_path / "single.h5").path
    shards = [
        build(plain, out=tmp_path / f"{i}.h5", shard=part_of(f"{i}/{count}")).path
        for i in range(1, count + 1)
    ]
    for virtual in (False, True):
        found = join_shards(shards, tmp_path / f"all-{virtual}.h5", virtual=virtual).path
        assert verify(found).ok
        with open_cache(found) as cache:
            assert cache.text("pairs").pairs == PAIRS.pairs
        if not virtual:
            assert found.read_bytes()[USER_BLOCK:] == single.read_bytes()[USER_BLOCK:]
    other = build(
        plain, out=tmp_path / "other.h5", shard=part_of(f"1/{count}"),
        pairs=replace(PAIRS, pairs=PAIRS.pairs[:3]),
    )  # fmt: skip
    with pytest.raises(EmbedcalError, match="concept pairs: wanted 3, found 4"):
        join_shards([other.path, *shards[1:]], tmp_path / "mixed.h5")


def test_an_older_cache_gives_its_images_whatever_the_pairs(
    plain: Manifest, tmp_path: Path
) -> None:
    old = build(plain, out=tmp_path / "old.h5", pairs=None).path
    encoder = NumpyEncoder()
    report = build(plain, encoder, out=tmp_path / "new.h5", extend=old)
    assert (report.copied, encoder.image_rows, encoder.text_rows) == (20, 0, 4 + 2 * 5)
    again = NumpyEncoder()
    build(plain, again, out=tmp_path / "same.h5", extend=report.path)
    assert again.text_rows == 0
    turned = replace(PAIRS, pairs=PAIRS.pairs[:3])
    build(plain, again, out=tmp_path / "turned.h5", extend=report.path, pairs=turned)
    with open_cache(tmp_path / "turned.h5") as cache:
        assert cache.text("pairs").pairs == PAIRS.pairs[:3]


def seal(path: Path, version: int = 2) -> None:
    head = parse_head(path.read_bytes()[:USER_BLOCK], "test")
    length = path.stat().st_size - USER_BLOCK
    with path.open("r+b") as file:
        sealed = digest(file.fileno(), length, [])
        file.write(replace(head, length=length, sha256=sealed, version=version).render())


def contents(name: str, array: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if array is not None:
            file.create_dataset(name, data=array)

    return change


ROWS = np.array([[0, 1], [2, 3], [1, 0], [0, 1]], "<i4")
HOSTILE = {
    "beyond the prompts": (contents(PAIR_ROWS, ROWS + 1), "pairs of the 4 prompts"),
    "before the first": (contents(PAIR_ROWS, ROWS - 1), "pairs of the 4 prompts"),
    "far beyond": (contents(PAIR_ROWS, ROWS + (2**31 - 4)), "pairs of the 4 prompts"),
    "no role": (contents(PAIR_ROLES, None), "pairs of the 4 prompts"),
    "no rows": (contents(PAIR_ROWS, None), "pairs of the 4 prompts"),
    "a fourth role": (contents(PAIR_ROLES, np.full(4, 3, "|u1")), "pairs of the 4 prompts"),
    "fewer roles": (contents(PAIR_ROLES, np.zeros(3, "|u1")), "where R is"),
    "three in a pair": (contents(PAIR_ROWS, np.zeros((4, 3), "<i4")), "where 2 is 2"),
    "floats": (contents(PAIR_ROWS, ROWS.astype("<f4")), "a type other than <i4"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_pairs_that_make_no_sense_are_refused(what: str, plain: Manifest, tmp_path: Path) -> None:
    change, said = HOSTILE[what]
    path = Path(shutil.copy(build(plain).path, tmp_path / "hostile.h5"))
    with h5py.File(path, "r+") as file:
        change(file)
    seal(path)
    with pytest.raises(EmbedcalError) as error:
        open_cache(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not verify(path).ok


def test_changed_roles_with_a_fitting_seal_are_found_by_verify(
    plain: Manifest, tmp_path: Path
) -> None:
    path = Path(shutil.copy(build(plain).path, tmp_path / "changed.h5"))
    with h5py.File(path, "r+") as file:
        file[PAIR_ROLES][...] = 2
    seal(path)
    assert "identity" in verify(path).reason


def test_a_file_of_format_1_has_none_and_one_number_holds(plain: Manifest, tmp_path: Path) -> None:
    path = Path(shutil.copy(build(plain).path, tmp_path / "one.h5"))
    seal(path, version=1)
    with pytest.raises(EmbedcalError, match="an unknown name at /text/pairs/ro"):
        open_cache(path)
    bare = Path(shutil.copy(build(plain, pairs=None).path, tmp_path / "bare.h5"))
    seal(bare, version=1)  # the attribute says 2
    with pytest.raises(EmbedcalError, match="another number than in the user block"):
        open_cache(bare)
    with h5py.File(bare, "r+") as file:
        file.attrs.modify("format_version", np.array(1, "<i8"))
    seal(bare, version=1)
    with open_cache(bare) as cache:
        assert cache.meta.format_version == 1
    assert verify(bare).ok


def as_version_1(path: Path) -> None:
    """A file as the release before would have left it."""
    with h5py.File(path, "r+") as file:
        file.attrs.modify("format_version", np.array(1, "<i8"))


def test_a_build_that_an_older_release_began_is_finished(plain: Manifest, tmp_path: Path) -> None:
    """It stays of its format, in the user block as in the attributes."""
    from embedcal.cache.checksums import row_ranges
    from embedcal.cache.layout import StoredFile

    class Stops(NumpyEncoder):
        def images(self, pixels: Any, levels: Any) -> Any:
            if self.image_rows >= 8:
                raise KeyboardInterrupt
            return super().images(pixels, levels)

    out = tmp_path / "begun.h5"
    with pytest.raises(KeyboardInterrupt):
        build(plain, Stops(), out=out, pairs=None)
    part = out.with_name("begun.h5.part")
    as_version_1(part)
    head = parse_head(part.read_bytes()[:USER_BLOCK], "test")
    with part.open("r+b") as file:
        file.write(replace(head, version=1).render())
    with StoredFile(part) as found:
        sealed = digest(found.fileno(), head.length, row_ranges(found.arrays))
    with part.open("r+b") as file:
        file.write(replace(head, version=1, sha256=sealed).render())
    report = build(plain, out=out, pairs=None)
    assert report.resumed == 8
    assert verify(out).ok
    with open_cache(out) as cache:
        assert cache.meta.format_version == 1
    fresh = build(plain, out=tmp_path / "fresh.h5", pairs=None).path
    with open_cache(fresh) as new, open_cache(out) as old:
        assert (new.meta.format_version, new.meta.identity) == (2, old.meta.identity)


def test_pairs_come_with_imported_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bank = TextBank(
        name="pairs", prompts=PAIRS.prompts, templates=(), pairs=PAIRS.pairs,
        descriptions=tuple((text,) for text in PAIRS.prompts),
        embedding=rng.normal(size=(4, 1, 5)).astype(np.float32),
    )  # fmt: skip
    x = rng.normal(size=(6, 5)).astype(np.float32)
    path = import_features(
        x, np.arange(6) % 2, np.arange(6) % 3, text=Text(banks=(bank,)), out=tmp_path / "i.h5"
    )
    assert verify(path).ok
    with open_cache(path) as cache:
        assert cache.text("pairs").pairs == PAIRS.pairs
