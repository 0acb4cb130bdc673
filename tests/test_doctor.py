"""The doctor: limits read from made-up machines, folders tried for real, advice from values."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from embedcal.doctor import machine as machines
from embedcal.doctor import packages, places, speed
from embedcal.doctor.examination import Examination
from embedcal.doctor.machine import Machine
from embedcal.doctor.packages import Package
from embedcal.doctor.places import Place
from embedcal.doctor.speed import Speed

GIB = 2**30


def groups(tmp_path: Path, files: dict[str, str], member: str) -> tuple[Path, Path]:
    """A tree of control groups, and the file that says which of them this process is in."""
    root = tmp_path / "cgroup"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "member").write_text(member)
    return root, tmp_path / "member"


@pytest.mark.parametrize(
    ("files", "member", "found"),
    [
        (
            {
                "memory.max": "1000\n",
                "memory.current": "700\n",
                "memory.stat": "anon 1\ninactive_file 300\n",
            },
            "0::/\n",
            (1000, 400),
        ),
        ({"memory.max": "max\n", "memory.current": "700\n"}, "0::/\n", (None, 0)),
        (
            {
                "memory/memory.limit_in_bytes": "500",
                "memory/memory.usage_in_bytes": "200",
            },
            "",
            (500, 200),
        ),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, "", (None, 0)),
        (
            {
                "memory.max": "900",
                "memory.current": "1",
                "a/memory.max": "500",
                "a/memory.current": "2",
            },
            "0::/a",
            (500, 2),
        ),
    ],
)  # fmt: skip
def test_memory_is_what_a_limit_leaves(
    files: dict[str, str], member: str, found: tuple[int | None, int], tmp_path: Path
) -> None:
    assert machines._memory_limit(*groups(tmp_path, files, member)) == found


def test_the_machine_itself_is_told() -> None:
    found = machines.machine()
    assert 0 < found.cores <= found.cores_of_host
    assert found.devices[0] == "cpu"
    assert found.threads["torch"] >= 1
    assert found.memory is None or found.memory >= (found.memory_available or 0) > 0


def test_every_required_package_is_imported_and_within_its_bounds() -> None:
    found = {package.name: package for package in packages.required()}
    assert {"torch", "numpy", "h5py", "open-clip-torch", "rich"} <= set(found)
    assert [p for p in found.values() if p.state != "ok"] == []
    assert "pytest" not in found
    assert found["h5py"].note.startswith("HDF5 ")


def test_what_is_missing_old_or_broken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpackage.py").write_text("raise OSError('libcuda.so\\nis not there')")
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = ["numpy>=99", "brokenpackage", "nosuchpackage>=1", "rich; sys_platform == 'plan9'"]
    asked += ["thatisnotthere>=2; extra == 'ray'", "nor-this; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    old, broken, missing = packages.required()
    assert (old.name, old.state, old.note) == ("numpy", "old", "expected >=99")
    assert (broken.state, broken.note) == ("broken", "OSError: libcuda.so is not there")
    assert (missing.state, missing.version) == ("missing", None)
    extras = {extra.name: extra for extra in packages.extras()}
    assert extras["ray"].missing == ("thatisnotthere",)
    assert extras["ray"].pip == "pip install 'embedcal[ray]'"
    assert "dev" not in extras
    problems = examination(packages=(old, broken, missing)).problems
    assert [line.partition(" ")[0] for line in problems] == [
        "numpy",
        "brokenpackage",
        "nosuchpackage",
    ]


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    wanted = tmp_path / "a folder" / "not there"
    found = places.place("data", wanted, tried=True)
    assert (found.exists, found.writable, found.locks, found.links) == (False, True, True, True)
    assert found.free is not None
    assert found.free > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places.tempfile, "TemporaryDirectory", refuse)
    found = places.place("data", tmp_path, tried=True)
    assert (found.writable, found.locks, found.note) == (False, None, "Permission denied")
    (line,) = examination(places=(found,)).problems
    assert line.endswith("set EMBEDCAL_HOME to a folder that can")


def test_locks_that_do_not_hold_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    import filelock

    monkeypatch.setattr(filelock, "FileLock", lambda *_, **__: contextlib.nullcontext())
    found = places.place("data", tmp_path, tried=True)
    assert (found.writable, found.locks) == (True, False)
    assert "locks do not hold" in examination(places=(found,)).problems[0]


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    inner = tmp_path / "my data" / "runs"
    inner.mkdir(parents=True)
    mount = str(tmp_path / "my data").replace(" ", "\\040")
    lines = ["none / overlay rw 0 0", f"host:/x {mount} nfs4 rw 0 0", "none /elsewhere ext4 rw 0 0"]
    (tmp_path / "mounts").write_text("\n".join(lines))
    assert places.filesystem(inner, tmp_path / "mounts") == "nfs4"
    assert places.filesystem(tmp_path, tmp_path / "mounts") == "overlay"
    assert places.filesystem(tmp_path, tmp_path / "none") == ""


def test_a_proxys_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = places.hub()
    assert found["HTTPS_PROXY"] == "http://...@proxy:3128"
    assert found["HF_HUB_OFFLINE"] == "1"


def test_weights_lie_where_the_hub_looks() -> None:
    assert places._hub({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert places._hub({"HF_HOME": "/b"}) == Path("/b/hub")
    assert places._hub({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")


def test_a_rate_is_work_by_time() -> None:
    found = speed.rate(lambda: time.sleep(0.01), 5, 0.2)
    assert 150 < found <= 500  # 500 a second, less what the system adds
    assert speed.rate(lambda: time.sleep(0.05), 1, 0.0) < 20  # one go at least


def test_the_speed_check_measures_everything_within_its_time(tmp_path: Path) -> None:
    began = time.monotonic()
    found = speed.measure(tmp_path / "home", seconds=60)  # so that a busy machine leaves none out
    assert found.left_out == {}
    rates = [getattr(found, name) for name in vars(found) if name not in ("seconds", "left_out")]
    assert all(rate > 0 for rate in rates)
    assert found.seconds == pytest.approx(time.monotonic() - began, rel=0.1)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "ROOM", 2**80)
    found = speed.measure(tmp_path, seconds=0)
    assert found.product is None
    assert found.write is None
    assert found.left_out["products"] == "TimeoutError: no time left"
    assert "free" in found.left_out["disk"]


def test_a_photograph_has_the_size_of_one() -> None:
    import io

    from PIL import Image

    data = speed.photograph()
    assert Image.open(io.BytesIO(data)).size == speed.PICTURE
    assert 20_000 < len(data) < 200_000


HEALTHY = Machine(
    system="Linux",
    cores=8.0,
    cores_of_host=8,
    load=0.5,
    memory=32 * GIB,
    memory_available=20 * GIB,
    memory_of_host=32 * GIB,
    shared_memory_free=16 * GIB,
    threads={"torch": 8},
    processor="one",
    bf16_units=True,
    devices=("cpu",),
)
DISK = Place(
    what="data", path="/data", exists=True, free=500 * GIB, filesystem="ext4",
    writable=True, locks=True, links=True,
)  # fmt: skip
FAST = Speed(
    product=500, product_alone=80, product_bf16=550, write=900, read=2000, decode=300, encode=5000
)


def examination(
    machine: Machine = HEALTHY,
    places: tuple[Place, ...] = (DISK,),
    speed: Speed | None = FAST,
    packages: tuple[Package, ...] = (),
    hub: dict[str, str] | None = None,
) -> Examination:
    return Examination(
        embedcal="0", packages=packages, extras=(), machine=machine, places=places, speed=speed,
        hub=hub or {},
    )  # fmt: skip


def test_nothing_is_said_about_a_healthy_machine() -> None:
    assert examination().advice == ()
    assert examination().problems == ()
    assert examination(speed=None).advice == ()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            examination(replace(HEALTHY, cores=2.0, cores_of_host=64, threads={"torch": 64})),
            "64 threads share 2 usable cores, of 64 that the machine has",
        ),
        (examination(replace(HEALTHY, cores=1.5, threads={"torch": 3})), "set OMP_NUM_THREADS=1."),
        (
            examination(speed=replace(FAST, product=60, product_bf16=60)),
            "slower with all threads than with one",
        ),
        (examination(replace(HEALTHY, load=30.0)), "30.0 processes wanted 8 cores"),
        (examination(replace(HEALTHY, memory_available=GIB)), "--jobs 1"),
        (examination(places=(replace(DISK, free=GIB),)), "1.0 GiB are free for data in /data"),
        (examination(places=(replace(DISK, filesystem="nfs4"),)), "nfs4 share"),
        (examination(places=(replace(DISK, links=False),)), "no hard links"),
        (examination(speed=replace(FAST, write=20)), "The disk takes 20 MB/s"),
        (
            examination(
                replace(HEALTHY, bf16_units=False), speed=replace(FAST, product_bf16=100)
            ),
            "no units for bf16 (0.2 times the rate of fp32)",
        ),
        (examination(speed=replace(FAST, product_bf16=2000)), "4.0 times as fast as in fp32"),
        (examination(speed=replace(FAST, decode=30)), "decodes 30 photographs a second"),
        (examination(hub={"HF_HUB_OFFLINE": "1"}), "HF_HUB_OFFLINE is set"),
        (examination(replace(HEALTHY, shared_memory_free=64 * 2**20)), "/dev/shm has 64 MiB"),
        (examination(replace(HEALTHY, gpu_unseen=True)), "an NVIDIA GPU that torch does not see"),
        (
            examination(
                replace(HEALTHY, devices=("cpu", "cuda:0 one, 80 GiB")),
                packages=(Package(name="faiss-cpu", version="1", state="ok", note="no GPU build"),),
            ),
            "install faiss-gpu",
        ),
    ],
)  # fmt: skip
def test_one_thing_that_is_unusual_is_one_sentence(found: Examination, words: str) -> None:
    (sentence,) = found.advice
    assert words in sentence
    assert sentence.endswith(".")


def test_offline_that_is_set_to_no_is_not_offline() -> None:
    assert examination(hub={"HF_HUB_OFFLINE": "0"}).advice == ()


def command(*words: str, broken: bool = False) -> tuple[int, str]:
    from embedcal.commands import doctor

    app = typer.Typer()
    app.callback()(lambda: None)
    doctor.register(app)
    done = CliRunner().invoke(app, ["doctor", *words], catch_exceptions=False)
    return done.exit_code, done.stdout


def test_the_command_prints_one_document_with_everything() -> None:
    status, text = command("--no-speed", "--json")
    record = json.loads(text)
    assert (status, record["ok"], record["problems"]) == (0, True, [])
    assert record["speed"] is None
    assert {place["what"] for place in record["places"]} >= {"caches", "runs", "data"}
    assert all(place["writable"] for place in record["places"] if place["what"] == "data")
    assert set(record["machine"]) >= {"cores", "memory", "threads", "devices"}


def test_the_report_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    status, text = command("--no-speed")
    assert status == 0
    assert max(map(len, text.splitlines())) <= 60
    assert "cores" in text
    assert "\x1b" not in text


def test_a_broken_part_is_said_and_is_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["nosuchpackage>=1"])
    status, text = command("--no-speed", "--json")
    assert status == 2
    assert json.loads(text)["problems"] == [
        "nosuchpackage is missing (not installed): pip install --upgrade nosuchpackage"
    ]


def test_no_metadata_is_a_note_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", gone)
    status, text = command("--no-speed", "--json")
    assert status == 0
    assert json.loads(text)["note"].startswith("packages are not known: PackageNotFoundError")
