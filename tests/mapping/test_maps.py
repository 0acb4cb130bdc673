"""Maps of runs over the birds: what is placed where, and which numbers stand beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch.nn import functional as F

import embedcal
from embedcal.annotating import annotate
from embedcal.annotating import values_of as annotation_values
from embedcal.cache import FeatureCache, import_features
from embedcal.mapping import draw, map_run, map_runs
from embedcal.mapping.spaces import _apply
from embedcal.runs import Run
from embedcal.types import EmbedcalError


@pytest.fixture
def opened(birds: Path) -> Iterator[FeatureCache]:
    with embedcal.open(birds) as cache:
        yield cache


def plain(folder: Path, attributes: dict[str, np.ndarray] | None = None) -> Path:
    """A cache of 60 rows and 3 classes without text."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype(np.float32)
    split = np.repeat([0, 1, 2], 20)
    return import_features(x, np.arange(60) % 3, split, attributes, out=folder / "plain.h5")


def test_a_head_with_an_embedding(opened: FeatureCache, fitted: dict[str, Run]) -> None:
    found = map_run(fitted["erm"], opened)
    test = opened.split("test", "embedding")
    np.testing.assert_array_equal(found.rows, test.rows)
    head = fitted["erm"].head().eval()
    with torch.no_grad():
        x = torch.from_numpy(opened.split("test", head.level).x)
        after, predicted = head.embed(x).numpy(), head(x).argmax(1).numpy()
    before = F.normalize(torch.from_numpy(test.x), dim=1).numpy()
    for view, unit in ((found.before, before), (found.after, after)):
        assert view.space == "embedding"
        for silhouette, labels in ((view.by_class, test.y), (view.by_attribute, test.a)):
            want = silhouette_score(unit, labels, metric="cosine")
            assert silhouette is not None
            assert silhouette.mean == pytest.approx(want, abs=1e-6)
        centred = unit - unit.mean(0)
        scores = np.linalg.svd(centred, full_matrices=False)[1]
        assert view.share == pytest.approx((scores[:2] ** 2).sum() / (scores**2).sum(), abs=1e-4)
    np.testing.assert_array_equal(found.after.wrong, predicted != test.y)
    assert found.after.error == pytest.approx(1 - fitted["erm"].test["mean"], abs=1e-9)
    assert found.values == opened.attribute_values()
    np.testing.assert_array_equal(found.a, test.a)
    # turned onto the frozen plane: no turn of the plane is nearer
    cross = found.points_after.T @ (found.points_before - found.points_before.mean(0))
    np.testing.assert_allclose(cross, cross.T, atol=1e-6)


def test_linear_heads_are_shown_by_their_logits(
    opened: FeatureCache, fitted: dict[str, Run]
) -> None:
    zero, probe = map_runs([None, fitted["probe"]], opened, by="tsne")
    assert zero.before is probe.before
    assert (zero.before.wrong == zero.after.wrong).all()  # the frozen view's are zero-shot's
    test = opened.split("test", "embedding")
    logits = fitted["probe"].predictions()["test"].double().numpy()
    assert (probe.after.space, probe.after.border, probe.after.share) == ("logits", True, None)
    np.testing.assert_allclose(probe.points_after[:, 0], logits[:, 1] - logits[:, 0], rtol=1e-4)
    centred = logits - logits.mean(1, keepdims=True)
    for silhouette, labels in ((probe.after.by_class, test.y), (probe.after.by_attribute, test.a)):
        want = silhouette_score(centred, labels, metric="sqeuclidean")
        assert silhouette is not None
        assert silhouette.mean == pytest.approx(want, abs=1e-5)


def test_three_classes_of_logits_are_reduced_as_embeddings_are(tmp_path: Path) -> None:
    with embedcal.open(plain(tmp_path)) as cache:
        run = embedcal.fit("linear-probe", cache, out=tmp_path / "runs")
        found = map_run(run, cache)
        assert (found.after.space, found.after.border) == ("logits", False)
        assert found.after.share == pytest.approx(1)  # three logits that sum to zero: a plane
        # no prompts: nobody's errors; no attribute: no values
        assert (found.before.wrong, found.before.error) == (None, None)
        assert (found.a, found.attributes, found.after.by_attribute) == (None, (), None)
        assert found.after.wrong is not None
        # what all logits share decides nothing, and changes nothing
        shifted = run.head()
        with torch.no_grad():
            shifted.weight += torch.randn(6)  # type: ignore[operator]
        like = SimpleNamespace(record=run.record, id=run.id, head=lambda: shifted)
        other = map_run(like, cache).after  # type: ignore[arg-type]
        assert other.by_class is not None
        assert found.after.by_class is not None
        assert other.by_class.mean == pytest.approx(found.after.by_class.mean, abs=1e-5)
        with pytest.raises(EmbedcalError, match="expected class prompts for zeroshot, found none"):
            map_run(None, cache)


def test_unknown_values_and_a_single_one(tmp_path: Path) -> None:
    place, single = np.arange(60) % 4 - 1, np.zeros(60, int)
    with embedcal.open(plain(tmp_path, {"place": place, "single": single})) as cache:
        run = embedcal.fit("linear-probe", cache, attribute="place", out=tmp_path / "runs")
        found = map_run(run, cache)
        assert found.attributes == ("place",)  # those of the run
        np.testing.assert_array_equal(found.a, place[40:])
        assert found.before.by_attribute is not None
        assert len(found.before.by_attribute.rows) == 15
        other = map_run(run, cache, attribute="single", split="val")
        assert (other.attributes, other.split) == (("single",), "val")
        assert other.before.by_attribute is None


def test_annotated_attributes_are_mapped_too(tmp_path: Path) -> None:
    labels = np.arange(60) % 2
    with embedcal.open(plain(tmp_path)) as cache:
        run = embedcal.fit("linear-probe", cache, out=tmp_path / "runs")
        annotate(cache, "boat", "spurious", labels)
        found = map_run(run, cache, attribute="boat")
        figure = draw(found, cache)
    np.testing.assert_array_equal(found.a, labels[40:])
    assert found.values == annotation_values("boat")
    legend = figure.axes[5].get_legend()
    assert legend is not None
    assert tuple(text.get_text() for text in legend.get_texts()) == found.values


def test_drawn_rows_follow_from_the_seed_and_silhouettes_from_none(
    opened: FeatureCache, fitted: dict[str, Run]
) -> None:
    every = map_run(fitted["erm"], opened, points=0)
    some = map_run(fitted["erm"], opened, points=50, seed=3)
    again = map_run(fitted["erm"], opened, points=50, seed=3)
    other = map_run(fitted["erm"], opened, points=50, seed=4)
    assert len(every.rows) == every.n == some.n
    assert len(set(some.rows.tolist())) == 50
    np.testing.assert_array_equal(some.points_after, again.points_after)
    assert not np.array_equal(some.rows, other.rows)
    np.testing.assert_array_equal(some.y, opened.samples.y[some.rows])
    assert some.after.by_class is not None
    assert every.after.by_class is not None
    assert some.after.by_class.mean == every.after.by_class.mean
    assert some.after.error == every.after.error
    at = np.isin(every.rows, some.rows)
    np.testing.assert_array_equal(some.after.wrong, every.after.wrong[at])  # type: ignore[index]


def test_rows_are_read_in_batches_and_once(fitted: dict[str, Run]) -> None:
    head = fitted["probe"].head()
    width = head.state_dict()["weight"].shape[1]

    class Wide:
        """Rows of 2^23 numbers as far as the batch size goes: two at a time."""

        row_shape = (2**23,)
        sizes: tuple[int, ...] = ()

        def split(self, size: int) -> list[torch.Tensor]:
            self.sizes = (*self.sizes, size)
            return list(x.split(size))

    x, rows = torch.randn(5, width), Wide()
    embeddings, logits = _apply(head, rows)  # type: ignore[arg-type]
    assert rows.sizes == (2,)
    np.testing.assert_allclose(embeddings, F.normalize(x, dim=1).numpy(), atol=1e-6)
    np.testing.assert_allclose(logits, head(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "lda"}, "expected a map by pca, tsne, umap, found 'lda': "),
        ({"split": "dev"}, "expected a split among train, val, test, found 'dev': "),
        ({"points": 3}, "expected 4 points or more, or 0 for all rows, found 3: "),
        ({"points": -1}, "expected 4 points or more, or 0 for all rows, found -1: "),
        ({"attribute": "hue"}, "found 'hue': "),
    ],
)
def test_mistakes_are_one_line(opened: FeatureCache, options: dict[str, object], said: str) -> None:
    with pytest.raises(EmbedcalError) as caught:
        map_run(None, opened, **options)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_over_another_cache_and_no_runs(opened: FeatureCache, fitted: dict[str, Run]) -> None:
    record = dict(fitted["erm"].record)
    foreign = replace(
        fitted["erm"], record={**record, "cache": {**record["cache"], "fingerprint": "0"}}
    )
    with pytest.raises(EmbedcalError, match=r"^expected a run over .* name that with --cache$"):
        map_run(foreign, opened)
    with pytest.raises(EmbedcalError, match="at least one run to map, found none: "):
        map_runs([], opened)
