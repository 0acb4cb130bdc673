"""Reading one whole level of a cache against ``numpy.load`` of the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from measure import Reading, Row, interleaved, quotients
from synthetic import feature_cache

from embedcal.cache import open_cache


def measure(*, quick: bool) -> list[Row]:
    """GB/s with the file in the page cache; ours converts where needed and refuses NaN."""
    with tempfile.TemporaryDirectory() as folder:
        path = feature_cache(Path(folder))
        with open_cache(path) as cache:
            features = cache.read("pooled")
        plain = Path(folder) / "pooled.npy"
        np.save(plain, features)
        size = features.nbytes

        def ours() -> None:
            with open_cache(path) as cache:
                cache.read("pooled")

        seconds = interleaved(
            {"ours": ours, "numpy": lambda: np.load(plain)}, repetitions=5 if quick else 15
        )
        with open_cache(path) as cache:
            assert np.array_equal(cache.read("pooled"), np.load(plain))
    rate = {name: size / median(values) / 1e9 for name, values in seconds.items()}
    return [
        Row(
            name="reading a cache",
            ours=Reading(what="open_cache, read('pooled')", value=rate["ours"], unit="GB/s"),
            baseline=Reading(what="numpy.load", value=rate["numpy"], unit="GB/s"),
            ratio=quotients(seconds["numpy"], seconds["ours"]),
            target=1.0,
            note=f"{size / 1e6:.0f} MB, pages in memory; ours opens the file and refuses NaN",
        )
    ]
