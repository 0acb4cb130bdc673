"""What an adapter has to do: say what it holds, and take a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from embedcal.tracking.mirrored import Mirrored


class Tracker(ABC):
    """A project in a tracker. An adapter is a class ``Adapter`` of this kind, in a file of its own.

    ``packages`` are what it imports, installed by the extra of the adapter's name; they are
    imported by their name at run time, so that neither embedcal nor its checks need them.
    ``where`` is what was written to, ``look`` the command that shows it.

    What is there is asked of the tracker itself, never remembered apart from it: whoever deletes
    a run there gets it again. A run is added whole or counts as not there.
    """

    packages: ClassVar[tuple[str, ...]]
    where: str
    look: str

    @abstractmethod
    def __init__(self, project: str, out: Path | None) -> None: ...

    @abstractmethod
    def holds(self, key: str) -> bool:
        """Whether a run of this key is there, whole."""

    @abstractmethod
    def add(self, run: Mirrored) -> None:
        """Write one run that is not there."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be added."""
