"""A small world of features, with names that tempt, in the files that other tools write."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLASSES = ('land, "bird"', "Wasservögel", "never seen")
PLACES = ("über land", "=water")
ROWS, WIDTH = 90, 5


@dataclass(frozen=True)
class World:
    """Arrays of the one world that every test writes in some form."""

    features: np.ndarray
    y: np.ndarray
    split: np.ndarray
    place: np.ndarray
    ids: tuple[str, ...]
    paths: tuple[str, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"features": self.features, "y": self.y, "split": self.split, "place": self.place}

    def table(self) -> dict[str, list[Any]]:
        split = [("train", "val", "test")[code] for code in self.split]
        return {"id": list(self.ids), "y": self.y.tolist(), "split": split,
                "place": self.place.tolist()}  # fmt: skip


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
    return path


def tensors(world: World) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in world.arrays().items()}


def clip_retrieval(folder: Path, world: World, parts: int, extra: dict[str, list[Any]]) -> Path:
    """As its NumPy writer lays things out: pandas frames, parts padded by zeros or not."""
    import pandas as pd

    for name in ("img_emb", "metadata", "text_emb"):
        (folder / name).mkdir(parents=True)
    width = len(str(parts))
    for k, rows in enumerate(np.array_split(np.arange(ROWS), parts)):
        number = str(k).zfill(width)
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", world.features[rows])
        np.save(folder / "text_emb" / f"text_emb_{number}.npy", world.features[rows])
        columns = {"image_path": [f"/data/pictures/{world.paths[i]}" for i in rows]}
        columns |= {"caption": ["a bird" for _ in rows]}
        columns |= {name: [values[i] for i in rows] for name, values in extra.items()}
        pd.DataFrame(columns).to_parquet(folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def clip_benchmark(folder: Path, world: World, splits: tuple[str, ...]) -> Path:
    """As its linear probe caches features: one file a split, in the model's folder."""
    inside = folder / "ViT-B-32-openai-waterbirds"
    inside.mkdir(parents=True)
    for code, name in enumerate(("train", "val", "test")):
        if name in splits:
            rows = torch.from_numpy(world.split == code)
            torch.save(tensors(world)["features"][rows], inside / f"features_{name}.pt")
            torch.save(tensors(world)["y"][rows], inside / f"targets_{name}.pt")
    return folder
