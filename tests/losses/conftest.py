"""Small random worlds in float64: images, prompts, labels, a queue, with T != C and gaps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

World = dict[str, Tensor]

TEMPLATES = {2: 3, 5: 6}
# classes, batch, whether the last class and the last attribute value are absent from the batch
SHAPES = [(2, 1, False), (2, 7, False), (2, 6, True), (5, 7, True), (5, 12, False)]


def random_world(c: int, b: int, absent: bool, seed: int) -> World:
    """Every tensor that a loss can ask for; ``k_context`` has as many prompts as classes."""
    generator = torch.Generator().manual_seed(seed)
    t, a, d, q = TEMPLATES[c], 3, 4, 8

    def unit(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(x, dim=-1)

    def labels(n: int, values: int) -> Tensor:
        return torch.randint(values - absent, (n,), generator=generator)

    def number(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    y, attribute = labels(b, c), labels(b, a)
    return {
        "unit": unit(b, d),
        "captions": 0.9 * unit(b, d),
        "y": y,
        "a": attribute,
        "g": y * a + attribute,
        "scale": 5 + number(),
        "tau": 0.1 + number(),
        "logits": 6 * number(b, c) - 3,
        "values": number(b),
        "weights": 0.1 + number(b),
        "counted": number(b) < 0.6,
        "text": unit(c, t, d),
        "attribute_text": unit(a, t, d),
        "context": unit(a, t, d),
        "k_context": unit(c, t, d),
        "ka": labels(b, c),
        "pos": 0.5 + number(),
        "neg": 0.5 + number(),
        "positive": 4 * number(b, 3) - 2,
        "negative": 4 * number(b, 5) - 2,
        "positive_mask": number(b, 3) < 0.5,
        "negative_mask": number(b, 5) < 0.5,
        "queue": unit(q, d),
        "queue_y": torch.cat([labels(q - 2, c), torch.tensor([-1, -1])]),
        "targets": unit(c, d),
        "centroids": unit(c, d),
        "target_of_class": torch.randperm(c, generator=generator),
        "losses": 2 * number(c),
        "q": torch.softmax(number(c), 0),
        "ema": 2 * number(c),
        "seen": number(c) < 0.7,
        "present": number(c) < 0.7,
        "fractions": torch.softmax(2 * number(c), 0),
        "counts": torch.randint(1, 90, (c,), generator=generator),
    }


@pytest.fixture
def make_world() -> Callable[[int, int, bool, int], World]:
    return random_world


@pytest.fixture(params=SHAPES, ids=lambda s: f"C{s[0]}-b{s[1]}{'-absent' if s[2] else ''}")
def world(request: pytest.FixtureRequest) -> World:
    return random_world(*request.param, seed=0)


@pytest.fixture(params=SHAPES[1:4], ids=lambda s: f"C{s[0]}-b{s[1]}{'-absent' if s[2] else ''}")
def worlds(request: pytest.FixtureRequest) -> list[World]:
    """Three worlds of the same shapes."""
    return [random_world(*request.param, seed=seed) for seed in (1, 2, 3)]
