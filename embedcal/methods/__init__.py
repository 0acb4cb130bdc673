"""Methods: one method, one paper, one file. A dropped file is found; nothing else is edited."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedcal.errors import EmbedcalError, did_you_mean

if TYPE_CHECKING:
    from embedcal.methods.base import Method

ENTRY_POINTS = "embedcal.methods"


def names() -> list[str]:
    """Every method's name, from the files of this package and from installed packages.

    Nothing is imported for it: a method's file is its name with ``_`` for ``-``. A file whose name
    begins with ``_`` holds parts of methods.
    """
    from importlib.metadata import entry_points  # it costs a tenth of a second

    files = (module.name for module in pkgutil.iter_modules(__path__))
    own = [name.replace("_", "-") for name in files if name != "base" and name[0] != "_"]
    return sorted({*own, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def find(name: str) -> type[Method]:
    """The class of a method by its name, or the one that a file ``path.py`` defines.

    Raises EmbedcalError with the nearest names for anything else. A file runs only when it is
    named here.
    """
    from importlib.metadata import entry_points

    from embedcal.methods.base import REGISTRY

    if not isinstance(name, str):
        raise EmbedcalError(
            f"expected the name of a method, found {name!r:.60}: embedcal methods lists them"
        )
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name in REGISTRY:
        return REGISTRY[name]
    if name not in names():
        hint = did_you_mean(name, names(), f"choose {', '.join(names())}")
        raise EmbedcalError(f"expected the name of a method, found '{name}': {hint}")
    for point in entry_points(group=ENTRY_POINTS, name=name):
        point.load()
        break
    else:
        importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return REGISTRY[name]


def labels_of(method: Method) -> frozenset[str]:
    """Everything that a method reads, its stage and the stage's selection rule included."""
    from embedcal.evaluate import rule

    stage = method.stage
    if stage is None:
        return method.needs
    first = find(stage.method)(**stage.options)
    return method.needs | labels_of(first) | rule(stage.select).needs


def _from_file(path: Path) -> type[Method]:
    """The method that a file defines; a file that is refused leaves nothing in the registry."""
    from embedcal.methods.base import REGISTRY

    if not path.is_file():
        raise EmbedcalError(f"expected a method in a file, found no file at {path}: check the path")
    before = dict(REGISTRY)
    try:
        found = _defined_in(path)
    except EmbedcalError:
        REGISTRY.clear()
        REGISTRY.update(before)
        raise
    found.source = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _defined_in(path: Path) -> type[Method]:
    from embedcal.methods.base import REGISTRY

    before = dict(REGISTRY)
    spec = importlib.util.spec_from_file_location(f"embedcal_method_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise EmbedcalError(f"expected {path} to import, found {error!r}: mend the file") from error
    # Neither methods that the file imports, nor those of another file of the same name.
    made = [cls for cls in REGISTRY.values() if cls not in before.values()]
    new = [cls for cls in made if cls.__module__ == spec.name]
    if len(new) != 1:
        raise EmbedcalError(
            f"expected {path} to define one named method, found {len(new)}: give one class a name"
        )
    if new[0].name in names():
        raise EmbedcalError(
            f"expected a name of its own in {path}, found '{new[0].name}', which is taken: "
            "rename the method"
        )
    return new[0]
