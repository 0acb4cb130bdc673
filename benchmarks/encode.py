"""Caching RN50 from JPEG files against a plain open_clip loop, clip-retrieval's way and itself.

Itself: its own encoder's rate, other runtimes of the frozen trunk, and bfloat16.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from clip_retrieval import WORKERS, Named, read, retrieve
from measure import Reading, Row, Spread, interleaved, quotients, spread
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from synthetic import manifest_of, photographs
from torch.utils.data import DataLoader, Dataset

from embedcal.cache import BuildOptions, BuildReport, build_cache, open_cache
from embedcal.datasets.manifest import Manifest
from embedcal.encoders.base import Encoder
from embedcal.encoders.compiled import EXTRAS, check_runtime
from embedcal.encoders.load import fast_in_bf16, load_encoder
from embedcal.encoders.weights import randomise
from embedcal.types import EmbedcalError, Level

BATCH = 64
LEVELS: tuple[Level, ...] = ("pooled", "embedding")
THEIRS = "clip-retrieval"


def stock_model() -> torch.nn.Module:
    """open_clip's RN50 with the weights that ``--pretrained random:0`` stands for."""
    torch.manual_seed(0)
    model: torch.nn.Module = open_clip.create_model(
        "RN50-quickgelu", load_weights=False, pretrained_text=False
    )
    randomise(model, 0)
    return model.eval()


@dataclass(frozen=True)
class Files(Dataset[torch.Tensor]):
    """What everybody writes: open, convert, transform."""

    paths: Sequence[Path]
    transform: Callable[[Image.Image], torch.Tensor]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.paths[row]) as image:
            return self.transform(image)


def plain_loop(model: torch.nn.Module, files: Files, *, workers: int) -> npt.NDArray[np.float32]:
    """Embeddings (n, d) by a ``no_grad`` loop over a DataLoader."""
    with torch.no_grad():
        parts = [
            model.encode_image(batch)  # type: ignore[operator]
            for batch in DataLoader(files, batch_size=BATCH, num_workers=workers)
        ]
    return torch.cat(parts).numpy()


def pixels_of(encoder: Encoder, manifest: Manifest) -> tuple[npt.NDArray[np.uint8], float]:
    """All pictures decoded by one thread (n, h, w, 3), and its seconds a picture."""
    began = time.perf_counter()
    pixels = []
    for path in manifest.paths:
        with Image.open(manifest.root / path) as image:
            pixels.append(encoder.prepare(image))
    return np.stack(pixels), (time.perf_counter() - began) / len(pixels)


def least_cosine(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    """The smallest cosine of two embeddings of one image, over images."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    length = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / length).min())


def other_ways() -> dict[str, Encoder]:
    """The same encoder as this machine can run it otherwise: other runtimes, bfloat16."""
    found: dict[str, Encoder] = {}
    for runtime in EXTRAS:
        try:
            check_runtime(runtime)
        except EmbedcalError:  # not installed
            continue
        found[f"--runtime {runtime}"] = load_encoder("RN50", pretrained="random:0", runtime=runtime)
    if fast_in_bf16("cpu"):
        found["--precision bf16"] = load_encoder("RN50", pretrained="random:0", precision="bf16")
    return found


def measure(*, quick: bool) -> list[Row]:
    """Images a second, from the call to the finished file; model and text tower stay outside."""
    count = BATCH // 2 if quick else 3 * BATCH
    encoder = load_encoder("RN50", pretrained="random:0")
    others = other_ways()
    model = stock_model()
    transform = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    with tempfile.TemporaryDirectory() as folder:
        root, paths = photographs(Path(folder) / "photographs", count)
        manifest = manifest_of(root, paths, np.zeros(count, np.int64))
        bare = replace(manifest, prompts={})
        files = Files([root / path for path in paths], transform)
        pixels, decode = pixels_of(encoder, manifest)
        reports: dict[str, BuildReport] = {}
        made: list[Path] = []
        found: dict[str, npt.NDArray[np.float32]] = {}

        def cache(name: str, way: Encoder) -> None:
            # Image features only, as in the loop; a fresh file, every image hashed anew.
            made.append(Path(folder) / f"{len(made)}.h5")
            options = BuildOptions(out=made[-1], batch_size=BATCH, templates=(), rehash=True)
            reports[name] = build_cache(bare, way, options=options)

        def theirs() -> None:
            made.append(Path(folder) / f"{len(made)}.parts")
            retrieve(model, Named(files.paths, transform), made[-1], batch_size=BATCH)
            found[THEIRS] = read(made[-1], files.paths)

        def memory() -> None:
            for start in range(0, count, BATCH):
                encoder.images(pixels[start : start + BATCH], LEVELS)

        def loop(workers: int) -> None:
            found[f"loop {workers}"] = plain_loop(model, files, workers=workers)

        # One batch through each model starts up all that is made at first use.
        encoder.images(pixels[:BATCH], LEVELS)
        plain_loop(model, replace(files, paths=files.paths[:BATCH]), workers=0)
        first = {name: started(way, pixels[:BATCH]) for name, way in others.items()}
        seconds = interleaved(
            {
                "cache": lambda: cache("cache", encoder),
                "memory": memory,
                "loop 0": lambda: loop(0),
                "loop 2": lambda: loop(2),
                THEIRS: theirs,
                **{name: partial(cache, name, way) for name, way in others.items()},
            },
            repetitions=1 if quick else 3,
            warmup=0,
        )
        for name, report in reports.items():
            with open_cache(report.path) as cached:
                found[name] = cached.read("embedding")
    ours = found["cache"]
    near = {name: least_cosine(ours, rows) for name, rows in found.items()}
    return [
        *_rows(seconds, reports["cache"], decode, near["loop 0"]),
        _beside_theirs(seconds, count, near[THEIRS]),
        *(_other(name, seconds, count, near[name], first[name]) for name in others),
    ]


def started(way: Encoder, pixels: npt.NDArray[np.uint8]) -> float:
    """Seconds of an encoder's first batch: export, compilation and the check against torch."""
    began = time.perf_counter()
    way.images(pixels, LEVELS)
    return time.perf_counter() - began


def _beside_theirs(seconds: Mapping[str, tuple[float, ...]], count: int, cosine: float) -> Row:
    return Row(
        name="... and clip-retrieval's way",
        ours=Reading(
            what="embedcal cache", value=count / median(seconds["cache"]), unit="images/s"
        ),
        baseline=Reading(
            what=f"DataLoader, {WORKERS} workers, .npy and Parquet",
            value=count / median(seconds[THEIRS]),
            unit="images/s",
        ),
        ratio=quotients(seconds[THEIRS], seconds["cache"]),
        note=f"its rows are float16; least cosine {cosine:.6f}",
        facts={"cosine": cosine},
    )


def _other(
    name: str,
    seconds: Mapping[str, tuple[float, ...]],
    count: int,
    cosine: float,
    first: float,
) -> Row:
    return Row(
        name=f"... with {name}",
        ours=Reading(what="so", value=count / median(seconds[name]), unit="images/s"),
        baseline=Reading(
            what="torch in fp32", value=count / median(seconds["cache"]), unit="images/s"
        ),
        ratio=quotients(seconds["cache"], seconds[name]),
        note=f"least cosine {cosine:.7f}; {first:.1f} s for the first batch, which is not counted",
        facts={"cosine": cosine, "first_batch_seconds": first},
    )


def _rows(
    seconds: dict[str, tuple[float, ...]], report: BuildReport, decode: float, cosine: float
) -> list[Row]:
    count, cores = report.rows, torch.get_num_threads()
    rate = {name: count / median(values) for name, values in seconds.items()}
    better = max(("loop 0", "loop 2"), key=lambda name: rate[name])
    other = "loop 2" if better == "loop 0" else "loop 0"
    stages = report.images_per_second
    encode = median(seconds["memory"]) / count
    bound = encode / (encode + decode / cores)
    ours = Reading(what="embedcal cache", value=rate["cache"], unit="images/s")
    return [
        Row(
            name="cache RN50 from JPEG files",
            ours=ours,
            baseline=Reading(
                what=f"open_clip {better} workers".replace("loop", "loop,"),
                value=rate[better],
                unit="images/s",
            ),
            ratio=quotients(seconds[better], seconds["cache"]),
            target=1.8,
            note=f"with {other[-1]} workers {rate[other]:.1f} images/s",
        ),
        Row(
            name="... its features, least cosine",
            ours=Reading(what="embedcal cache", value=cosine, unit=""),
            baseline=Reading(what="open_clip loop", value=1.0, unit=""),
            ratio=Spread(median=cosine, low=cosine, high=cosine),
            target=0.99999,
        ),
        Row(
            name="... of the encoder's own rate",
            ours=ours,
            baseline=Reading(what="tensors in memory", value=rate["memory"], unit="images/s"),
            ratio=quotients(seconds["memory"], seconds["cache"]),
            target=0.93,
            note=f"at most {bound:.2f} where decoding ({1e3 * decode:.1f} ms an image and thread) "
            f"shares {cores} cores with encoding ({1e3 * encode:.1f} ms an image)",
            facts={"bound": bound, "decode_seconds": decode, "encode_seconds": encode},
        ),
        Row(
            name="... by stage",
            ours=Reading(what="encode", value=stages["encode"], unit="images/s"),
            baseline=Reading(what="decode", value=stages["decode"], unit="images/s"),
            ratio=spread([stages["encode"] / stages["decode"]]),
            note=f"write {stages['write']:.0f} images/s; limited by {report.limiting}",
            facts={f"{name}_per_second": value for name, value in stages.items()},
        ),
    ]
