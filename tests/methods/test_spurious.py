"""Fine-tuned CLIP and the contrastive terms beside it, against loops over the whole method.

Each formula has its own tests in tests/losses; here it is which term sees which prompts, which
labels, which weights and which temperature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from worlds import T, embed, nrm, small_task

from embedcal.heads import ClipHead
from embedcal.methods.base import Gradient, Offer, Step
from embedcal.methods.clip import CLIP
from embedcal.methods.spurious import Spurious
from embedcal.train import Data, train
from embedcal.types import EmbedcalError, Examples, Task

S = 1 / 0.07
SCOPES = ["image", "image+text_proj"]
NONE = {f"{term}_weight": 0.0 for term in ("clip", "lc", "vc", "ls", "vs")}


def first_loss(method: Gradient, task: Task) -> tuple[float, Any]:
    generator = torch.Generator().manual_seed(1)
    plan = method.prepare(task, generator)
    head = method.start_head(task, generator)
    assert isinstance(head, ClipHead)
    step = next(iter(method.steps(task, plan, 1, generator)))
    batch = Data.on_device(task.train, "cpu").batch(step)
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    loss, _ = method.loss(head, method.init(plan), batch, hyper)
    return float(loss.detach()), batch


def unit_text(task: Task, bank: str) -> Any:
    return nrm(task.bank(bank).embedding.astype(float))  # (P, T, d)


def cross(logits: Any, k: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[k])


def paired(f: Any, u: Any) -> float:
    s = S * f @ u.T
    return float(np.mean([0.5 * (cross(s[i], i) + cross(s[:, i], i)) for i in range(len(f))]))


def contrast(anchors: Any, labels: Any, others: Any = None) -> float:
    """Same label attracts, itself left out; ``others`` repel in place of other labels."""
    terms = []
    for i, v in enumerate(anchors):
        positives = [S * v @ w for j, w in enumerate(anchors) if labels[j] == labels[i] and j != i]
        against = [w for j, w in enumerate(anchors) if labels[j] != labels[i]]
        negatives = [S * v @ w for w in (against if others is None else others)]
        if positives:
            total = np.log(np.exp([*positives, *negatives]).sum())
            terms.append(np.mean([total - p for p in positives]))
    return float(np.mean(terms)) if terms else 0.0


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("variant", CLIP.variants)
def test_clip_pairs_images_with_captions_of_their_class(
    variant: str, classes: int, scope: str
) -> None:
    task = small_task(classes=classes)
    loss, batch = first_loss(
        CLIP(head="projection", variant=variant, scope=scope, batch_size=12), task
    )
    f, text = embed(task, task.train.x)[batch.index], unit_text(task, "class")
    if variant == "paper_sampled":
        captions = [text[y, t] for y, t in zip(batch.y, batch.drawn["template"], strict=True)]
        assert len(set(batch.drawn["template"].tolist())) == T
    else:
        captions = [text[y].mean(0) for y in batch.y]
    if variant == "paper_mean":
        captions = [nrm(caption) for caption in captions]
    assert loss == pytest.approx(paired(f, np.stack(captions)), rel=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    "options",
    [
        {"clip_weight": 0.5},
        {"lc_weight": 0.5},
        {"vc_weight": 0.5},
        {"ls_weight": 0.5},
        {"ls_weight": 0.5, "ls_form": "class_x_attribute"},
        {"vs_weight": 0.5},
        {"vs_weight": 0.5, "vs_sets": "group"},
        {"ce_weight": 0.5},
    ],
)
def test_each_term_of_the_paper_alone(options: dict[str, Any], scope: str) -> None:
    task = small_task(classes=3, attributes=2)
    method = Spurious(head="projection", scope=scope, batch_size=12, **{**NONE, **options})
    loss, batch = first_loss(method, task)
    f, y = embed(task, task.train.x)[batch.index], batch.y.numpy()
    g = task.train.arrays["g"][batch.index]
    text, attribute = unit_text(task, "class"), unit_text(task, "attribute")
    flat, names = text.reshape(-1, text.shape[-1]), attribute.reshape(-1, text.shape[-1])
    prompt = np.repeat(np.arange(3), T)
    (term,) = (name for name in options if name.endswith("_weight"))
    prototypes = nrm(text.mean(1))
    expected = {
        "clip_weight": lambda: paired(f, prototypes[y]),
        "lc_weight": lambda: contrast(flat, prompt),
        "vc_weight": lambda: contrast(f, y),
        "ls_weight": lambda: (
            contrast(names, np.repeat(np.arange(2), T))
            if "ls_form" not in options
            else contrast(flat, prompt, names)
        ),
        "vs_weight": lambda: contrast(f, g if "vs_sets" in options else g % 2),
        "ce_weight": lambda: np.mean([cross(S * prototypes @ v, k) for v, k in zip(f, y)]),
    }[term]()
    assert loss == pytest.approx(0.5 * expected, rel=1e-4)


@pytest.mark.parametrize("variant", Spurious.variants)
def test_a_total_is_the_weighted_sum_of_its_terms(variant: str) -> None:
    task = small_task()
    weights = {"clip": 1.0, "lc": 0.3, "vc": 0.7, "ls": 0.2, "vs": 0.9, "ce": 0.4}
    shared: dict[str, Any] = {"head": "projection", "batch_size": 12, "variant": variant}

    def loss(chosen: dict[str, float]) -> float:
        options = {f"{name}_weight": chosen.get(name, 0.0) for name in weights}
        return first_loss(Spurious(**shared, **options), task)[0]

    parts = sum(loss({name: weight}) for name, weight in weights.items())
    assert loss(weights) == pytest.approx(parts, rel=1e-5)


def test_what_the_tracker_adds_is_as_large_as_the_formula_says() -> None:
    task = small_task(classes=3)
    options: dict[str, Any] = {**NONE, "ls_weight": 0.5, "variant": "official"}
    without, batch = first_loss(Spurious(head="projection", batch_size=12, **options), task)
    options["tracker"] = "on"
    with_it, _ = first_loss(Spurious(head="projection", batch_size=12, **options), task)
    text = unit_text(task, "class")
    flat = text.transpose(1, 0, 2).reshape(-1, text.shape[-1])  # every class of a template first
    extra = [  # template number y, all classes
        np.mean([abs(text[c, y] @ s) for c in range(3) for s in flat]) for y in batch.y.tolist()
    ]
    assert with_it - without == pytest.approx(0.5 * np.mean(extra), rel=1e-4)


def test_labels_and_prompts_are_needed_only_by_terms_with_a_weight() -> None:
    def needs(**options: Any) -> set[str]:
        return {n for n in Spurious(**options).needs if n.endswith(".g") or n.startswith("text.")}

    vs = {"vs_weight": 1.0, "ls_weight": 0.0}
    assert needs() == {"text.class", "text.attribute"}
    assert needs(**vs) == {"train.g", "text.class"}
    assert needs(**vs, variant="official") == {"train.g", "text.class", "text.context"}
    assert needs(ls_weight=0.0) == {"text.class"}
    assert needs(ls_weight=0.0, sampler="group") == {"text.class", "train.g"}


def test_one_attribute_value_alone_is_refused_for_l_vs() -> None:
    task = small_task()
    keep = task.train.arrays["g"] % 2 == 0
    arrays = {name: array[keep] for name, array in task.train.arrays.items()}
    task = replace(task, train=Examples(split="train", arrays=arrays))
    with pytest.raises(EmbedcalError, match="--vs-weight 0") as error:
        train(Spurious(head="projection", vs_weight=1.0), task, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"tracker": "on"},
        {"diagonal": "on"},
        {"domain_weight": 1.0},
        {"cross_weight": 1.0},
        {"tracker": "on", "variant": "official_fixed"},
    ],
)
def test_terms_of_the_code_alone_are_refused_elsewhere(options: dict[str, Any]) -> None:
    with pytest.raises(EmbedcalError, match="--variant official"):
        Spurious(**options)


@pytest.mark.parametrize("method", [CLIP(head="projection"), Spurious(head="projection")])
def test_a_batch_of_one_trains(method: Gradient) -> None:
    head = train(replace(method, batch_size=1, epochs=1), small_task(n=8), seed=0)
    assert all(torch.isfinite(p).all() for p in head.parameters())


OFF = {"clip_weight": 0.0, "lc_weight": 0.0, "vc_weight": 0.0, "ls_weight": 0.0}
IMAGE = {"scope": "image"}


@pytest.mark.parametrize(
    "options",
    [
        OFF,
        {**OFF, **IMAGE, "temperature": "fixed", "lc_weight": 1.0, "ls_weight": 1.0},
        {**OFF, **IMAGE, "variant": "official", "lc_weight": 1.0},
        {**OFF, **IMAGE, "variant": "official_fixed", "domain_weight": 1.0},
        {**OFF, "lc_weight": 1.0},
        {**OFF, **IMAGE, "lc_weight": 1.0},
        {**OFF, "variant": "official", "ls_weight": 1.0, "temperature": "fixed"},
        {**OFF, **IMAGE, "temperature": "fixed", "ce_weight": 1.0},
        {**OFF, **IMAGE, "variant": "official", "cross_weight": 1.0},
        {**OFF, **IMAGE, "variant": "official", "vs_weight": 1.0},
    ],
)
def test_what_is_refused_is_what_moves_no_parameter(options: dict[str, Any]) -> None:
    method, task = Spurious(head="projection", epochs=1, **options), small_task()
    generator = torch.Generator().manual_seed(0)
    head = method.start_head(task, generator)
    state = method.init(method.prepare(task, generator))
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    batch = Data.on_device(task.train, "cpu").batch(Step(batch=torch.arange(len(task.train))))
    moves = method.loss(head, state, batch, hyper)[0].requires_grad
    offer = Offer(
        levels=frozenset({"pooled", "embedding"}),
        banks=frozenset(task.text),
        projection=True,
        attributes=True,
    )
    if moves:
        assert method.resolve(offer).head == "projection"
        return
    with pytest.raises(EmbedcalError, match="expected a term of spurious that depends") as error:
        method.resolve(offer)
    assert "\n" not in str(error.value)
