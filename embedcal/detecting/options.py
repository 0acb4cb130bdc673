"""How attributes are looked for: what each detector may be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedcal.detecting.effects import MIN_DETECT
from embedcal.types import EmbedcalError

# Few, since every name goes through every one; fit for things, stuff and scenes alike.
TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a photo with {} in it.")
OWLVIT = "google/owlvit-base-patch32"
Progress = Callable[[int, int], None]  # done, of how many


def _silent(done: int, total: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """``min_detect``: images that a class must have with an attribute, and without it.

    For ``clip``: ``templates``; ``backbone`` and ``pretrained`` where the cache's own names do not
    find its encoder again (a plug-in from a file, weights from a file). For ``owlvit``: ``root``,
    the folder of the images; ``model``, a name on the Hugging Face hub or a folder; ``threshold``
    of a box's score; ``batch_size`` in images; ``load``, a function that loads a model, for tests
    and for models of one's own.
    """

    min_detect: int = MIN_DETECT
    templates: tuple[str, ...] = TEMPLATES
    backbone: str | None = None
    pretrained: str | None = None
    device: str = "auto"
    root: Path | None = None
    model: str = OWLVIT
    threshold: float = 0.1
    batch_size: int = 8
    load: Callable[..., Any] | None = None
    progress: Progress = field(default=_silent, repr=False)

    def __post_init__(self) -> None:
        if not self.templates or any(t.count("{}") != 1 for t in self.templates):
            raise EmbedcalError(
                f"expected templates with one {{}} each, found {list(self.templates)}: write them "
                f"as '{TEMPLATES[0]}', with the name for {{}}"
            )
        if not 0 < self.threshold < 1:
            raise EmbedcalError(
                f"expected a threshold between 0 and 1, found {self.threshold}: take 0.1, which is "
                "the default"
            )
        if self.batch_size < 1 or self.min_detect < 1:
            raise EmbedcalError(
                "expected 1 or more for the batch size and for min_detect, found "
                f"{self.batch_size} and {self.min_detect}: take 8 and {MIN_DETECT}"
            )
