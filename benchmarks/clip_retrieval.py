"""clip-retrieval's way from image files to embeddings on disk, with its settings.

Written anew from public libraries after the defaults of its ``clip_inference`` (Beaumont,
github.com/rom1504/clip-retrieval): a DataLoader of four processes over files, ``encode_image``
under ``no_grad``, rows of unit length in float16, and for each part a ``.npy`` file beside a
Parquet file with the paths. Differences: the model is open_clip's stock one and the batch size is
the caller's, as for everything that this is compared with; paths are handed in rather than looked
for; a broken image stops it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

WORKERS = 4  # --num_prepro_workers
PART = 10**6  # --write_batch_size: rows of one file
PREFETCH = 2  # batches ahead for each process


@dataclass(frozen=True)
class Named(Dataset[dict[str, Any]]):
    """Each image with its path."""

    paths: Sequence[Path]
    transform: Callable[[Image.Image], torch.Tensor]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        path = self.paths[row]
        with Image.open(path) as image:
            return {"image": self.transform(image), "path": str(path)}


def encode(
    model: Any, batch: Mapping[str, Any], device: torch.device
) -> tuple[npt.NDArray[np.float16], list[str]]:
    """Rows of unit length (b, d) in float16, and their paths."""
    with torch.no_grad():
        features = model.encode_image(batch["image"].to(device))
        features /= features.norm(dim=-1, keepdim=True)
        return features.cpu().to(torch.float16).numpy(), list(batch["path"])


def write(
    folder: Path, number: str, embeddings: Sequence[npt.NDArray[np.float16]], paths: Sequence[str]
) -> None:
    """One part: its rows as one array, its paths as one table."""
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", np.concatenate(embeddings))
    table = pd.DataFrame({"image_path": list(paths)})
    table.to_parquet(folder / "metadata" / f"metadata_{number}.parquet")


def retrieve(
    model: torch.nn.Module,
    files: Named,
    folder: Path,
    *,
    batch_size: int,
    workers: int = WORKERS,
    part: int = PART,
) -> None:
    """All files, part after part; part i of n has the rows i, i + n, i + 2n, ..."""
    device = next(model.parameters()).device
    parts = ceil(len(files) / part)
    for i in range(parts):
        batches = DataLoader(
            Named(files.paths[i::parts], files.transform),
            batch_size=batch_size,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=device.type == "cuda",
        )
        with warnings.catch_warnings():  # four processes are its default on any machine
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            encoded = [encode(model, batch, device) for batch in batches]
        names = [name for _, paths in encoded for name in paths]
        write(folder, str(i).zfill(len(str(parts))), [rows for rows, _ in encoded], names)


def read(folder: Path, paths: Sequence[Path]) -> npt.NDArray[np.float32]:
    """The embeddings of these files (n, d), from whatever parts they lie in."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    for table in sorted((folder / "metadata").glob("*.parquet")):
        number = table.stem.removeprefix("metadata_")
        rows = np.load(folder / "img_emb" / f"img_emb_{number}.npy").astype(np.float32)
        found |= dict(zip(pd.read_parquet(table)["image_path"], rows, strict=True))
    return np.stack([found[str(path)] for path in paths])
