"""Grids: many runs against the same runs as a plain script, and 10,000 recorded runs."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from measure import Reading, Row, interleaved, quotients, spread
from synthetic import WATERBIRDS, feature_cache
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from train_epoch import BATCH, PlainHead

from embedcal.cache import FeatureCache, open_cache
from embedcal.comparing import compare
from embedcal.fitting import configure
from embedcal.grids import grid, load, parse
from embedcal.grids.jobs import Site, plan
from embedcal.grids.results import ask
from embedcal.grids.settings import settings_of
from embedcal.runs import append
from embedcal.threads import threads
from embedcal.types import Task
from embedcal.workbench import Workbench


def measure(*, quick: bool) -> list[Row]:
    """Thirty-two projection runs; ten thousand recorded runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (1280, 320, 320) if quick else WATERBIRDS
        with open_cache(feature_cache(folder / "rn50", sizes)) as cache:
            rows = [
                _many(cache, folder / "many", quick=quick),
                _records(cache, folder / "records", quick=quick),
            ]
    return rows


def plain_run(task: Task, val: TensorDataset, test: TensorDataset, lr: float, epochs: int) -> float:
    """One run as a script has it: DataLoader, autograd, the best epoch on validation, test."""
    head = PlainHead(task)
    update = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=1e-4)
    data = TensorDataset(torch.from_numpy(task.train.x), torch.from_numpy(task.train.y))
    best, kept = -1.0, head.state_dict()
    for _ in range(epochs):
        for x, y in DataLoader(data, batch_size=BATCH, shuffle=True):
            loss = F.cross_entropy(head(x), y)
            update.zero_grad()
            loss.backward()
            update.step()
        with torch.no_grad():
            pairs = [(head(x).argmax(1) == y) for x, y in DataLoader(val, batch_size=BATCH)]
        score = float(torch.cat(pairs).float().mean())
        if score > best:
            best, kept = score, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    with torch.no_grad():
        return float(torch.cat([head(x).argmax(1) for (x,) in DataLoader(test, BATCH)]).sum())


def _many(cache: FeatureCache, folder: Path, *, quick: bool) -> Row:
    runs, epochs = (4, 2) if quick else (32, 10)
    rates = [1e-4 * 1.1**k for k in range(runs)]
    listed = ",".join(f"{rate:.8g}" for rate in rates)
    spec = f"erm:head=projection:epochs={epochs}:lr={listed}"
    method = configure("erm", {"head": "projection", "epochs": epochs})
    on = Workbench(cache)
    task, held = on.task(method), on.split("val", "pooled")
    val = TensorDataset(torch.from_numpy(held.x), torch.from_numpy(held.y))
    test = TensorDataset(torch.from_numpy(on.split("test", "pooled").x))
    turn = iter(range(100))

    def ours() -> None:
        done = grid([spec], cache, seeds=1, out=folder / str(next(turn)), device="cpu")
        assert len(done.done) == runs

    def theirs() -> None:
        for rate in rates:
            plain_run(task, val, test, rate, epochs)

    seconds = interleaved({"ours": ours, "plain": theirs}, repetitions=1, warmup=0)
    return Row(
        name=f"grid of {runs} projection runs, {epochs} epochs each",
        ours=Reading(what="embedcal.grid", value=median(seconds["ours"]), unit="s"),
        baseline=Reading(
            what="the same with DataLoader and autograd", value=median(seconds["plain"]), unit="s"
        ),
        ratio=quotients(seconds["plain"], seconds["ours"]),
        target=1.8,
        note="ours with start of the processes, test metrics, intervals and files",
    )


def _records(cache: FeatureCache, folder: Path, *, quick: bool) -> Row:
    """Ten thousand runs of which all are recorded: open, resume by the same command, compare."""
    seeds, rates = 5, 20 if quick else 2000
    listed = ",".join(f"{1e-5 * 1.002**k:.8g}" for k in range(rates))
    spec = f"erm:head=linear:epochs=1:lr={listed}"
    on = Workbench(cache)
    with _one_thread():
        first = grid(["erm:head=linear:epochs=1"], cache, seeds=1, out=folder, device="cpu")
        site = Site(
            cache=cache.meta.path, attributes=on.attributes, folder=folder, device="cpu",
            select="val.worst_group",
        )  # fmt: skip
        jobs = plan(settings_of([parse(spec)]), range(seeds), site, on)
        record = dict(first.records[0])
        whole = folder / str(record["id"])
        for job in jobs:
            options = job.method.record()
            append(folder, {**record, "id": job.id, "seed": job.seed, "options": options})
            (folder / job.id).symlink_to(whole, target_is_directory=True)
        ask(folder, [job.id for job in jobs])
        size = (folder / "results.jsonl").stat().st_size / 1e6
        parts: dict[str, list[float]] = {"open": [], "resume": [], "compare": []}
        lines = (folder / "results.jsonl").read_bytes().splitlines()
        plain = []
        for _ in range(1 if quick else 5):
            began = time.perf_counter()
            for line in lines:
                json.loads(line)
            plain.append(time.perf_counter() - began)
            began = time.perf_counter()
            load(folder)
            parts["open"].append(time.perf_counter() - began)
            began = time.perf_counter()
            done = grid([spec], cache, seeds=seeds, out=folder, device="cpu")
            parts["resume"].append(time.perf_counter() - began)
            assert done.reused == len(jobs)
            began = time.perf_counter()
            compare([folder])
            parts["compare"].append(time.perf_counter() - began)
    total = [sum(each) for each in zip(*parts.values(), strict=True)]
    shares = ", ".join(f"{name} {median(values):.2f} s" for name, values in parts.items())
    return Row(
        name=f"{len(jobs):,} recorded runs: open, resume and compare",
        ours=Reading(what="all three", value=median(total), unit="s"),
        baseline=Reading(what="json.loads of every line, once", value=median(plain), unit="s"),
        ratio=spread(total),
        target=3.0,
        at_most=True,
        note=f"the ratio column has seconds; {shares}; {size:.0f} MB of lines",
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    with threads(shared=False):
        yield
