"""What goes with a head wherever it goes: its classes, its encoder, and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedcal import __version__
from embedcal.cache import FeatureCache
from embedcal.encoders.again import CROP
from embedcal.exporting.portable import Portable
from embedcal.predicting.calibration import stored_temperature
from embedcal.types import TextBank

if TYPE_CHECKING:
    from embedcal.runs import Run

FORMAT = "embedcal-export 1"
KEY = "embedcal"  # of the metadata, whose value is JSON


def facts_of(run: Run, cache: FeatureCache, head: Portable) -> dict[str, Any]:
    """JSON-able facts about an exported head, which its scoring script reads as well.

    ``logit_scale`` is a natural logarithm, as CLIP stores it. ``prompts`` with ``templates``, or
    ``descriptions`` of each, are the texts of the classes. ``temperature`` is what calibrate stored
    beside the run, by which logits are divided before they become probabilities; 1 for none.
    """
    meta, record = cache.meta, run.record
    known: dict[str, Any] = {
        "format": FORMAT,
        "head": head.kind,
        "level": head.level,
        "options": dict(head.options),
        "formula": head.formula,
        "classes": list(meta.classes),
        **_texts(class_bank(run, cache)),
        "backbone": meta.backbone,
        "weights": meta.weights,
        "weights_sha256": meta.weights_sha256,
        "preprocessing": {k: v for k, v in meta.preprocessing.items() if k != CROP},
        "center_crop": meta.preprocessing.get(CROP),
        "temperature": stored_temperature(run) or 1.0,
        "run": run.id,
        "method": record["method"],
        "seed": record["seed"],
        "selection": record["selection"],
        "dataset": meta.dataset,
        "fingerprint": cache.fingerprint,
        "embedcal": __version__,
    }
    scale = head.tensors.get("logit_scale")
    known["logit_scale"] = cache.logit_scale if scale is None else float(scale)
    return known


def class_bank(run: Run, cache: FeatureCache) -> TextBank | None:
    """The texts of the classes, with as many templates as the run used; None without any."""
    if "class" not in cache.banks:
        return None
    templates = run.record["options"].get("templates", 0)
    return cache.text("class").first(templates if isinstance(templates, int) else 0)


def _texts(bank: TextBank | None) -> dict[str, Any]:
    if bank is None:
        return {}
    if bank.descriptions:
        listed = [list(texts) for texts in bank.descriptions]
        return {"prompts": list(bank.prompts), "descriptions": listed}
    return {"prompts": list(bank.prompts), "templates": list(bank.templates)}
