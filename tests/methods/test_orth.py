"""Orth-Proj and Orth-Cal against their definitions, their closed form against its objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prompted import bank, draw, logits, mean_rows, nrm, prompted

from embedcal.methods._span import beside, span_basis
from embedcal.methods.base import Offer
from embedcal.methods.orth_cal import OrthCal, calibrate
from embedcal.methods.orth_proj import OrthProj
from embedcal.types import EmbedcalError

EQUAL = [(0, 1, "equal"), (2, 3, "equal"), (4, 1, "equal"), (0, 2, "reject")]
S = np.exp(2.5)


def projector(rows: Any) -> Any:
    """I - S^T (S S^T)^-1 S by the normal equations, for rows that are independent."""
    return np.eye(rows.shape[1]) - rows.T @ np.linalg.inv(rows @ rows.T) @ rows


def scatter(task: Any) -> Any:
    """M: one outer product after another."""
    z = mean_rows(task.bank("pairs").embedding)
    pairs = [(i, j) for i, j, role in task.bank("pairs").pairs if role == "equal"]
    return sum(np.outer(z[i] - z[j], z[i] - z[j]) for i, j in pairs) / len(pairs)


def cosines(rows: Any, x: Any) -> Any:
    """s cos(x, row), a row and an image at a time."""
    return np.array([[S * float(nrm(i) @ nrm(row)) for row in rows] for i in x])


@pytest.mark.parametrize(("classes", "values"), [(2, 2), (4, 3)])
def test_projection_by_the_normal_equations(classes: int, values: int) -> None:
    task = prompted(classes=classes, values=values)
    p0 = projector(mean_rows(task.bank("attribute").embedding))
    rows = mean_rows(task.bank("class").embedding) @ p0.T
    found = logits(OrthProj().solve(task, 0), task.train.x)
    np.testing.assert_allclose(found, cosines(rows, task.train.x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("strength", [0.0, 3.0, 1000.0])
def test_calibration_by_an_explicit_inverse(strength: float) -> None:
    task = prompted(EQUAL)
    p0 = projector(mean_rows(task.bank("attribute").embedding))
    p = p0 @ np.linalg.inv(np.eye(9) + strength * scatter(task))
    rows = mean_rows(task.bank("class").embedding) @ p.T
    found = logits(OrthCal(strength=strength).solve(task, 0), task.train.x)
    np.testing.assert_allclose(found, cosines(rows, task.train.x), rtol=2e-4, atol=2e-4)
    if strength == 0:
        plain = logits(OrthProj().solve(task, 0), task.train.x)
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


def test_the_projection_is_one() -> None:
    rows = mean_rows(prompted(values=3).bank("attribute").embedding)
    p0 = beside(np.eye(9), span_basis(rows))
    np.testing.assert_allclose(p0 @ p0, p0, atol=1e-12)
    np.testing.assert_allclose(p0, p0.T, atol=1e-12)
    np.testing.assert_allclose(p0 @ rows.T, 0, atol=1e-12)
    assert np.isclose(np.trace(p0), 9 - 3)


def test_the_closed_form_is_the_minimum_of_its_objective() -> None:
    task, strength = prompted(EQUAL), 40.0
    p0 = beside(np.eye(9), span_basis(mean_rows(task.bank("attribute").embedding)))
    z = mean_rows(task.bank("pairs").embedding)
    apart = np.array([z[i] - z[j] for i, j, role in EQUAL if role == "equal"])
    p = beside(
        calibrate(np.eye(9), apart, strength),
        span_basis(mean_rows(task.bank("attribute").embedding)),
    ).T  # rows of the identity become columns of P
    np.testing.assert_allclose(p0 @ p, p, atol=1e-12)  # the output stays free of S

    def objective(of: Any) -> float:
        pulled = np.mean([np.sum((of @ each) ** 2) for each in apart])
        return float(np.sum((of - p0) ** 2) + strength * pulled)

    rng, least = np.random.default_rng(0), objective(p)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(50):
            assert objective(p + size * rng.normal(size=p.shape)) > least
    step = 1e-5
    for i, j in rng.integers(9, size=(20, 2)):
        move = np.zeros_like(p)
        move[i, j] = step
        slope = (objective(p + move) - objective(p - move)) / (2 * step)
        assert abs(slope) < 1e-6


def test_a_large_lambda_projects_the_differences_out() -> None:
    task = prompted(EQUAL)
    z = mean_rows(task.bank("pairs").embedding)
    apart = np.array([z[i] - z[j] for i, j, role in EQUAL if role == "equal"])
    limit = np.eye(9) - span_basis(apart).T @ span_basis(apart)
    np.testing.assert_allclose(calibrate(np.eye(9), apart, 1e9), limit, atol=1e-7)


@pytest.mark.parametrize("method", [OrthProj(), OrthCal()])
def test_neither_the_order_of_prompts_nor_projected_images_change_a_decision(method: Any) -> None:
    task = prompted(EQUAL, values=3)
    attribute = task.bank("attribute")
    turned = replace(attribute, embedding=attribute.embedding[::-1].copy())
    pairs = replace(task.bank("pairs"), pairs=tuple((j, i, role) for i, j, role in EQUAL[::-1]))
    other = replace(task, text={**task.text, "attribute": turned, "pairs": pairs})
    found = logits(method.solve(task, 0), task.train.x)
    np.testing.assert_allclose(found, logits(method.solve(other, 0), task.train.x), atol=1e-4)
    p0 = beside(task.train.x, span_basis(mean_rows(attribute.embedding)))
    again = logits(method.solve(task, 0), p0.astype(np.float32))
    np.testing.assert_array_equal(found.argmax(1), again.argmax(1))
    assert (np.ptp(again, axis=1) > np.ptp(found, axis=1)).all()  # but confidence rises


def test_duplicated_prompts_cost_a_direction_in_the_official_variant_only() -> None:
    task = prompted()
    rng = np.random.default_rng(3)
    once = task.bank("attribute").embedding
    noise = 1e-7 * draw(rng, *once.shape)
    twice = bank("attribute", np.concatenate([once, once + noise.astype(np.float32)]))
    doubled = replace(task, text={**task.text, "attribute": twice})
    x = task.train.x
    for variant, same in (("paper", True), ("official", False)):
        method = OrthProj(variant=variant)
        one, two = (logits(method.solve(each, 0), x) for each in (task, doubled))
        assert np.allclose(one, two, atol=1e-2) is same


def test_class_prompts_within_the_span_are_refused() -> None:
    task = prompted(templates=1)
    same = bank("attribute", task.bank("class").embedding)
    with pytest.raises(EmbedcalError, match=r"nothing left of 'class \d'") as error:
        OrthProj().solve(replace(task, text={**task.text, "attribute": same}), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "banks", "said"),
    [
        (OrthProj(), {"class"}, r"attribute prompts .* for orth-proj, found class: name the"),
        (OrthCal(), {"class", "attribute"}, r"concept pairs .* for orth-cal, .* --pairs FILE"),
        (OrthCal(), set(), "found no text: cache with an encoder that has a text tower"),
    ],
)
def test_what_is_missing_is_named(method: Any, banks: set[str], said: str) -> None:
    offer = Offer(
        levels=frozenset({"embedding"}), banks=frozenset(banks), projection=True, attributes=True
    )
    with pytest.raises(EmbedcalError, match=said) as error:
        method.resolve(offer)
    assert "\n" not in str(error.value)


def test_pairs_of_other_roles_do_not_serve() -> None:
    with pytest.raises(EmbedcalError, match="of the role equal for orth-cal"):
        OrthCal().solve(prompted([(0, 1, "reject")]), 0)


@pytest.mark.parametrize("given", [{"strength": -1.0}, {"templates": -1}])
def test_options_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(EmbedcalError, match="of 0 or more"):
        OrthCal(**given)
