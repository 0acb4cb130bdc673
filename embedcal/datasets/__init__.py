"""Where samples come from: tables, folders and named benchmarks, checked into a ``Manifest``."""

from embedcal.datasets.build import build_manifest
from embedcal.datasets.manifest import Attribute, Manifest, group_counts
from embedcal.datasets.named import Benchmark, benchmark, benchmark_names
from embedcal.datasets.options import ReadOptions, attributes_of, columns_of
from embedcal.datasets.places import data_dir, last_cache, remember_last_cache
from embedcal.datasets.printable import printable
from embedcal.datasets.read import read_manifest
from embedcal.datasets.table import Table, read_csv, read_tree

__all__ = [
    "Attribute",
    "Benchmark",
    "Manifest",
    "ReadOptions",
    "Table",
    "attributes_of",
    "benchmark",
    "benchmark_names",
    "build_manifest",
    "columns_of",
    "data_dir",
    "group_counts",
    "last_cache",
    "printable",
    "read_csv",
    "read_manifest",
    "read_tree",
    "remember_last_cache",
]
