"""A method fitted over a workbench in memory: what ``embedcal.fitting`` does, and nothing stored.

There is no test split here, no judge and no record: only the head that the rule chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from embedcal.environments import PROBE, SEED, Environments, infer
from embedcal.evaluate import Rule, rule
from embedcal.features import features
from embedcal.fitting import configure
from embedcal.heads import Head, predict
from embedcal.keep import Keeper
from embedcal.methods import labels_of
from embedcal.methods.base import Gradient, Method, Solver, Staged
from embedcal.train import train
from embedcal.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A head and the epoch that it is from; 0 where there are none."""

    head: Head
    epoch: int


def fit_head(method: Method, wanted: Rule, on: Workbench, seed: int, device: str) -> Chosen:
    """The head of a method, its stage fitted before it, at the epoch that the rule chooses."""
    task = on.task(method)
    if method.stage is not None:
        first = configure(method.stage.method, method.stage.options).resolve(on.offer)
        head = fit_head(first, rule(method.stage.select), on, seed, device).head
        x = on.split("train", first.level).x[on.seen(method)]
        logits = predict(head, features(x, device))
        task = replace(task, stage=Staged(head=head, logits=logits.cpu()))
    if isinstance(method, Solver):
        return Chosen(head=method.solve(task, seed), epoch=0)
    assert isinstance(method, Gradient)
    if wanted.statistic is None:
        head = train(method, task, seed=seed, device=device)
        return Chosen(head=head, epoch=method.epochs)
    found = _environments(on, device) if wanted.environments else None
    keeper = Keeper(on, method.level, (wanted,), device, found)
    train(method, task, seed=seed, watch=keeper, device=device)
    kept = keeper.best[wanted.name]
    return Chosen(head=kept.head, epoch=kept.epoch)


def _environments(on: Workbench, device: str) -> Environments:
    """Those of validation that a probe gives away, for a rule that judges by them."""
    probe = configure(PROBE.method, PROBE.options).resolve(on.offer)
    head = fit_head(probe, rule(PROBE.select), on, SEED, device).head
    logits = predict(head, on.features("val", probe.level, device)).cpu().numpy()
    return infer(logits, on.strata("val", probe.level).y, on.cache.n_classes, stage="")


def reads(method: Method, wanted: Rule) -> frozenset[str]:
    """All that is read: by the method, by its stage, and by the rule where it chooses an epoch."""
    return labels_of(method) | (frozenset() if isinstance(method, Solver) else wanted.needs)


def reads_val(method: Method, wanted: Rule) -> bool:
    """Whether anything looks at validation rows."""
    return any(need.startswith("val.") for need in reads(method, wanted))


def fits_val_alone(method: Method) -> bool:
    """Whether labels of validation rows are all that it reads, as DFR's: then every row may be."""
    labels = {need for need in labels_of(method) if need.endswith((".y", ".g", ".a"))}
    return isinstance(method, Solver) and all(need.startswith("val.") for need in labels)
