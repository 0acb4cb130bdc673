"""Named data sets: tables of facts in ``facts/*.toml``, and the one reader of them all."""

from embedcal.datasets.named.facts import (
    Benchmark,
    Join,
    Layout,
    benchmark,
    benchmark_names,
    read_facts,
)
from embedcal.datasets.named.reading import count_differences, read_benchmark
from embedcal.datasets.named.splitting import SplitRule

__all__ = [
    "Benchmark",
    "Join",
    "Layout",
    "SplitRule",
    "benchmark",
    "benchmark_names",
    "count_differences",
    "read_benchmark",
    "read_facts",
]
