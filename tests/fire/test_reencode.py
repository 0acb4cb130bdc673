"""verify --reencode and repair as commands: rows held against their images, and what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer
from faults_for_tests import CALM, PLUGIN, CalmEncoder, build, flip, images_below, seal
from typer.testing import CliRunner

from embedcal.cache import open_cache, verify
from embedcal.commands import verifying
from embedcal.reencoding import Source, compare, reencode
from embedcal.types import EmbedcalError


@pytest.fixture
def cache(root: Path, tmp_path: Path) -> Path:
    return build(root, tmp_path / "c.h5", CalmEncoder()).path


def again(path: Path, root: Path, count: int = 50, **how: Any) -> Any:
    return reencode(path, count, source=Source(root=root, backbone=CALM), **how)


def changed(path: Path, name: str, row: int, change: Any) -> None:
    """Other numbers under a seal that fits: what no checksum can find."""
    with h5py.File(path, "r+") as file:
        file[name][row] = change(file[name][row])
    seal(path)
    assert verify(path).ok


def test_an_honest_cache_is_what_its_images_give(cache, root) -> None:
    found = again(cache, root)
    assert found.ok
    assert found.rows == tuple(range(40))
    assert found.cosine > 0.999999
    assert found.largest < 0.01
    some = again(cache, root, 7, seed=3)
    assert len(some.rows) == 7
    assert some.rows == again(cache, root, 7, seed=3).rows != again(cache, root, 7, seed=4).rows


@pytest.mark.parametrize("name", ["images/embedding", "images/pooled", "images/tokens"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[..., ::-1],
        lambda x: 1.02 * x,  # the same direction
        lambda x: x + 0.05 * np.abs(x).max() * (np.arange(x.shape[-1]) == 1),
        lambda x: np.where(np.arange(x.shape[-1]) == 1, np.nan, x),
        lambda x: 0 * x,
    ],
    ids=["turned", "scaled", "one number", "nan", "zero"],
)
def test_a_row_that_is_not_its_images_is_named(cache, root, name, change) -> None:
    changed(cache, name, 13, change)
    found = again(cache, root)
    assert not found.ok
    (row,) = found.differing
    assert (row.row, row.level) == (13, name.removeprefix("images/"))
    assert row.path == images_below(root)[13]


def test_two_rows_that_changed_places(cache, root) -> None:
    with h5py.File(cache, "r+") as file:
        for level in file["images"].values():
            level[4], level[5] = level[5], level[4]
    seal(cache)
    assert [each.row for each in again(cache, root).differing] == [4, 5]


def test_rounding_is_no_difference(cache, root) -> None:
    changed(cache, "images/embedding", 13, lambda x: x * (1 + 1e-6))
    assert again(cache, root).ok


def test_images_that_are_gone_or_changed_are_named(cache, root) -> None:
    gone, other = images_below(root)[3], images_below(root)[8]
    (root / gone).unlink()
    (root / other).write_bytes(b"other")
    found = again(cache, root)
    assert not found.ok
    assert not found.differing
    assert [path for _, path, _ in found.missing] == [gone, other]
    assert all("\n" not in why for *_, why in found.missing)


def test_unreadable_rows_are_passed_over(root, tmp_path) -> None:
    for path in images_below(root)[:5]:
        (root / path).write_bytes(b"no image")
    cache = build(root, tmp_path / "c.h5", CalmEncoder()).path
    assert again(cache, root).rows == tuple(range(5, 40))


def test_the_folder_is_found_by_digest(cache, root, tmp_path, monkeypatch) -> None:
    import embedcal.cache.digests as digests

    monkeypatch.setattr(digests, "_SETTLED_NS", 0)  # else files of a moment ago are not remembered
    build(root, tmp_path / "hashed.h5")
    found = reencode(cache, 5, source=Source(backbone=CALM))
    assert found.ok
    shutil.move(root, root.with_name("elsewhere"))
    with pytest.raises(EmbedcalError, match="name it with --root"):
        reencode(cache, 5, source=Source(backbone=CALM))
    assert again(cache, root.with_name("elsewhere"), 5).ok


def test_what_cannot_be_encoded_again(cache, root, tmp_path) -> None:
    from embedcal.cache import import_features

    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    given = import_features(x, np.arange(6) % 2, np.arange(6) % 3, out=tmp_path / "imported.h5")
    with pytest.raises(EmbedcalError, match=r"imported features in .*nothing can encode them"):
        again(given, root)
    with pytest.raises(EmbedcalError, match="at least 1 row"):
        again(cache, root, 0)
    other = tmp_path / "other.py"
    text = Path(PLUGIN.rpartition(":")[0]).read_text(encoding="utf-8")
    other.write_text(text.replace("seed: int = 0,", "seed: int = 1,"), encoding="utf-8")
    with pytest.raises(EmbedcalError, match="expected the weights that made"):
        reencode(cache, source=Source(root=root, backbone=f"{other}:NumpyEncoder"))
    other.write_text(text.replace("SIZE = 8", "SIZE = 8\nMODE = 'L'").replace('"RGB"}', "MODE}"))
    with pytest.raises(EmbedcalError, match="expected the preprocessing that"):
        reencode(cache, source=Source(root=root, backbone=f"{other}:NumpyEncoder"))


def test_compare_against_the_formula() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 4))
    cosine = (
        sum(x * y for x, y in zip(a.flat, b.flat))
        / (sum(x * x for x in a.flat) * sum(y * y for y in b.flat)) ** 0.5
    )
    largest = max(abs(x - y) for x, y in zip(a.flat, b.flat)) / max(map(abs, [*a.flat, *b.flat]))
    np.testing.assert_allclose(compare(a, b), (cosine, largest), rtol=1e-12)
    assert compare(0 * a, 0 * a) == (1.0, 0.0)
    assert compare(a, 0 * a) == (0.0, 1.0)
    assert np.isnan(compare(a * np.inf, b)).all()


# The commands


def run(*words: str, status: int = 0) -> Any:
    app = typer.Typer()
    verifying.register(app)
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, EmbedcalError):
        return str(done.exception)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_verify_as_a_command(cache, root) -> None:
    how = ("--reencode", "50", "--root", str(root), "--backbone", CALM, "--device", "cpu")
    assert "every byte is as written" in run("verify", str(cache)).replace("\n", "")
    assert set(run("verify", str(cache), "--json")) == {"path", "ok", "sha256"}
    record = run("verify", str(cache), *how, "--json")
    assert record["ok"]
    assert len(record["reencoded"]["rows"]) == 40
    assert "40 rows encoded again: least cosine" in run("verify", str(cache), *how)
    changed(cache, "images/pooled", 13, lambda x: x * np.nan)
    record = run("verify", str(cache), *how, "--json", status=3)
    assert not record["ok"]
    assert [(each["row"], each["cosine"]) for each in record["reencoded"]["differing"]] == [
        (13, None)
    ]
    said = run("verify", str(cache), *how, status=3)
    assert "1 differ" in said
    assert "not finite" in said
    flip(cache, 5000, 1)
    assert "bytes have changed" in run("verify", str(cache), *how)
    assert "found -1" in run(
        "verify", str(build(root, cache.with_name("d.h5")).path), "--reencode=-1"
    )


def test_repair_as_a_command(cache, root, tmp_path) -> None:
    how = ("--root", str(root), "--backbone", CALM, "--device", "cpu")
    assert "nothing fails" in run("repair", str(cache), *how).replace("\n", "")
    whole = cache.read_bytes()
    with open_cache(cache) as opened:
        byte = opened.stored.arrays["/images/embedding"].offset + 1
    flip(cache, byte, 1)
    record = run("repair", str(cache), *how, "-o", str(tmp_path / "new.h5"), "--json")
    assert record["rows"] == [{"row": 0, "reason": "its bytes have changed"}]
    assert record["exact"]
    assert record["written"]
    assert (tmp_path / "new.h5").read_bytes() == whole
    assert "as it was first written" in run("repair", str(cache), *how)
    assert "found 'x'" in run("repair", str(cache), *how, "--rows", "x")


def test_repair_ends_with_3_where_rows_stay_unreadable(root, tmp_path) -> None:
    (root / images_below(root)[5]).write_bytes(b"no image")
    cache = build(root, tmp_path / "c.h5").path
    how = ("--root", str(root), "--backbone", CALM, "--device", "cpu")
    record = run("repair", str(cache), *how, "--rows", "7", "--json", status=3)
    assert [row["path"] for row in record["unreadable"]] == [images_below(root)[5]]
