"""Training the projection head over a cache: one epoch, and the rate of a whole run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import open_clip
import torch
from encode import stock_model
from measure import Reading, Row, interleaved, quotients
from synthetic import JOINT, WATERBIRDS, WIDTH, feature_cache
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from embedcal.cache import open_cache
from embedcal.fitting import configure, fit_on
from embedcal.heads import ProjectionHead
from embedcal.methods.base import Gradient
from embedcal.train import train
from embedcal.types import Task
from embedcal.workbench import Workbench

BATCH = 128


class PlainHead(nn.Module):
    """The projection head as one writes it: a linear layer, two norms, a temperature."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        start = ProjectionHead.start(task.projection, task.bank("class"), scope="image")  # type: ignore[arg-type]
        self.projection = nn.Linear(WIDTH, JOINT)
        with torch.no_grad():
            self.projection.weight.copy_(start.image_weight)
            self.projection.bias.zero_()
        self.logit_scale = nn.Parameter(start.logit_scale.detach().clone())
        self.register_buffer("text", start.prototypes().detach())

    def forward(self, x: Tensor) -> Tensor:
        image = F.normalize(self.projection(x), dim=-1)
        return self.logit_scale.exp() * image @ self.get_buffer("text").T


def loader_epoch(task: Task, method: Gradient) -> None:
    """The same epoch with a DataLoader over a TensorDataset, autograd and torch's AdamW."""
    head = PlainHead(task)
    update = torch.optim.AdamW(
        head.parameters(), lr=method.step_size, weight_decay=method.weight_decay
    )
    data = TensorDataset(torch.from_numpy(task.train.x), torch.from_numpy(task.train.y))
    for x, y in DataLoader(data, batch_size=BATCH, shuffle=True):
        loss = F.cross_entropy(head(x), y)
        update.zero_grad()
        loss.backward()
        update.step()


def encoder_step(task: Task, method: Gradient, *, share: int) -> Callable[[], None]:
    """One step that goes through RN50 and, for 80 templates of each class, the text tower.

    Pictures and prompts are tensors in memory and neither tower keeps anything for a gradient,
    which is less work than a script does that decodes its pictures in every epoch. The weights are
    random, so the head then eats cached features. Of pictures and of prompts only one in ``share``
    goes through the towers.
    """
    model, head = stock_model(), PlainHead(task)
    update = torch.optim.AdamW(
        head.parameters(), lr=method.step_size, weight_decay=method.weight_decay
    )
    images = torch.randn(BATCH // share, 3, 224, 224)
    x, y = torch.from_numpy(task.train.x[:BATCH]), torch.from_numpy(task.train.y[:BATCH])
    names = [name for name in task.bank("class").prompts for _ in task.bank("class").templates][
        ::share
    ]
    prompts = open_clip.get_tokenizer("RN50")([f"a photo of a {name}." for name in names])

    def step() -> None:
        with torch.no_grad():
            model.encode_image(images)  # type: ignore[operator]
            text = model.encode_text(prompts)  # type: ignore[operator]
            text = F.normalize(text, dim=-1).unflatten(0, (task.n_classes, -1)).mean(1)
            head.get_buffer("text").copy_(F.normalize(text, dim=-1))
        loss = F.cross_entropy(head(x), y)
        update.zero_grad()
        loss.backward()
        update.step()

    return step


def products(task: Task) -> Callable[[], None]:
    """The two matrix products of every step of an epoch, and nothing else."""
    batches = torch.from_numpy(task.train.x).split(BATCH)
    weight, gradient = torch.randn(JOINT, WIDTH), torch.randn(BATCH, JOINT)
    out, back = torch.empty(BATCH, JOINT), torch.empty(JOINT, WIDTH)

    def run() -> None:
        for x in batches:
            b = len(x)
            torch.mm(x, weight.T, out=out[:b])
            torch.mm(gradient[:b].T, x, out=back)

    return run


def measure(*, quick: bool) -> list[Row]:
    """One epoch of ERM beside its baselines, then a whole run as ``fit`` does it."""
    sizes = (1280, 320, 320) if quick else WATERBIRDS
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cache(feature_cache(Path(folder), sizes)) as cache,
    ):
        on = Workbench(cache)
        return [*_epoch(on, quick=quick), _run(on, Path(folder), quick=quick)]


def _erm(epochs: int) -> Gradient:
    method = configure("erm", {"epochs": epochs, "head": "projection", "batch_size": BATCH})
    assert isinstance(method, Gradient)
    return method


def _epoch(on: Workbench, *, quick: bool) -> list[Row]:
    method = _erm(1)
    task = on.task(method)
    rows = len(task.train)
    steps = -(-rows // BATCH)
    seconds = interleaved(
        {
            "ours": lambda: train(method, task, seed=0),
            "loader": lambda: loader_epoch(task, method),
            "products": products(task),
        },
        repetitions=3 if quick else 9,
    )
    share = 4 if quick else 1
    through = encoder_step(task, method, share=share)
    slow = interleaved(
        {"ours": lambda: train(method, task, seed=0), "encoders": through},
        repetitions=1 if quick else 2,
        warmup=0,  # a step through the towers takes many seconds, beside which no start counts
    )
    whole = [share * steps * value for value in slow["encoders"]]
    ours = Reading(what="embedcal.train", value=median(seconds["ours"]), unit="s")
    rate = {name: 4 * rows * WIDTH * JOINT / median(v) / 1e9 for name, v in seconds.items()}
    return [
        Row(
            name=f"one epoch of {rows} rows, projection head",
            ours=ours,
            baseline=Reading(
                what="DataLoader, autograd", value=median(seconds["loader"]), unit="s"
            ),
            ratio=quotients(seconds["loader"], seconds["ours"]),
        ),
        Row(
            name="... against RN50 and the text tower",
            ours=Reading(what="embedcal.train", value=median(slow["ours"]), unit="s"),
            baseline=Reading(what="through both towers", value=median(whole), unit="s"),
            ratio=quotients(whole, slow["ours"]),
            target=1000.0,
            note=f"extrapolated: {len(whole) / share:g} of {steps} steps went through the towers",
        ),
        Row(
            name="... of the matrix-product rate",
            ours=Reading(what="embedcal.train", value=rate["ours"], unit="GFLOP/s"),
            baseline=Reading(what="its two products", value=rate["products"], unit="GFLOP/s"),
            ratio=quotients(seconds["products"], seconds["ours"]),
            target=0.5,
            note="forward and weight gradient: 4 x rows x 2048 x 1024 operations an epoch",
        ),
    ]


def _run(on: Workbench, folder: Path, *, quick: bool) -> Row:
    """A whole run: epochs, validation after each, what every rule keeps, files and intervals."""
    epochs = 3 if quick else 30
    task = on.task(_erm(1))
    train_rows, val_rows = len(task.train), len(task.val)
    product = products(task)
    seed = iter(range(1000))

    def run() -> None:
        options = {"epochs": epochs, "head": "projection", "batch_size": BATCH}
        fit_on(on, "erm", options, seed=next(seed), out=folder / "runs", device="cpu")

    turns = 1 if quick else 3
    seconds = interleaved({"run": run, "products": product}, repetitions=turns, warmup=0)
    # The mathematics: every epoch's two products, and one for the validation that selects.
    needed = epochs * (4 * train_rows + 2 * val_rows) * WIDTH * JOINT / 1e9
    each = 4 * train_rows * WIDTH * JOINT / 1e9
    ours = [needed / value for value in seconds["run"]]
    theirs = [each / value for value in seconds["products"]]
    return Row(
        name=f"one ERM run of {epochs} epochs, of that rate",
        ours=Reading(what="fit erm", value=median(ours), unit="GFLOP/s"),
        baseline=Reading(what="its matrix products", value=median(theirs), unit="GFLOP/s"),
        ratio=quotients(ours, theirs),
        target=0.5,
        note=f"{median(seconds['run']):.1f} s with validation, selection, files and intervals",
        facts={"seconds": median(seconds["run"])},
    )
