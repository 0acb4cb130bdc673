"""What a comparison says in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from embedcal.evaluate.paired import Difference


def counted(n: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, one decimal; never "-0.0"."""
    text = f"{100 * fraction:.1f}"
    return "0.0" if text == "-0.0" else text


def sentence(
    a: str, b: str, difference: Difference, adjusted: float, random: tuple[bool, bool]
) -> str:
    """One difference in words, from the side that is ahead.

    ``adjusted``: its p-value after correction. ``random``: whether another seed could have given
    another result, for A and for B; a method without anything random needs no second seed.
    """
    low, high = difference.interval
    runs, size = difference.runs, difference.difference
    if size < 0:
        a, b, runs, random, size, low, high = b, a, runs[::-1], random[::-1], -size, -high, -low
    same = runs[0] == runs[1]
    seeds = f"{counted(runs[0], 'seed')} each" if same else f"{runs[0]} and {runs[1]} seeds"
    ends = f"{points(low)} to {points(high)}"
    alone = [
        name for name, n, any_seed in zip((a, b), runs, random, strict=True) if n == 1 and any_seed
    ]
    if adjusted < 0.05:
        text = f"{a} beats {b} by {points(size)} points (95 % interval {ends}; {seeds}): "
        text += "the difference holds"
    else:
        text = f"{a} and {b} differ by {points(size)} points (95 % interval {ends}; {seeds}): "
        if low > 0:
            text += "no difference is shown once all comparisons are counted"
        elif alone:
            text += "no difference is shown by these test rows"
        else:
            text += "no difference is shown by these test rows and seeds"
    if alone:
        text += f"; one seed of {' and of '.join(alone)}, so other seeds are not answered for"
    return text + "."


def summary(
    reference: str,
    beaten: Sequence[str],
    equal: Sequence[str],
    better: Sequence[str],
    *,
    given: bool,
) -> str:
    """All differences from the reference in one sentence.

    ``beaten``, ``equal`` and ``better``: rows that are shown to be worse than it, not shown to
    differ, and shown to be better. ``given``: it was named, and not picked for its test mean.
    """
    total = len(beaten) + len(equal) + len(better)
    if total == 0:
        return f"{reference} has nothing to be compared with."
    if given:
        return (
            f"Against {reference}: {len(better)} better, {len(beaten)} worse, {len(equal)} not "
            f"shown to differ."
        )
    if not beaten:
        return f"{reference} has the highest mean, but is not shown to beat any other row."
    if not equal:
        return f"{reference} beats every other row: the differences hold."
    return (
        f"{reference} has the highest mean and beats {len(beaten)} of {counted(total, 'other')}; "
        f"not shown to beat {', '.join(equal)}."
    )
