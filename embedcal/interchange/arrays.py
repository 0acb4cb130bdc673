"""Arrays in one file: NumPy's .npz and .npy, PyTorch's .pt, safetensors. Nothing unpickled."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from embedcal.cache.format import PAIRS
from embedcal.cache.importing import feature_parts
from embedcal.datasets.printable import printable
from embedcal.interchange.description import KEY, Description, read_description
from embedcal.interchange.imported import Found
from embedcal.interchange.labels import texts
from embedcal.interchange.sheet import taken_back
from embedcal.types import EmbedcalError, FloatArray, TextBank

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = ("features", "embedding")  # names looked for where none is given
IDS = ("id", "ids")
# What NumPy raises for files that are none of its own, torn, or made to harm.
BROKEN = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(BadZipFile, zlib.error),
)
TEXT = "text/"  # text/class/embedding is the bank "class", (prompts, templates, d)


def read_npz(path: Path, features: str | None) -> Found:
    """``numpy.savez`` of ``features`` (n, d), ``y``, ``split`` and attributes (n,)."""

    def load(name: str) -> Any:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[name]
        except BROKEN as error:
            raise unreadable("an .npz of plain arrays", path, error) from None

    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("a single array: call it .npy")
        with arrays:
            names = tuple(arrays.files)
    except BROKEN as error:
        raise unreadable("an .npz of plain arrays", path, error) from None
    described = read_description(str(load(KEY)), path) if KEY in names else Description()
    return from_names(path, names, load, features, described)


def read_npy(path: Path, features: str | None) -> Found:
    """``numpy.save`` of features (n, d), mapped; ids from ``ids.npy`` beside it.

    Their labels are in the table given, or in ``NAME.csv`` beside it. ``features`` says nothing
    here: there is one array.
    """
    from embedcal.datasets.table import read_csv

    ids, table = path.with_name("ids.npy"), path.with_suffix(".csv")
    return Found(
        source=path,
        parts=feature_parts(mapped(path)),
        ids=texts(mapped(ids), "ids", str(ids)) if ids.is_file() else (),
        table=taken_back(read_csv(table)) if table.is_file() else None,
    )


def mapped(path: Path) -> Any:
    """The array of an .npy as pages of its file."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN as error:
        raise unreadable("an .npy of plain numbers", path, error) from None


def read_torch(path: Path, features: str | None) -> Found:
    """``torch.save`` of one tensor (n, d), or of a dictionary of tensors by name.

    Loaded with ``weights_only=True`` and nothing else. Lists of texts (``id``, ``path``,
    ``classes``) and a dictionary ``values`` of such lists are taken too.
    """
    loaded = load_torch(path)
    if not isinstance(loaded, Mapping):
        return Found(source=path, parts=feature_parts(_array(loaded, "the file", path)))
    names = tuple(name for name in loaded if isinstance(name, str))
    described = _described(loaded, path)
    return from_names(
        path, names, lambda name: _array(loaded[name], name, path), features, described
    )


def _described(loaded: Mapping[Any, Any], path: Path) -> Description:
    """The names in a dictionary: lists of texts, since anything else would be taken apart."""
    classes, values = loaded.get("classes", ()), loaded.get("values", {})
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise EmbedcalError(
            f"expected 'values' of {printable(str(path), longest=300)} to map attributes to lists "
            f"of names, found {type(values).__name__}: save {{'place': ['land', 'water']}}"
        )
    for key, listed in (("classes", classes), *values.items()):
        if not isinstance(listed, list | tuple) or not all(isinstance(n, str) for n in listed):
            raise EmbedcalError(
                f"expected names of '{printable(key)}' in {printable(str(path), longest=300)} as a "
                f"list of texts, found {printable(repr(listed), longest=100)}: save a list, or "
                "call it something else"
            )
    return Description(classes=tuple(classes), values={k: tuple(v) for k, v in values.items()})


def load_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, as far as it is tensors, numbers, texts and containers of them."""
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign files; what matters is raised
            try:
                return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
            except RuntimeError:  # the form before PyTorch 1.6 cannot be mapped
                return torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise unreadable("tensors", path, error) from None
    except Exception as error:  # an unpickler that refuses may raise anything at all
        reason = (str(error).splitlines() or [""])[0].split(". ")[0] or type(error).__name__
        raise EmbedcalError(
            f"expected tensors only in {printable(str(path), longest=300)}, found what PyTorch "
            f"does not load with weights_only=True ({printable(reason)}): save the tensors "
            "themselves, or .safetensors"
        ) from None


def read_safetensors(path: Path, features: str | None) -> Found:
    """Tensors ``features`` (n, d), ``y``, ``split`` and attributes (n,), mapped.

    Texts (``id``, ``path``) are UTF-8 bytes, (n, length), with zeros behind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise unreadable("safetensors", path, error) from None
    described = read_description(metadata[KEY], path) if KEY in metadata else Description()
    return from_names(
        path, tuple(tensors), lambda name: _array(tensors[name], name, path), features, described
    )


def from_names(
    path: Path,
    names: tuple[str, ...],
    load: Callable[[str], Any],
    features: str | None,
    described: Description,
) -> Found:
    """What a file of named arrays holds; texts are read, all others only when asked for."""
    wanted = (features,) if features else FEATURES
    name = next((name for name in wanted if name in names), None)
    shown = printable(str(path), longest=300)
    if name is None:
        raise EmbedcalError(
            f"expected arrays {printable(wanted[0])}, y, split in {shown}, found "
            f"{printable(', '.join(names), longest=300) or 'none'}: name others with --features "
            "and --attribute"
        )

    def text(of: Iterable[str]) -> tuple[str, ...]:
        there = next((each for each in of if each in names), None)
        return texts(load(there), there, shown) if there else ()

    return Found(
        source=path,
        parts=feature_parts(np.asanyarray(load(name))),
        names=tuple(each for each in names if each not in (name, KEY)),
        load=load,
        ids=text(IDS),
        paths=text(("path", "paths")),
        description=described,
    )


def read_banks(
    found: Found, classes: tuple[str, ...], values: Mapping[str, tuple[str, ...]]
) -> tuple[TextBank, ...]:
    """The banks ``text/NAME/embedding`` (P, d) or (P, T, d) of a file.

    Prompts are those that the file records, else the class names (``class``), the value names
    of the first attribute (``attribute``), or numbers. The bank ``pairs`` has the pairs and roles
    that the file records.
    """
    recorded = found.description
    ordered = [f"{TEXT}{bank}/embedding" for bank in recorded.banks]
    there = [n for n in found.names if n.startswith(TEXT) and n.endswith("/embedding")]
    banks = []
    for name in dict.fromkeys([each for each in ordered if each in there] + there):
        bank = name.removeprefix(TEXT).removesuffix("/embedding")
        array: FloatArray = np.asarray(found.load(name))
        if array.ndim == 2:
            array = array[:, None]
        if array.ndim != 3 or array.dtype.kind != "f" or 0 in array.shape:
            raise EmbedcalError(
                f"expected text features (prompts, d) or (prompts, templates, d) in "
                f"'{printable(name)}' of {found.shown}, found shape {array.shape} of {array.dtype}"
                ": leave it out, or write it in that shape"
            )
        first = next(iter(values.values()), ())
        spoken = recorded.banks.get(bank) or {"class": classes, "attribute": first}.get(bank, ())
        p, t = array.shape[:2]
        texts_of = recorded.descriptions.get(bank, ())
        templates = recorded.templates if len(recorded.templates) == t else _unnamed(t)
        pairs = recorded.pairs if bank == PAIRS else ()
        if any(max(i, j) >= p for i, j, _ in pairs):
            raise EmbedcalError(
                f"expected pairs of the {p} prompts in '{printable(name)}' of {found.shown}, found "
                "one of a prompt beyond: export the features again"
            )
        banks.append(
            TextBank(
                name=bank,
                prompts=spoken if len(spoken) == p else tuple(map(str, range(p))),
                templates=() if texts_of else templates,
                embedding=array,
                descriptions=texts_of,
                pairs=pairs,
            )
        )
    return tuple(banks)


def _unnamed(templates: int) -> tuple[str, ...]:
    return ("{}",) if templates == 1 else tuple(f"template {t}: {{}}" for t in range(templates))


def _array(value: Any, name: str, path: Path) -> Any:
    """A tensor as an array over the same memory; a list as an array.

    What NumPy has no type for, bfloat16 and those of eight bits, becomes float32.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return _plain(value)
    if isinstance(value, list | tuple) and all(isinstance(each, str | int) for each in value):
        return np.array(value) if value else np.zeros(0, np.int64)
    raise EmbedcalError(
        f"expected a tensor as '{printable(name)}' of {printable(str(path), longest=300)}, found "
        f"{type(value).__name__}: save tensors (n, d) and (n,)"
    )


def _plain(tensor: Tensor) -> Any:
    import torch

    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    unknown = tensor.dtype == torch.bfloat16 or (tensor.is_floating_point() and tensor.itemsize < 2)
    return (tensor.float() if unknown else tensor).numpy()


def unreadable(what: str, path: Path, error: BaseException) -> EmbedcalError:
    """One line for a file that is not what its name says."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "pickle" in told:  # NumPy goes on to say how to load it all the same
        told = "pickled objects, or another kind of file"
    found = printable(" ".join(told.split()) or type(error).__name__, longest=200)
    return EmbedcalError(
        f"expected {what} at {printable(str(path), longest=300)}, found {found}: check the file"
    )
