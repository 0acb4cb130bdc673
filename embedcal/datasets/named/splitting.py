"""Rules that cut rows into train, val and test where no column does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedcal.datasets.labels import factorise
from embedcal.datasets.printable import printable
from embedcal.types import SPLITS, EmbedcalError, IntArray


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How rows are cut; the same rows in the same order give the same splits everywhere.

    * ``choice``: SubpopBench's for MetaShift: ``RandomState(seed).choice`` of ``int(test * n)``
      rows, then of ``int(val * n)`` among the others.
    * ``stratified``: in every combination of the cells of ``stratify`` the fractions ``test`` and
      ``val``, rounded so that the whole comes out right.
    * ``train_test_split``: scikit-learn's function twice, stratified, as SubpopBench has it.
    * ``grouped``: rows whose cell in ``by`` is equal stay together, whole groups drawn until a
      split has its share of the rows.
    * ``cells``: the table's own split, and ``count`` rows of train of every combination of
      ``stratify`` become val.
    """

    rule: str
    seed: int = 42
    test: float = 0.0
    val: float = 0.0
    by: str = ""
    stratify: tuple[str, ...] = ()
    count: int = 0
    note: str = ""


def parse_rule(text: str, stratify: Sequence[str], seed: int) -> SplitRule:
    """``"0.7,0.1,0.2"``, fractions of train, val and test, as a stratified rule."""
    try:
        fractions = [float(part) for part in text.split(",")]
    except ValueError:
        fractions = []
    good = len(fractions) == 3 and all(0 <= each <= 1 for each in fractions)
    if not good or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6) or fractions[0] == 0:
        raise EmbedcalError(
            f"expected --split as fractions of train, val and test that add up to 1, found "
            f"'{printable(text)}': write, say, 0.7,0.1,0.2"
        )
    _, val, test = fractions
    return SplitRule(rule="stratified", seed=seed, val=val, test=test, stratify=tuple(stratify))


def refuse_seed(seed: int, split: str | None) -> None:
    """EmbedcalError for a seed beside a split that no seed of the user's decides."""
    if seed != 0:
        raise EmbedcalError(
            f"expected fractions beside --split-seed, found {seed} with "
            f"{'no --split' if split is None else f'--split {printable(split)}'}: add, say, "
            "--split 0.7,0.1,0.2, or leave --split-seed out"
        )


def split_rows(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> tuple[str, ...]:
    """``train``, ``val`` or ``test`` for each of ``n`` rows with these columns of cells."""
    makers: dict[str, Callable[[SplitRule, Mapping[str, Sequence[str]], int], IntArray]] = {
        "choice": _choice,
        "stratified": _stratified,
        "train_test_split": _train_test_split,
        "grouped": _grouped,
        "cells": _cells,
    }
    if rule.rule not in makers:
        raise EmbedcalError(
            f"expected a split rule among {', '.join(makers)}, found '{printable(rule.rule)}': "
            "mend the facts"
        )
    codes = makers[rule.rule](rule, columns, n)
    return tuple(SPLITS[code] for code in codes.tolist())


def _choice(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> IntArray:
    draw = np.random.RandomState(rule.seed)
    test = draw.choice(np.arange(n), size=int(n * rule.test), replace=False)
    rest = np.setdiff1d(np.arange(n), test)
    val = draw.choice(rest, size=int(n * rule.val), replace=False)
    codes = np.zeros(n, np.int64)
    codes[val], codes[test] = 1, 2
    return codes


def _stratified(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> IntArray:
    generator = np.random.default_rng(rule.seed)
    strata = _strata(rule, columns, n)
    codes = np.zeros(n, np.int64)
    due = {1: 0.0, 2: 0.0}  # what rounding owes, carried from one stratum to the next
    for stratum in range(int(strata.max(initial=-1)) + 1):
        rows = generator.permutation(np.flatnonzero(strata == stratum))
        for code, share in ((2, rule.test), (1, rule.val)):
            due[code] += share * int((strata == stratum).sum())
            taken = min(round(due[code]), len(rows))
            due[code] -= taken
            codes[rows[:taken]], rows = code, rows[taken:]
    return codes


def _train_test_split(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> IntArray:
    from sklearn.model_selection import train_test_split

    strata = _strata(rule, columns, n)
    rest, test = train_test_split(
        np.arange(n), test_size=rule.test, random_state=rule.seed, stratify=strata
    )
    share = rule.val / (1 - rule.test)
    _, val = train_test_split(rest, test_size=share, random_state=rule.seed, stratify=strata[rest])
    codes = np.zeros(n, np.int64)
    codes[val], codes[test] = 1, 2
    return codes


def _grouped(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> IntArray:
    names, group = factorise(_column(columns, rule.by))
    by_name = sorted(range(len(names)), key=lambda code: names[code])
    order = np.random.default_rng(rule.seed).permutation(np.array(by_name, np.int64))
    sizes = np.bincount(group, minlength=len(names))[order]
    before = np.cumsum(sizes) - sizes  # rows of the groups that were drawn earlier
    drawn = np.where(before < rule.test * n, 2, 0)
    drawn[(drawn == 0) & (before < (rule.test + rule.val) * n)] = 1
    codes = np.zeros(len(names), np.int64)
    codes[order] = drawn
    return codes[group]


def _cells(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> IntArray:
    from embedcal.datasets.labels import read_splits

    codes = read_splits(_column(columns, "split"), lambda row, cell: f"row {row + 1}").codes.copy()
    strata = _strata(rule, columns, n)
    for stratum in range(int(strata.max(initial=-1)) + 1):
        rows = np.flatnonzero((strata == stratum) & (codes == 0))
        if len(rows) < rule.count:
            first = int(np.flatnonzero(strata == stratum)[0])
            cell = ", ".join(columns[name][first] for name in rule.stratify)
            raise EmbedcalError(
                f"expected {rule.count} training rows or more in every combination of "
                f"{', '.join(rule.stratify)}, found {len(rows)} in {printable(cell)}: check the "
                "labels, or give a split of your own"
            )
        draw = np.random.RandomState(rule.seed)
        codes[draw.choice(rows, size=rule.count, replace=False)] = 1
    return codes


def _strata(rule: SplitRule, columns: Mapping[str, Sequence[str]], n: int) -> IntArray:
    """Which combination of the cells of ``stratify`` each row (n,) has, in their sorted order."""
    if not rule.stratify:
        return np.zeros(n, np.int64)
    cells = list(zip(*(_column(columns, name) for name in rule.stratify), strict=True))
    known = {cell: code for code, cell in enumerate(sorted(set(cells)))}
    return np.array([known[cell] for cell in cells], np.int64)


def _column(columns: Mapping[str, Sequence[str]], name: str) -> Sequence[str]:
    try:
        return columns[name]
    except KeyError:
        raise EmbedcalError(
            f"expected a column {printable(name)} to split by, found "
            f"{printable(', '.join(columns))}: mend the facts or the table"
        ) from None
