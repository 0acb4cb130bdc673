"""The command line as a person and a script use it: real processes, exit statuses, one JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EMBEDCAL = [sys.executable, "-m", "embedcal"]


@pytest.fixture
def home(own_home: Path, birds: Path) -> Path:
    """A home whose only cache is that of the birds."""
    (own_home / "caches").mkdir()
    shutil.copy(birds, own_home / "caches" / birds.name)
    return own_home


def run(*words: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*EMBEDCAL, *words],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment},
    )
    assert done.returncode == status, done.stderr
    return done


def answer(*words: str, **environment: str) -> Any:
    return json.loads(run(*words, "--json", **environment).stdout)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line that a mistake of the user's gets."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("embedcal:")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0]


def test_help_version_and_info_load_no_torch(home: Path) -> None:
    for words in (["--help"], ["--version"], ["info"], ["datasets"], ["fit", "--help"]):
        code = (
            "import sys; sys.argv = ['embedcal', *sys.argv[1:]]\n"
            "from embedcal.cli import main\n"
            "try: main()\n"
            "except SystemExit as end: status = end.code or 0\n"
            "heavy = {'torch', 'open_clip', 'sklearn', 'faiss', 'matplotlib', 'pandas'}\n"
            "print(sorted(heavy & set(sys.modules)), status, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
        )
        assert done.stderr.splitlines()[-1] == "[] 0", words


def test_fit_uses_the_only_cache_remembers_it_and_says_so(home: Path) -> None:
    first = run("fit", "dfr", "--c", "1", "--refits", "2", "--json")
    record = json.loads(first.stdout)
    assert record["method"] == "dfr"
    assert record["options"]["c"] == [1.0]
    assert str(home / "caches") in first.stderr.replace("\n", "")
    assert json.loads((home / "last-cache.json").read_text())["cache"].endswith(".h5")
    assert 0 <= record["test"]["worst_group"] <= 1
    again = answer("fit", "dfr", "--c", "1", "--refits", "2")
    assert again["reused"] is True
    assert again["test"] == record["test"]


def test_underscores_are_dashes_in_options_and_methods(home: Path) -> None:
    one = answer("fit", "group-dro", "--epochs", "1", "--batch-size", "64")
    two = answer("fit", "group_dro", "--epochs", "1", "--batch_size", "64")
    assert one["id"] == two["id"]


def test_info_says_what_is_in_the_file(home: Path) -> None:
    record = answer("info")
    assert record["dataset"] == "birds"
    assert record["classes"] == ["landbird", "waterbird"]
    assert record["templates"] == 80
    assert sum(map(sum, record["groups"]["counts"].values())) == record["rows"]
    text = run("info").stdout
    assert "landbird | water" in text
    assert max(map(len, text.splitlines())) <= 80


def test_verify_finds_a_flipped_bit(home: Path) -> None:
    path = next((home / "caches").glob("*.h5"))
    assert answer("verify", str(path))["ok"] is True
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert "bytes have changed" in one_line(run("verify", str(path), status=2))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fitt"], "Did you mean"),
        (["fit", "emr"], "did you mean erm"),
        (["fit", "erm", "--bach-size", "3"], "--batch-size"),
        (["fit", "erm", "--head", "projektion"], "projection, attnpool, linear"),
        (["fit", "erm", "--epochs", "many"], "--epochs"),
        (["fit", "erm", "--select", "val.wrost_group"], "val.worst_group"),
        (["fit", "erm", "--select", "oracle.worst_group"], "--oracle"),
        (["fit", "./nothing.py"], "nothing.py"),
        (["info", "nothing.h5"], "nothing.h5"),
        (["cache", "waterbird"], "did you mean waterbirds"),
        (["cache", "birds", "--backbone", "RN51", "--rows", "211"], "RN50"),
        (["cache", "birds", "--templates", "opena"], "openai"),
        (["cache", "birds", "--backbone", "tiny", "--keep", "token"], "--keep tokens"),
        (["cache", "birds", "--backbone", "tiny", "--rows", "2"], "rows"),
        (["cache", "waterbirds", "--backbone", "tiny"], "--root"),
        (["demo", "--seeds", "0"], "--seeds"),
        (["import-features", "nothing.npz"], "nothing.npz"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(home: Path, words: list[str], expected: str) -> None:
    assert expected in one_line(run(*words, status=2))


def test_several_caches_and_no_memory_are_listed(home: Path) -> None:
    one = next((home / "caches").glob("*.h5"))
    shutil.copy(one, one.with_name("other.h5"))
    line = one_line(run("info", status=2))
    assert "other.h5" in line
    assert one.name in line


def test_no_cache_at_all_says_how_to_make_one(own_home: Path) -> None:
    assert "embedcal cache birds --backbone tiny" in one_line(run("info", status=2))


def test_a_csv_with_a_broken_picture_ends_with_status_3_and_keeps_the_row(
    own_home: Path, tmp_path: Path
) -> None:
    rows = ["path,y,a,split"]
    for k in range(12):
        name = f"{k}.png"
        Image.new("RGB", (64, 64), (20 * k, 90, 255 - 20 * k)).save(tmp_path / name)
        rows.append(f"{name},{k % 2},{k // 2 % 2},{('train', 'val', 'test')[k // 4]}")
    (tmp_path / "7.png").write_bytes(b"not a picture")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(rows))
    words = ["cache", str(table), "--backbone", "tiny", "--classes", "landbird,waterbird"]
    words += ["--attributes", "land,water", "--out", str(tmp_path / "mine.h5")]
    done = run(*words, "--json", status=3)
    record = json.loads(done.stdout)
    assert record["rows"] == 12
    assert [row["path"] for row in record["skipped"]] == ["7.png"]
    assert answer("info", str(tmp_path / "mine.h5"))["unreadable"] == 1
    again = json.loads(run(*words, "--json", status=3).stdout)
    assert again["reused"] is True


def test_a_name_with_control_characters_and_markup_is_shown_harmless(
    own_home: Path, tmp_path: Path
) -> None:
    rows = ["path,y,a,split"]
    for k in range(8):
        Image.new("RGB", (64, 64), (30 * k, 0, 0)).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{k % 2},{k // 2 % 2},{('train', 'val', 'test', 'test')[k // 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    out = str(tmp_path / "t.h5")
    run(
        "cache", str(tmp_path / "t.csv"), "--backbone", "tiny", "--out", out,
        "--classes", "[red]bird[/red],w\x1b[31mater", "--attributes", "a,b",
    )  # fmt: skip
    shown = run("info", out).stdout
    assert "[red]bird[/red]" in shown
    assert "\x1b" not in shown


def test_imported_features_fit_without_prompts(own_home: Path, tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    n = 240
    y, place = rng.integers(2, size=n), rng.integers(2, size=n)
    x = rng.normal(size=(n, 8)).astype("f4") + y[:, None]
    np.savez(tmp_path / "f.npz", features=x, y=y, place=place, split=np.arange(n) % 3)
    answer("import-features", str(tmp_path / "f.npz"), "--attribute", "place")
    assert answer("fit", "erm", "--epochs", "2")["head"] == "linear"
    assert "class prompts" in one_line(run("fit", "zeroshot", status=2))


def test_ctrl_c_ends_with_130_and_the_line_that_goes_on(own_home: Path) -> None:
    words = ["cache", "birds", "--backbone", "tiny", "--rows", "3000", "--seed", "78"]
    process = subprocess.Popen(
        [*EMBEDCAL, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "200"}, start_new_session=True,
        # a shell starts what runs in its background with this signal ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(own_home.glob("birds/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "embedcal cache birds --backbone tiny --rows 3000 --seed 78" in errors
    assert "Traceback" not in errors


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    done = subprocess.run(
        f"{' '.join(EMBEDCAL)} methods --json | head -1",
        shell=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "{"
    assert "Traceback" not in done.stderr


def test_methods_and_datasets_list_what_there_is(own_home: Path) -> None:
    listed = answer("methods")["methods"]
    assert {"zeroshot", "erm", "group-dro", "dfr"} <= set(listed)
    assert listed["dfr"]["labels_used"] == ["val.g", "val.y"]
    assert {"birds", "waterbirds"} <= set(answer("datasets")["datasets"])
    assert "train y" in run("methods").stdout


@pytest.mark.slow
def test_three_kills_of_the_whole_command_lose_nothing(own_home: Path, tmp_path: Path) -> None:
    """SIGKILL at three moments of encoding; the same command ends with an undisturbed file."""
    words = ["cache", "birds", "--backbone", "tiny", "--rows", "2400", "--seed", "79"]
    words += ["--batch-size", "8"]
    whole = Path(answer(*words, "--out", str(tmp_path / "whole.h5"))["path"])
    cut = tmp_path / "cut.h5"
    ended = []
    for moment in (0.3, 0.8, 1.6):
        process = subprocess.Popen(
            [*EMBEDCAL, *words, "--out", str(cut)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        part = cut.with_name("cut.h5.part")
        deadline = time.monotonic() + 120
        while not part.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        ended.append(process.wait())
    assert ended.count(-signal.SIGKILL) >= 2  # otherwise nothing was interrupted
    last = answer(*words, "--out", str(cut))
    assert last["rows"] == 2400
    assert cut.read_bytes()[512:] == whole.read_bytes()[512:]
