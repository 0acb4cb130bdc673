"""Encoders that others bring: a named file, or an installed package's entry point.

A plug-in is a class or function without required arguments that gives an ``Encoder``. If it
takes ``device`` or ``precision`` it is handed them. Code in a file runs only when that file is
named in the very call.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.encoders.base import Encoder, EncoderMeta
from embedcal.types import LEVELS, EmbedcalError, FloatArray, Level, Projection

if TYPE_CHECKING:
    from PIL.Image import Image

GROUP = "embedcal.encoders"


class PlugIn:
    """A foreign encoder whose every answer is checked against its own ``meta``."""

    def __init__(self, encoder: Encoder, source: str, sha256: str) -> None:
        self._encoder = encoder
        self._source = source
        given = encoder.meta
        self.meta: EncoderMeta = replace(given, weights_sha256=given.weights_sha256 or sha256)

    def prepare(self, image: Image) -> npt.NDArray[np.uint8]:
        """The plug-in's pixels; an error unless they are (h, w, 3) uint8."""
        pixels = self._encoder.prepare(image)
        found = _describe(pixels)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise EmbedcalError(
                f"expected prepare() of {self._source} to give an array (h, w, 3) of uint8, "
                f"found {found}: end it with np.asarray(image.convert('RGB'))"
            )
        return pixels

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        """The plug-in's features in float32; an error unless they have the declared shapes."""
        absent = [level for level in levels if level not in self.meta.shapes]
        if absent:
            raise EmbedcalError(
                f"expected levels among {', '.join(self.meta.shapes)} for {self._source}, found "
                f"{', '.join(absent)}: declare it in meta.shapes and give it in images()"
            )
        features = self._encoder.images(pixels, levels)
        wanted = {level: (len(pixels), *self.meta.shapes[level]) for level in levels}
        return self._checked("images", features, wanted)

    def text(self, prompts: Sequence[str]) -> Mapping[str, FloatArray]:
        """The plug-in's text features in float32; empty if it is image-only."""
        if not self.meta.has_text:
            return {}
        wanted = {k: (len(prompts), *shape) for k, shape in self.meta.text_shapes.items()}
        return self._checked("text", self._encoder.text(prompts), wanted)

    def projection(self) -> Projection | None:
        """The plug-in's projection, or None."""
        projection = self._encoder.projection()
        if projection is not None and not isinstance(projection, Projection):
            raise EmbedcalError(
                f"expected projection() of {self._source} to give embedcal.types.Projection or "
                f"None, found {type(projection).__name__}: return None where nothing is trainable"
            )
        return projection

    def _checked(
        self, what: str, features: Any, wanted: Mapping[Any, tuple[int, ...]]
    ) -> dict[Any, FloatArray]:
        if not isinstance(features, Mapping):
            raise EmbedcalError(
                f"expected {what}() of {self._source} to give a dictionary of arrays, found "
                f"{type(features).__name__}: return, say, {{'embedding': array}}"
            )
        for name, shape in wanted.items():
            found = features.get(name)
            if not isinstance(found, np.ndarray) or found.shape != shape:
                raise EmbedcalError(
                    f"expected {what}()['{name}'] of {self._source} to be an array {shape} as "
                    f"its meta declares, found {_describe(found)}: correct one of the two"
                )
        return {name: np.asarray(features[name], dtype=np.float32) for name in wanted}


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return "nothing" if value is None else type(value).__name__


def is_file(backbone: str) -> bool:
    """Whether a backbone is spelled ``path/to/file.py:Name``."""
    return backbone.endswith(".py") or backbone.rpartition(":")[0].endswith(".py")


def from_file(backbone: str, offers: Mapping[str, str]) -> Encoder:
    """Run the named file and make the encoder that it defines under the given name."""
    path_text, _, name = backbone.rpartition(":")
    path = Path(path_text).expanduser()
    if not path_text or not name:
        raise EmbedcalError(
            f"expected path/to/file.py:Name, found '{backbone}': add a colon and the name of the "
            "encoder's class"
        )
    if not path.is_file():
        raise EmbedcalError(f"expected a Python file at {path}, found none: check --backbone")
    source = path.read_bytes()
    sha256 = hashlib.sha256(source).hexdigest()
    module_name = f"embedcal_plugin_{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[module_name]
        raise EmbedcalError(
            f"expected {path} to run, found {type(error).__name__}: {_line(error)}: mend the file"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [k for k, v in vars(module).items() if getattr(v, "__module__", "") == module_name]
        raise EmbedcalError(
            f"expected a class or function '{name}' in {path}, found "
            f"{', '.join(own) or 'none'}: name one of those"
        )
    return _make(factory, backbone, sha256, offers)


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The encoders of installed packages by name; none of their code is run."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def from_entry_point(name: str, offers: Mapping[str, str]) -> Encoder:
    """Load an installed encoder; without a digest of its own, its package's version identifies."""
    point = installed()[name]
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "?"
    identity = hashlib.sha256(f"{package}\0{point.value}".encode()).hexdigest()
    try:
        factory = point.load()
    except Exception as error:
        raise EmbedcalError(
            f"expected the encoder '{name}' of {package} to load, found {type(error).__name__}: "
            f"{_line(error)}: mend or reinstall that package"
        ) from error
    return _make(factory, f"{name} ({package})", identity, offers)


def _make(
    factory: Callable[..., Any], source: str, sha256: str, offers: Mapping[str, str]
) -> Encoder:
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        known = {}  # type: ignore[assignment]
    if offers.get("precision", "fp32") != "fp32" and "precision" not in known:
        raise EmbedcalError(
            f"expected precision fp32 for {source}, found {offers['precision']}: it takes no "
            "such argument"
        )
    try:
        encoder = factory(**{k: v for k, v in offers.items() if k in known})
    except EmbedcalError:
        raise
    except Exception as error:
        raise EmbedcalError(
            f"expected {source} to give an encoder when called without required arguments, found "
            f"{type(error).__name__}: {_line(error)}: mend it"
        ) from error
    _check(encoder, source)
    return PlugIn(encoder, source, sha256)


def _check(encoder: Any, source: str) -> None:
    lacking = [
        k for k in ("meta", "prepare", "images", "text", "projection") if not _has(encoder, k)
    ]
    if lacking:
        raise EmbedcalError(
            f"expected {source} to give an encoder with meta, prepare, images, text and "
            f"projection, found a {type(encoder).__name__} without {', '.join(lacking)}: write "
            "what it lacks, as embedcal.encoders.base.Encoder has it"
        )
    meta = encoder.meta
    if not isinstance(meta, EncoderMeta):
        raise EmbedcalError(
            f"expected {source} to have an embedcal.encoders.base.EncoderMeta as its meta, found "
            f"{type(meta).__name__}: set meta = EncoderMeta(...)"
        )
    bad = [k for k, v in meta.shapes.items() if k not in LEVELS or not _is_shape(v)]
    if not meta.shapes or bad:
        raise EmbedcalError(
            f"expected meta.shapes of {source} to map levels ({', '.join(LEVELS)}) to shapes of "
            f"one row, found {dict(meta.shapes)}: write, say, {{'embedding': (512,)}}"
        )
    if meta.has_text and "embedding" not in meta.text_shapes:
        raise EmbedcalError(
            f"expected meta.text_shapes of {source} to be empty (image only) or to have "
            f"'embedding', found {dict(meta.text_shapes)}: write, say, {{'embedding': (512,)}}"
        )


def _has(encoder: Any, name: str) -> bool:
    return hasattr(encoder, name) and (name == "meta" or callable(getattr(encoder, name)))


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(n, int) for n in value)


def _line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
