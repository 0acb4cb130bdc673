"""AIOU of a recipe's runs on test: worked out once for each head, then kept beside the runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedcal.comparing.recorded import Found
from embedcal.explaining.explanation import Sources, each_aiou
from embedcal.explaining.regions import Kind
from embedcal.runs import Run
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.evaluate import Overlap

FOLDER = "aiou"


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """How AIOU is worked out over one cache, and the ``folder`` of the runs where it is kept.

    ``root`` is the folder of the images, where their digests do not lead to it.
    """

    folder: Path
    region: Kind
    root: str | Path | None = None
    device: str = "auto"

    def of(self, runs: Sequence[Found], on: Workbench) -> tuple[list[dict[str, float]], str]:
        """``aiou`` and ``aiou_worst_group`` of the head that each run keeps, as fractions.

        Or none, and the reason: there are no masks or boxes, no files, or no Grad-CAM of the head.
        """
        try:
            return [self._kept(run, str(entry["rule"]), on) for run, entry in runs], ""
        except EmbedcalError as error:
            return [], str(error)

    def _kept(self, run: Run, rule: str, on: Workbench) -> dict[str, float]:
        path = self.folder / FOLDER / f"{run.id}-{rule}-{self.region}.json"
        found = _read(path)
        if found is None:
            overlap = self._measured(run, rule, on)
            found = {"aiou": overlap.mean}
            if overlap.worst_group is not None:
                found["aiou_worst_group"] = overlap.worst_group
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            part.write_text(json.dumps(found) + "\n")
            part.replace(path)
        return found

    def _measured(self, run: Run, rule: str, on: Workbench) -> Overlap:
        from embedcal.evaluate import overlap
        from embedcal.pictures import find

        root = self.root
        try:
            rows = on.split("test", "embedding").rows
            root = find(on.cache, int(rows[0])).root
        except EmbedcalError:
            if root is None:
                raise
        sources = Sources(root=root, region=self.region)
        return overlap(*each_aiou(run.head(rule), on, sources=sources, device=self.device))


def _read(path: Path) -> dict[str, float] | None:
    """What was kept; None where nothing was, or nothing that can be read."""
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
