"""The page for those who do not see it, or not well: order, names, contrast."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from pages_for_tests import tree

from embedcal.reporting.page import _source, render


@pytest.fixture(scope="module")
def root(page):
    return tree(render(page))


def test_one_main_a_skip_link_and_headings_in_order(root):
    assert root.all("html")[0].get("lang") == "en"
    for landmark in ("main", "nav", "header", "footer", "h1", "title"):
        assert len(root.all(landmark)) == 1, landmark
    first = root.all("a")[0]
    assert first.get("class") == "skip"
    assert first.get("href") == "#" + root.all("main")[0].get("id")
    levels = [int(node.tag[1]) for node in root.all() if re.fullmatch(r"h[1-6]", node.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert all(node.text.strip() for node in root.all("h1", "h2", "h3", "h4"))


def test_ids_are_unique_and_what_is_named_is_there(root):
    ids = [node.get("id") for node in root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in root.all():
        for name in ("aria-labelledby", "aria-describedby", "for"):
            for wanted in node.get(name).split():
                assert wanted in ids, (node.tag, name, wanted)
        if node.get("href").startswith("#"):
            assert node.get("href")[1:] in ids


def test_tables_have_captions_and_headings_with_a_scope(root):
    assert len(root.all("table")) >= 6
    for table in root.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(cell.get("scope") in ("col", "row") for cell in table.all("th"))
        width = {
            len([c for c in row.children if getattr(c, "tag", "") in ("td", "th")])
            for row in table.all("tr")
        }
        assert len(width) == 1, "every row has every cell"
        for row in table.all("tbody")[0].all("tr"):
            assert row.all("th")[0].get("scope") == "row"


def test_images_drawings_regions_and_fields_have_names(root):
    assert root.all("img")
    for image in root.all("img"):
        assert image.get("alt").strip()
    for drawn in root.all("svg"):
        told = drawn.get("role") == "img" and len(drawn.get("aria-label")) > 30
        assert told or drawn.get("aria-hidden") == "true"
    for node in root.all():
        if node.get("role") == "region" or node.tag in ("section", "nav", "article", "figure"):
            assert node.get("aria-labelledby") or node.get("aria-label")
        if node.get("role") == "region":
            assert node.get("tabindex") == "0", "what scrolls is reached by the keyboard"
    for label in root.all("label"):
        assert label.all("input")
        assert label.text.strip()
    wrapped = [field for label in root.all("label") for field in label.all("input")]
    assert len(wrapped) == len(root.all("input"))
    assert all(node.all("legend")[0].text.strip() for node in root.all("fieldset"))
    groups = [{i.get("name") for i in node.all("input")} for node in root.all("fieldset")]
    assert all(len(names) == 1 for names in groups)
    assert len(set().union(*groups)) == len(groups)


def palettes():
    """The two sides of every colour in the style."""
    found = re.findall(
        r"--(\w+): light-dark\((#[0-9a-f]{6}),\s*(#[0-9a-f]{6})\)", _source("style.css")
    )
    assert len(found) >= 17
    return [{name: pair[side] for name, *pair in found} for side in (0, 1)]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(side):
    colours = palettes()[side]
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for text in ("ink", "muted", "accent", "wrong"):
        for ground in ("paper", "card", "wash"):
            found = contrast(colours[text], colours[ground])
            assert found >= 4.5, f"{text} on {ground}: {found:.2f}"
    for mark in ("edge", *(f"s{i}" for i in range(8))):
        found = contrast(colours[mark], colours["card"])
        assert found >= 3, f"{mark}: {found:.2f}"
    assert contrast(colours["accent"], colours["paper"]) >= 4.5  # the save button's own
