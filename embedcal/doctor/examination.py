"""All that doctor finds, as one value, and what of it keeps embedcal from working."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedcal.doctor.machine import Machine, machine
from embedcal.doctor.packages import Extra, Package, extras, required
from embedcal.doctor.places import Place, hub, places
from embedcal.doctor.speed import Speed, Step, measure


@dataclass(frozen=True, kw_only=True)
class Examination:
    """``speed`` is None where it was not asked for; ``hub`` what is set about the network."""

    embedcal: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    machine: Machine
    places: tuple[Place, ...]
    hub: Mapping[str, str] = field(default_factory=dict)
    speed: Speed | None = None
    note: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What has to be mended before embedcal works, one sentence each."""
        found = [
            f"{package.name} is {package.state} ({package.note}): {_mend(package)}"
            for package in self.packages
            if package.state != "ok"
        ]
        for place in self.places:
            if place.writable is False:
                found.append(
                    f"{place.path} cannot be written to ({place.note}): set EMBEDCAL_HOME to a "
                    "folder that can"
                )
            elif place.locks is False:
                found.append(
                    f"locks do not hold in {place.path}, so two commands could spoil one file: set "
                    "EMBEDCAL_HOME to a folder on a disk of this machine"
                )
        return tuple(found)

    @property
    def advice(self) -> tuple[str, ...]:
        """What could be better, one sentence each; empty where nothing stands out."""
        from embedcal.doctor.advice import advise

        return advise(self)


def _mend(package: Package) -> str:
    if package.name in ("torch", "torchvision"):
        return "install torch and torchvision together, of one build"
    return f"pip install --upgrade {package.name}"


def examine(*, speed: bool = True, step: Step = lambda done, of: None) -> Examination:
    """Look at packages, machine, folders, and with ``speed`` measure for ten seconds at most.

    Nothing that is missing raises; ``problems`` and ``advice`` say it. ``step`` is called as the
    measurements go on.
    """
    from embedcal import __version__
    from embedcal.datasets.places import data_dir

    note = ""
    needed: tuple[Package, ...] = ()
    optional: tuple[Extra, ...] = ()
    try:
        needed, optional = required(), extras()
    except Exception as error:  # no metadata: a checkout on the path; or packaging is not there
        note = f"packages are not known: {type(error).__name__}: {error}"
    return Examination(
        embedcal=__version__,
        packages=needed,
        extras=optional,
        machine=machine(),
        places=places(),
        hub=hub(),
        speed=measure(data_dir(), step=step) if speed else None,
        note=note,
    )
