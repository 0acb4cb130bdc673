"""One run: resolve the options, train over the cache, select, evaluate, store."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal import __version__
from embedcal.asked import add
from embedcal.cache import FeatureCache
from embedcal.datasets.places import data_dir
from embedcal.errors import did_you_mean
from embedcal.evaluate import RULES, Rule, default_rule, rule
from embedcal.methods import find
from embedcal.records import (
    JUDGED,
    Fitted,
    by_rule,
    chosen,
    identity,
    in_environments,
    judged_by,
    selection_of,
)
from embedcal.runs import Run, append, claim, listed, load_run, reselect, run_id, store
from embedcal.scored import log
from embedcal.streaming import how, limit
from embedcal.types import EmbedcalError, Task
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.environments import Environments
    from embedcal.heads import Head
    from embedcal.methods.base import Method, Stage

ROWS = 8192  # images that a method looks at again at once
REVISION = 1  # of this engine; raised when results change for equal options


def fit(  # noqa: PLR0913 - a public function has the options that it has
    method: str,
    cache: FeatureCache,
    *,
    seed: int = 0,
    select: str | None = None,
    attribute: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    memory: str | int | None = None,
    **options: Any,
) -> Run:
    """Fit one method over a cache and store the run.

    Args:
        method: a name (``erm``), or a file ``path.py`` that defines a method.
        cache: an open cache.
        seed: decides everything random, through one generator.
        select: a rule of ``embedcal.evaluate``; by default ``val.worst_group`` where any row of
            val is in a group, else ``val.worst_class``. ``val.env`` fits a probe first, and a run
            that was finished without it once more; ``oracle.worst_group`` looks at test.
        attribute: the one that makes the groups, or several for the product of their values, in
            any order; all of the cache's by default. One that was annotated beside the cache is
            used if it is named.
        out: folder of runs; by default one of the cache's own under the user's data directory.
        device: where the head is trained; ``auto`` is the accelerator where there is one.
        memory: bytes, or a text such as ``"2GB"``, that the features of a level may take; more than
            that stays in the file and is shuffled by blocks (``embedcal.streaming``). By default
            half of the machine's memory.
        options: the method's own, ``variant`` among them.

    Returns:
        The run. One that was finished before is not done again; another rule is applied to what
        it kept.

    Raises:
        EmbedcalError: for an unknown method or option, or when the cache lacks what is needed.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("dfr", cache, seed=0, halves=1, refits=2)
        >>> run.record["labels_used"], run.record["selection"]
        (['val.g', 'val.y'], 'own.worst_group')
    """
    on = Workbench(cache, attribute, limit(memory))
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
    from embedcal.heads import torch_device

    resolved = configure(method, options).resolve(on.offer)
    wanted = rule(select) if select else default_rule(on.has_groups("val"))
    seed, _ = seed_of(seed), torch_device(device)
    stem = on.cache.meta.path.stem
    runs = Path(out).expanduser() if out is not None else data_dir() / "runs" / stem
    place = Place(on=on, seed=seed, runs=runs, device=device)
    fitted = run(resolved, wanted, place)
    add(runs, [fitted.id])
    return fitted


def seed_of(seed: Any) -> int:
    """A seed as Python's own whole number; EmbedcalError where it is none that torch takes."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << 63:
        raise EmbedcalError(
            f"expected a seed from 0 to 2**63 - 1, found {seed}: give a whole number"
        )
    return number


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run happens: over which data, from which seed, into which folder, on which device.

    ``environments`` were inferred elsewhere and sent, where no folder holds their probe.
    """

    on: Workbench
    seed: int
    runs: Path
    device: str
    engine: str = "sequential"
    environments: Environments | None = field(default=None, compare=False, repr=False)

    def finished(self, method: Method, wanted: Rule) -> Run | None:
        """The run of these options if it is there, kept a head for the rule and met it."""
        check_rule(wanted, self.on)
        done = load_run(self.folder(method))
        kept = done.record.get("rules", {}) if done else {}
        entry = kept.get(selection_of(method, wanted))
        return done if entry is not None and judged_by(wanted, entry) else None

    def rules(self, method: Method, wanted: Rule) -> tuple[Rule, ...]:
        """The rules to keep a head for; what was asked for on demand before is not lost."""
        from embedcal.keep import rules_for

        done = load_run(self.folder(method))
        return rules_for(self.on, RULES, wanted, done.record.get("rules", {}) if done else {})

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
        # What follows is absent where it says nothing, as it was in old runs.
        if streams(method, self.on):
            identity["streamed"] = how()
        if self.on.inferred:  # else labels are the cache's own, which its digest covers
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
    with claim(place.folder(first), wait=True):  # a run of the user's own stays as it stands
        done = _found(first, wanted, place) or fit_new(first, wanted, place)
    device = torch_device(place.device)
    head = done.head(selection_of(first, wanted)).to(device)
    x = place.on.split("train", first.level).x[place.on.seen(method)]
    logits = predict(head, features(x, device))
    return replace(task, stage=Staged(head=head, logits=logits.cpu()))


def streams(method: Method, on: Workbench) -> bool:
    """Whether a run draws its batches from the file, and so in another order than from memory."""
    from embedcal.methods.base import Gradient

    return isinstance(method, Gradient) and on.streams(method.level)


def environments_of(rules: Iterable[Rule], place: Place) -> Environments | None:
    """Environments of validation if one of the rules asks for them, by a probe that is fitted once.

    The probe's run lies in a folder of its own below the runs: whoever asks for it holds the claim
    on a run, which might be the probe's twin. On a node of a cluster, which shares no folder, they
    come with the place.
    """
    if not any(each.environments for each in rules):
        return None
    if place.environments is not None:
        return place.environments
    from embedcal.environments import FOLDER, PROBE, SEED, infer

    assert place.engine != "ray"  # whoever sends a run there sends them too
    at = replace(place, seed=SEED, runs=place.runs / FOLDER, engine="sequential")
    done = run(at.first(PROBE), rule(PROBE.select), at)
    y = done.strata("val").y
    return infer(done.logits(PROBE.select, "val"), y, place.on.cache.n_classes, done.id)


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
            hint = did_you_mean(key, known, f"it has {', '.join(known)}")
            raise EmbedcalError(f"expected an option of {cls.name}, found '{key}': {hint}")
    return cls(**{key: _plain(value) for key, value in options.items()})


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own, a list as a tuple: a grid of a script's own has them."""
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def run(method: Method, wanted: Rule, place: Place) -> Run:
    """The run, whether it is there already or not; nobody does it at the same time."""
    with claim(place.folder(method), wait=True):
        done = _found(method, wanted, place)
        if done is None:
            return fit_new(method, wanted, place)
        return _again(done, method, wanted, place.on)


def _found(method: Method, wanted: Rule, place: Place) -> Run | None:
    """The finished run that a claim is held on, under whatever rule; its line is there."""
    done = place.finished(method, wanted)
    if done is not None and not listed(place.runs, done.record):
        append(place.runs, done.record)
    return done


def fit_new(method: Method, wanted: Rule, place: Place) -> Run:
    """:func:`run` for a caller that holds the claim on its folder and found nothing there."""
    from embedcal.heads import torch_device
    from embedcal.keep import Keeper, Kept
    from embedcal.methods.base import Gradient, Solver
    from embedcal.train import train

    known = judge_again(method, wanted, place)
    if known is not None:
        return known
    on, seed, device = place.on, place.seed, torch_device(place.device)
    task, rules = task_of(method, place), place.rules(method, wanted)
    environments = environments_of(rules, place)
    start = time.perf_counter()
    if isinstance(method, Solver):
        solved = method.solved(task, seed)
        best = {method.selection: Kept(epoch=0, score=0.0, head=solved.head)}
        curve, marks = [], solved.marks
    else:
        assert isinstance(method, Gradient)
        keeper = Keeper(on, method.level, rules, device, environments)
        train(method, task, seed=seed, watch=keeper, device=device)
        best, curve, marks = keeper.best, keeper.curve, method.marks(task)
    fitted = Fitted(
        best=best,
        curve=curve,
        seconds=time.perf_counter() - start,
        engine=place.engine,
        marks=marks,
        environments=environments,
    )
    return finish(method, wanted, place, fitted)


def judge_again(method: Method, wanted: Rule, place: Place) -> Run | None:
    """A solver's finished run, judged by environments that it had not met; not solved again.

    None where there is no such run. A run of many epochs has to be trained again: it kept none for
    the rule.
    """
    from embedcal.methods.base import Solver

    asked = wanted.environments and isinstance(method, Solver)
    done = load_run(place.folder(method)) if asked else None
    if done is None or selection_of(method, wanted) not in done.record.get("rules", {}):
        return None
    environments = environments_of([wanted], place)
    assert environments is not None
    logits = done.all_predictions()
    rules = in_environments(done.record["rules"], logits, environments)
    record = {**done.record, "rules": rules, "environments": environments.record()}
    return reselect(done, record | chosen(method, wanted, logits, place.on, rules))


def finish(method: Method, wanted: Rule, place: Place, fitted: Fitted) -> Run:
    """Predict, judge and store what was fitted."""
    from embedcal.heads import torch_device
    from embedcal.identification import identified
    from embedcal.keep import logits_of

    start = time.perf_counter()
    on, folder = place.on, place.folder(method)
    logits = logits_of(fitted.best, on, method.level)
    rules = by_rule(method, fitted, logits, on)
    more: dict[str, Any] = {}
    if fitted.environments is not None:
        rules = in_environments(rules, logits, fitted.environments)
        more["environments"] = fitted.environments.record()
    if fitted.marks is not None:
        more["found"] = identified(fitted.marks, method, on)
    account = _account(method, fitted.best[selection_of(method, wanted)].head, on)
    if account:
        more["account"] = account
    record = {
        "id": folder.name,
        "status": "done",
        **identity(method, place.seed, on),
        "engine": fitted.engine,
        "device": torch_device(place.device),
        "stage": place.id(place.first(method.stage)) if method.stage else None,
        "rules": rules,
        "curve": list(fitted.curve),
        **({"streamed": how()} if streams(method, on) else {}),
        **chosen(method, wanted, logits, on, rules),
        **more,
        "seconds": round(fitted.seconds + time.perf_counter() - start, 4),
        "embedcal": __version__,
    }
    heads = {name: kept.head for name, kept in fitted.best.items()}
    cells = {split: on.strata(split, method.level) for split in JUDGED}
    stored = store(folder, record, heads, logits, cells)
    log(on.cache.fingerprint, folder.name, rules)
    return stored


def _account(method: Method, head: Head, on: Workbench) -> dict[str, Any]:
    """What the method says of how its head judges val and test; most say nothing."""
    device = str(next(head.parameters()).device)
    told = {
        split: method.account(head, on.features(split, method.level, device).split(ROWS))
        for split in JUDGED
    }
    return {split: dict(what) for split, what in told.items() if what}


def _again(done: Run, method: Method, wanted: Rule, on: Workbench) -> Run:
    """A finished run under the rule that is asked for now; nothing is trained."""
    if done.record["selection"] == selection_of(method, wanted):
        return Run(folder=done.folder, record=done.record, reused=True)
    logits = done.all_predictions()
    found = chosen(method, wanted, logits, on, done.record["rules"])
    return reselect(done, {**done.record, **found})
