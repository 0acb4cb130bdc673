"""Shards, merge and extension as commands: what is printed, which mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encoders_for_tests import make_images

from embedcal.cache import open_cache
from embedcal.cache.format import USER_BLOCK
from embedcal.cli import app
from embedcal.datasets.places import last_cache
from embedcal.types import EmbedcalError

COLOURS = """
import numpy as np
from embedcal.encoders.base import EncoderMeta

class Colours:
    meta = EncoderMeta(
        name="colours", weights="none", weights_sha256="", library="colours 1",
        preprocessing={"size": 8}, precision="fp32", shapes={"embedding": (6,)},
    )
    def prepare(self, image):
        return np.array(image.convert("RGB").resize((8, 8)))
    def images(self, pixels, levels):
        flat = pixels.reshape(len(pixels), -1, 3) / 255
        return {"embedding": np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)}
    def text(self, prompts):
        return {}
    def projection(self):
        return None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of 30 images, one of 20 of them, and an encoder."""
    paths = make_images(tmp_path / "images", 30)
    for name, rows in {"all.csv": 30, "first.csv": 20}.items():
        lines = [
            f"{path},{i % 2},{('train', 'val', 'test')[i % 3]}" for i, path in enumerate(paths)
        ]
        (tmp_path / name).write_text("path,y,split\n" + "\n".join(lines[:rows]) + "\n")
    (tmp_path / "colours.py").write_text(COLOURS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> None:
    app([*words], standalone_mode=False, prog_name="embedcal")


def cache(table: str, out: str, *words: str) -> None:
    run("cache", table, "--root", "images", "--backbone", "colours.py:Colours", "--batch-size", "4",
        "--device", "cpu", "--out", out, *words)  # fmt: skip


def answer(capsys: Any) -> Any:
    return json.loads(capsys.readouterr().out)


def test_three_shards_become_the_cache_of_one_build(folder, capsys) -> None:
    cache("all.csv", "single.h5")
    capsys.readouterr()
    for number in (1, 2, 3):
        cache("all.csv", f"{number}.h5", "--shard", f"{number}/3", "--json")
        found = answer(capsys)
        assert found["shard"] == [number, 3]
        assert found["rows"] == found["encoded"]
        assert last_cache() == folder / "single.h5"  # a shard is nothing to work on
    run("info", "2.h5", "--json")
    found = answer(capsys)
    assert (found["first_row"], found["rows"], found["of_rows"]) == (8, 12, 30)
    run("info", "2.h5")
    assert "shard 2 of 3" in capsys.readouterr().out
    run("verify", "2.h5", "--json")
    assert answer(capsys)["ok"]
    run("merge", "1.h5", "2.h5", "3.h5", "-o", "merged.h5", "--json")
    found = answer(capsys)
    assert (found["rows"], found["shards"], found["virtual"]) == (30, 3, False)
    assert last_cache() == folder / "merged.h5"
    single, merged = (Path(name).read_bytes()[USER_BLOCK:] for name in ("single.h5", "merged.h5"))
    assert merged == single
    run("merge", "1.h5", "2.h5", "3.h5", "-o", "linked.h5", "--virtual")
    assert "stay beside it" in capsys.readouterr().out
    run("verify", "linked.h5")
    run("info", "linked.h5", "--json")
    capsys.readouterr()
    data = bytearray(Path("2.h5").read_bytes())
    data[-100] ^= 1
    Path("2.h5").write_bytes(data)
    with pytest.raises(EmbedcalError, match="SHA-256"):
        run("verify", "linked.h5")


def test_a_grown_table_encodes_only_what_is_new(folder, capsys) -> None:
    cache("first.csv", "old.h5")
    capsys.readouterr()
    cache("all.csv", "hint.h5", "--explain-miss", "--json")
    assert any("--extend" in note and "20 of 30" in note for note in answer(capsys)["notes"])
    cache("first.csv", "old.h5")
    capsys.readouterr()
    cache("first.csv", "copy.h5", "--explain-miss", "--json")
    assert answer(capsys)["notes"] == ["old.h5 has the same encoding"]
    cache("all.csv", "new.h5", "--extend", "old.h5", "--json")
    found = answer(capsys)
    assert (found["encoded"], found["copied"]) == (10, 20)
    with open_cache("new.h5") as new, open_cache("hint.h5") as calm:
        assert new.fingerprint == calm.fingerprint
        assert new.read().tobytes() == calm.read().tobytes()
    cache("all.csv", "again.h5", "--extend", "old.h5")
    assert "20 copied from the older cache" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cache", "all.csv", "--shard", "4/3"], "--shard I/N"),
        (["cache", "all.csv", "--shard", "1/3", "--engine", "ray", "--out", "x.h5"], "found both"),
        (["cache", "all.csv", "--engine", "ray"], "--out FILE"),
        (["cache", "all.csv", "--engine", "ray", "--out", "x.h5", "--device", "cuda"], "cpu"),
        (["merge", "all.csv", "-o", "x.h5"], "another kind of file"),
        (["merge", "none.h5", "-o", "x.h5", "--virtual"], "No such file"),
        (["merge", "none.h5", "-o", "x.h5"], "No such file"),
        (["merge", "images", "all.csv", "-o", "x.h5"], "expected shards"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(folder, words, expected) -> None:
    with pytest.raises(EmbedcalError) as caught:
        run(*words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shard_is_refused_by_fit(folder) -> None:
    cache("all.csv", "1.h5", "--shard", "1/2")
    with pytest.raises(EmbedcalError, match="'embedcal merge'"):
        run("fit", "erm", "--cache", "1.h5")
