"""embedcal: cache a frozen CLIP once, calibrate it in seconds.

>>> import embedcal
>>> report = embedcal.cache("birds", backbone="tiny")      # doctest: +SKIP
>>> with embedcal.open(report.path) as cache:              # doctest: +SKIP
...     run = embedcal.fit("dfr", cache, seed=0)
>>> run.test["worst_group"]                                # doctest: +SKIP

Names are loaded when first used, so that ``import embedcal`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from embedcal.cache import BuildOptions as BuildOptions
    from embedcal.cache import BuildReport as BuildReport
    from embedcal.cache import FeatureCache as FeatureCache
    from embedcal.cache import import_features as import_features
    from embedcal.cache import open_cache
    from embedcal.cache.sharding import verify_any
    from embedcal.caching import cache as cache
    from embedcal.checking import check as check
    from embedcal.comparing import compare as compare
    from embedcal.comparing import sensitivity as sensitivity
    from embedcal.datasets import ReadOptions as ReadOptions
    from embedcal.datasets import read_manifest as read_manifest
    from embedcal.detecting import detect as detect
    from embedcal.encoders.load import load_encoder as load_encoder
    from embedcal.errors import EmbedcalError as EmbedcalError
    from embedcal.evaluate import evaluate_labels
    from embedcal.explaining import aiou as aiou
    from embedcal.explaining import explain as explain
    from embedcal.exporting import export as export
    from embedcal.fitting import fit as fit
    from embedcal.framing import results as results
    from embedcal.grids import Setting as Setting
    from embedcal.grids import grid as grid
    from embedcal.grids import merge as merge
    from embedcal.interchange import export_features as export_features
    from embedcal.interchange import import_from as import_from
    from embedcal.leading import leaderboard as leaderboard
    from embedcal.obtaining import obtain as obtain
    from embedcal.predicting import calibrate as calibrate
    from embedcal.predicting import predict as predict
    from embedcal.repairing import repair as repair
    from embedcal.reporting import report as report
    from embedcal.reproducing.running import reproduce as reproduce
    from embedcal.runs import Run as Run
    from embedcal.studies import study as study
    from embedcal.tracking import track as track

    # Under another name an import would be private to a type checker.
    evaluate, open, verify = evaluate_labels, open_cache, verify_any

# Public name -> (module, name there).
_HOMES = {
    "BuildOptions": ("embedcal.cache", "BuildOptions"),
    "BuildReport": ("embedcal.cache", "BuildReport"),
    "EmbedcalError": ("embedcal.errors", "EmbedcalError"),
    "FeatureCache": ("embedcal.cache", "FeatureCache"),
    "ReadOptions": ("embedcal.datasets", "ReadOptions"),
    "Run": ("embedcal.runs", "Run"),
    "Setting": ("embedcal.grids", "Setting"),
    "aiou": ("embedcal.explaining", "aiou"),
    "cache": ("embedcal", "cache"),
    "calibrate": ("embedcal.predicting", "calibrate"),
    "check": ("embedcal.checking", "check"),
    "compare": ("embedcal.comparing", "compare"),
    "detect": ("embedcal.detecting", "detect"),
    "evaluate": ("embedcal", "evaluate"),
    "explain": ("embedcal.explaining", "explain"),
    "export": ("embedcal.exporting", "export"),
    "export_features": ("embedcal.interchange", "export_features"),
    "fit": ("embedcal.fitting", "fit"),
    "grid": ("embedcal.grids", "grid"),
    "import_features": ("embedcal.cache", "import_features"),
    "import_from": ("embedcal.interchange", "import_from"),
    "leaderboard": ("embedcal.leading", "leaderboard"),
    "load_encoder": ("embedcal.encoders.load", "load_encoder"),
    "merge": ("embedcal.grids", "merge"),
    "obtain": ("embedcal.obtaining", "obtain"),
    "open": ("embedcal.cache", "open_cache"),
    "predict": ("embedcal.predicting", "predict"),
    "read_manifest": ("embedcal.datasets", "read_manifest"),
    "repair": ("embedcal.repairing", "repair"),
    "report": ("embedcal.reporting", "report"),
    "reproduce": ("embedcal.reproducing.running", "reproduce"),
    "results": ("embedcal.framing", "results"),
    "sensitivity": ("embedcal.comparing", "sensitivity"),
    "study": ("embedcal.studies", "study"),
    "track": ("embedcal.tracking", "track"),
    "verify": ("embedcal.cache.sharding", "verify_any"),
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, there = _HOMES[name]
    if home == __name__:  # a package that can be called: see embedcal/cache/__init__.py
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(home), there)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
