"""The model card: figures from the record, names as text, and what it warns of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exported_for_tests import Small

from embedcal.exporting.card import baseline, card
from embedcal.exporting.facts import facts_of
from embedcal.exporting.portable import class_texts, portable
from embedcal.runs import Run
from embedcal.tables import interval, percent


def carded(small: Small, run: Run, to: str = "open_clip", cache: Any = None) -> str:
    head = portable(run.head())
    whole = head.kind in ("projection", "attnpool") and to != "safetensors"
    facts = facts_of(run, cache or small.cache, class_texts(head) if whole else head)
    return card(run, cache or small.cache, facts, to=to, level=head.level, whole=whole)


def table(text: str) -> dict[str, list[str]]:
    """The rows of the first table by their first cell, escapes undone."""
    rows = re.findall(r"^\| (.*) \|$", text.split("## How it was made")[0], re.M)
    cells = [re.split(r" *(?<!\\)\| *", row) for row in rows]
    return {re.sub(r"\\(.)", r"\1", first): rest for first, *rest in cells}


def test_figures_are_the_runs_own_beside_zero_shots(small: Small) -> None:
    run, zero = small.runs["projection"], small.runs["zeroshot"]
    text = carded(small, run)
    found, test, before = table(text), run.record["test"], zero.record["test"]
    for g, name in enumerate(("left | in", "left | out", "right|hand | in", "right|hand | out")):
        ends = test["interval"]["groups"][g]
        assert found[name] == [
            str(test["group_sizes"][g]),
            percent(test["groups"][g]),
            interval(ends),
            percent(before["groups"][g]),
        ]
        assert "–" in found[name][2]
    worst = found["worst_group"]
    assert worst == ["", percent(test["worst_group"]), interval(test["interval"]["worst_group"]),
                     percent(before["worst_group"])]  # fmt: skip
    assert f"run {zero.id}, on the same images" in text
    assert "| labels used | train y, val y+g |" in text
    assert r"| selection | val.worst\_group |" in text
    assert f"| run | {run.id} |" in text
    assert small.cache.fingerprint in text
    assert small.cache.meta.weights_sha256 in text
    assert "| licence of the weights | Apache-2.0 (they come with embedcal) |" in text
    assert "license: apache-2.0\n" in text
    assert "erm (paper), projection head over level pooled, seed 0" in text
    assert "12 training, 12 validation, 12 test images" in text
    worst_line = re.search(
        r"^- The group (.*) where errors matter: (.*) % of its 3 test", text, re.M
    )
    assert worst_line is not None
    assert worst_line[2] == percent(min(test["groups"]))


def test_each_form_says_how_it_is_used(small: Small) -> None:
    whole, beside = (carded(small, small.runs[name]) for name in ("both", "pooled"))
    assert "python score.py photo.jpg" in whole
    assert 'open_clip.create_model_and_transforms("local-dir:.")' in whole
    assert "from score import center_crop" in whole  # the cache cut pictures
    assert "Other texts than those of its classes" in whole
    assert "`open_clip_model.safetensors` is the unmodified encoder" in beside
    assert "Other texts" not in beside
    assert "attention pool was trained" in carded(small, small.runs["attnpool"])
    assert "Input `pixels` (b, 3, h, w)" in carded(small, small.runs["both"], "onnx")
    assert "after their middle `center_crop` pixels" in carded(small, small.runs["both"], "onnx")
    assert "For features x of level pooled" in carded(small, small.runs["both"], "safetensors")


def test_what_it_must_not_be_used_for_depends_on_the_run(small: Small) -> None:
    run = small.runs["pooled"]
    text = carded(small, run)
    assert "Photographs: the tiny CLIP was made from drawings" in text
    assert "Decisions about people" in text
    assert "upper bound" not in text
    peeked = replace(run, record={**run.record, "oracle": True})
    assert "These figures are an upper bound, not a result." in carded(small, peeked)
    fitted = {**run.record, "val": {**run.record["val"], "in_sample": True}}
    assert "fitted the validation images as well" in carded(small, replace(run, record=fitted))
    inferred = {**run.record, "inferred": {"place": "0" * 64}}
    text = carded(small, replace(run, record=inferred))
    assert "Groups are made by place, whose labels were inferred" in text
    assert "No run of zero-shot over these images" in text  # with the same groups


def test_without_attributes_it_shows_classes(small: Small) -> None:
    record = dict(small.runs["pooled"].record)
    test = {k: v for k, v in record["test"].items() if "group" not in k}
    test["interval"] = {k: v for k, v in test["interval"].items() if "group" not in k}
    record |= {"attributes": [], "test": test}
    text = carded(small, replace(small.runs["pooled"], record=record))
    found = table(text)
    assert found["left"][1] == percent(test["classes"][0])
    assert found["right|hand"][3] == "–"
    assert "carry no attribute" in text
    assert "no groups were measured" in text


def test_zero_shot_is_of_the_same_cache_groups_and_templates(small: Small) -> None:
    run, zero = small.runs["mean" if "mean" in small.runs else "both"], small.runs["zeroshot"]
    found = baseline(run)
    assert found is not None
    assert found["id"] == zero.id
    for change in ({"attributes": []}, {"cache": {**run.record["cache"], "fingerprint": "0" * 64}}):
        assert baseline(replace(run, record={**run.record, **change})) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![x](http://a.b)", r"\!\[x\](http\://a.b)"),
        ("www.a.b", r"www\.a.b"),
        ("two\nlines\n# head", r"two\\nlines\\n\# head"),
        ("`code` *em* _em_ ~no~ &amp; $x$", r"\`code\` \*em\* \_em\_ \~no\~ &amp;amp; \$x\$"),
        ("back\\slash @you", r"back\\slash \@you"),
        ("\u202egnp.exe\x1b[31m", r"\\u202egnp.exe\\x1b\[31m"),
        ("{{ 7 * 7 }}", r"{{ 7 \* 7 }}"),
        ("land bird", "land bird"),
    ],
)
def test_names_are_text_and_nothing_else(small: Small, name: str, shown: str) -> None:
    run = small.runs["pooled"]
    text, plain = (carded(small, run, cache=Named(small, each)) for each in (name, "bird"))
    assert text.count(shown) >= 6
    assert text.count("\n") == plain.count("\n"), "a name that opens a line"
    if name != shown:
        assert name not in text.replace(shown, "")


class Named:
    """A cache whose names are all the same."""

    def __init__(self, small: Small, name: str) -> None:
        cache = small.cache
        self.meta = replace(cache.meta, classes=(name, "b"), dataset=name, backbone=name)
        self.samples, self.fingerprint, self.banks = cache.samples, cache.fingerprint, ("class",)
        self.logit_scale, self.name = cache.logit_scale, name
        self.bank = replace(cache.text("class"), templates=(name,), prompts=(name, "b"))

    def text(self, _: str) -> Any:
        return self.bank

    def group_names(self, _: Any) -> tuple[str, ...]:
        return (f"{self.name} | in", f"{self.name} | out", "b | in", "b | out")


def test_a_card_is_the_same_twice_and_names_no_folder(small: Small) -> None:
    text = carded(small, small.runs["both"])
    assert text == carded(small, small.runs["both"])
    assert str(small.path.parent) not in text
    assert str(Path.home()) + "/" not in text
