"""A stored run: a folder that appears whole or not at all, and a line in ``results.jsonl``."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.datasets.printable import printable
from embedcal.evaluate import Strata
from embedcal.types import EmbedcalError, Split

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.cache import FeatureCache
    from embedcal.heads import Head

RESULTS = "results.jsonl"
PREDICTIONS = "predictions.safetensors"
CLAIMS = ".claims"
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run under one selection rule. ``record`` is what its ``run.json`` holds.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("zeroshot", cache)
        >>> run.record["labels_used"], 0 <= run.test["worst_group"] <= 1
        ([], True)
        >>> run.predictions()["test"].shape[1], run.head().name
        (2, 'linear')
    """

    folder: Path
    record: Mapping[str, Any]
    reused: bool = field(default=False, compare=False)

    @property
    def id(self) -> str:
        """Twelve hex digits of all that decides the result, which name its folder."""
        return str(self.record["id"])

    @property
    def val(self) -> Mapping[str, Any]:
        """Validation metrics by name; ``in_sample`` tells whether the method fitted this split."""
        return dict(self.record["val"])

    @property
    def test(self) -> Mapping[str, Any]:
        """Test metrics by name."""
        return dict(self.record["test"])

    def head(self, rule: str | None = None) -> Head:
        """The head that the run's rule keeps, or the one that another rule would keep."""
        from embedcal.heads import load_head

        return load_head(self.folder / "rules" / f"{rule or self.record['selection']}.safetensors")

    def predictions(self) -> dict[str, Tensor]:
        """Logits of the run's rule: ``val`` and ``test`` (n, C), rows in the cache's order."""
        rule = self.record["selection"]
        return {split: self.all_predictions()[f"{rule}/{split}"] for split in ("val", "test")}

    def all_predictions(self) -> dict[str, Tensor]:
        """Logits under every rule, by ``RULE/SPLIT``."""
        from safetensors.torch import load_file

        with self._readable() as path:
            stored = load_file(path)
        return {name: value for name, value in stored.items() if not name.startswith("cell/")}

    def logits(self, rule: str, split: Split) -> np.ndarray:
        """Logits (n, C) of one split under one rule, without torch."""
        from safetensors import safe_open

        with self._readable() as path, safe_open(path, "numpy") as stored:
            found: np.ndarray = stored.get_tensor(f"{rule}/{split}")
        return found

    def strata(self, split: Split) -> Strata:
        """The labels of a split as the run was judged by; the cache itself is not needed."""
        from safetensors import safe_open

        with self._readable() as path, safe_open(path, "numpy") as stored:
            known = json.loads(stored.metadata()["strata"])
            cell = stored.get_tensor(f"cell/{split}").astype(np.int64)
        n_classes, n_attributes = known["n_classes"], known["n_attributes"][split]
        width = n_attributes + 1
        counts = known["train_group_counts"]
        return Strata(
            n_classes=n_classes,
            n_attributes=n_attributes,
            cell=cell,
            sizes=np.bincount(cell, minlength=n_classes * width).reshape(n_classes, width),
            train_group_counts=None if counts is None else np.asarray(counts),
        )

    @contextmanager
    def _readable(self) -> Iterator[Path]:
        """The file of predictions; EmbedcalError where it is not there or is damaged."""
        from safetensors import SafetensorError

        path = self.folder / PREDICTIONS
        if not path.is_file():
            raise EmbedcalError(
                f"expected {PREDICTIONS} in {self.folder}, found none: the run is incomplete, "
                "delete its folder and fit it again"
            )
        try:
            yield path
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise EmbedcalError(
                f"expected predictions in {path}, found it damaged ({error}): delete the run's "
                "folder and fit it again"
            ) from None


def check_over(run: Run, cache: FeatureCache) -> None:
    """EmbedcalError where a run was not fitted over this very cache, whatever its file is called.

    A cache of the same images with other labels, rows or features is another one.
    """
    made = run.record["cache"]
    if made["fingerprint"] != cache.fingerprint:
        raise EmbedcalError(
            f"expected a run over {cache.meta.path.name}, found {run.id}, which is over "
            f"{printable(str(made.get('path')), longest=300)}: name that with --cache"
        )


def run_id(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits of the SHA-256 of everything that decides a result."""
    return hashlib.sha256(_canonical(identity).encode()).hexdigest()[:12]


def store(
    folder: Path,
    record: Mapping[str, Any],
    heads: Mapping[str, Head],
    logits: Mapping[str, Tensor],
    cells: Mapping[Split, Strata],
) -> Run:
    """Write a run whole, then its line.

    ``heads`` by rule, ``logits`` by rule and split, ``cells`` the labels of each split. Rules that
    keep one head share one file, by hard links where the file system has them.
    """
    with room(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            _write_heads(part, heads, record["selection"])
            _write_predictions(part / PREDICTIONS, logits, cells)
            _write_json(part / "run.json", record)
            part.chmod(0o755)  # mkdtemp's folders are private; a run's is as any other
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        append(folder.parent, record)
    return Run(folder=folder, record=record)


class NoRoomError(EmbedcalError):
    """The disk is full, or may not be written to: nothing can go on there."""


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises inside the block into one line."""
    try:
        yield
    except Exception as error:
        # safetensors tells it in words only
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else told and int(told[1])
        if number not in FULL:
            raise
        raise NoRoomError(
            f"expected room for runs in {folder}, found: {os.strerror(number)}: make room, and "
            "give the same command again; what was finished is kept"
        ) from error


def _write_heads(part: Path, heads: Mapping[str, Head], selection: str) -> None:
    from embedcal.heads import save_head

    (part / "rules").mkdir()
    written: dict[int, Path] = {}
    for rule, head in heads.items():
        path = part / "rules" / f"{rule}.safetensors"
        if id(head) in written:
            _link(written[id(head)], path)
        else:
            save_head(head, path)
            written[id(head)] = path
    _link(part / "rules" / f"{selection}.safetensors", part / "head.safetensors")


def _link(there: Path, path: Path) -> None:
    try:
        path.hardlink_to(there)
    except OSError:  # a file system without hard links
        shutil.copyfile(there, path)


def _write_predictions(
    path: Path, logits: Mapping[str, Tensor], cells: Mapping[Split, Strata]
) -> None:
    from safetensors.torch import save_file
    from torch import from_numpy

    counts = cells["test"].train_group_counts
    known = {
        "n_classes": cells["test"].n_classes,
        "n_attributes": {split: found.n_attributes for split, found in cells.items()},
        "train_group_counts": None if counts is None else counts.tolist(),
    }
    tensors = {name: value.contiguous() for name, value in logits.items()}
    tensors |= {
        f"cell/{split}": from_numpy(found.cell.astype(np.int32)) for split, found in cells.items()
    }
    save_file(tensors, path, metadata={"strata": json.dumps(known)})


def reselect(run: Run, record: Mapping[str, Any]) -> Run:
    """Make another rule the run's own; nothing is trained again.

    A full disk leaves the run as it was: what takes room comes before what shows.
    """
    part = run.folder / "head.part"
    with room(run.folder.parent):
        try:
            part.unlink(missing_ok=True)
            _link(run.folder / "rules" / f"{record['selection']}.safetensors", part)
            _write_json(run.folder / "run.json", record)
            part.replace(run.folder / "head.safetensors")
        finally:
            part.unlink(missing_ok=True)
        append(run.folder.parent, record)
    return Run(folder=run.folder, record=record, reused=True)


def load_run(folder: Path) -> Run | None:
    """The run in a folder, or None where there is no whole one."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EmbedcalError(
            f"expected a run in {folder}, found an unreadable run.json ({error}): delete the folder"
        ) from None
    return Run(folder=folder, record=record)


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to ``results.jsonl`` by a single write, so that lines never interleave.

    The curve stays in ``run.json``. A line that a killed process left torn is ended first, so
    that it spoils no other.
    """
    line = json.dumps({k: v for k, v in record.items() if k != "curve"}, allow_nan=False) + "\n"
    file = os.open(folder / RESULTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        if size:
            os.lseek(file, size - 1, os.SEEK_SET)
            line = line if os.read(file, 1) == b"\n" else "\n" + line
        whole = line.encode()
        if os.write(file, whole) < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / RESULTS))
    finally:
        os.close(file)


def listed(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a whole line of a folder says of a run what its record does: done, or failed.

    Whoever was killed between the folder and its line has left no line. Reads bytes, since only
    lines of the run's id are parsed.
    """
    try:
        lines = (folder / RESULTS).read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EmbedcalError(
            f"expected lines of results in {folder / RESULTS}, found {error.strerror}: move it away"
        ) from None
    name = json.dumps(record["id"]).encode()
    end = len(lines)
    while (at := lines.rfind(name, 0, end)) >= 0:
        end = lines.rfind(b"\n", 0, at) + 1
        try:
            found = json.loads(lines[end : lines.index(b"\n", at)])
            if found["id"] == record["id"]:
                return bool(found["status"] == record["status"])
        except (ValueError, KeyError, TypeError):  # torn, or damaged
            continue
    return False


@contextmanager
def claim(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process may do the run of ``folder``; nobody else may until the block ends.

    False where another process holds it and ``wait`` is not set. Whoever gets it looks first
    whether the run is there by now. A killed process holds nothing.
    """
    from filelock import FileLock, Timeout

    claims = folder.parent / CLAIMS
    lock = FileLock(claims / f"{folder.name}.lock", timeout=-1 if wait else 0)
    try:
        claims.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise EmbedcalError(
            f"expected to write into {folder.parent}, found: {error.strerror}: choose another "
            "folder with --out"
        ) from None
    try:
        yield True
        # What was claimed is done by now, so that a late claim on the vanished file does no harm.
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    """One line an entry: json indents in Python, which is slow, and encodes a whole value in C."""
    lines = (f"{json.dumps(key)}: {json.dumps(record[key], allow_nan=False)}" for key in record)
    part = path.with_name(path.name + ".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    part.replace(path)
