"""A cache built on Ray: the single build's bytes, also when a worker is killed in the middle."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from embedcal.cache import BuildOptions, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.caching import cache
from embedcal.sharded import Order, make
from embedcal.types import EmbedcalError

if importlib.util.find_spec("ray") is None:  # not imported here: it reads its variables then
    pytest.skip("needs ray", allow_module_level=True)

SLOW = """
import time
import numpy as np
from embedcal.encoders.base import EncoderMeta

class Slow:
    meta = EncoderMeta(
        name="slow", weights="none", weights_sha256="", library="slow 1",
        preprocessing={"size": 8}, precision="fp32", shapes={"embedding": (6,)},
    )
    def prepare(self, image):
        return np.array(image.convert("RGB").resize((8, 8)))
    def images(self, pixels, levels):
        time.sleep(PAUSE)
        flat = pixels.reshape(len(pixels), -1, 3) / 255 + pixels.mean()  # depends on its batch
        return {"embedding": np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)}
    def text(self, prompts):
        return {}
    def projection(self):
        return None
"""


@pytest.fixture(autouse=True)
def _home_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["path,y,split"]
    for i in range(64):
        path = tmp_path / "images" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (i, 255 - i, 3 * i)).save(path)
        lines.append(f"{path.name},{i % 2},{('train', 'val', 'test')[i % 3]}")
    (tmp_path / "images" / "05.png").write_bytes(b"not an image")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "slow.py").write_text(SLOW.replace("PAUSE", "0.4"))
    return tmp_path


REQUEST = {"root": "images", "backbone": "slow.py:Slow", "build": BuildOptions(batch_size=4)}


def spread(folder: Path, home: str) -> None:
    """In a process of its own, as Ray leaves things behind in it."""
    os.environ.update(EMBEDCAL_HOME=home, HOME=str(folder))
    os.chdir(folder)
    from embedcal.sharded import cache as on_ray

    report = on_ray("all.csv", out="ray.h5", jobs=2, **REQUEST)
    assert (report.rows, len(report.skipped), report.shard) == (64, 1, None)
    assert on_ray("all.csv", out="ray.h5", jobs=2, **REQUEST).reused


def child_of(folder: Path) -> Any:
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=spread, args=(folder, os.environ["EMBEDCAL_HOME"]))
    child.start()
    return child


def workers() -> list[Any]:
    """Ray's workers that are at a shard of ours."""
    import psutil

    every = psutil.process_iter(["cmdline"])
    return [p for p in every if " ".join(p.info["cmdline"] or ()).startswith("ray::make")]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("deaths", [0, 1])
def test_a_cluster_builds_what_one_process_builds(folder, monkeypatch, deaths) -> None:
    monkeypatch.chdir(folder)
    calm = cache("all.csv", out="calm.h5", **REQUEST).path
    child, killed = child_of(folder), []
    part = folder / "ray.h5.shards" / "2of2.h5.part"

    def kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not part.exists():
            time.sleep(0.01)
        time.sleep(1.2)  # some batches of eight, of which a second's are committed
        for worker in workers()[:deaths]:
            worker.kill()
            killed.append(worker.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    child.join()
    killer.join()
    assert child.exitcode == 0
    assert len(killed) == deaths
    assert (folder / "ray.h5").read_bytes()[USER_BLOCK:] == calm.read_bytes()[USER_BLOCK:]
    assert verify(folder / "ray.h5").ok
    assert not (folder / "ray.h5.shards").exists()


def test_a_node_makes_one_shard_and_checks_what_it_is(folder, monkeypatch) -> None:
    (folder / "slow.py").write_text(SLOW.replace("PAUSE", "0"))
    options = {**REQUEST, "device": "cpu"}
    order = Order(source="all.csv", options=options, part="2/2", out=folder / "2.h5", folder=folder)
    monkeypatch.chdir("/")
    report = make(order)
    assert (report.shard, report.rows) == ((2, 2), 32)
    with pytest.raises(EmbedcalError, match=r"embedcal 0\.0\.1 on every node"):
        make(replace(order, version="0.0.1"))
    with pytest.raises(EmbedcalError, match="on every node, found No such file"):
        make(replace(order, folder=folder / "none"))
