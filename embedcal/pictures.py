"""The image files behind a cache: where they lie, and that they are still those that were cached.

A cache knows paths below a root but not the root, since its identity is content. So a folder is
told, or found: any folder will do in which the file of a row has the SHA-256 that the cache holds.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.cache.cropping import Prepare, cropping
from embedcal.cache.digests import digest_table, read_regular
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError, IntArray

if TYPE_CHECKING:
    from PIL.Image import Image

RGB = "RGB"


@dataclass(frozen=True)
class Pictures:
    """The images of a cache's rows. ``root`` is their folder; ``find`` knows how to find it."""

    cache: FeatureCache
    root: Path

    def file(self, row: int) -> Path:
        return self.root / self.cache.samples.paths[row]

    def read(self, row: int) -> bytes:
        """The bytes of a row's file; EmbedcalError if they are not those that were cached."""
        file = self.file(row)
        try:
            data = read_regular(file)
        except (OSError, ValueError) as error:
            raise _absent(self.cache, file, getattr(error, "strerror", None)) from None
        if hashlib.sha256(data).digest() != self._digests[row].tobytes():
            raise EmbedcalError(
                f"expected the bytes that {self.cache.meta.path.name} was made from in "
                f"{printable(str(file), longest=300)}, found others: restore the file, name "
                "another folder with --root, or cache again"
            )
        return data

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint8]:
        return self.cache.meta.ingredients.rows

    def pixels(self, rows: IntArray, prepare: Prepare) -> npt.NDArray[np.uint8]:
        """What the encoder saw of some rows (n, H, W, 3): ``prepare`` after the cache's crop."""
        from embedcal.encoders.decode import UnreadableImageError, decode

        whole = cropping(prepare, self.cache.meta.preprocessing.get("center_crop"))
        found = []
        for row in map(int, rows):
            try:
                found.append(decode(self.read(row), whole))
            except UnreadableImageError as error:
                raise EmbedcalError(
                    f"expected an image that can be read in {self.file(row)}, found {error.reason}:"
                    " choose other rows"
                ) from None
        return np.stack(found)

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of a row's file; EmbedcalError if it is not what was cached."""
        from PIL import Image

        data = self.read(row)
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.width, image.height
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise _absent(self.cache, self.file(row), str(error)) from None


def preparation(cache: FeatureCache) -> Prepare:
    """How the cache's encoder cuts and resizes a picture, without the encoder: open_clip's steps.

    Raises EmbedcalError for the preprocessing of an encoder that is not open_clip's.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    given = dict(cache.meta.preprocessing)
    given.pop("center_crop", None)
    if given.pop("decoder", None) != "pillow":
        raise EmbedcalError(
            f"expected an encoder that prepares images as open_clip does, found "
            f"{cache.meta.backbone}: cache with a CLIP of open_clip's"
        )
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms[:-2]

    def prepare(image: Image) -> npt.NDArray[np.uint8]:
        picture: Any = image
        for step in steps:  # all but ToTensor and Normalize
            picture = step(picture)
        return np.array(picture.convert(RGB), dtype=np.uint8)

    return prepare


def find(cache: FeatureCache, row: int, root: str | Path | None = None) -> Pictures:
    """The folder in which the file of ``row`` has the digest that the cache holds.

    ``root`` is tried alone where it is given. Otherwise the folder is the one from which the very
    same bytes were cached on this machine, or that of a data set which embedcal draws itself.
    Raises EmbedcalError in one line where there is none.
    """
    if root is not None:
        pictures = Pictures(cache, Path(root).expanduser())
        pictures.read(row)
        return pictures
    for folder in (*_hashed(cache, row), *_made(cache)):
        pictures = Pictures(cache, folder)
        try:
            pictures.read(row)
        except EmbedcalError:
            continue
        return pictures
    raise EmbedcalError(
        f"expected the images of {cache.meta.path.name} on this machine, found no folder with "
        f"{printable(cache.samples.paths[row], longest=300)} as it was cached: name it with --root"
    )


def _absent(cache: FeatureCache, file: Path, why: str | None) -> EmbedcalError:
    reason = f" ({printable(why, longest=200)})" if why else ""
    return EmbedcalError(
        f"expected the images of {cache.meta.path.name}, found no file that can be read at "
        f"{printable(str(file), longest=300)}{reason}: name their folder with --root"
    )


def _hashed(cache: FeatureCache, row: int) -> Iterator[Path]:
    """Folders from which a file with the row's digest and path was hashed before."""
    table, relative = digest_table(), PurePath(cache.samples.paths[row]).parts
    digest = cache.meta.ingredients.rows[row].tobytes()
    if not table.is_file():
        return
    try:
        with closing(sqlite3.connect(table)) as connection:
            query = "SELECT path FROM digests WHERE sha256 = ?"
            found = [Path(raw.decode()) for (raw,) in connection.execute(query, (digest,))]
    except (sqlite3.Error, UnicodeDecodeError, AttributeError):
        return
    for file in found:
        if file.parts[-len(relative) :] == relative:
            yield Path(*file.parts[: -len(relative)])


def _made(cache: FeatureCache) -> Iterator[Path]:
    """Folders of data sets that are drawn at first use: ``birds/rows-600-seed-77``."""
    home = data_dir() / PurePath(cache.meta.dataset).name
    if home.is_dir():
        yield from sorted(path for path in home.iterdir() if path.is_dir())
