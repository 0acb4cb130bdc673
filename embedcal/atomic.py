"""A file, or a folder, that appears whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic(
    out: Path,
    *,
    folder: bool = False,
    parents: bool = False,
    otherwise: str = "name another place",
) -> Iterator[Path]:
    """Where to write what becomes ``out`` when the block ends without an error.

    A file that is there is replaced; a ``folder`` only where it is empty. ``parents``: the folders
    above are made. EmbedcalError where it cannot be written, which says to do ``otherwise``.
    """
    from safetensors import SafetensorError

    shown = printable(str(out), longest=300)
    holder: Path | None = None
    try:
        if out.is_dir() and (not folder or any(out.iterdir())):
            what = "an empty folder or none" if folder else "a file or none"
            raise EmbedcalError(
                f"expected {what} at {shown}, found a folder: remove it, or {otherwise}"
            )
        if parents:
            out.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
        part = holder / out.name
        if folder:
            part.mkdir()
        yield part
        part.replace(out)
    except (OSError, SafetensorError) as error:
        told = getattr(error, "strerror", None) or " ".join(str(error).split())
        room = "make room there, or " if getattr(error, "errno", None) in FULL else ""
        raise EmbedcalError(
            f"expected to write {shown}, found: {printable(told, longest=200)}: {room}{otherwise}"
        ) from None
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)
