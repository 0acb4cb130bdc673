"""How the cost of a cache grows with its rows and with the threads that decode.

The encoder is the tiny CLIP, so that reading, hashing, decoding and writing are most of the cost:
beside RN50 on a CPU none of it is seen.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from measure import Reading, Row, interleaved, quotients
from synthetic import manifest_of, photographs

from embedcal.cache import BuildOptions, BuildReport, build_cache
from embedcal.encoders.load import load_encoder

SIZES, QUICK = (1_000, 10_000), (50, 200)
WORKERS = (1, 2, 4)  # at the smaller size; the larger one has the two of the middle


def measure(*, quick: bool) -> list[Row]:
    """Seconds from the call to the finished file; the model is loaded before."""
    few, many = QUICK if quick else SIZES
    encoder = load_encoder("tiny")
    reports: dict[str, BuildReport] = {}
    made: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        root, paths = photographs(Path(folder) / "photographs", many)

        def cache(name: str, count: int, workers: int) -> None:
            manifest = manifest_of(root, paths[:count], np.zeros(count, np.int64))
            bare = replace(manifest, prompts={})  # no text to encode
            made.append(Path(folder) / f"{len(made)}.h5")
            options = BuildOptions(out=made[-1], workers=workers, templates=(), rehash=True)
            reports[name] = build_cache(bare, encoder, options=options)

        seconds = interleaved(
            {
                **{f"{w}": partial(cache, f"{w}", few, w) for w in WORKERS},
                "many": partial(cache, "many", many, 2),
            },
            repetitions=1 if quick else 3,
            warmup=0,
        )
    each = {name: tuple(s / reports[name].rows for s in took) for name, took in seconds.items()}
    stages = reports["many"].images_per_second
    return [
        Row(
            name=f"an image among {many:,} rows",
            ours=Reading(what=f"{many:,} rows", value=1e3 * median(each["many"]), unit="ms"),
            baseline=Reading(what=f"{few:,} rows", value=1e3 * median(each["2"]), unit="ms"),
            ratio=quotients(each["many"], each["2"]),
            note="tiny CLIP, two threads decode; images/s by stage: "
            + ", ".join(f"{stage} {rate:.0f}" for stage, rate in stages.items()),
            facts={f"{stage}_per_second": rate for stage, rate in stages.items()},
        ),
        *(
            Row(
                name=f"... with --workers {workers}, {few:,} rows",
                ours=Reading(what="so", value=1 / median(each[f"{workers}"]), unit="images/s"),
                baseline=Reading(what="one thread", value=1 / median(each["1"]), unit="images/s"),
                ratio=quotients(each["1"], each[f"{workers}"]),
                note=f"limited by {reports[f'{workers}'].limiting}",
            )
            for workers in WORKERS[1:]
        ),
    ]
