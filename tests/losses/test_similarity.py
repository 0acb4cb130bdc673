"""The official similarity terms against loops that index as the official code does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from embedcal.errors import EmbedcalError
from embedcal.losses import (
    official_cross,
    official_domain,
    official_image,
    official_language,
    official_spurious_cross,
    official_spurious_language,
    official_spurious_vision,
    official_tracker,
    similarity_block,
)

World = dict[str, torch.Tensor]
Rows = Sequence[np.ndarray]


def cos(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def slow_block(
    rows: Rows,
    columns: Rows,
    of_row: Sequence[int],
    of_column: Sequence[int],
    pos: float,
    neg: float,
) -> list[float]:
    values = []
    for r, k in zip(rows, of_row):
        pull = [cos(r, s) for s, j in zip(columns, of_column) if j == k]
        push = [cos(r, s) for s, j in zip(columns, of_column) if j != k]
        values.append((-pos * sum(pull) + neg * sum(push)) / len(columns))
    return values


def flat(text: torch.Tensor) -> Rows:
    """Row t * C + c, as the official code stacks [T, C, d] and views it."""
    return [text[c, t].numpy() for t in range(text.shape[1]) for c in range(text.shape[0])]


def read(row: list[float], c: int, t: int, y: Sequence[int], fixed: bool) -> list[float]:
    """What an item takes of the flat rows."""
    if fixed:
        return [sum(row[i * c + k] for i in range(t)) / t for k in y]
    return [sum(row[k * c + i] for i in range(c)) / c for k in y]


def labels(c: int, t: int, fixed: bool) -> list[int]:
    return [r % c if fixed else r // t for r in range(c * t)]


def parts(w: World) -> tuple[int, int, float, float]:
    return w["text"].shape[0], w["text"].shape[1], float(w["pos"]), float(w["neg"])


def close(found: torch.Tensor, expected: Sequence[float]) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_block_divides_by_all_columns(world: World) -> None:
    rows, columns, y, queue_y = (world[k] for k in ("unit", "queue", "y", "queue_y"))
    *_, pos, neg = parts(world)
    found = similarity_block(rows, columns, y, queue_y, pos=pos, neg=neg)
    sides = (rows.numpy(), columns.numpy(), y.tolist(), queue_y.tolist())
    close(found, slow_block(*sides, pos, neg))


@pytest.mark.parametrize("fixed", [False, True])
def test_image(world: World, fixed: bool) -> None:
    *_, pos, neg = parts(world)
    unit = world["unit"].numpy()
    of = world["y"].tolist() if fixed else [1] * len(unit)
    found = official_image(world["unit"], world["y"], pos, neg, fixed=fixed)
    close(found, slow_block(unit, unit, of, of, pos, neg))


@pytest.mark.parametrize("fixed", [False, True])
def test_language(world: World, fixed: bool) -> None:
    c, t, pos, neg = parts(world)
    rows, of, y = flat(world["text"]), labels(c, t, fixed), world["y"].tolist()
    found = official_language(world["text"], world["y"], pos, neg, fixed=fixed)
    close(found, read(slow_block(rows, rows, of, of, pos, neg), c, t, y, fixed))


@pytest.mark.parametrize("fixed", [False, True])
def test_spurious_language(world: World, fixed: bool) -> None:
    c, t, _, neg = parts(world)
    rows, columns, y = flat(world["text"]), flat(world["attribute_text"]), world["y"].tolist()
    row = [sum(abs(cos(r, s)) for s in columns) / len(columns) for r in rows]
    found = official_spurious_language(
        world["text"], world["attribute_text"], world["y"], neg, fixed=fixed
    )
    close(found, [neg * v for v in read(row, c, t, y, fixed)])


@pytest.mark.parametrize("fixed", [False, True])
def test_spurious_language_on_the_diagonal(world: World, fixed: bool) -> None:
    c, t, _, neg = parts(world)
    pairs = zip(flat(world["text"]), flat(world["k_context"]))
    row = [abs(cos(r, s)) for r, s in pairs]
    found = official_spurious_language(
        world["text"], world["k_context"], world["y"], neg, fixed=fixed, diagonal=True
    )
    close(found, [neg * v for v in read(row, c, t, world["y"].tolist(), fixed)])


def test_tracker(world: World) -> None:
    c, t, _, neg = parts(world)
    rows = flat(world["text"])
    row = [sum(abs(cos(r, s)) for s in rows) / len(rows) for r in rows]
    found = official_tracker(world["text"], world["y"], neg)
    close(found, [neg * v for v in read(row, c, t, world["y"].tolist(), fixed=False)])


def test_spurious_vision(world: World) -> None:
    context, scale = world["context"].numpy(), float(world["scale"])
    mean = [sum(templates) / len(templates) for templates in context]
    norm = math.sqrt(sum(float(v) ** 2 for row in mean for v in row))
    expected = []
    for f, a in zip(world["unit"].numpy(), world["a"].tolist()):
        logits = [scale * float(f @ row) / norm for row in mean]
        expected.append(math.log(sum(math.exp(v) for v in logits)) - logits[a])
    found = official_spurious_vision(world["unit"], world["context"], world["a"], scale)
    close(found, expected)


@pytest.mark.parametrize("fixed", [False, True])
def test_domain(world: World, fixed: bool) -> None:
    c, t, pos, neg = parts(world)
    text, a = (world["context"], world["a"]) if fixed else (world["k_context"], world["ka"])
    n = len(text)  # attribute values: as many as classes, unless fixed
    rows, of = flat(text), labels(n, t, fixed)
    found = official_domain(text, a, pos, neg, n_classes=c, fixed=fixed)
    close(found, read(slow_block(rows, rows, of, of, pos, neg), n, t, a.tolist(), fixed))


@pytest.mark.parametrize("fixed", [False, True])
def test_cross(world: World, fixed: bool) -> None:
    c, t, pos, neg = parts(world)
    of = world["y"].tolist() if fixed else [1] * len(world["y"])
    sides = (world["unit"].numpy(), flat(world["text"]), of, labels(c, t, fixed))
    found = official_cross(world["unit"], world["text"], world["y"], pos, neg, fixed=fixed)
    close(found, slow_block(*sides, pos, neg))


def test_spurious_cross(world: World) -> None:
    columns, neg = flat(world["attribute_text"]), float(world["neg"])
    expected = [
        neg * sum(abs(cos(f, s)) for s in columns) / len(columns) for f in world["unit"].numpy()
    ]
    close(official_spurious_cross(world["unit"], world["attribute_text"], neg), expected)


def test_the_official_image_term_knows_no_class(world: World) -> None:
    """It is least where all images are one point, whatever their labels."""
    y = world["y"]
    one = world["unit"][:1].expand(len(y), -1)
    close(official_image(one, y, 1.0, 1.0, fixed=False), [-1.0] * len(y))


def test_the_fixed_language_term_is_least_where_classes_are_opposite() -> None:
    text = torch.tensor([[[1.0, 0.0]] * 3, [[-1.0, 0.0]] * 3], dtype=torch.float64)
    found = official_language(text, torch.tensor([0, 1]), 1.0, 1.0, fixed=True)
    close(found, [-1.0, -1.0])


def test_what_the_official_code_cannot_run_is_one_line() -> None:
    text, y = torch.ones(3, 2, 4), torch.tensor([0])
    with pytest.raises(EmbedcalError, match=r"^expected no more classes than templates .* 3 and 2"):
        official_language(text, y, 1.0, 1.0, fixed=False)
    with pytest.raises(EmbedcalError, match=r"^expected no more classes than templates"):
        official_tracker(text, y, 1.0)
    with pytest.raises(EmbedcalError, match=r"^expected as many attribute values .* 2 and 3"):
        official_spurious_language(text, text[:2], y, 1.0, fixed=True, diagonal=True)
    with pytest.raises(EmbedcalError, match=r"^expected as many attribute values .* 3 and 2"):
        official_domain(text, y, 1.0, 1.0, n_classes=2, fixed=False)
    for wanted in (official_language(text, y, 1.0, 1.0, fixed=True),
                   official_domain(text, y, 1.0, 1.0, n_classes=2, fixed=True)):  # fmt: skip
        assert torch.isfinite(wanted).all()
