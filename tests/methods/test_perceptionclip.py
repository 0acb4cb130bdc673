"""PerceptionCLIP by two loops of probabilities, and what its temperature and contexts do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from prompted import logits, mean_rows, nrm, prompted

from embedcal.methods.base import Offer
from embedcal.methods.perceptionclip import PerceptionCLIP
from embedcal.types import EmbedcalError, TextBank

S = np.exp(2.5)


def probabilities(task: Any, x: Any, *, temperature: float, alone: bool) -> Any:
    """P(y|x), an image, a context and a class at a time."""
    n_classes, n_values = task.n_classes, task.n_attributes
    rows = mean_rows(task.bank("group").embedding)
    contexts = mean_rows(task.bank("context").embedding)
    found = []
    for image in nrm(x):
        f = [
            [S * image @ rows[y * n_values + z] for z in range(n_values)] for y in range(n_classes)
        ]
        weight = []
        for z in range(n_values):
            if alone:
                weight.append(np.exp(S * image @ contexts[z] / temperature))
            else:
                weight.append(sum(np.exp(f[y][z] / temperature) for y in range(n_classes)))
        total = [0.0] * n_classes
        for z in range(n_values):
            below = sum(np.exp(f[y][z]) for y in range(n_classes))
            for y in range(n_classes):
                total[y] += weight[z] / sum(weight) * np.exp(f[y][z]) / below
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize(("classes", "values"), [(2, 2), (3, 4)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("context", ["with-class", "alone"])
def test_two_steps_by_loops(context: str, temperature: float, classes: int, values: int) -> None:
    task = prompted(classes=classes, values=values)
    x = task.train.x
    head = PerceptionCLIP(context=context, temperature=temperature).solve(task, 0)
    found = np.exp(logits(head, x))
    wanted = probabilities(task, x, temperature=temperature, alone=context == "alone")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_one_step_averages_the_rows_of_a_class() -> None:
    task = prompted(classes=3, values=2)
    rows = nrm(mean_rows(task.bank("group").embedding).reshape(3, 2, -1).mean(1))
    head = PerceptionCLIP(context="average").solve(task, 0)
    np.testing.assert_allclose(
        logits(head, task.train.x), S * nrm(task.train.x) @ rows.T, rtol=1e-4, atol=1e-4
    )


def test_at_temperature_one_it_is_the_joint_marginal() -> None:
    task = prompted(classes=3, values=4)
    head = PerceptionCLIP().solve(task, 0)
    f = head.scores(torch.tensor(task.train.x))
    joint = torch.log_softmax(torch.logsumexp(f, 2), 1).detach().numpy()
    np.testing.assert_allclose(logits(head, task.train.x), joint, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", ["with-class", "alone"])
def test_a_high_temperature_weighs_all_contexts_alike(context: str) -> None:
    task = prompted(classes=3, values=4)
    head = PerceptionCLIP(context=context, temperature=1e8).solve(task, 0)
    f = head.scores(torch.tensor(task.train.x)).detach().numpy().astype(float)
    within = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    found = np.exp(logits(head, task.train.x))
    np.testing.assert_allclose(found, within.mean(2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("context", ["with-class", "alone", "average"])
def test_one_context_is_zero_shot(context: str) -> None:
    task = prompted(classes=3, values=1)
    head = PerceptionCLIP(context=context).solve(task, 0)
    rows = mean_rows(task.bank("group").embedding)
    wanted = S * nrm(task.train.x) @ rows.T
    found = logits(head, task.train.x)
    if context != "average":  # as log-probabilities
        wanted = wanted - np.log(np.exp(wanted).sum(1, keepdims=True))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", ["with-class", "alone", "average"])
def test_the_order_of_contexts_does_not_count(context: str) -> None:
    task = prompted(classes=3, values=4)
    order = np.array([2, 0, 3, 1])

    def turned(bank: TextBank, rows: Any) -> TextBank:
        return replace(bank, embedding=bank.embedding[rows])

    text = {
        **task.text,
        "group": turned(task.bank("group"), np.concatenate([4 * y + order for y in range(3)])),
        "context": turned(task.bank("context"), order),
    }
    method = PerceptionCLIP(context=context, temperature=2.0)
    found = logits(method.solve(task, 0), task.train.x)
    again = logits(method.solve(replace(task, text=text), 0), task.train.x)
    np.testing.assert_allclose(found, again, rtol=1e-4, atol=1e-5)


def test_a_large_multiplier_and_a_small_temperature_do_not_overflow() -> None:
    task = replace(prompted(classes=3, values=4), logit_scale=float(np.log(1e4)))
    found = logits(PerceptionCLIP(temperature=0.01).solve(task, 0), task.train.x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-4)


def test_contexts_of_further_attributes_are_passed_over() -> None:
    """The group prompts are of the first attribute, whose contexts come first."""
    task = prompted(values=2)
    longer = prompted(values=5, seed=4).bank("context").embedding.copy()
    longer[:2] = task.bank("context").embedding
    bank = replace(task.bank("context"), embedding=longer)
    more = replace(task, text={**task.text, "context": bank})
    method = PerceptionCLIP(context="alone")
    x = task.train.x
    np.testing.assert_array_equal(
        logits(method.solve(task, 0), x), logits(method.solve(more, 0), x)
    )


@pytest.mark.parametrize(
    ("given", "banks", "said"),
    [
        ({}, {"class", "context"}, r'group prompts .* found class, context: give "group"'),
        ({"context": "alone"}, {"group"}, r'context prompts .* found group: give "context"'),
    ],
)
def test_what_is_missing_is_named(given: dict[str, Any], banks: set[str], said: str) -> None:
    offer = Offer(
        levels=frozenset({"embedding"}), banks=frozenset(banks), projection=True, attributes=True
    )
    with pytest.raises(EmbedcalError, match=said) as error:
        PerceptionCLIP(**given).resolve(offer)
    assert "\n" not in str(error.value)


def test_prompts_that_do_not_fit_are_refused() -> None:
    task = prompted(classes=2, values=3)
    odd = replace(task.bank("group"), embedding=task.bank("group").embedding[:5])
    with pytest.raises(EmbedcalError, match=r"each of 2 classes .* found 5 in all"):
        PerceptionCLIP().solve(replace(task, text={**task.text, "group": odd}), 0)
    few = replace(task.bank("context"), embedding=task.bank("context").embedding[:2])
    with pytest.raises(EmbedcalError, match=r"expected 3 context prompts .* found 2"):
        PerceptionCLIP(context="alone").solve(replace(task, text={**task.text, "context": few}), 0)
    with pytest.raises(EmbedcalError, match="positive --temperature"):
        PerceptionCLIP(temperature=0.0)
