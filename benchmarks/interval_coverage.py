"""How often the 95 % intervals of embedcal hold the truth, beside the usual bootstraps.

    python benchmarks/interval_coverage.py [--simulations 100]

Each row is a made-up split with known accuracies. Test sets are drawn from it, intervals computed,
and the share that contains the true value printed, in percent. Under a minute on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist

import numpy as np

from embedcal.evaluate import Intervals, bootstrap, strata
from embedcal.evaluate.strata import Strata

Z = NormalDist().inv_cdf(0.975)
WATERBIRDS_TEST, WATERBIRDS_VAL = (2255, 2255, 642, 642), (467, 466, 133, 133)
SMALL, CELEBA = (500, 28, 28, 500), (9767, 7535, 2480, 180)


@dataclass(frozen=True)
class Scenario:
    name: str
    sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    runs: int = 1


SCENARIOS = (
    Scenario("Waterbirds test, zero-shot", WATERBIRDS_TEST, (0.934, 0.449, 0.590, 0.916)),
    Scenario("Waterbirds test, apart", WATERBIRDS_TEST, (0.99, 0.80, 0.75, 0.95)),
    Scenario("Waterbirds test, apart, 3 runs", WATERBIRDS_TEST, (0.99, 0.80, 0.75, 0.95), 3),
    Scenario("Waterbirds test, nearly tied", WATERBIRDS_TEST, (0.81, 0.80, 0.79, 0.82)),
    Scenario("Waterbirds test, two tied", WATERBIRDS_TEST, (0.97, 0.80, 0.80, 0.97)),
    Scenario("Waterbirds test, tied", WATERBIRDS_TEST, (0.80,) * 4),
    Scenario("Waterbirds test, tied, 3 runs", WATERBIRDS_TEST, (0.80,) * 4, 3),
    Scenario("Waterbirds test, near 1", WATERBIRDS_TEST, (0.995, 0.99, 0.985, 0.99)),
    Scenario("Waterbirds val, apart", WATERBIRDS_VAL, (0.99, 0.80, 0.60, 0.95)),
    Scenario("Waterbirds val, near 1/2", WATERBIRDS_VAL, (0.50, 0.55, 0.50, 0.60)),
    Scenario("Waterbirds val, tied", WATERBIRDS_VAL, (0.90,) * 4),
    Scenario("CelebA test", CELEBA, (0.93, 0.93, 0.90, 0.88)),
    Scenario("28 rows, apart", SMALL, (0.95, 0.80, 0.50, 0.95)),
    Scenario("28 rows, tied", SMALL, (0.95, 0.90, 0.90, 0.95)),
    Scenario("28 rows, tied, 3 runs", SMALL, (0.95, 0.90, 0.90, 0.95), 3),
    Scenario("28 rows, near 1", SMALL, (0.99, 0.98, 0.98, 0.99)),
    Scenario("28 rows, near 0", SMALL, (0.90, 0.50, 0.02, 0.95)),
    Scenario("28 rows, four tied at 1/2", (28,) * 4, (0.50,) * 4),
    Scenario("everything right", SMALL, (1.0,) * 4),
    Scenario("10 groups of 28, tied", (28,) * 10, (0.90,) * 10),
    Scenario("24 groups of 100, apart", (100,) * 24, tuple(np.linspace(0.70, 0.95, 24))),
    Scenario("24 groups of 100, tied", (100,) * 24, (0.80,) * 24),
)


def cells_of(scenario: Scenario) -> Strata:
    group = np.repeat(np.arange(len(scenario.sizes)), scenario.sizes)
    half = len(scenario.sizes) // 2
    return strata(group // half, group % half, 2, half, tuple(range(1, 2 * half + 1)))


def draw(scenario: Scenario, rng: np.random.Generator) -> np.ndarray:
    """Rights and wrongs (r, n). Runs agree on hard images: half of the variance is the image's."""
    p = np.repeat(scenario.accuracies, scenario.sizes)
    if scenario.runs == 1:
        return rng.random((1, len(p))) < p
    shared, own = rng.standard_normal((1, len(p))), rng.standard_normal((scenario.runs, len(p)))
    limit = np.array([NormalDist().inv_cdf(v) for v in scenario.accuracies])
    return (shared + own) / math.sqrt(2) < np.repeat(limit, scenario.sizes)


def usual(correct: np.ndarray, cells: Strata, rng: np.random.Generator) -> list[tuple]:
    """Percentile and bias-corrected (Efron 1981) intervals of the worst group, images resampled."""
    group = cells.y * cells.n_attributes + cells.a
    table = []  # (draws, r) of each group
    for g, size in enumerate(cells.group_sizes):
        patterns, counts = np.unique(correct[:, group == g].T, axis=0, return_counts=True)
        table.append(rng.multinomial(size, counts / size, size=1000) @ patterns / size)
    drawn = np.sort(np.stack(table).min(0).mean(-1))
    hits = [[c[group == g].mean() for g in range(len(cells.group_sizes))] for c in correct]
    estimate = float(np.min(hits, axis=1).mean())
    below = (drawn < estimate - 1e-12).mean() + (np.abs(drawn - estimate) <= 1e-12).mean() / 2
    bias = NormalDist().inv_cdf(float(np.clip(below, 0.0005, 0.9995)))
    levels = [NormalDist().cdf(2 * bias - Z), NormalDist().cdf(2 * bias + Z)]
    return [tuple(np.quantile(drawn, [0.025, 0.975])), tuple(np.quantile(drawn, levels))]


def simulate(scenario: Scenario, simulations: int, rng: np.random.Generator) -> list[str]:
    cells = cells_of(scenario)
    p, sizes = np.array(scenario.accuracies), np.array(scenario.sizes)
    ours: list[Intervals] = []
    worst: list[list[tuple]] = []
    for seed in range(simulations):
        correct = draw(scenario, rng)
        ours.append(bootstrap(correct, cells, seed=seed))
        worst.append([*usual(correct, cells, rng), ours[-1].worst_group])
    columns = [np.array([w[k] for w in worst]) for k in range(3)]
    groups = np.array([i.groups for i in ours])  # (simulations, G, 2)
    weights = np.arange(1, len(p) + 1)
    truth = {
        "group_mean": p.mean(),
        "train_weighted": (p * weights).sum() / weights.sum(),
        "mean": (p * sizes).sum() / sizes.sum(),
    }
    return [
        *(f"{covered(c, p.min()):.1f}" for c in columns),
        f"{100 * (columns[2][:, 0] > p.min() + 1e-12).mean():.1f}",
        f"{100 * (columns[2][:, 1] < p.min() - 1e-12).mean():.1f}",
        *(f"{100 * np.ptp(c, axis=1).mean():.1f}" for c in columns),
        f"{np.mean([covered(groups[:, g], v) for g, v in enumerate(p)]):.1f}",
        *(f"{covered(np.array([getattr(i, k) for i in ours]), v):.1f}" for k, v in truth.items()),
    ]


def covered(ends: np.ndarray, truth: float) -> float:
    return 100 * float(((ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])).mean())


def single_group(n: int) -> list[str]:
    """Exact coverage of one group of n over accuracies 0.5 to 0.999: mean and minimum."""
    from scipy.stats import beta, binom

    k = np.arange(n + 1)
    jeffreys = beta.ppf([[0.025], [0.975]], k + 0.5, n - k + 0.5)
    jeffreys[0, 0], jeffreys[1, n] = 0.0, 1.0
    middle = (k + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * np.sqrt(k * (n - k) / n + Z**2 / 4)
    percentile = binom.ppf([[0.025], [0.975]], n, k / n) / n
    p = np.linspace(0.5, 0.999, 500)[:, None]
    row = [str(n)]
    for low, high in (percentile, (middle - half, middle + half), jeffreys):
        hit = ((low <= p) & (p <= high)) * binom.pmf(k, n, p)
        row.append(f"{100 * hit.sum(1).mean():.1f} / {100 * hit.sum(1).min():.1f}")
    return row


def show(header: list[str], rows: Iterable[list[str]]) -> None:
    """A Markdown table, each row as soon as it is known."""
    for line in chain([header, ["---"] * len(header)], rows):
        print("| " + " | ".join(line) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=100)
    simulations = parser.parse_args().simulations
    rng = np.random.default_rng(0)
    header = ["split", "percentile", "bias-corrected", "embedcal", "too high", "too low"]
    header += ["width, percentile", "width, bias-corrected", "width, embedcal"]
    header += ["groups", "group_mean", "train_weighted", "mean"]
    print(
        f"Worst group by three methods, then others by embedcal's; {simulations} test sets each\n"
    )
    show(header, ([s.name, *simulate(s, simulations, rng)] for s in SCENARIOS))
    print("\nOne group alone, mean / minimum over accuracies from 0.5 to 0.999, exact\n")
    alone = (single_group(n) for n in (28, 133, 642, 2255))
    show(["rows", "percentile", "Wilson", "Jeffreys (embedcal)"], alone)


if __name__ == "__main__":
    main()
