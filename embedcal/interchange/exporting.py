"""From a cache to a file that other tools open."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from embedcal.atomic import atomic
from embedcal.cache import FeatureCache
from embedcal.datasets.containers.arrow import require_pyarrow
from embedcal.datasets.printable import printable
from embedcal.interchange.description import KEY
from embedcal.interchange.folders import IMAGES, METADATA, PATHS
from embedcal.interchange.outgoing import Rows
from embedcal.interchange.parquet import label_table, write_labels, write_parquet
from embedcal.interchange.predictions import predictions
from embedcal.interchange.sheet import write_sheet
from embedcal.runs import Run
from embedcal.types import SPLITS, EmbedcalError, Level, Split

_BLOCK = 8192  # rows in memory at once
_PART = 1_000_000  # rows of one part, as clip-retrieval's writer has by default


def export_features(
    cache: FeatureCache,
    out: str | Path,
    *,
    level: Level = "embedding",
    splits: Sequence[Split] | None = None,
    format: str | None = None,
    run: Run | None = None,
    normalise: bool = False,
) -> Path:
    """Write features and labels of a cache for other tools; whole or not at all.

    Args:
        cache: an open cache.
        out: the file, or the folder for clip-retrieval's layout.
        level: ``embedding`` or ``pooled``.
        splits: the splits that go out; all by default. Rows that could not be read stay behind.
        format: one of ``EXPORTS``; by default what the suffix of ``out`` says.
        run: also the run's ``prediction``, ``confidence`` and ``correct``, for val and test.
        normalise: divide each row by its length; by default rows go out raw, as stored.

    Returns:
        ``out``. Parquet has float32, all others the stored type. Labels beside an ``.npy`` are a
        CSV of the same name, in which an apostrophe stands before texts that a spreadsheet would
        compute; ``import_from`` takes it away again.

    Raises:
        EmbedcalError: for a level or a form that cannot be had, a run over another cache, or a
            place that cannot be written to.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     path = embedcal.export_features(cache, "birds.npz", splits=["train"])
        >>> import numpy as np
        >>> sorted(np.load(path))[:4]
        [...]
    """
    out = Path(out).expanduser()
    form = format or _SUFFIXES.get(out.suffix.lower())
    if form not in EXPORTS:
        raise EmbedcalError(
            f"expected a form to write among {', '.join(EXPORTS)}, found "
            f"'{printable(format or out.suffix or out.name)}': end the name in "
            f"{', '.join(s for s in _SUFFIXES if s)}, or say --format"
        )
    if level not in cache.meta.levels or level == "tokens":
        kept = ", ".join(each for each in cache.meta.levels if each != "tokens")
        raise EmbedcalError(
            f"expected a level of one vector a row among {kept}, found '{printable(level)}' for "
            f"{cache.meta.path}: take embedding, which texts are compared to"
        )
    if form in ("parquet", "clip-retrieval"):
        require_pyarrow(out)
    wanted = tuple(split for split in SPLITS if split in (SPLITS if splits is None else splits))
    rows = Rows(
        cache=cache,
        level=level,
        splits=wanted,
        normalise=normalise,
        predictions=None if run is None else predictions(cache, run),
    )
    if not len(rows) or (splits is not None and len(wanted) < len(set(splits))):
        asked = printable(", ".join(splits or SPLITS))
        raise EmbedcalError(
            f"expected rows in splits among {', '.join(SPLITS)}, found none for {asked} in "
            f"{cache.meta.path}: choose others"
        )
    if form == "npy":
        sheet = out.with_suffix(".csv")
        if sheet.exists() and not out.exists():
            raise EmbedcalError(
                f"expected no {sheet.name} beside {out.name}, found one, which the labels would "
                "replace: name another file"
            )
        with atomic(sheet) as table, atomic(out) as part:
            write_sheet(rows, table)
            EXPORTS[form](rows, part)
        return out
    with atomic(out, folder=form == "clip-retrieval") as part:
        EXPORTS[form](rows, part)
    return out


def _write_npz(rows: Rows, path: Path) -> None:
    """``features``, ``y``, ``split``, attributes, ``id``, ``path``, text banks, names as JSON."""
    arrays = {
        **rows.arrays(),
        "id": np.array(rows.names("ids")),
        "path": np.array(rows.names("paths")),
        **rows.banks(),
        KEY: np.array(rows.description),
    }
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            _stream(rows, file)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_npy(rows: Rows, path: Path) -> None:
    with path.open("wb") as file:
        _stream(rows, file)


def _stream(rows: Rows, file: IO[bytes], start: int = 0, stop: int | None = None) -> None:
    """Some rows as one .npy, a block at a time."""
    stop = len(rows) if stop is None else stop
    header = {
        "descr": np.lib.format.dtype_to_descr(rows.dtype),
        "fortran_order": False,
        "shape": (stop - start, rows.width),
    }
    np.lib.format.write_array_header_2_0(file, header)
    for _, block in rows.blocks(_BLOCK, start, stop):
        file.write(np.ascontiguousarray(block).data)


def _write_safetensors(rows: Rows, path: Path) -> None:
    """The arrays of the .npz; texts as UTF-8 bytes (n, length), names in the metadata."""
    from safetensors.numpy import save_file

    features = np.empty((len(rows), rows.width), rows.dtype)
    for start, block in rows.blocks(_BLOCK):
        features[start : start + len(block)] = block
    tensors = {"features": features, **rows.arrays(), **rows.banks()}
    tensors |= {"id": _bytes(rows.names("ids")), "path": _bytes(rows.names("paths"))}
    save_file(tensors, path, metadata={KEY: rows.description, "format": "np"})


def _bytes(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    encoded = np.array([name.encode("utf-8") for name in names])
    width = max(1, encoded.dtype.itemsize)
    return encoded.astype(f"S{width}").view(np.uint8).reshape(len(names), width)


def _write_clip_retrieval(rows: Rows, folder: Path) -> None:
    """``img_emb/img_emb_0.npy`` and ``metadata/metadata_0.parquet``, a million rows a part."""
    (folder / IMAGES).mkdir()
    (folder / METADATA).mkdir()
    labels = label_table(rows)
    starts = range(0, len(rows), _PART)
    digits = len(str(len(starts)))
    for number, start in enumerate(starts):
        stop, name = min(start + _PART, len(rows)), str(number).zfill(digits)
        with (folder / IMAGES / f"{IMAGES}_{name}.npy").open("wb") as file:
            _stream(rows, file, start, stop)
        path = folder / METADATA / f"{METADATA}_{name}.parquet"
        write_labels(labels.slice(start, stop - start), path, {"path": PATHS})


EXPORTS: dict[str, Callable[[Rows, Path], None]] = {
    "parquet": write_parquet,
    "npz": _write_npz,
    "safetensors": _write_safetensors,
    "npy": _write_npy,
    "clip-retrieval": _write_clip_retrieval,
}
_SUFFIXES = {
    ".parquet": "parquet",
    ".npz": "npz",
    ".safetensors": "safetensors",
    ".npy": "npy",
    "": "clip-retrieval",
}
