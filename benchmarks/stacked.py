"""K runs as one stacked program, against the same runs one after another and with a DataLoader."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import Reading, Row, interleaved, quotients, spread
from synthetic import WATERBIRDS, feature_cache
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from train_epoch import BATCH, PlainHead

from embedcal.cache import open_cache
from embedcal.evaluate import RULES, rule
from embedcal.fitting import configure
from embedcal.keep import Keeper, rules_for
from embedcal.methods.base import Gradient
from embedcal.stacked import Member, free_memory, largest_stack, memory_per_run, train_stack
from embedcal.train import train
from embedcal.types import Task
from embedcal.workbench import Workbench

RATES = (1e-4, 3e-4, 1e-3, 3e-3)  # the learning rates of the grid, seed by seed
SAMPLE = 2  # runs with a DataLoader that are timed, of all that there are


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: rows of each split, runs of the stacks, epochs, turns."""

    rows: tuple[int, int, int]
    stacks: tuple[int, ...]
    epochs: int
    turns: int


def size_of(device: str, *, quick: bool) -> Size:
    """Waterbirds' rows on an accelerator; on a CPU, where stacking is not for speed, a little."""
    if device == "cpu":
        few = (512, 128, 128) if quick else (1280, 320, 320)
        return Size(rows=few, stacks=(4,) if quick else (8,), epochs=1, turns=1 if quick else 3)
    return Size(rows=WATERBIRDS, stacks=(8, 32), epochs=1 if quick else 5, turns=1 if quick else 5)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of K runs over a workbench: ERM with four learning rates and as many seeds as fit."""

    on: Workbench
    method: Gradient
    task: Task
    device: str

    @classmethod
    def of(cls, on: Workbench, device: str, options: Mapping[str, Any]) -> Grid:
        method = configure("erm", {"batch_size": BATCH, **options}).resolve(on.offer)
        assert isinstance(method, Gradient)
        return cls(on=on, method=method, task=on.task(method), device=device)

    def members(self, k: int) -> list[Member]:
        rules = rules_for(self.on, RULES, rule("val.worst_group"))
        return [
            Member(
                method=replace(self.method, lr=RATES[i % len(RATES)]),
                task=self.task,
                seed=i // len(RATES),
                watch=Keeper(self.on, self.method.level, rules, self.device),
            )
            for i in range(k)
        ]

    def stacked(self, k: int) -> None:
        train_stack(self.members(k), device=self.device)
        self._wait()

    def one_by_one(self, k: int) -> None:
        for m in self.members(k):
            assert isinstance(m.watch, Keeper)
            train(m.method, m.task, seed=m.seed, watch=m.watch, device=self.device)
        self._wait()

    def with_loader(self, k: int) -> None:
        """As one writes it: DataLoader, autograd, torch's AdamW. Nothing is validated or kept."""
        data = TensorDataset(
            torch.from_numpy(self.task.train.x), torch.from_numpy(self.task.train.y)
        )
        for m in self.members(k):
            head = PlainHead(m.task).to(self.device)
            update = torch.optim.AdamW(
                head.parameters(), lr=m.method.step_size, weight_decay=m.method.weight_decay
            )
            for _ in range(m.method.epochs):
                for x, y in DataLoader(data, batch_size=BATCH, shuffle=True):
                    loss = F.cross_entropy(head(x.to(self.device)), y.to(self.device))
                    update.zero_grad()
                    loss.backward()
                    update.step()
        self._wait()

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.get_device_module(self.device).synchronize()


def measure(*, quick: bool, device: str = "auto") -> list[Row]:
    """Seconds of a run in stacks of some sizes, and what a run takes of the GPU's memory."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size_of(device, quick=quick)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cache(feature_cache(Path(folder), size.rows)) as cache,
    ):
        on = Workbench(cache)
        rows: list[Row] = []
        for head in ("projection", "linear"):
            grid = Grid.of(on, device, {"head": head, "epochs": size.epochs})
            rows += [_against_one_by_one(grid, k, size) for k in size.stacks]
            if head == "projection":
                rows.append(_against_loader(grid, size.stacks[-1], size))
            if device.startswith("cuda"):
                rows.append(_memory(grid, size.stacks))
        return rows


def _against_one_by_one(grid: Grid, k: int, size: Size) -> Row:
    seconds = interleaved(
        {"ours": lambda: grid.stacked(k), "sequential": lambda: grid.one_by_one(k)},
        repetitions=size.turns,
    )
    ours, theirs = (median(seconds[name]) / k for name in ("ours", "sequential"))
    return Row(
        name=f"{k} ERM runs of {size.epochs} epochs, {grid.method.head_name} head, {grid.device}",
        ours=Reading(what="stacked, a run", value=ours, unit="s"),
        baseline=Reading(what="one by one, a run", value=theirs, unit="s"),
        ratio=quotients(seconds["sequential"], seconds["ours"]),
        note="both validate and keep heads after every epoch",
        facts={"runs": k, "seconds": k * ours},
    )


def _against_loader(grid: Grid, k: int, size: Size) -> Row:
    seconds = interleaved(
        {"ours": lambda: grid.stacked(k), "loader": lambda: grid.with_loader(SAMPLE)},
        repetitions=size.turns,
    )
    whole = [value * k / SAMPLE for value in seconds["loader"]]
    return Row(
        name=f"... {k} runs against a DataLoader, {grid.device}",
        ours=Reading(what="stacked", value=median(seconds["ours"]), unit="s"),
        baseline=Reading(what="DataLoader, autograd", value=median(whole), unit="s"),
        ratio=quotients(whole, seconds["ours"]),
        target=None if grid.device == "cpu" else 20.0,
        note=f"extrapolated from {SAMPLE} runs, which validate and keep nothing",
    )


def _memory(grid: Grid, stacks: tuple[int, ...]) -> Row:
    """Between the smallest and the largest stack, so that what all share does not count."""

    def peak(k: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(grid.device)
        grid.stacked(k)
        return torch.cuda.max_memory_allocated(grid.device)

    low, high = stacks[0], stacks[-1]
    measured = (peak(high) - peak(low)) / (high - low)
    said = memory_per_run(grid.method, grid.task)
    fits = largest_stack(grid.method, grid.task, free=free_memory(grid.device))
    return Row(
        name=f"... memory of a run, {grid.method.head_name} head, {grid.device}",
        ours=Reading(what="foreseen", value=said / 1e6, unit="MB"),
        baseline=Reading(what="measured", value=measured / 1e6, unit="MB"),
        ratio=spread([said / measured]),
        target=1.0,
        note=f"up to {fits} runs fit",
        facts={"largest": fits},
    )


def main() -> None:
    from rich.console import Console
    from run import table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or another of torch's")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    given = parser.parse_args()
    Console(width=200).print(table(measure(quick=given.quick, device=given.device)))


if __name__ == "__main__":
    main()
