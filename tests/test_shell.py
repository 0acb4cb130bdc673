"""The command in a shell: completion, quiet and verbose, terminals and files, paths with spaces."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedcal.commands import completing
from embedcal.commands.shared import listen, say
from embedcal.errors import EmbedcalError
from embedcal.progress import GridView, Lines, drawable, progress
from embedcal.tables import console
from embedcal.volume import Volume, set_volume, volume

EMBEDCAL = [sys.executable, "-m", "embedcal"]


@pytest.fixture(autouse=True)
def _normal():
    yield
    set_volume(Volume.NORMAL)


@pytest.fixture
def home(own_home: Path, birds: Path) -> Path:
    """A home with a space in its name, whose only cache is that of the birds."""
    home = own_home / "my data"
    (home / "caches").mkdir(parents=True)
    shutil.copy(birds, home / "caches" / birds.name)
    return home


def run(
    *words: str, home: Path, status: int = 0, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "COLUMNS": "80", "EMBEDCAL_HOME": str(home), **environment}
    done = subprocess.run(
        [*EMBEDCAL, *words], capture_output=True, text=True, timeout=240, env=given, cwd=cwd
    )
    assert done.returncode == status, done.stderr
    return done


def complete(line: str, home: Path, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    done = run(
        home=home,
        cwd=cwd,
        _EMBEDCAL_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def made(home: Path, *names: str) -> None:
    for at, name in enumerate(names):
        folder = home / "runs" / "birds" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        os.utime(folder, (at, at))


def test_commands_methods_and_options_are_offered(home: Path) -> None:
    assert {"doctor", "track"} <= set(complete("embedcal ", home))
    assert complete("embedcal fit cf", home) == ["cfr"]
    assert "--neg" in complete("embedcal fit cfr --n", home)
    assert complete("embedcal grid erm --select oracle", home) == ["oracle.worst_group"]
    assert complete("embedcal grid erm --device cu", home) == ["cuda"]
    assert complete("embedcal track --to ml", home) == ["mlflow"]
    assert complete("embedcal fit cfr --neg r", home) == ["rns"]
    assert complete("embedcal datasets check chexpert --split o", home) == ["official"]


def test_listing_methods_loads_none_of_them(home: Path) -> None:
    """A shell asks with every press of a key."""
    code = (
        "import sys\nfrom embedcal.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'open_clip', 'sklearn', 'faiss', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for line in ("embedcal fit ", "embedcal track ", "embedcal fit erm", "embedcal track --cache "):
        words = line.split(" ")
        given = {
            "_EMBEDCAL_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "EMBEDCAL_HOME": str(home),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **given},
        )
        assert done.stderr == "[]\n", line
        assert done.stdout, line


def test_runs_caches_and_folders_of_runs_are_offered(home: Path, tmp_path: Path) -> None:
    made(home, "0a11", "0b22")
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "results.jsonl").write_text("")
    (tmp_path / "here.h5").write_text("")
    (tmp_path / "not.txt").write_text("")
    assert complete("embedcal track ", home, tmp_path) == ["last", "grid", "0b22", "0a11"]
    assert complete("embedcal track 0a", home, tmp_path) == ["0a11"]
    offered = complete("embedcal track --cache ", home, tmp_path)
    assert offered[0] == "here.h5"
    assert offered[1].startswith(str(home / "caches"))
    (mine,) = (home / "caches").iterdir()
    shutil.copy(mine, tmp_path / "here.h5")
    assert complete("embedcal grid erm --cache here.h5 --attribute ", home, tmp_path) == ["place"]


def test_values_are_offered_by_name() -> None:
    assert "waterbirds" in completing.datasets("wat")
    assert {"erm", "evals"} <= set(completing.methods("e"))
    assert completing.methods("cfr:neg") == []
    assert completing.rules("val.m") == ["val.mean"]
    assert "RN50" in completing.backbones("RN")
    assert completing.trackers("w") == ["wandb"]


def test_what_goes_wrong_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Path:
        raise OSError("a disk is gone")

    monkeypatch.setattr("embedcal.datasets.places.data_dir", broken)
    assert completing.caches("") == []


def test_the_script_for_a_shell_is_shown(home: Path) -> None:
    """By the name of the shell that asks; a test has none, so it is told."""
    for shell in ("bash", "zsh", "fish"):
        given = {"_EMBEDCAL_COMPLETE": f"source_{shell}"}
        assert "_EMBEDCAL_COMPLETE" in run(home=home, **given).stdout
    script = run(home=home, _EMBEDCAL_COMPLETE="source_bash").stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_quiet_leaves_the_answer_and_verbose_adds_to_the_notes(home: Path, tmp_path: Path) -> None:
    words = ["fit", "zeroshot", "--out", str(tmp_path / "my runs")]
    plain, quiet = run(*words, home=home), run("--quiet", *words, home=home)
    assert "birds" in plain.stderr
    assert quiet.stderr == ""
    assert quiet.stdout.splitlines()[1:] == plain.stdout.splitlines()[1:]
    assert run("-q", "info", "--json", home=home).stderr == ""
    line = run("-q", "-v", "info", home=home, status=2).stderr
    assert line == "embedcal: expected --quiet or --verbose, found both: drop one of them\n"


def test_a_mistake_is_told_quietly_too_and_verbosely_with_its_place(home: Path) -> None:
    quiet = run("-q", "info", "nothing.h5", home=home, status=2).stderr
    assert len(quiet.splitlines()) == 1
    assert quiet.startswith("embedcal: ")
    verbose = run("-v", "info", "nothing.h5", home=home, status=2).stderr
    assert "Traceback" in verbose
    assert verbose.splitlines()[-1] == quiet.strip()


@pytest.mark.slow
def test_bars_are_drawn_on_a_terminal_and_never_into_a_file(home: Path, tmp_path: Path) -> None:
    words = ["cache", "birds", "--backbone", "tiny", "--templates", "simple", "--rows", "211"]
    forced = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm"}
    plain = run(*words, home=home, **forced)
    assert "━" not in plain.stderr + plain.stdout
    assert "images: " not in plain.stderr
    verbose = run("-v", *words, "--seed", "5", home=home, **forced).stderr
    assert "images: 211 of 211 in " in verbose
    assert "━" not in verbose
    assert "\x1b[2K" not in verbose
    assert "━" in on_terminal(*words, "--seed", "6", home=home)
    assert "━" not in on_terminal("-q", *words, "--seed", "7", home=home)


def test_no_colour_is_no_colour_on_a_terminal_too(home: Path) -> None:
    words = ["info"]
    coloured = on_terminal(*words, home=home)
    plain = on_terminal(*words, home=home, NO_COLOR="1")
    assert "\x1b[" in coloured
    assert "\x1b[3" not in plain  # bold may stay: it is no colour


def on_terminal(*words: str, home: Path, **environment: str) -> str:
    """Everything that the command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    given = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "CI")}
    given |= {"TERM": "xterm", "EMBEDCAL_HOME": str(home), **environment}
    process = subprocess.Popen([*EMBEDCAL, *words], stdout=theirs, stderr=theirs, env=given)
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait(60) == 0, said.decode(errors="replace")
    return said.decode(errors="replace")


@pytest.mark.slow
def test_paths_with_spaces_and_quotes_work(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a folder; of "mine"'
    folder.mkdir()
    path = next((home / "caches").glob("*.h5"))
    mine = folder / "my birds $HOME.h5"
    shutil.copy(path, mine)
    out = folder / "runs of *"
    done = run("fit", "zeroshot", "--cache", str(mine), "--out", str(out), "--json", home=home)
    record = json.loads(done.stdout)
    assert (out / record["id"] / "run.json").is_file()
    assert json.loads(run("info", "--json", home=home).stdout)["path"] == str(mine)
    again = run("track", str(out), "--out", str(folder / "t b"), home=home).stdout
    assert "1 added" in again


def test_volume_is_chosen_anew_by_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    listen(quiet=True, verbose=False)
    say("not this")
    assert volume() is Volume.QUIET
    listen(quiet=False, verbose=False)
    say("but this")
    assert capsys.readouterr().err == "but this\n"
    with pytest.raises(EmbedcalError, match=r"^expected --quiet or --verbose, found both"):
        listen(quiet=True, verbose=True)


def test_the_librarys_log_is_heard_with_verbose_only(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    log = logging.getLogger("embedcal.somewhere")
    for to, told in (
        (Volume.NORMAL, ""),
        (Volume.VERBOSE, "embedcal.somewhere: a\\x1bb\n"),
        (Volume.VERBOSE, "embedcal.somewhere: a\\x1bb\n"),  # once, however often it is chosen
        (Volume.QUIET, ""),
    ):
        set_volume(to)
        log.info("a%sb", "\x1b")
        assert capsys.readouterr().err == told


def test_lines_are_few(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    clock = iter([0.0, 1.0, 6.0, 7.0, 8.0, 9.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    lines = Lines(console(stderr=True))
    for done in (0, 10, 20, 30, 40, 40):  # at 0, 1, 6, 7, 8, 9 seconds; the end is told once
        lines.stage("images", done, 40)
    assert capsys.readouterr().err.splitlines() == [
        "images: 20 of 40 in 6.0 s",
        "images: 40 of 40 in 8.0 s",
    ]


def test_a_quiet_grid_tells_nothing_and_a_loud_one_more_often(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedcal import progress as module
    from embedcal.grids import Tally

    tally = Tally(total=4, done=1, failed=0, running=1, reused=0, best=None, rule="val.mean")
    told = {}
    for to in Volume:
        set_volume(to)
        now = [0.0]
        monkeypatch.setattr(module.time, "monotonic", lambda now=now: now[0])
        view = GridView(console(stderr=True), drawn=False)
        for now[0] in range(0, 61, 4):
            view(tally)
        told[to] = len(capsys.readouterr().err.splitlines())
    assert told == {Volume.QUIET: 0, Volume.NORMAL: 1, Volume.VERBOSE: 7}


def test_without_a_terminal_nothing_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    assert console(stderr=True).is_terminal  # so rich says
    assert not drawable(console(stderr=True))
    with progress() as bars:
        bars.stage("images", 1, 2)
        bars.counter("make", 3)(3)
    assert capsys.readouterr().err == ""
