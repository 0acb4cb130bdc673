"""Nothing that a file says is ever more than text, and the page asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from made_runs import Grid
from pages_for_tests import HOSTILE, poisoned, tree

from embedcal.datasets.printable import printable
from embedcal.reporting import ReportOptions
from embedcal.reporting.gathering import gather
from embedcal.reporting.inline import COLOURS, drawing, named, svg
from embedcal.reporting.page import render

SHOWN = printable(HOSTILE, longest=10_000)


@pytest.fixture(scope="module")
def plain(page):
    return tree(render(page))


@pytest.fixture(scope="module")
def hostile(page):
    return tree(render(poisoned(page)))


def shape(root):
    """Elements and attributes without their values."""
    return [(node.tag, tuple(sorted(node.attributes))) for node in root.all()]


def test_hostile_texts_change_no_element_and_no_attribute(plain, hostile):
    known, found = set(shape(plain)), shape(hostile)
    assert set(found) <= known
    assert len(found) == pytest.approx(len(shape(plain)), rel=0.1)  # lists of texts may differ


def test_hostile_texts_are_shown_as_they_are(hostile):
    text = hostile.text
    assert text.count(SHOWN) > 100
    assert "{{7*7}}" in text
    assert "49" not in re.findall(r"(?<![\d.,])49(?![\d.,])", hostile.all("nav")[0].text)
    assert "\u202e" not in text
    assert "\u200f" not in text
    sets = [node.get("data-attribute") for node in hostile.all("fieldset")]
    assert sets
    assert set(sets) == {HOSTILE}, "a verdict must name the attribute as it is, codes and all"
    assert all(
        SHOWN in node.get("alt") for node in hostile.all("img") if node.get("alt")[:1] == "<"
    )


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_the_page_runs_only_its_own_script_and_loads_nothing(which, request):
    root = request.getfixturevalue(which)
    (script,), (style,) = root.all("script"), root.all("style")
    (meta,) = [m for m in root.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in meta.get("content").split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, node in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    for node in root.all():
        assert node.tag not in (
            "iframe",
            "object",
            "embed",
            "base",
            "audio",
            "video",
            "foreignobject",
        )
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            assert name != "style", node.tag  # the policy would not let it in
            if name in ("src", "href", "xlink:href", "action", "formaction", "srcset"):
                assert re.match(r"data:|#", value), (node.tag, name, value[:80])
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert "innerHTML" not in script.text.replace("by\n// innerHTML", "").replace("innerHTML:", "")


def test_names_of_runs_reach_the_drawings_as_text(tmp_path):
    grid = Grid(tmp_path / "grid")
    for seed in range(4):
        grid.run(HOSTILE, seed, (0.9, 0.8, 0.7, 0.9), options={HOSTILE: f"{HOSTILE} {seed % 2}"})
        grid.run("鳥 🐦 \x00", seed, (0.9, 0.7, 0.8, 0.9), options={"x": seed})
    root = tree(render(gather(grid.folder, ReportOptions())))
    drawn = [node for node in root.all("svg") if node.get("role") == "img"]
    assert len(drawn) >= 3
    texts = [text.text for node in drawn for text in node.all("text")]
    assert any(text.startswith("<img src=x") for text in texts)
    assert any("鳥 🐦 \\x00" in text for text in texts)
    assert len(root.all("script")) == 1
    assert not root.all("img")


def test_a_drawing_takes_the_page_s_colours_and_keeps_its_ids_to_itself():
    with drawing(3, 2) as figure:
        ax = figure.subplots()
        ax.plot([0, 1], [1, 0], "o-", color=COLOURS["s3"], mec=COLOURS["paper"], label="a")
        ax.bar([0, 1], [1, 0.5], color=COLOURS["s1"], alpha=0.5)
        ax.text(0.5, 0.5, "bold <b>", fontweight="bold", color=COLOURS["ink"])
        one, two = svg(figure, "one", "first & <last>"), svg(figure, "two", "second")
    for markup in (one, two):
        assert not any(colour in markup.lower() for colour in COLOURS.values())
        assert 'class="stroke-s3"' in markup
        assert "fill-s1" in markup
        assert "stroke-paper" in markup
        assert "style" not in markup
        assert "metadata" not in markup
    root = tree(one)
    assert root.all("svg")[0].get("aria-label") == "first & <last>"
    assert "bold <b>" in [text.text for text in root.all("text")]
    (bold,) = [text for text in root.all("text") if text.text == "bold <b>"]
    assert bold.get("font-weight") in ("700", "bold")
    assert float(bold.get("font-size")) > 0
    ids = [set(re.findall(r' id="([^"]+)"', markup)) for markup in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for markup, known in zip((one, two), ids, strict=True):
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', markup)
        assert used
        assert {a or b for a, b in used} <= known


def test_what_xml_cannot_hold_is_drawn_as_a_sign_for_it():
    assert named("a\x00b\ud800\uffff") == "a\\x00b\\ud800\\uffff"
    assert len(named("x" * 500)) == 80
