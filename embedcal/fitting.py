"""One run: resolve the options, train over the cache, select, evaluate, store."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal import __version__
from embedcal.cache import FeatureCache
from embedcal.datasets.places import data_dir
from embedcal.evaluate import RULES, Rule, as_dict, bootstrap, default_rule, evaluate_strata, rule
from embedcal.methods import find, labels_of
from embedcal.runs import Run, load_run, reselect, run_id, store
from embedcal.types import EmbedcalError, Level, Split, Task
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.methods.base import Method, Stage

REVISION = 1  # of this engine; raised when results change for equal options


def fit(
    method: str,
    cache: FeatureCache,
    *,
    seed: int = 0,
    select: str | None = None,
    attribute: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Run:
    """Fit one method over a cache and store the run.

    Args:
        method: a name (``erm``), or a file ``path.py`` that defines a method.
        cache: an open cache.
        seed: decides everything random, through one generator.
        select: a rule of ``embedcal.evaluate``; by default ``val.worst_group`` where attributes
            exist, else ``val.worst_class``. ``oracle.worst_group`` looks at the test split.
        attribute: the one that makes the groups; the product of the cache's by default.
        out: folder of runs; by default one of the cache's own under the user's data directory.
        device: where the head is trained; ``auto`` is the accelerator where there is one.
        options: the method's own, ``variant`` among them.

    Returns:
        The run. One that was finished before is not done again; another rule is applied to what
        it kept.

    Raises:
        EmbedcalError: for an unknown method or option, or when the cache lacks what is needed.
    """
    on = Workbench(cache, attribute)
    return fit_on(on, method, options, seed=seed, select=select, out=out, device=device)


def fit_on(
    on: Workbench,
    method: str,
    options: Mapping[str, Any],
    *,
    seed: int = 0,
    select: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """:func:`fit` over a workbench that several runs share."""
    chosen = configure(method, options).resolve(on.offer)
    wanted = rule(select) if select else default_rule(bool(on.attributes))
    if not isinstance(seed, int) or seed < 0:
        raise EmbedcalError(f"expected a seed of 0 or more, found {seed}")
    runs = Path(out) if out is not None else data_dir() / "runs" / on.cache.meta.path.stem
    place = Place(on=on, seed=seed, runs=runs, device=device)
    done = place.finished(chosen, wanted)
    return _again(done, chosen, wanted, on) if done else _run(chosen, wanted, place)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run happens: over which data, from which seed, into which folder, on which device."""

    on: Workbench
    seed: int
    runs: Path
    device: str

    def finished(self, method: Method, wanted: Rule) -> Run | None:
        """The run of these options if it is there and kept a head for the rule."""
        _check_rule(wanted, self.on)
        done = load_run(self.folder(method))
        return done if done and _selection(method, wanted) in done.record["epochs"] else None

    def folder(self, method: Method) -> Path:
        return self.runs / self.id(method)

    def id(self, method: Method) -> str:
        """A hash of everything that decides a result; the selection rule is no part of it."""
        identity = {
            "cache": self.on.cache.fingerprint,
            "attributes": list(self.on.attributes),
            "method": method.name,
            "source": method.source,
            "variant": method.variant,
            "head": method.head_name,
            "options": method.record(),
            "seed": self.seed,
            "revision": [method.revision, REVISION],
        }
        if method.stage is not None:
            identity["stage"] = [self.id(self.first(method.stage)), method.stage.select]
        return run_id(identity)

    def first(self, stage: Stage) -> Method:
        return configure(stage.method, stage.options).resolve(self.on.offer)


def task_of(method: Method, place: Place) -> Task:
    """The task as the method may see it, with its stage run done, or found done, beforehand."""
    task = place.on.task(method)
    stage = method.stage
    if stage is None:
        return task
    from embedcal.features import features
    from embedcal.heads import predict, torch_device
    from embedcal.methods.base import Staged

    first, wanted = place.first(stage), rule(stage.select)
    if wanted.oracle:
        raise EmbedcalError(
            f"expected a rule on validation for the first run of {method.name}, found "
            f"'{wanted.name}', which looks at test: choose val.mean or last"
        )
    done = place.finished(first, wanted) or _run(first, wanted, place)
    device = torch_device(place.device)
    head = done.head(_selection(first, wanted)).to(device)
    x = place.on.split("train", first.level).x[place.on.seen(method)]
    logits = predict(head, features(x, device))
    return replace(task, stage=Staged(head=head, logits=logits.cpu()))


def _check_rule(wanted: Rule, on: Workbench) -> None:
    if not on.attributes and any(need.endswith(".g") for need in wanted.needs):
        raise EmbedcalError(
            f"expected attribute labels for the rule '{wanted.name}', found none in "
            f"{on.cache.meta.path.name}: choose val.worst_class, val.mean or last"
        )


def configure(name: str, options: Mapping[str, Any]) -> Method:
    """A method with options by name; an unknown option is an error with the nearest names."""
    from embedcal.methods.base import options as options_of

    cls = find(name)
    known = [item.name for item in options_of(cls)]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
            raise EmbedcalError(f"expected an option of {cls.name}, found '{key}': {hint}")
    return cls(**options)


def _run(method: Method, wanted: Rule, place: Place) -> Run:
    from embedcal.heads import torch_device
    from embedcal.keep import Keeper, Kept, logits_of, rules_for
    from embedcal.methods.base import Gradient, Solver
    from embedcal.train import train

    on, seed, folder = place.on, place.seed, place.folder(method)
    device = torch_device(place.device)
    task = task_of(method, place)
    start = time.perf_counter()
    if isinstance(method, Solver):
        best = {method.selection: Kept(epoch=0, score=0.0, head=method.solve(task, seed))}
        curve = []
    else:
        assert isinstance(method, Gradient)
        keeper = Keeper(on, method.level, rules_for(on, RULES, wanted), device)
        train(method, task, seed=seed, watch=keeper, device=device)
        best, curve = keeper.best, keeper.curve
    logits = logits_of(best, on, method.level)
    meta = on.cache.meta
    record = {
        "id": folder.name,
        "method": method.name,
        "variant": method.variant,
        "head": method.head_name,
        "options": method.record(),
        "seed": seed,
        "engine": "sequential",
        "device": device,
        "cache": {
            "path": str(meta.path),
            "fingerprint": on.cache.fingerprint,
            "dataset": meta.dataset,
            "backbone": meta.backbone,
            "rows": meta.rows,
        },
        "attributes": list(on.attributes),
        "stage": place.id(place.first(method.stage)) if method.stage else None,
        "epochs": {name: kept.epoch for name, kept in best.items()},
        "curve": curve,
        "seconds": round(time.perf_counter() - start, 4),
        "embedcal": __version__,
    }
    heads = {name: kept.head for name, kept in best.items()}
    return store(folder, {**record, **_selected(method, wanted, logits, on)}, heads, logits)


def _again(done: Run, method: Method, wanted: Rule, on: Workbench) -> Run:
    """A finished run under the rule that is asked for now; nothing is trained."""
    selection = _selection(method, wanted)
    if done.record["selection"] == selection:
        return Run(folder=done.folder, record=done.record, reused=True)
    logits = done.all_predictions()
    return reselect(done, {**done.record, **_selected(method, wanted, logits, on)})


def _selection(method: Method, wanted: Rule) -> str:
    """The rule that a run stands under; a solver has its own, however it was asked for."""
    from embedcal.methods.base import Solver

    return method.selection if isinstance(method, Solver) else wanted.name


def _selected(
    method: Method, wanted: Rule, logits: Mapping[str, Tensor], on: Workbench
) -> dict[str, Any]:
    """What of a record depends on the selection rule: labels used, metrics, whether it peeks."""
    from embedcal.methods.base import Solver

    solver = isinstance(method, Solver)
    selection = _selection(method, wanted)
    used = labels_of(method) if solver else labels_of(method) | wanted.needs
    measured: dict[str, Any] = {
        split: _metrics(logits[f"{selection}/{split}"], on, split, method.level)
        for split in ("val", "test")
    }
    measured["val"]["in_sample"] = isinstance(method, Solver) and method.fits_val
    return {
        "selection": selection,
        "oracle": not solver and wanted.oracle,
        "labels_used": sorted(need for need in used if need.endswith((".y", ".g", ".a"))),
        **measured,
    }


def _metrics(logits: Tensor, on: Workbench, split: Split, level: Level) -> dict[str, Any]:
    """Every metric of one split with its intervals, in the names of results."""
    cells = on.strata(split, level)
    found = logits.numpy()
    correct = found.argmax(1) == cells.y
    return as_dict(evaluate_strata(found, cells), bootstrap(correct[None], cells))
