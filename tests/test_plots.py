"""Figures: what is drawn, the same bytes twice, hostile names, and files of the kind asked for."""

import sys
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import Grid

from embedcal.answers import plots
from embedcal.answers.plots import comparison_plot, sensitivity_plot
from embedcal.comparing import compare
from embedcal.comparing.effects import sensitivity
from embedcal.types import EmbedcalError


@pytest.fixture
def filled(tmp_path):
    grid = Grid(tmp_path / "grid")
    for lr, neg, seed in product((1, 2), ("rns", "$x_a^$ <b>&"), range(2)):
        worst = 0.5 + 0.1 * lr + 0.02 * seed
        options = {"lr": lr, "neg": neg}
        grid.run("a-method-with-quite-a-long-name", seed, (0.9, 0.8, worst, 0.9), options=options)
    grid.run("zeroshot", 0, (0.9, 0.5, 0.6, 0.9), rules=("none",), labels=())
    return grid.folder


def drawings(folder):
    comparison = compare(folder, by="method,neg")
    return [(comparison_plot, comparison), (sensitivity_plot, sensitivity(folder))]


def test_the_same_values_give_the_same_bytes(filled, tmp_path):
    for draw, value in drawings(filled):
        for suffix in (".svg", ".png"):
            one = draw(value, tmp_path / f"one{suffix}")
            two = draw(value, tmp_path / "deep" / f"two{suffix}")
            assert one.read_bytes() == two.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_files_are_of_the_kind_asked_for(filled, tmp_path):
    for draw, value in drawings(filled):
        root = ElementTree.parse(draw(value, tmp_path / "a.SVG")).getroot()
        assert root.tag.endswith("svg")
        with Image.open(draw(value, str(tmp_path / "a.png"))) as image:
            assert image.width > 1000
        with pytest.raises(EmbedcalError, match=r"\.svg or \.png, found 'a\.pdf'"):
            draw(value, tmp_path / "a.pdf")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EmbedcalError, match="choose another place"):
        comparison_plot(drawings(filled)[0][1], blocked / "a.png")


def texts(ax):
    return [label.get_text().replace("\n", " ") for label in ax.get_yticklabels()]


@pytest.fixture
def panels(monkeypatch):
    """The panels of the figures that are written."""
    seen = []
    write = plots.write
    monkeypatch.setattr(
        plots, "write", lambda fig, path, **how: (seen.append(fig.axes), write(fig, path, **how))
    )
    return seen


def test_every_row_shows_its_mean_interval_and_seeds(filled, tmp_path, panels):
    comparison = compare(filled, by="method,neg")
    comparison_plot(comparison, tmp_path / "a.png")
    ((ax,),) = panels
    (block,) = comparison.blocks
    assert texts(ax) == [row.label for row in block.rows]
    assert ax.get_xlabel() == "worst group on test, %"
    assert ax.get_title(loc="left") == "birds, tiny, selected by val.worst_group"
    drawn = {(line.get_marker(), tuple(line.get_ydata())): line.get_xdata() for line in ax.lines}
    for y, row in enumerate(block.rows):
        assert drawn["|", (y,)] == pytest.approx([100 * row.mean])
        assert drawn["None", (y, y)] == pytest.approx([100 * end for end in row.interval])
        assert drawn["o", (y,) * len(row.seeds)] == pytest.approx([100 * v for v in row.values])
    assert ax.yaxis_inverted()


def test_bars_are_the_shares_and_values_their_means(filled, tmp_path, panels):
    (part,) = sensitivity(filled).methods
    sensitivity_plot(sensitivity(filled), tmp_path / "a.png")
    ((shares, values),) = panels
    assert texts(shares) == [*(effect.option for effect in part.options), "interactions", "seeds"]
    wanted = [*(effect.share for effect in part.options), part.interactions, part.seeds]
    assert [bar.get_width() for bar in shares.patches] == pytest.approx([100 * w for w in wanted])
    assert texts(values)[0] == "lr = 1"
    assert len(texts(values)) == 4
    means = [100 * value.mean for effect in part.options for value in effect.values]
    assert [c.lines[0].get_xdata()[0] for c in values.containers] == pytest.approx(means)


def test_an_oracle_is_marked(tmp_path, panels):
    grid = Grid(tmp_path / "g")
    grid.run("erm", 0, (0.9, 0.8, 0.5, 0.9), rules=("oracle.worst_group",))
    comparison = compare(grid.folder, select="oracle.worst_group", oracle=True)
    comparison_plot(comparison, tmp_path / "a.svg")
    ((ax,),) = panels
    assert texts(ax) == ["erm (oracle)"]
    assert "oracle: an upper bound" in ax.get_title(loc="left")
