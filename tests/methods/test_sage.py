"""SAGE by a double loop, its controls, and what moves a separation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompted import logits, nrm, prompted

import embedcal
from embedcal.answers.runs import run_report
from embedcal.cache import open_cache
from embedcal.fitting import fit
from embedcal.methods.sage import MOST, SAGE
from embedcal.methods.zeroshot import ZeroShot
from embedcal.tables import show
from embedcal.types import EmbedcalError, Examples

S = np.exp(2.5)


def separation(image: Any, text: Any, t: int) -> float:
    cosines = [float(nrm(image) @ nrm(text[c, t])) for c in range(len(text))]
    return max(cosines) - min(cosines)


def by_loops(x: Any, text: Any, keep: int, *, official: bool) -> tuple[Any, Any]:
    """Logits and chosen templates, an image and a template at a time."""
    found, chosen = [], []
    for image in x:
        apart = [separation(image, text, t) for t in range(text.shape[1])]
        best = sorted(range(len(apart)), key=lambda t: -apart[t])[:keep]  # stable: ties in order
        rows = []
        for each in text:
            if official:
                rows.append(float(nrm(image) @ nrm(np.mean([each[t] for t in best], axis=0))))
            else:
                rows.append(float(np.mean([nrm(image) @ nrm(each[t]) for t in best])))
        found.append(S * np.array(rows))
        chosen.append(best)
    return np.array(found), np.array(chosen)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("keep", [1, 2, 0])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_templates_of_every_image_by_loops(variant: str, keep: int, classes: int) -> None:
    task = prompted(classes=classes, templates=5)
    text = task.bank("class").embedding.astype(float)
    head = SAGE(variant=variant, keep=keep).solve(task, 0)
    wanted, chosen = by_loops(task.train.x, text, keep or 5, official=variant == "official")
    np.testing.assert_allclose(logits(head, task.train.x), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(head.chosen(torch.tensor(task.train.x)).numpy(), chosen)


def test_one_template_is_zero_shot_and_one_kept_is_one_for_both_variants() -> None:
    task = prompted(templates=1)
    plain = logits(ZeroShot().solve(task, 0), task.train.x)
    np.testing.assert_allclose(logits(SAGE().solve(task, 0), task.train.x), plain, atol=1e-4)
    several = prompted(templates=6)
    paper, official = (SAGE(variant=v).solve(several, 0) for v in SAGE.variants)
    np.testing.assert_allclose(
        logits(paper, several.train.x), logits(official, several.train.x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_all_templates_are_the_same_for_every_image(variant: str) -> None:
    task = prompted(templates=6)
    found = [
        logits(SAGE(variant=variant, keep=0, scope=scope).solve(task, 0), task.train.x)
        for scope in ("image", "text", "random")
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_templates_for_the_split_and_by_the_text_alone(classes: int) -> None:
    task = prompted(classes=classes, templates=7)
    text, x = task.bank("class").embedding.astype(float), task.train.x
    mean = [np.mean([separation(image, text, t) for image in x]) for t in range(7)]
    apart = [
        np.mean([1 - nrm(text[c, t]) @ nrm(text[d, t]) for c in range(classes) for d in range(c)])
        for t in range(7)
    ]
    for scope, score in (("split", mean), ("text", apart)):
        best = np.argsort(-np.array(score), kind="stable")[:3]
        head = SAGE(scope=scope, keep=3).solve(task, 0)
        rows = nrm(text)[:, best].mean(1)
        np.testing.assert_allclose(logits(head, x), S * nrm(x) @ rows.T, rtol=1e-4, atol=1e-4)
        official = SAGE(scope=scope, keep=3, variant="official").solve(task, 0)
        rows = nrm(text[:, best].mean(1))
        np.testing.assert_allclose(logits(official, x), S * nrm(x) @ rows.T, rtol=1e-4, atol=1e-4)


def test_random_templates_are_drawn_by_the_seed() -> None:
    task = prompted(templates=30)
    x = task.train.x
    one, again, other = (logits(SAGE(scope="random").solve(task, s), x) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_length_moves_no_separation_and_a_common_vector_does() -> None:
    task = prompted(templates=5)
    bank, x = task.bank("class"), torch.tensor(task.train.x)

    def separations(embedding: Any) -> Any:
        bank_of = replace(bank, embedding=embedding)
        head: Any = SAGE().solve(replace(task, text={**task.text, "class": bank_of}), 0)
        cosines = head.cosines(x).detach().numpy()
        return cosines.max(1) - cosines.min(1)

    plain = separations(bank.embedding)
    longer = bank.embedding.copy()
    longer[0, 2] *= 5
    np.testing.assert_allclose(separations(longer), plain, atol=1e-6)
    moved = bank.embedding.copy()
    moved[:, 2] += 3
    assert not np.allclose(separations(moved)[:, 2], plain[:, 2], atol=1e-2)


def test_of_equal_templates_the_first_counts() -> None:
    task = prompted(templates=4)
    same = np.repeat(task.bank("class").embedding[:, :1], 4, axis=1)
    bank = replace(task.bank("class"), embedding=same)
    head: Any = SAGE(keep=2).solve(replace(task, text={**task.text, "class": bank}), 0)
    assert (head.chosen(torch.tensor(task.train.x)).numpy() == [0, 1]).all()


def test_many_images_and_classes_go_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    task = prompted(classes=3, templates=5)
    for variant in SAGE.variants:
        head = SAGE(variant=variant, keep=2).solve(task, 0)
        whole = logits(head, task.train.x)
        with monkeypatch.context() as patch:
            patch.setattr("embedcal.heads.templates.ELEMENTS", 60)
            assert len(head._parts(torch.tensor(task.train.x))) == 10
            np.testing.assert_allclose(logits(head, task.train.x), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", [1, 3])
def test_its_account_counts_the_templates_of_every_image(keep: int) -> None:
    task = prompted(templates=9)
    method = SAGE(keep=keep)
    head, x = method.solve(task, 0), torch.tensor(task.train.x)
    _, chosen = by_loops(x, task.bank("class").embedding.astype(float), keep, official=False)
    counts = np.bincount(chosen.ravel(), minlength=9)
    np.testing.assert_array_equal(head.histogram([x]), counts)
    whole = dict(method.account(head, [x]))
    assert dict(method.account(head, torch.split(x, 7))) == whole
    most = whole.pop("most")
    assert whole == {"images": 40, "templates": 9, "kept": int((counts > 0).sum())}
    assert len(most) == min(MOST, (counts > 0).sum())
    order = sorted(range(9), key=lambda t: (-counts[t], t))
    assert most == [{"template": t, "images": counts[t]} for t in order[: len(most)]]
    json.dumps(most)


def test_a_run_records_which_templates_it_kept(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_cache(birds) as cache:
        run = fit("sage", cache, out=tmp_path)
        plain = fit("zeroshot", cache, out=tmp_path)
        sizes = {s: len(cache.split(s, "embedding")) for s in ("val", "test")}
        templates = cache.text("class").templates
    found = run.record["account"]
    assert {split: each["images"] for split, each in found.items()} == sizes
    assert found["test"]["templates"] == len(templates)
    assert "account" not in plain.record
    show(run_report(run, ["a", "b", "c", "d"]))
    printed = "".join(capsys.readouterr().out.split())
    first = templates[found["test"]["most"][0]["template"]]
    line = f"of {len(templates)} templates for some test image; most often '{first}'"
    assert line.replace(" ", "") in printed


def test_one_template_for_all_images_needs_no_account() -> None:
    task = prompted()
    method = SAGE(scope="text")
    assert method.account(method.solve(task, 0), [torch.tensor(task.train.x)]) == {}


def test_it_reads_images_for_the_split_alone() -> None:
    bare = replace(prompted(), train=Examples(split="train", arrays={}))
    for scope in ("image", "text", "random"):
        assert not any("train" in need for need in SAGE(scope=scope).needs)
        SAGE(scope=scope).solve(bare, 0)
    assert "train.x" in SAGE(scope="split").needs


def test_more_templates_than_there_are() -> None:
    with pytest.raises(EmbedcalError, match="at most the 3 templates of the cache, found 4"):
        SAGE(keep=4).solve(prompted(), 0)
    with pytest.raises(EmbedcalError, match="of 0 or more"):
        SAGE(keep=-1)


def test_what_draws_templates_runs_once_a_seed(birds: Path, tmp_path: Path) -> None:
    with open_cache(birds) as cache:
        found = embedcal.grid(["sage:scope=random,text"], cache, seeds=3, out=tmp_path)
    seeds = {scope: [] for scope in ("random", "text")}
    for record in found.done:
        seeds[record["options"]["scope"]].append(record["seed"])
    assert seeds == {"random": [0, 1, 2], "text": [0]}
