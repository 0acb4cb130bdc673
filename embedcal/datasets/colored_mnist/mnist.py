"""MNIST as it lies on people's disks: which of its four files are there, and what they hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedcal.datasets.colored_mnist.idx import read_idx
from embedcal.datasets.made import Pixels
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError, IntArray

PARTS = ("train", "t10k")
SIDE = 28
# The folder itself; torchvision's; torchvision's as SubpopBench has it.
FOLDERS = (".", "MNIST/raw", "cmnist/MNIST/raw", "raw")


@dataclass(frozen=True, kw_only=True)
class Part:
    """``train`` or ``t10k``: images (n, 28, 28), digits (n,), a digest of both."""

    name: str
    images: Pixels
    digits: IntArray
    digest: str

    def __len__(self) -> int:
        return len(self.digits)


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """The parts that are there, at least one of them."""

    train: Part | None
    t10k: Part | None


def read_mnist(root: Path) -> Mnist:
    """Read what there is of MNIST in ``root`` or where torchvision lays it below.

    Files may be gzipped or not, and have a dot in place of the last dash but one
    (``train-images.idx3-ubyte``), as some copies do.

    Raises:
        EmbedcalError: no part is there, images without labels, a damaged file.
    """
    for folder in FOLDERS:
        parts = {name: _part(root / folder, name) for name in PARTS}
        if any(parts.values()):
            return Mnist(train=parts["train"], t10k=parts["t10k"])
    tried = ", ".join(FOLDERS)
    raise EmbedcalError(
        f"expected train-images-idx3-ubyte, with or without .gz, and its like in one of {tried} "
        f"under {printable(str(root), longest=300)}, found none: name the folder of MNIST's files "
        "with --root"
    )


def _part(folder: Path, name: str) -> Part | None:
    images_at = _file(folder, name, "images", axes=3)
    labels_at = _file(folder, name, "labels", axes=1)
    if images_at is None and labels_at is None:
        return None
    if images_at is None or labels_at is None:
        missing, axes = ("images", 3) if images_at is None else ("labels", 1)
        raise EmbedcalError(
            f"expected {name}-{missing}-idx{axes}-ubyte, with or without .gz, in "
            f"{printable(str(folder), longest=300)}, found none beside its partner: put it there"
        )
    images, labels = read_idx(images_at, axes=3), read_idx(labels_at, axes=1)
    shown = printable(str(images_at), longest=300)
    if len(images) != len(labels) or len(images) == 0:
        raise EmbedcalError(
            f"expected as many labels as images in {shown}, and some, found {len(labels):,} and "
            f"{len(images):,}: get both files again"
        )
    if images.shape[1:] != (SIDE, SIDE) or labels.max() > 9:
        raise EmbedcalError(
            f"expected images of {SIDE} x {SIDE} pixels and labels up to 9 in {shown} and its "
            f"labels, found {images.shape[1]} x {images.shape[2]} and {labels.max()}: these files "
            "are not MNIST's"
        )
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return Part(name=name, images=images, digits=labels.astype(np.int64), digest=digest)


def _file(folder: Path, name: str, what: str, *, axes: int) -> Path | None:
    stems = (f"{name}-{what}-idx{axes}-ubyte", f"{name}-{what}.idx{axes}-ubyte")
    names = (f"{stem}{end}" for stem in stems for end in ("", ".gz"))
    return next((folder / each for each in names if (folder / each).is_file()), None)
