"""Folders of features that other tools leave behind: clip-retrieval's and CLIP_benchmark's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache.importing import feature_parts
from embedcal.datasets.named.sheets import read_sheet
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Table
from embedcal.interchange.arrays import load_torch, mapped
from embedcal.interchange.imported import Found
from embedcal.interchange.joining import below_shared_folder
from embedcal.interchange.parquet import parquet_description
from embedcal.types import SPLITS, EmbedcalError

IMAGES, METADATA = "img_emb", "metadata"
PATHS = "image_path"


def is_clip_retrieval(folder: Path) -> bool:
    return any((folder / IMAGES).glob("*.npy"))


def read_clip_retrieval(folder: Path, features: str | None) -> Found:
    """``clip-retrieval inference``: ``img_emb/img_emb_0.npy`` on, ``metadata/metadata_0.parquet``.

    The layout is that of clip-retrieval's NumPy writer (clip_inference/writer.py): parts are
    numbered, padded with zeros or not, and row i of a part is row i of its metadata, whose column
    ``image_path`` serves as the id. Captions and ``text_emb`` are passed over: an embedding of
    each image's own caption is no prompt of a class. Parts are mapped.
    """
    arrays = _numbered(folder / IMAGES, f"{IMAGES}_", ".npy")
    sheets = _numbered(folder / METADATA, f"{METADATA}_", ".parquet")
    shown = printable(str(folder), longest=300)
    if not arrays:
        raise EmbedcalError(
            f"expected {IMAGES}/{IMAGES}_0.npy in {shown}, found none: name the output folder of "
            "clip-retrieval inference"
        )
    if sheets and sheets.keys() != arrays.keys():
        odd = min(sheets.keys() ^ arrays.keys())
        raise EmbedcalError(
            f"expected a {METADATA}_K.parquet for each {IMAGES}_K.npy in {shown}, found only one "
            f"of the two for {odd}: the run was cut short, or files are missing"
        )
    parts = feature_parts([mapped(path) for _, path in sorted(arrays.items())])
    if not sheets:
        return Found(source=folder, parts=parts)
    tables = [read_sheet(path) for _, path in sorted(sheets.items())]
    for part, table, number in zip(parts, tables, sorted(arrays), strict=True):
        if len(part) != len(table):
            raise EmbedcalError(
                f"expected {len(part)} rows in {METADATA}_{number} of {shown}, as in "
                f"{IMAGES}_{number}, found {len(table)}: the run was cut short"
            )
    table = _one_after_the_other(tables, str(folder))
    paths = table.columns.get(PATHS, ())
    return Found(
        source=folder,
        parts=parts,
        table=table,
        ids=table.columns.get("id", paths),
        paths=below_shared_folder(paths),
        keys=(PATHS, "path", "id") if "id" not in table.columns else ("id",),
        description=parquet_description(sheets[min(sheets)]),
    )


def is_clip_benchmark(folder: Path) -> bool:
    return bool(_probe_folders(folder))


def read_clip_benchmark(folder: Path, features: str | None) -> Found:
    """The features that CLIP_benchmark's linear probe keeps below ``--feature_root``.

    The names are those of its ``metrics/linear_probe.py``: ``features_SPLIT.pt`` and
    ``targets_SPLIT.pt`` for train, val and test in a folder named after the model. Older releases
    write no test file and call what they test on ``val``: give its rows another split with a
    table, row by row. The probe normalises features unless it is told not to.
    """
    inside = _probe_folders(folder)
    shown = printable(str(folder), longest=300)
    if len(inside) != 1:
        names = ", ".join(sorted(each.name for each in inside)) or "none"
        raise EmbedcalError(
            f"expected one folder with features_train.pt in {shown}, found {printable(names)}: "
            "name the folder of one model"
        )
    parts, targets, split = [], [], []
    for code, name in enumerate(SPLITS):
        x, y = inside[0] / f"features_{name}.pt", inside[0] / f"targets_{name}.pt"
        if not x.is_file() and not y.is_file():
            continue
        rows, labels = _tensor(x), _tensor(y)
        if labels.shape != rows.shape[:1]:
            raise EmbedcalError(
                f"expected one target a row, ({len(rows)},), in {y.name} of {shown}, found shape "
                f"{labels.shape}: data sets of several labels a row cannot be taken"
            )
        parts.append(rows)
        targets.append(labels)
        split.append(np.full(len(rows), code))
    arrays = {"y": np.concatenate(targets), "split": np.concatenate(split)}
    return Found(
        source=inside[0], parts=feature_parts(parts), names=("y", "split"), load=arrays.__getitem__
    )


def _probe_folders(folder: Path) -> list[Path]:
    if (folder / "features_train.pt").is_file():
        return [folder]
    return [path.parent for path in folder.glob("*/features_train.pt")]


def _tensor(path: Path) -> Any:
    import torch

    loaded = load_torch(path)
    if not isinstance(loaded, torch.Tensor) or loaded.ndim == 0:
        raise EmbedcalError(
            f"expected one tensor with a row a sample in {printable(str(path), longest=300)}, "
            f"found {type(loaded).__name__}: this is no file of the linear probe"
        )
    return (loaded.float() if loaded.dtype == torch.bfloat16 else loaded.detach()).numpy()


def _numbered(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    """Files by their number, however many zeros stand before it."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+){re.escape(suffix)}")
    there = sorted(folder.glob(f"{prefix}*{suffix}"))
    return {int(m[1]): path for path in there if (m := pattern.fullmatch(path.name))}


def _one_after_the_other(tables: list[Table], source: str) -> Table:
    """The rows of all tables, as far as columns are common to all."""
    common = [n for n in tables[0].columns if all(n in table.columns for table in tables)]
    columns = {n: tuple(cell for table in tables for cell in table.columns[n]) for n in common}
    return Table(source=source, columns=columns, names=tables[0].names)
