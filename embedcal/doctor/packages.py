"""Packages: what embedcal needs, held to its bounds by importing it; extras, looked up only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Literal

State = Literal["ok", "missing", "broken", "old"]
IMPORTED = {  # by the names that metadata has, in which _ is -
    "faiss-cpu": "faiss",
    "faiss-gpu": "faiss",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}
INTERNAL = ("dev", "docs")  # extras of the people who write embedcal


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that embedcal cannot do without. ``note`` says what is wrong, or adds a fact."""

    name: str
    version: str | None
    state: State
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An optional part: the packages of it that are ``missing``, and the line that gets them."""

    name: str
    missing: tuple[str, ...]
    pip: str


def required() -> tuple[Package, ...]:
    """Every package that embedcal's own metadata asks for, imported."""
    return tuple(_package(need) for need in _needs() if _applies(need, ""))


def extras() -> tuple[Extra, ...]:
    """Every optional part, in alphabetical order."""
    found = []
    for name in sorted(metadata.metadata("embedcal").get_all("Provides-Extra") or ()):
        if name not in INTERNAL:
            own = [n for n in _needs() if not _applies(n, "") and _applies(n, name)]
            missing = tuple(n.name for n in own if _version(n.name) is None)
            found.append(Extra(name=name, missing=missing, pip=f"pip install 'embedcal[{name}]'"))
    return tuple(found)


def _needs() -> Iterable[Any]:
    from packaging.requirements import Requirement

    return [Requirement(line) for line in metadata.requires("embedcal") or ()]


def _applies(need: Any, extra: str) -> bool:
    return need.marker is None or bool(need.marker.evaluate({"extra": extra}))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(need: Any) -> Package:
    """Imported rather than looked up: a package of another build of torch's is there, and fails."""
    name = need.name.replace("_", "-").lower()
    module = IMPORTED.get(name, name.replace("-", "_"))
    version = _version(need.name)
    try:
        there = import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return Package(name=need.name, version=None, state="missing", note="not installed")
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Package(name=need.name, version=version, state="broken", note=said[:200])
    if version is not None and not need.specifier.contains(version, prereleases=True):
        wanted = f"expected {need.specifier}"
        return Package(name=need.name, version=version, state="old", note=wanted)
    version = version or str(getattr(there, "__version__", "")) or None
    return Package(name=need.name, version=version, state="ok", note=_fact(module, there))


def _fact(module: str, there: Any) -> str:
    if module == "h5py":
        return f"HDF5 {there.version.hdf5_version}"
    if module == "faiss":
        devices = there.get_num_gpus() if hasattr(there, "StandardGpuResources") else None
        return "no GPU build" if devices is None else f"GPU build, {devices} GPUs seen"
    if module == "torch":
        return f"CUDA {there.version.cuda}" if there.version.cuda else "no CUDA build"
    return ""
