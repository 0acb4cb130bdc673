"""Training the whole attention pool over cached tokens, against going through both towers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from encode import stock_model
from measure import Reading, Row, interleaved, quotients
from PIL import Image
from synthetic import JOINT, TEMPLATES, WIDTH, FeatureEncoder, manifest_of
from torch.nn import functional as F

from embedcal.cache import BuildOptions, build_cache, open_cache
from embedcal.fitting import configure
from embedcal.methods.base import Gradient
from embedcal.train import train
from embedcal.types import FloatArray, Level, Projection, Task
from embedcal.workbench import Workbench

BATCH, CELLS, HEADS = 128, 49, 32
PROMPTS = 3 * TEMPLATES  # what the official code encodes in every step


class TokenEncoder(FeatureEncoder):
    """RN50's shapes with its tokens, and an attention pool with the module's own start."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = type(self.meta)(
            **{**vars(self.meta), "shapes": {"tokens": (CELLS, WIDTH), **self.meta.shapes}}
        )

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        return {"tokens": self._draw(len(pixels), CELLS, WIDTH), **super().images(pixels, levels)}

    def projection(self) -> Projection:
        pool = open_clip.modified_resnet.AttentionPool2d(7, WIDTH, HEADS, JOINT)
        weights = {name: p.detach().numpy() for name, p in pool.named_parameters()}
        plain = super().projection()
        return Projection(**{**vars(plain), "attnpool": weights, "attnpool_heads": HEADS})


def token_cache(folder: Path, rows: tuple[int, int, int]) -> Path:
    """A finished cache with float16 tokens; every row names one picture of a single pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    manifest = manifest_of(folder, ["pixel.png"] * sum(rows), np.repeat(np.arange(3), rows))
    templates = tuple(f"a photo of a {{}}, number {i}." for i in range(TEMPLATES))
    options = BuildOptions(out=folder / "tokens.h5", templates=templates, tokens=True)
    return build_cache(manifest, TokenEncoder(), options=options).path


def official_step() -> Callable[[], None]:
    """One step as the official code has it: RN50 to its pool, 240 prompts, the pool's gradient.

    Pictures and prompts are tensors in memory, and the text tower keeps nothing for a gradient:
    less work than there.
    """
    model = stock_model()
    visual = model.visual
    pool = visual.attnpool
    visual.attnpool = torch.nn.Identity()
    update = torch.optim.AdamW(pool.parameters(), lr=1e-3)  # type: ignore[arg-type]
    images, y = torch.randn(BATCH, 3, 224, 224), torch.randint(2, (BATCH,))
    names = [f"a photo of a {k}." for k in range(PROMPTS)]
    prompts = open_clip.get_tokenizer("RN50")(names)

    def step() -> None:
        with torch.no_grad():
            cells = visual(images)
            text = F.normalize(model.encode_text(prompts), dim=-1)  # type: ignore[operator]
            prototypes = F.normalize(text[: 2 * TEMPLATES].unflatten(0, (2, -1)).mean(1), dim=-1)
        logits = 14.3 * F.normalize(pool(cells), dim=-1) @ prototypes.T  # type: ignore[operator]
        update.zero_grad()
        F.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]
        update.step()

    return step


def measure(*, quick: bool) -> list[Row]:
    """One epoch of ERM with the attention-pool head, tokens read from the file in every step."""
    rows = 256 if quick else 1280
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cache(token_cache(Path(folder), (rows, 64, 64))) as cache,
    ):
        method = configure("erm", {"epochs": 1, "head": "attnpool", "batch_size": BATCH})
        assert isinstance(method, Gradient)
        task: Task = Workbench(cache).task(method)
        slow = official_step()
        seconds = interleaved(
            {"ours": lambda: train(method, task, seed=0), "towers": slow},
            repetitions=1 if quick else 3,
            warmup=0,  # a step through the towers takes many seconds
        )
    steps = -(-rows // BATCH)
    whole = [steps * value for value in seconds["towers"]]
    return [
        Row(
            name=f"one epoch of {rows} rows, attention-pool head, against both towers",
            ours=Reading(what="embedcal.train", value=median(seconds["ours"]), unit="s"),
            baseline=Reading(
                what="RN50, 240 prompts, open_clip's pool", value=median(whole), unit="s"
            ),
            ratio=quotients(whole, seconds["ours"]),
            target=50.0,
            note=f"extrapolated: {len(whole)} of {steps} steps went through the towers",
        )
    ]
