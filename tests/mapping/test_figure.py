"""Figures: every point is drawn, every label has a look of its own, hostile names stay names."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedcal
from embedcal.mapping import Map, View, draw, map_runs
from embedcal.mapping.figure import NAMED, _kinds
from embedcal.runs import Run
from embedcal.types import EmbedcalError


class Words:
    """As much of a cache as a figure reads."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.meta = type("Meta", (), {"classes": classes, "dataset": "made", "backbone": "none"})


def made(m: int = 40, k: int = 2, n_values: int = 25, **changes: Any) -> Map:
    rng = np.random.default_rng(0)
    view = View(
        name="frozen",
        space="embedding",
        points=rng.normal(size=(m, 2)),
        share=0.5,
        border=False,
        wrong=np.arange(m) % 3 == 0,
        error=0.25,
        by_class=None,
        by_attribute=None,
    )
    found = Map(
        split="test",
        by="pca",
        seed=0,
        n=m,
        attributes=("hue",),
        values=tuple(f"hue {v}" for v in range(n_values)),
        rows=np.arange(m),
        y=np.arange(m) % k,
        a=np.arange(m) % n_values,
        before=view,
        after=replace(view, name="erm 1", space="logits", border=True, share=None),
    )
    return replace(found, **changes)


def points_of(ax: Any) -> int:
    return sum(len(each.get_offsets()) for each in ax.collections)


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [each.get_text() for each in figure.findobj(Text)]


def test_every_panel_has_every_point(birds: Path, fitted: dict[str, Run]) -> None:
    with embedcal.open(birds) as cache:
        maps = map_runs([None, *fitted.values()], cache, points=100)
        figure = draw(maps, cache)
    panels = np.array(figure.axes).reshape(3, 5)
    for line in panels:
        assert [points_of(ax) for ax in line[:4]] == [100] * 4
        assert [text.get_text() for text in line[4].get_legend().get_texts()]
    assert panels[0, 0].get_xlabel() == f"silhouette {maps[0].before.by_class.mean:.2f}"
    assert panels[1, 2].get_xlabel() == f"silhouette {maps[1].after.by_attribute.mean:.2f}"
    assert panels[2, 3].get_xlabel() == f"this head: {100 * maps[2].after.error:.1f} % wrong"
    legends = [{t.get_text() for t in ax.get_legend().get_texts()} for ax in panels[:, 4]]
    assert legends == [{"landbird", "waterbird"}, {"land", "water"}, {"right", "wrong"}]
    (wrong,) = (
        c for c in panels[2, 1].collections if len(c.get_offsets()) == maps[0].after.wrong.sum()
    )
    np.testing.assert_allclose(
        np.sort(wrong.get_offsets(), axis=0),
        np.sort(maps[0].after.points[maps[0].after.wrong], axis=0),
    )
    assert f"test: 100 of {maps[0].n} images, drawn with seed 0" in " ".join(texts(figure)[-2:])


def test_labels_have_looks_of_their_own_and_keep_their_points() -> None:
    labels = np.concatenate([np.repeat(np.arange(40), np.arange(41, 1, -1)), [-1] * 7])
    kinds = _kinds(labels, [f"v{i}" for i in range(41)], first=2)
    named = kinds[:NAMED]
    assert [kind.name for kind in named] == [f"v{i}" for i in range(NAMED)]  # the most frequent
    assert len({(kind.colour, kind.marker) for kind in named}) == NAMED
    for label, kind in enumerate(named):
        assert (labels[kind.members] == label).all()
    assert [kind.name for kind in kinds[NAMED:]] == ["5 others", "unknown"]
    assert sorted(np.concatenate([kind.members for kind in kinds])) == list(range(len(labels)))
    first, second = _kinds(np.arange(3), "abc"), _kinds(np.arange(3), "abc", first=2)
    assert first[0].colour != second[0].colour


@pytest.mark.parametrize("values", [1, 25, 60])
def test_many_values_fit_beside_the_panels(values: int) -> None:
    figure = draw(made(m=300, n_values=values), Words(("a", "b")))  # type: ignore[arg-type]
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    last = figure.axes[1 * 3 + 1].get_window_extent()
    box = figure.axes[1 * 3 + 2].get_legend().get_window_extent()
    assert box.x0 >= last.x1
    assert box.x1 <= width + 1
    assert box.y0 >= 0
    assert box.y1 <= height


def test_without_an_attribute_and_without_predictions() -> None:
    one = made(a=None, attributes=(), values=())
    one = replace(one, before=replace(one.before, wrong=None, error=None))
    figure = draw(one, Words(("a", "b")))  # type: ignore[arg-type]
    panels = np.array(figure.axes).reshape(2, 3)
    assert panels[1, 0].get_xlabel() == "no class prompts, so no zero-shot"
    assert panels[0, 0].get_xlabel() == "silhouette –"
    assert points_of(panels[1, 0]) == 40


def test_names_from_files_stay_text_and_pictures_stay_the_same() -> None:
    hostile = ("$x^2$ \x1b[31m", "_" * 300)
    pictures = []
    for _ in range(2):
        out = io.BytesIO()
        figure = draw(made(n_values=3), Words(hostile))  # type: ignore[arg-type]
        figure.savefig(out, format="png", dpi=60)
        pictures.append(out.getvalue())
    assert pictures[0] == pictures[1]
    shown = texts(figure)
    assert any("$x^2$" in text for text in shown)
    assert not any("\x1b" in text for text in shown)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ([], "expected at least one map to draw, found none: "),
        ([made()] * 9, "expected at most 8 runs in a figure, found 9: "),
        ([made(), made(rows=np.arange(1, 41))], "found others in 'erm 1': make them with map_runs"),
        ([made(), made(seed=1)], "found others in 'erm 1': make them with map_runs"),
    ],
)
def test_what_cannot_be_drawn_together(maps: list[Map], said: str) -> None:
    with pytest.raises(EmbedcalError) as caught:
        draw(maps, Words(("a", "b")))  # type: ignore[arg-type]
    assert said in str(caught.value)
