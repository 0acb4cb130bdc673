"""One small model with every part that a head may want, and every head over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from embedcal.heads import (
    AdapterHead,
    AttnPoolHead,
    ContextHead,
    Head,
    LinearHead,
    MappedHead,
    MlpHead,
    ProjectionHead,
    TemplatesHead,
)
from embedcal.types import Projection, TextBank


@dataclass(frozen=True)
class Model:
    """The weights and texts of a model with an attention pool of 2 heads over 2 x 2 cells."""

    projection: Projection
    bank: TextBank
    classes: int = 3
    templates: int = 5
    joint: int = 4
    width: int = 8
    cells: int = 4

    def x(self, level: str, n: int = 7, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        shape = {
            "embedding": (n, self.joint),
            "pooled": (n, self.width),
            "tokens": (n, self.cells, self.width),
        }[level]
        return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.fixture
def model() -> Model:
    rng = np.random.default_rng(1)
    c, t, d, w, v, cells = 3, 5, 4, 8, 7, 4
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    pool = {"positional_embedding": draw(cells + 1, w)}
    for name in "qkv":
        pool |= {f"{name}_proj.weight": draw(w, w) / 3, f"{name}_proj.bias": draw(w)}
    pool |= {"c_proj.weight": draw(d, w), "c_proj.bias": draw(d)}
    projection = Projection(
        image_weight=pool["c_proj.weight"],
        image_bias=pool["c_proj.bias"],
        text_weight=draw(d, v),
        logit_scale=3.25,
        attnpool=pool,
        attnpool_heads=2,
    )
    pooled = draw(c, t, v)
    bank = TextBank(
        name="class",
        prompts=("a", "b", "c"),
        templates=tuple(f"{{}} {k}" for k in range(t)),
        pooled=pooled,
        embedding=pooled @ projection.text_weight.T,
    )
    return Model(projection, bank)


HEADS = (
    "linear",
    "projection/image",
    "projection/image+text_proj",
    "attnpool/image",
    "attnpool/image+text_proj",
    "adapter",
    "mlp",
    "mapped",
    "context/with-class",
    "context/alone",
    "templates/cosines",
    "templates/embeddings",
)


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest, model: Model) -> Head:
    """Each head in turn, in float32."""
    return make(request.param, model)


def make(which: str, model: Model, seed: int = 0) -> Head:
    """One head by name; heads of other seeds have other weights."""
    generator = torch.Generator().manual_seed(seed)
    name, _, scope = which.partition("/")
    if name == "linear":
        made: Head = LinearHead.start(model.joint, model.classes, generator, normalise=True)
    elif name == "mlp":
        made = MlpHead.start(model.joint, model.classes, generator, hidden=6)
    elif name == "mapped":
        rows = torch.randn(2 + 2 + model.classes, model.joint, generator=generator)
        parts = dict(zip(("basis", "change", "weight"), rows.split([2, 2, model.classes])))
        made = MappedHead(parts)
    elif name == "context":
        text = torch.randn(model.classes, 2, model.joint, generator=generator)
        state = {"text": text, "logit_scale": torch.tensor(1.5)}
        if scope == "alone":
            state["contexts"] = torch.randn(2, model.joint, generator=generator)
        made = ContextHead(state, infer=scope, temperature=2.0)
    elif name == "templates":
        state = {"text": torch.tensor(model.bank.embedding), "logit_scale": torch.tensor(1.5)}
        made = TemplatesHead(state, keep=2, combine=scope)
    elif name == "adapter":
        made = AdapterHead.start(model.bank, generator, hidden=6, residual=0.5)
        made(model.x("embedding"))  # in training: the running statistics move
    else:
        cls = ProjectionHead if name == "projection" else AttnPoolHead
        made = cls.start(model.projection, model.bank, scope=scope, temperature="pretrained")
    with torch.no_grad():
        for parameter in made.parameters() if seed else ():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.fixture
def make_head() -> object:
    return make
