"""How often the 95 % interval of a difference between two methods holds the truth.

    python benchmarks/paired_coverage.py [--simulations 200]

Each row is two made-up methods with known accuracies on one split. Test sets and seeds are drawn,
the difference of the worst groups is compared with its truth, and the share of intervals that hold
it printed, in percent, beside simpler ones. Some six minutes on one core.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from interval_coverage import (
    CELEBA,
    SMALL,
    WATERBIRDS_TEST,
    WATERBIRDS_VAL,
    cells_of,
    covered,
    show,
)
from interval_coverage import Scenario as Split

from embedcal.evaluate.paired import paired
from embedcal.evaluate.strata import Strata, statistics

APART = (0.99, 0.80, 0.75, 0.95)
TIED = (0.80,) * 4
HEADER = ["split", "seeds", "seed's part", "images alone", "images and seeds resampled", "embedcal"]
HEADER += ["too high", "too low", "width", "group_mean", "holds"]


@dataclass(frozen=True)
class Scenario:
    """Two methods on one split; ``by_seed`` is the deviation of each group over seeds, in probits.

    ``seeds`` of A and of B. A single run stands for itself: its seed is not drawn anew.
    """

    name: str
    sizes: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    seeds: tuple[int, int] = (5, 5)
    by_seed: float = 0.15


ABOVE = (0.98, 0.85, 0.82, 0.95)
CLEAR = (0.98, 0.90, 0.80, 0.95)
SMALL_TIED = (0.95, 0.90, 0.90, 0.95)
VAL_A, VAL_B = (0.99, 0.80, 0.60, 0.95), (0.95, 0.85, 0.70, 0.93)
VAL_TIED, VAL_CLEAR = (0.90,) * 4, (0.97, 0.95, 0.90, 0.97)

SCENARIOS = (
    Scenario("Waterbirds test, apart", WATERBIRDS_TEST, APART, ABOVE),
    Scenario("same", WATERBIRDS_TEST, APART, ABOVE, by_seed=0),
    Scenario("same", WATERBIRDS_TEST, APART, ABOVE, (3, 3)),
    Scenario("same", WATERBIRDS_TEST, APART, ABOVE, (2, 2)),
    Scenario("same", WATERBIRDS_TEST, APART, ABOVE, (1, 5)),
    Scenario("same", WATERBIRDS_TEST, APART, ABOVE, (1, 1), 0),
    Scenario("Waterbirds test, equal", WATERBIRDS_TEST, APART, APART),
    Scenario("same", WATERBIRDS_TEST, APART, APART, (1, 1), 0),
    Scenario("Waterbirds test, both tied", WATERBIRDS_TEST, TIED, TIED),
    Scenario("Waterbirds test, A tied", WATERBIRDS_TEST, TIED, CLEAR),
    Scenario("same", WATERBIRDS_TEST, TIED, CLEAR, by_seed=0),
    Scenario("same", WATERBIRDS_TEST, TIED, CLEAR, (1, 1), 0),
    Scenario("Waterbirds val, apart", WATERBIRDS_VAL, VAL_A, VAL_B),
    Scenario("Waterbirds val, A tied", WATERBIRDS_VAL, VAL_TIED, VAL_CLEAR),
    Scenario("same", WATERBIRDS_VAL, VAL_TIED, VAL_CLEAR, (1, 1), 0),
    Scenario("CelebA test", CELEBA, (0.93, 0.93, 0.90, 0.88), (0.95, 0.90, 0.92, 0.85)),
    Scenario("28 rows, apart", SMALL, (0.95, 0.80, 0.50, 0.95), (0.95, 0.80, 0.60, 0.95)),
    Scenario("28 rows, near 1", SMALL, (0.99, 0.98, 0.98, 0.99), (0.99, 0.97, 0.96, 0.99)),
    Scenario("28 rows, equal, tied", SMALL, SMALL_TIED, SMALL_TIED),
    Scenario("same", SMALL, SMALL_TIED, SMALL_TIED, (1, 1), 0),
)


def limits(accuracies: tuple[float, ...]) -> np.ndarray:
    return np.array([NormalDist().inv_cdf(value) for value in accuracies])


def spread(scenario: Scenario, side: int) -> float:
    return scenario.by_seed if scenario.seeds[side] > 1 else 0.0


def truth(scenario: Scenario) -> dict[str, float]:
    """The differences over all images and all seeds, from 50,000 seeds."""
    from scipy.special import ndtr

    rng = np.random.default_rng(0)
    found = []
    for side, accuracies in enumerate((scenario.a, scenario.b)):
        moved = spread(scenario, side) * rng.standard_normal((50_000, len(accuracies)))
        seeds = ndtr(limits(accuracies) + moved)
        found.append((seeds.min(1).mean(), seeds.mean()))
    return {
        "worst_group": found[0][0] - found[1][0],
        "group_mean": found[0][1] - found[1][1],
    }


def draw(scenario: Scenario, rng: np.random.Generator) -> list[np.ndarray]:
    """Rights and wrongs (seeds, n) of A and B.

    Of the difficulty's variance a half is the image's for every method, a quarter the image's for
    one method, a quarter that of the single run.
    """
    n = sum(scenario.sizes)
    shared, found = rng.standard_normal(n), []
    for side, accuracies in enumerate((scenario.a, scenario.b)):
        seeds = scenario.seeds[side]
        own = rng.standard_normal(n) + rng.standard_normal((seeds, n))
        moved = spread(scenario, side) * rng.standard_normal((seeds, len(accuracies)))
        limit = np.repeat(limits(accuracies) + moved, scenario.sizes, axis=1)
        found.append(math.sqrt(0.5) * shared + 0.5 * own < limit)
    return found


def usual(
    a: np.ndarray, b: np.ndarray, cells: Strata, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Percentile intervals: images resampled within groups, alone and together with seeds."""
    both = np.concatenate([a, b])
    draws = 300
    hits = np.zeros((draws, len(both), cells.sizes.size))
    for cell in np.flatnonzero(cells.sizes.reshape(-1)):
        patterns, counts = np.unique(both[:, cells.cell == cell].T, axis=0, return_counts=True)
        hits[:, :, cell] = rng.multinomial(counts.sum(), counts / counts.sum(), draws) @ patterns
    worst = statistics(hits.reshape(*hits.shape[:2], *cells.sizes.shape), cells)["worst_group"]
    sides = worst[:, : len(a)], worst[:, len(a) :]
    alone = sides[0].mean(1) - sides[1].mean(1)
    means = []
    for side in sides:
        picked = rng.integers(0, side.shape[1], side.shape)
        means.append(np.take_along_axis(side, picked, axis=1).mean(1))
    return [tuple(np.quantile(d, [0.025, 0.975])) for d in (alone, means[0] - means[1])]


def simulate(scenario: Scenario, simulations: int, rng: np.random.Generator) -> list[str]:
    cells = cells_of(Split(scenario.name, scenario.sizes, scenario.a))
    true = truth(scenario)
    ends: list[list[tuple[float, float]]] = []
    means, holds = [], []
    for seed in range(simulations):
        a, b = draw(scenario, rng)
        found = paired(a, b, cells, draws=500, seed=seed)
        ends.append([*usual(a, b, cells, rng), found.interval])
        holds.append(found.p_value < 0.05)
        means.append(paired(a, b, cells, "group_mean", draws=200, seed=seed).interval)
    table = np.array(ends)  # (simulations, 3, 2)
    worst, ours = true["worst_group"], table[:, 2]
    return [
        scenario.name,
        f"{scenario.seeds[0]}, {scenario.seeds[1]}",
        f"{scenario.by_seed}",
        *(f"{covered(table[:, k], worst):.1f}" for k in range(3)),
        f"{100 * (ours[:, 0] > worst + 1e-12).mean():.1f}",
        f"{100 * (ours[:, 1] < worst - 1e-12).mean():.1f}",
        f"{100 * np.ptp(ours, axis=1).mean():.1f}",
        f"{covered(np.array(means), true['group_mean']):.1f}",
        f"{100 * np.mean(holds):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=200)
    simulations = parser.parse_args().simulations
    rng = np.random.default_rng(0)
    print(f"Difference of worst groups, {simulations} test sets and samples of seeds each\n")
    show(HEADER, (simulate(scenario, simulations, rng) for scenario in SCENARIOS))


if __name__ == "__main__":
    main()
