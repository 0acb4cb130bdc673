"""datasets check: what is there, what differs, what cannot be used; and the commands around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from embedcal.checking import Check, check
from embedcal.datasets import ReadOptions
from embedcal.errors import EmbedcalError


def states(found: Check) -> dict[str, str]:
    """The last state of each thing that was looked at."""
    return {finding.what: finding.state for finding in found.findings}


def text(found: Check, what: str) -> str:
    return " | ".join(finding.text for finding in found.findings if finding.what == what)


@pytest.fixture
def waterbirds(tmp_path: Path) -> Path:
    """Two pictures in every group and split, in WILDS' layout."""
    folder = tmp_path / "waterbirds_v1.0"
    folder.mkdir()
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for i in range(24):
        name = f"species/{i}.jpg"
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / name)
        lines.append(f"{i},{name},{i % 4 // 2},{i // 4 % 3},{i % 2},/o/{i}.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_published_table_without_its_images(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "waterbirds-metadata.csv", tmp_path / "metadata.csv")
    found = check("waterbirds", tmp_path)
    assert states(found) == {"layout": "ok", "table": "fails"}
    assert "11,788 of 11,788 files are missing" in text(found, "table")
    found = check("waterbirds", tmp_path, options=ReadOptions(check_files=False))
    assert states(found) == {
        "layout": "ok", "table": "ok", "version": "ok", "counts": "ok", "images": "fails"
    }  # fmt: skip
    assert text(found, "version") == "published"
    assert "3498/184/56/1057" in text(found, "counts")


def test_what_differs_is_named(waterbirds: Path) -> None:
    found = check("waterbirds", waterbirds)
    assert not found.ok
    assert states(found) == {
        "layout": "ok", "table": "differs", "counts": "differs", "images": "ok"
    }  # fmt: skip
    assert "WILDS" in text(found, "layout")
    assert "no known version" in text(found, "table")
    assert "train has 2/2/2/2 rows" in text(found, "counts")
    assert "24 of them decode" in text(found, "images")


def test_damaged_images_are_named(waterbirds: Path) -> None:
    folder = waterbirds / "waterbirds_v1.0" / "species"
    (folder / "3.jpg").write_bytes(b"")
    (folder / "4.jpg").unlink()
    found = check("waterbirds", waterbirds)
    assert states(found)["images"] == "differs"
    assert "2 of 24 do not decode, the first is species/3.jpg: the file is empty" in text(
        found, "images"
    )
    assert "1 of 24 files are missing" in text(found, "table")
    for path in folder.iterdir():
        path.write_bytes(b"\xff\xd8 no picture")
    assert states(check("waterbirds", waterbirds))["images"] == "fails"


def test_what_is_not_there(tmp_path: Path) -> None:
    found = check("celeba", tmp_path)
    assert states(found) == {"layout": "fails"}
    assert "celebA_v1.0/list_attr_celeba.csv" in text(found, "layout")
    with pytest.raises(EmbedcalError, match="did you mean waterbirds"):
        check("waterbird", tmp_path)


def test_the_embedded_world(own_home: Path) -> None:
    found = check("birds", options=ReadOptions(rows=240, workers=1))
    assert found.ok, found
    assert states(found)["counts"] == "ok"


# The commands


def command(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "embedcal", "datasets", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_list_and_show() -> None:
    known = json.loads(command("--json").stdout)["datasets"]
    assert known["celeba"]["groups"][1] == "not blond | male"
    assert len(known["chexpert"]["groups"]) == 12
    assert known["waterbirds"]["rows"] == 11_788
    assert json.loads(command("show", "celeba", "--json").stdout) == known["celeba"]
    listed = command().stdout
    assert all(name in listed for name in known)
    assert max(map(len, listed.splitlines())) <= 80
    shown = command("show", "waterbirds").stdout
    for word in ("3,498", "bird on water", "waterbirds_v1.0/metadata.csv", "by mistake"):
        assert word in shown, word


def test_show_of_a_typo() -> None:
    assert "did you mean waterbirds" in command("show", "waterbrids", status=2).stderr


def test_check_ends_as_it_found(waterbirds: Path, tmp_path: Path) -> None:
    root = ("--root", str(waterbirds))
    done = command("check", "waterbirds", *root, "--json", status=3)
    record = json.loads(done.stdout)
    assert record["ok"] is False
    assert next(each["what"] for each in record["findings"]) == "layout"
    assert "differs" in command("check", "waterbirds", *root, status=3).stdout
    empty = tmp_path / "empty"
    empty.mkdir()
    done = command("check", "metashift", "--root", str(empty), status=2)
    assert "it cannot be used as it is" in done.stdout


def test_get_says_what_cannot_be_fetched() -> None:
    assert "made on this machine" in command("get", "birds", status=2).stderr
    assert "read the agreement" in command("get", "celeba", status=2).stderr
