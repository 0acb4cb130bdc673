"""RoboShot by its loop, and what rejecting and accepting do to each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prompted import logits, mean_rows, nrm, prompted

from embedcal.methods._span import span_basis
from embedcal.methods.base import Offer
from embedcal.methods.roboshot import RoboShot, edit, remainder
from embedcal.methods.zeroshot import ZeroShot
from embedcal.types import EmbedcalError

PAIRS = [
    (0, 1, "reject"), (2, 3, "reject"), (1, 2, "reject"), (4, 5, "accept"), (6, 0, "accept"),
    (3, 6, "equal"),
]  # fmt: skip
S = np.exp(2.5)


def concepts(task: Any, role: str) -> Any:
    rows = task.bank("pairs").embedding[:, 0].astype(float)
    return np.array([rows[i] - rows[j] for i, j, of in task.bank("pairs").pairs if of == role])


def orthonormal(rows: Any) -> Any:
    """Gram-Schmidt, row by row."""
    found: list[Any] = []
    for row in rows:
        for q in found:
            row = row - (row @ q) * q
        found.append(row / np.linalg.norm(row))
    return np.array(found)


def by_the_loop(task: Any, x: Any, *, span: bool, roles: Any = ("reject", "accept")) -> Any:
    """One image after another, brought to length one in every step, as the code has it."""
    out = []
    for image in np.asarray(x, float):
        z = nrm(image)
        for role, sign in (("reject", -1), ("accept", 1)):
            if role not in roles:
                continue
            listed = concepts(task, role)
            for q in orthonormal(listed) if span else nrm(listed):
                z = nrm(z + sign * (z @ q) * q)
        out.append(z)
    return S * np.array(out) @ mean_rows(task.bank("class").embedding).T


@pytest.mark.parametrize("orthogonalise", ["span", "none"])
@pytest.mark.parametrize("use", ["both", "reject", "accept"])
@pytest.mark.parametrize("variant", ["official_fixed", "official"])
def test_the_map_equals_the_loop(variant: str, use: str, orthogonalise: str) -> None:
    task = prompted(PAIRS, classes=3)
    head = RoboShot(variant=variant, use=use, orthogonalise=orthogonalise).solve(task, 0)
    roles = ("reject", "accept") if use == "both" else (use,)
    wanted = by_the_loop(task, task.train.x, span=orthogonalise == "span", roles=roles)
    np.testing.assert_allclose(logits(head, task.train.x), wanted, rtol=2e-4, atol=2e-4)


def apply(reject: Any, accept: Any, x: Any) -> Any:
    basis, change = edit(reject, accept)
    return x + (x @ basis.T) @ change


def test_the_closed_form() -> None:
    task = prompted(PAIRS)
    qs, qt = (span_basis(concepts(task, role)) for role in ("reject", "accept"))
    x, eye, none = task.train.x.astype(float), np.eye(9), np.zeros((0, 9))
    np.testing.assert_allclose(apply(qs, none, x), x @ (eye - qs.T @ qs), atol=1e-12)
    np.testing.assert_allclose(apply(none, qt, x), x @ (eye + qt.T @ qt), atol=1e-12)
    both = x @ (eye - qs.T @ qs) @ (eye + qt.T @ qt)
    np.testing.assert_allclose(apply(qs, qt, x), both, atol=1e-12)
    once = apply(qs, none, x)
    np.testing.assert_allclose(apply(qs, none, once), once, atol=1e-12)  # rejecting is idempotent
    assert not np.allclose(apply(none, qt, apply(none, qt, x)), apply(none, qt, x))


def test_what_accepting_puts_back_is_known() -> None:
    task = prompted(PAIRS)
    qs, qt = (span_basis(concepts(task, role)) for role in ("reject", "accept"))
    rng = np.random.default_rng(0)
    x = nrm(rng.normal(size=(200_000, 9)))
    for accept in (qt, qt[:0]):
        bound = remainder(qs, *edit(qs, accept))
        seen = np.linalg.norm(apply(qs, accept, x) @ qs.T, axis=1).max()
        assert seen <= bound + 1e-12
        assert seen > 0.9 * bound or bound < 1e-12
    assert remainder(qs, *edit(qs, qt)) > 0.1
    assert remainder(qs[:0], *edit(qs[:0], qt)) == 0
    # Oblique concepts, one after another, leave some of what they take out.
    oblique = nrm(concepts(task, "reject"))
    assert remainder(oblique, *edit(oblique, qt[:0])) > 0.01


def test_without_concepts_it_is_zero_shot_and_with_none_it_says_so() -> None:
    task = prompted(PAIRS)
    x = task.train.x.astype(float)
    np.testing.assert_array_equal(apply(np.zeros((0, 9)), np.zeros((0, 9)), x), x)
    equal = replace(task.bank("pairs"), pairs=((3, 6, "equal"),))
    none = replace(task, text={**task.text, "pairs": equal})
    for use, said in (("both", "reject or accept"), ("reject", "reject"), ("accept", "accept")):
        with pytest.raises(EmbedcalError, match=f"pairs of the role {said} for") as error:
            RoboShot(use=use).solve(none, 0)
        assert "\n" not in str(error.value)
    # Concepts that no image and no class has leave zero-shot as it is.
    wide = prompted(PAIRS, d=12)
    text = {}
    for name, each in wide.text.items():
        kept = each.embedding.copy()
        if name == "pairs":
            kept[..., :6] = 0
        else:
            kept[..., 6:] = 0
        text[name] = replace(each, embedding=kept)
    apart = replace(wide, text=text)
    images = wide.train.x.copy()
    images[:, 6:] = 0
    found = logits(RoboShot().solve(apart, 0), images)
    np.testing.assert_allclose(found, logits(ZeroShot().solve(apart, 0), images), atol=1e-4)


def test_concepts_that_the_encoder_cannot_tell_apart_leave_zero_shot() -> None:
    """Words that it does not know, for one."""
    task = prompted(PAIRS)
    bank = task.bank("pairs")
    noise = 1 + 1e-7 * np.random.default_rng(0).normal(size=bank.embedding.shape)
    embedding = (bank.embedding[:1] * noise).astype(np.float32)
    same = replace(bank, embedding=embedding)
    text = {**task.text, "pairs": same}
    plain = logits(ZeroShot().solve(task, 0), task.train.x)
    for orthogonalise in ("span", "none"):
        head = RoboShot(orthogonalise=orthogonalise).solve(replace(task, text=text), 0)
        np.testing.assert_allclose(logits(head, task.train.x), plain, atol=1e-4)


def test_swapping_a_pair_changes_nothing_and_nor_does_listing_it_twice() -> None:
    task = prompted(PAIRS)
    x = task.train.x
    for variant, again_is_same in (("official_fixed", True), ("official", False)):
        method = RoboShot(variant=variant)
        found = logits(method.solve(task, 0), x)

        def other(pairs: Any, method: Any = method) -> Any:
            bank = replace(task.bank("pairs"), pairs=tuple(pairs))
            return logits(method.solve(replace(task, text={**task.text, "pairs": bank}), 0), x)

        swapped = other((j, i, role) for i, j, role in PAIRS)
        np.testing.assert_allclose(found, swapped, rtol=1e-4, atol=1e-4)
        doubled = other([*PAIRS, *PAIRS[:2]])
        assert np.allclose(found, doubled, atol=1e-3) is again_is_same


def test_all_pairs_of_k_words_span_one_direction_less() -> None:
    """Six pairs of four words: three directions, and the official code takes six."""
    pairs = [(i, j, "reject") for i in range(4) for j in range(i)]
    task = prompted(pairs)
    fixed = RoboShot().solve(task, 0)
    official = RoboShot(variant="official").solve(task, 0)
    assert (len(fixed.basis), len(official.basis)) == (3, 6)


def test_what_is_missing_is_named() -> None:
    offer = Offer(
        levels=frozenset({"embedding"}), banks=frozenset({"class"}), projection=True,
        attributes=False,
    )  # fmt: skip
    with pytest.raises(EmbedcalError, match=r"concept pairs .* cache again with --pairs") as error:
        RoboShot().resolve(offer)
    assert "\n" not in str(error.value)
