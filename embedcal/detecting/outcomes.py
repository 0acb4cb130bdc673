"""What a run, or the prompts alone, answered on the images of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedcal.cache import FeatureCache
from embedcal.runs import Run, check_over
from embedcal.types import FloatArray, IntArray, Level, Split
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.heads import Head


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """``logits`` (n, C) on n ``rows`` of a cache, whose classes are ``y``; ``by`` says whose."""

    rows: IntArray
    y: IntArray
    logits: FloatArray
    by: str

    @property
    def predicted(self) -> IntArray:
        found: IntArray = self.logits.argmax(1)
        return found


def outcomes(cache: FeatureCache, run: Run | None, split: Split, device: str = "auto") -> Outcomes:
    """The answers of a run under its own rule, or of zero-shot CLIP with all templates.

    A run's logits on val and test are those that it kept; on train its head is applied.
    EmbedcalError for a run over another cache, and for a split that is none.
    """
    from embedcal.features import features
    from embedcal.heads import predict, torch_device
    from embedcal.methods.zeroshot import ZeroShot

    on = Workbench(cache)
    if run is None:
        zero = ZeroShot()
        head: Head = zero.solve(on.task(zero), 0)
        by = "zero-shot"
    else:
        check_over(run, cache)
        by = run.id
        if split != "train":
            found = on.split(split, _labelled(cache))
            logits = run.logits(run.record["selection"], split)
            assert len(logits) == len(found)
            return Outcomes(rows=found.rows, y=found.y, logits=logits, by=by)
        head = run.head()
    found = on.split(split, head.level)
    place = torch_device(device)
    answers = predict(head.to(place), features(found.x, place)).cpu().numpy()
    return Outcomes(rows=found.rows, y=found.y, logits=answers, by=by)


def _labelled(cache: FeatureCache) -> Level:
    return "embedding" if "embedding" in cache.meta.levels else "pooled"
