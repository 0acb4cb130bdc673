"""One run: resolve the options, train over the cache, select, evaluate, store."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal import __version__
from embedcal.cache import FeatureCache
from embedcal.datasets.places import data_dir
from embedcal.evaluate import RULES, Rule, default_rule, rule
from embedcal.methods import find
from embedcal.records import JUDGED, Fitted, by_rule, chosen, identity, selection_of
from embedcal.runs import Run, claim, load_run, reselect, run_id, store
from embedcal.scored import log
from embedcal.types import EmbedcalError, Task
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.methods.base import Method, Stage

REVISION = 1  # of this engine; raised when results change for equal options


def fit(
    method: str,
    cache: FeatureCache,
    *,
    seed: int = 0,
    select: str | None = None,
    attribute: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Run:
    """Fit one method over a cache and store the run.

    Args:
        method: a name (``erm``), or a file ``path.py`` that defines a method.
        cache: an open cache.
        seed: decides everything random, through one generator.
        select: a rule of ``embedcal.evaluate``; by default ``val.worst_group`` where any row of
            val is in a group, else ``val.worst_class``. ``oracle.worst_group`` looks at test.
        attribute: the one that makes the groups, or several for the product of their values, in
            any order; all of the cache's by default. One that was annotated beside the cache is
            used if it is named.
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
    resolved = configure(method, options).resolve(on.offer)
    wanted = rule(select) if select else default_rule(on.has_groups("val"))
    if not isinstance(seed, int) or seed < 0:
        raise EmbedcalError(f"expected a seed of 0 or more, found {seed}")
    runs = Path(out) if out is not None else data_dir() / "runs" / on.cache.meta.path.stem
    place = Place(on=on, seed=seed, runs=runs, device=device)
    return run(resolved, wanted, place)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run happens: over which data, from which seed, into which folder, on which device."""

    on: Workbench
    seed: int
    runs: Path
    device: str
    engine: str = "sequential"

    def finished(self, method: Method, wanted: Rule) -> Run | None:
        """The run of these options if it is there and kept a head for the rule."""
        check_rule(wanted, self.on)
        done = load_run(self.folder(method))
        kept = done.record.get("rules", {}) if done else {}
        return done if selection_of(method, wanted) in kept else None

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
        if self.on.inferred:  # absent where labels are the cache's own, which its digest covers
            identity["inferred"] = self.on.inferred
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
    done = run(first, wanted, place)
    device = torch_device(place.device)
    head = done.head(selection_of(first, wanted)).to(device)
    x = place.on.split("train", first.level).x[place.on.seen(method)]
    logits = predict(head, features(x, device))
    return replace(task, stage=Staged(head=head, logits=logits.cpu()))


def check_rule(wanted: Rule, on: Workbench) -> None:
    """EmbedcalError where a rule reads groups of a split that has none."""
    if wanted.reads_groups and not on.has_groups(wanted.split or "val"):
        where = f"{wanted.split} of " if on.attributes else ""
        raise EmbedcalError(
            f"expected attribute labels for the rule '{wanted.name}', found none in {where}"
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


def run(method: Method, wanted: Rule, place: Place) -> Run:
    """The run, whether it is there already or not; nobody does it at the same time."""
    with claim(place.folder(method), wait=True):
        done = place.finished(method, wanted)
        return _again(done, method, wanted, place.on) if done else fit_new(method, wanted, place)


def fit_new(method: Method, wanted: Rule, place: Place) -> Run:
    """:func:`run` for a caller that holds the claim on its folder and found nothing there."""
    from embedcal.heads import torch_device
    from embedcal.keep import Keeper, Kept, rules_for
    from embedcal.methods.base import Gradient, Solver
    from embedcal.train import train

    on, seed, device = place.on, place.seed, torch_device(place.device)
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
    seconds = time.perf_counter() - start
    fitted = Fitted(best=best, curve=curve, seconds=seconds, engine=place.engine)
    return finish(method, wanted, place, fitted)


def finish(method: Method, wanted: Rule, place: Place, fitted: Fitted) -> Run:
    """Predict, judge and store what was fitted."""
    from embedcal.heads import torch_device
    from embedcal.keep import logits_of

    start = time.perf_counter()
    on, folder = place.on, place.folder(method)
    logits = logits_of(fitted.best, on, method.level)
    rules = by_rule(method, fitted, logits, on)
    record = {
        "id": folder.name,
        "status": "done",
        **identity(method, place.seed, on),
        "engine": fitted.engine,
        "device": torch_device(place.device),
        "stage": place.id(place.first(method.stage)) if method.stage else None,
        "rules": rules,
        "curve": list(fitted.curve),
        **chosen(method, wanted, logits, on),
        "seconds": round(fitted.seconds + time.perf_counter() - start, 4),
        "embedcal": __version__,
    }
    heads = {name: kept.head for name, kept in fitted.best.items()}
    cells = {split: on.strata(split, method.level) for split in JUDGED}
    stored = store(folder, record, heads, logits, cells)
    log(on.cache.fingerprint, folder.name, rules)
    return stored


def _again(done: Run, method: Method, wanted: Rule, on: Workbench) -> Run:
    """A finished run under the rule that is asked for now; nothing is trained."""
    if done.record["selection"] == selection_of(method, wanted):
        return Run(folder=done.folder, record=done.record, reused=True)
    logits = done.all_predictions()
    return reselect(done, {**done.record, **chosen(method, wanted, logits, on)})
