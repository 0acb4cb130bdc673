"""Caching RN50 from JPEG files against a plain open_clip loop, and against its own encoder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from measure import Reading, Row, Spread, interleaved, quotients, spread
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from synthetic import manifest_of, photographs
from torch.utils.data import DataLoader, Dataset

from embedcal.cache import BuildOptions, BuildReport, build_cache, open_cache
from embedcal.datasets.manifest import Manifest
from embedcal.encoders.base import Encoder
from embedcal.encoders.load import load_encoder
from embedcal.encoders.weights import randomise
from embedcal.types import Level

BATCH = 64
LEVELS: tuple[Level, ...] = ("pooled", "embedding")


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


def measure(*, quick: bool) -> list[Row]:
    """Images a second, from the call to the finished file; model and text tower stay outside."""
    count = BATCH // 2 if quick else 3 * BATCH
    encoder = load_encoder("RN50", pretrained="random:0")
    model = stock_model()
    transform = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    with tempfile.TemporaryDirectory() as folder:
        root, paths = photographs(Path(folder) / "photographs", count)
        manifest = manifest_of(root, paths, np.zeros(count, np.int64))
        bare = replace(manifest, prompts={})
        files = Files([root / path for path in paths], transform)
        pixels, decode = pixels_of(encoder, manifest)
        reports: list[BuildReport] = []
        found: dict[str, npt.NDArray[np.float32]] = {}

        def cache() -> None:
            # Image features only, as in the loop; a fresh file, every image hashed anew.
            out = Path(folder) / f"{len(reports)}.h5"
            options = BuildOptions(out=out, batch_size=BATCH, templates=(), rehash=True)
            reports.append(build_cache(bare, encoder, options=options))

        def memory() -> None:
            for start in range(0, count, BATCH):
                encoder.images(pixels[start : start + BATCH], LEVELS)

        def loop(workers: int) -> None:
            found[f"loop {workers}"] = plain_loop(model, files, workers=workers)

        # One batch through either model starts up all that is made at first use.
        encoder.images(pixels[:BATCH], LEVELS)
        plain_loop(model, replace(files, paths=files.paths[:BATCH]), workers=0)
        seconds = interleaved(
            {
                "cache": cache,
                "memory": memory,
                "loop 0": lambda: loop(0),
                "loop 2": lambda: loop(2),
            },
            repetitions=1 if quick else 3,
            warmup=0,
        )
        with open_cache(reports[-1].path) as cached:
            embedding = cached.read("embedding")
    return _rows(seconds, reports[-1], decode, least_cosine(embedding, found["loop 0"]))


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
