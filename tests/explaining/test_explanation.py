"""Rows in, maps and overlap out: over the embedded birds, from images and from tokens."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
from open_clip import factory
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from embedcal.cache import BuildOptions, FeatureCache, digests, import_features, open_cache
from embedcal.caching import cache as make_cache
from embedcal.cli import app
from embedcal.datasets.options import ReadOptions
from embedcal.encoders.load import load_encoder
from embedcal.evaluate import aiou as aiou_of
from embedcal.evaluate import iou as iou_of
from embedcal.explaining import Sources, aiou, choose, explain, figure
from embedcal.explaining.gradcam import enlarged
from embedcal.explaining.readout import head_of, readout
from embedcal.explaining.trunk import from_pixels, layer_of
from embedcal.fitting import fit
from embedcal.pictures import find
from embedcal.types import EmbedcalError


@pytest.fixture(scope="module")
def root(birds: Path) -> Path:
    return birds.parents[1] / "birds" / "rows-600-seed-77"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Sixteen of the birds in a folder of their own, with a table that names their masks."""
    folder = tmp_path_factory.mktemp("small")
    with (root / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    groups: dict[Any, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["y"], row["place"]), []).append(row)
    chosen = [row for group in groups.values() for row in group[:4]]
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "y", "a", "split", "mask"])
        for place, row in enumerate(chosen):
            name = row["img_filename"]
            for part in (name, f"segmentations/{name}"):
                (folder / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / part, folder / part)
            split = ("train", "val", "test", "test")[place % 4]
            # The object of the last row is unknown.
            mask = "" if place == len(chosen) - 1 else f"segmentations/{name}"
            table.writerow([name, row["y"], row["place"], split, mask])
    return folder


def cached(folder: Path, *, tokens: bool = False, crop: int | None = None) -> Path:
    return make_cache(
        folder / "table.csv",
        backbone="tiny",
        root=folder,
        templates="simple",
        read=ReadOptions(classes="landbird,waterbird", attributes="land,water", crop=crop),
        build=BuildOptions(tokens=tokens, store_tokens="float32"),
    ).path


@pytest.fixture
def pair(small: Path) -> Iterator[tuple[FeatureCache, FeatureCache]]:
    """The same birds without and with their tokens."""
    with open_cache(cached(small)) as plain, open_cache(cached(small, tokens=True)) as tokens:
        yield plain, tokens


def test_tokens_and_images_explain_alike(pair: Any, small: Path) -> None:
    plain, tokens = pair
    rows = [3, 0, 15, 7]
    by_images = explain(None, plain, rows, sources=Sources(root=small), device="cpu")
    by_tokens = explain(None, tokens, rows, sources=Sources(root=small), device="cpu")
    assert by_images.maps.shape == (4, 2, 64, 64)
    assert by_images.maps.std() > 0.1
    np.testing.assert_allclose(by_images.maps, by_tokens.maps, atol=1e-4)
    run = fit("zeroshot", plain)
    at = plain.split("test").rows
    wanted = run.predictions()["test"].numpy()
    found = explain(None, plain, at, sources=Sources(root=small), device="cpu")
    np.testing.assert_allclose(found.logits, wanted, rtol=1e-4)
    np.testing.assert_array_equal(found.predicted, wanted.argmax(1))
    np.testing.assert_array_equal(found.labels, plain.samples.y[at])
    # One class alone is the same map, and has no rival.
    one = explain(None, tokens, rows, classes=[1], device="cpu", sources=Sources(root=small))
    np.testing.assert_allclose(one.maps[:, 0], by_tokens.maps[:, 1], atol=1e-6)
    assert one.aiou is None
    with pytest.raises(EmbedcalError, match="expected a class among 1"):
        one.of(np.zeros(4, int))


def test_another_layer_runs_the_encoder_again(
    pair: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tokens in the cache or without; the logits stay, the maps have sixteen cells."""
    plain, tokens = pair
    rows, of = [3, 0, 14, 7], Sources(root=small, layer="layer3")
    last = explain(None, tokens, rows, sources=Sources(root=small, layer="visual.layer4"))
    usual = explain(None, tokens, rows, sources=Sources(root=small))
    np.testing.assert_array_equal(last.maps, usual.maps)
    finer, same = explain(None, plain, rows, sources=of), explain(None, tokens, rows, sources=of)
    np.testing.assert_array_equal(finer.maps, same.maps)
    np.testing.assert_allclose(finer.logits, usual.logits, rtol=1e-3, atol=1e-3)
    assert np.abs(finer.maps - usual.maps).mean() > 0.05
    encoder = load_encoder("tiny", device="cpu")
    head, pixels = readout(head_of(None, plain), plain.projection(), "cpu"), finer.pixels
    small_maps, _ = from_pixels(encoder, pixels, head, [0, 1], layer_of(encoder, "layer3"))
    assert small_maps.shape == (4, 2, 4, 4)
    np.testing.assert_allclose(enlarged(small_maps, (64, 64)).numpy(), finer.maps, atol=1e-5)
    np.testing.assert_allclose(
        finer.aiou, aiou_of(finer.maps, finer.regions, finer.labels), atol=1e-6
    )
    # The whole split, with the same layer.
    test = np.flatnonzero(plain.samples.split == 2)
    each = explain(None, plain, test, sources=of).aiou
    assert aiou(None, plain, sources=of).mean == pytest.approx(np.nanmean(each))
    assert aiou(None, plain, sources=of).mean != pytest.approx(
        aiou(None, plain, sources=Sources(root=small)).mean, abs=1e-3
    )
    with pytest.raises(EmbedcalError, match="layer1, layer2, layer3, layer4, found '3'"):
        aiou(None, tokens, sources=Sources(root=small, layer="3"))
    # Its images are needed, tokens or no tokens.
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path))
    with pytest.raises(EmbedcalError, match="name it with --root"):
        explain(None, tokens, rows, sources=Sources(layer="layer2"))


def test_overlap_is_that_of_the_masks(pair: Any, small: Path) -> None:
    """The files are 64 pixels already, so that the frame is the file."""
    _, tokens = pair
    rows = np.arange(16)
    found = explain(None, tokens, rows, sources=Sources(root=small))
    masks = np.zeros((16, 64, 64), bool)
    for row in rows[:-1]:
        masks[row] = np.asarray(Image.open(small / tokens.samples.masks[row])) > 0
    np.testing.assert_array_equal(found.regions, masks)
    np.testing.assert_array_equal(
        found.pixels[2], np.asarray(Image.open(small / tokens.samples.paths[2]))
    )
    np.testing.assert_allclose(found.iou[:15], iou_of(found.maps, masks[:, None])[:15])
    np.testing.assert_allclose(found.aiou[:15], aiou_of(found.maps, masks, found.labels)[:15])
    assert np.isnan(found.aiou[15])

    test = np.flatnonzero(tokens.samples.split == 2)
    whole = aiou(None, tokens, sources=Sources(root=small))
    known = found.aiou[test][:-1]
    assert whole.images == len(test) - 1 == 7
    assert whole.mean == pytest.approx(known.mean())
    groups = tokens.samples.y[test] * 2 + tokens.samples.attributes["a"][test]
    each = [np.nanmean(found.aiou[test][groups == g]) for g in range(4)]
    np.testing.assert_allclose(whole.groups, each)
    assert whole.worst_group == pytest.approx(min(each))
    boxes = aiou(None, tokens, sources=Sources(root=small, region="box"))
    assert boxes.mean != pytest.approx(whole.mean, abs=1e-4)


def test_masks_and_boxes_belong_to_the_images_that_were_cached(
    pair: Any, small: Path, tmp_path: Path
) -> None:
    """Every row is held to that, not the first alone, and also where tokens make the maps."""
    _, tokens = pair
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    row = int(tokens.split("test").rows[2])
    mask = folder / tokens.samples.masks[row]
    Image.open(mask).crop((0, 0, 64, 40)).save(mask)
    with pytest.raises(EmbedcalError, match=r"its image's 64 x 64 pixels .* found 64 x 40: "):
        aiou(None, tokens, sources=Sources(root=folder))
    shutil.copyfile(small / tokens.samples.masks[row], mask)
    assert aiou(None, tokens, sources=Sources(root=folder)).images == 7
    Image.new("RGB", (64, 64)).save(folder / tokens.samples.paths[row])
    for region in ("mask", "box"):
        with pytest.raises(EmbedcalError, match=r"expected the bytes that .* found others"):
            aiou(None, tokens, sources=Sources(root=folder, region=region))  # type: ignore[arg-type]


def test_a_crop_before_the_encoder_crops_the_masks_too(small: Path) -> None:
    with open_cache(cached(small, crop=40)) as cache:
        assert cache.meta.preprocessing["center_crop"] == 40
        found = explain(None, cache, [1], sources=Sources(root=small))
        mask = np.asarray(Image.open(small / cache.samples.masks[1])) > 0
        inner = Image.fromarray(mask[12:52, 12:52]).resize((64, 64), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(found.regions[0], np.asarray(inner))
        picture = Image.open(small / cache.samples.paths[1]).crop((12, 12, 52, 52))
        resized = picture.resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found.pixels[0], np.asarray(resized))


@pytest.fixture
def small_vit(tmp_path: Path) -> Iterator[str]:
    """The name of a ViT small enough for a test, known to open_clip meanwhile."""
    name = "ViT-for-tests"
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 48,
            "layers": 2,
            "width": 64,
            "patch_size": 16,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    yield name
    factory._MODEL_CONFIGS.pop(name)


def test_a_vit_runs_again(small: Path, small_vit: str) -> None:
    """With the weights of the cache and no others; the logits are those of the cached features."""
    path = make_cache(
        small / "table.csv",
        backbone=small_vit,
        pretrained="random:3",
        root=small,
        templates="simple",
        read=ReadOptions(classes="landbird,waterbird", attributes="land,water"),
    ).path
    with open_cache(path) as cache:
        rows = cache.split("test").rows
        run = fit("zeroshot", cache)
        found = explain(run, cache, rows, sources=Sources(root=small))
        assert found.maps.shape == (8, 2, 48, 48)
        assert found.maps.std() > 0.1
        assert found.regions.shape == (8, 48, 48)
        np.testing.assert_allclose(found.logits, run.predictions()["test"].numpy(), rtol=1e-4)
        assert aiou(run, cache, sources=Sources(root=small)).images == 7
        first = explain(run, cache, rows, sources=Sources(root=small, layer="0"))
        np.testing.assert_allclose(first.logits, found.logits, rtol=1e-4)
        assert np.abs(first.maps - found.maps).mean() > 0.01
        with pytest.raises(EmbedcalError, match="expected a block from 0 to 1"):
            explain(run, cache, rows, sources=Sources(root=small, layer="layer3"))
        other = Sources(root=small, pretrained="random:4")
        with pytest.raises(EmbedcalError, match=r"expected the weights that .* found others"):
            explain(run, cache, rows, sources=other)


def test_weights_that_were_moved_are_named_anew(
    small: Path, small_vit: str, tmp_path: Path
) -> None:
    """detect and explain: the cache keeps the name of the file, not its folder."""
    weights, moved = tmp_path / "mine.safetensors", tmp_path / "moved.safetensors"
    model = open_clip.create_model(small_vit, load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    path = make_cache(
        small / "table.csv",
        backbone=small_vit,
        pretrained=str(weights),
        root=small,
        templates="simple",
        read=ReadOptions(classes="landbird,waterbird", attributes="land,water"),
    ).path
    with open_cache(path) as cache:
        run = str(fit("zeroshot", cache).folder)
    weights.rename(moved)
    figure = ("-o", str(tmp_path / "why.png"), "--root", str(small), "--worst", "1")
    for words in (("detect", "--min-detect", "1"), ("explain", run, *figure)):
        whole = [*words, "--cache", str(path), "--json"]
        assert "--pretrained" in str(CliRunner().invoke(app, whole).exception)
        done = CliRunner().invoke(app, [*whole, "--pretrained", str(moved)])
        assert done.exit_code == 0, done.exception


def test_features_of_no_clip_are_refused() -> None:
    path = import_features(np.eye(6, dtype=np.float32), np.arange(6) % 2, np.arange(6) // 2)
    with open_cache(path) as cache, pytest.raises(EmbedcalError, match="a ViT or a ResNet"):
        explain(None, cache, [0])


def test_every_method_can_be_explained(birds: Path, root: Path) -> None:
    """Heads of every level; the groups are those of the run, and logits those that it stored."""
    with open_cache(birds) as cache:
        rows = cache.split("test").rows
        for method, options in (("dfr", {}), ("erm", {"epochs": 1})):
            run = fit(method, cache, **options)
            found = explain(run, cache, rows[:3], sources=Sources(root=root))
            wanted = run.predictions()["test"].numpy()[:3]
            np.testing.assert_allclose(found.logits, wanted, rtol=1e-3, atol=1e-3)
            assert found.maps.max() > 0.99
        fixed = aiou(run, cache, "val", sources=Sources(root=root))
        assert fixed.images == len(cache.split("val"))
        assert len(fixed.groups) == 4
        low, high = fixed.mean_interval
        assert 0 < low < fixed.mean < high < 1


def test_the_folder_is_found_by_what_lies_in_it(
    birds: Path, root: Path, small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open_cache(birds) as cache:
        with pytest.raises(EmbedcalError, match=r"found no folder with .*: name it with --root"):
            explain(None, cache, [5])
        monkeypatch.setenv("EMBEDCAL_HOME", str(birds.parents[1]))
        assert find(cache, 5).root == root
        with pytest.raises(EmbedcalError, match="found no file that can be read"):
            explain(None, cache, [5], sources=Sources(root=tmp_path))
        there = tmp_path / cache.samples.paths[5]
        there.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(there)
        with pytest.raises(EmbedcalError, match=r"expected the bytes that .* found others"):
            explain(None, cache, [5], sources=Sources(root=tmp_path))


def test_a_folder_that_was_hashed_is_found_again(
    pair: Any, small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the table of digests alone; one that is no table is as good as none."""
    plain, _ = pair
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path))
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**12))  # remember files however young
    digests.digest_files([small / plain.samples.paths[4]], workers=1, table=digests.digest_table())
    assert find(plain, 4).root == small
    digests.digest_table().write_text("nothing")
    with pytest.raises(EmbedcalError, match="name it with --root"):
        find(plain, 4)


def test_the_worst_rows_come_first(birds: Path) -> None:
    with open_cache(birds) as cache:
        run = fit("dfr", cache)
        logits, test = run.predictions()["test"].numpy().astype(float), cache.split("test")
        margins = [row[y] - row[1 - y] for row, y in zip(logits, test.y)]
        worst = sorted(range(len(test)), key=lambda i: margins[i])
        np.testing.assert_array_equal(choose(run, cache, count=5), test.rows[worst[:5]])
        of_two = [i for i in worst if test.g[i] == 2]
        np.testing.assert_array_equal(choose(run, cache, group=2, count=3), test.rows[of_two[:3]])
        assert set(cache.samples.split[choose(None, cache, "val")]) == {1}
        for group in (-1, 4):
            with pytest.raises(EmbedcalError, match="groups go from 0 to 3"):
                choose(run, cache, group=group)


def test_without_files_tokens_still_explain(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokens = pair
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path))  # where nothing was hashed
    found = explain(None, tokens, [0, 1])
    assert found.regions is None
    assert found.pixels is None
    assert "name it with --root" in found.note
    assert found.maps.shape == (2, 2, 64, 64)
    with pytest.raises(EmbedcalError, match="name it with --root"):
        aiou(None, tokens)
    with pytest.raises(EmbedcalError, match="name it with --root"):
        figure({"zero-shot": found}, tokens)


def test_what_is_asked_wrongly(pair: Any, birds: Path, small: Path, root: Path) -> None:
    plain, tokens = pair
    for rows, message in (([], "found none"), ([16], "between 0 and 15, found 16")):
        with pytest.raises(EmbedcalError, match=message):
            explain(None, tokens, rows)
    with pytest.raises(EmbedcalError, match="classes from 0 to 1, found 2"):
        explain(None, tokens, [0], classes=[2])
    with pytest.raises(EmbedcalError, match="expected a region among"):
        explain(None, tokens, [0], sources=Sources(root=small, region="rind"))  # type: ignore[arg-type]
    run = fit("zeroshot", plain)
    with open_cache(birds) as other, pytest.raises(EmbedcalError, match="expected a run over"):
        explain(run, other, [0], sources=Sources(root=root))


def test_figure_of_several_runs(pair: Any, small: Path, tmp_path: Path) -> None:
    _, tokens = pair
    found = explain(None, tokens, [0, 1, 15], sources=Sources(root=small))
    for count, columns in ((1, 3), (3, 7), (4, 5)):
        drawn = figure({f"run <{i}> $x$": found for i in range(count)}, tokens)
        assert len(drawn.axes) == 3 * columns + 1  # and what the colours mean
    drawn.savefig(tmp_path / "a.png")
    told = [text for ax in drawn.axes for text in ax.get_xlabel().splitlines()]
    assert f"AIoU {found.aiou[0]:.2f}" in told
    assert not any("nan" in text for text in told)
    assert {"row 0", "row 15", "a: land"} <= set(told)
    foot = drawn.get_supxlabel().replace("\n", " ")
    assert "Dashed: the object. AIoU: 0.5 where" in foot
    other = explain(None, tokens, [0, 1, 2], sources=Sources(root=small))
    with pytest.raises(EmbedcalError, match="the same rows"):
        figure({"a": found, "b": other}, tokens)
    for bad, message in (({}, "at least one run"), ({"a": found}, "expected a map of")):
        with pytest.raises(EmbedcalError, match=message):
            figure(bad, tokens, of="nothing" if bad else "label")  # type: ignore[arg-type]
    rival = figure({"a": found}, tokens, of="rival")
    assert rival.axes[-1].get_xlabel() == "evidence for the strongest other class"
    bare = replace(found, regions=None, aiou=None)
    assert "object" not in figure({"a": bare}, tokens).get_supxlabel()


def test_a_figure_tells_an_empty_map_and_shows_a_dark_image(pair: Any, small: Path) -> None:
    _, tokens = pair
    found = explain(None, tokens, [0, 1], sources=Sources(root=small))
    maps = found.maps.copy()
    maps[1, found.labels[1]] = 0
    dark = replace(found, maps=maps, pixels=(found.pixels // 16).astype(np.uint8))
    drawn = figure({"a": dark}, tokens)
    below = [ax.get_xlabel() for ax in drawn.axes[:6]]
    assert [("the map is empty" in text) for text in below] == [False] * 5 + [True]
    grey = drawn.axes[2].images[0].get_array()
    assert np.ptp(grey) > 100 > np.ptp(dark.pixels[0])


def test_long_names_have_the_room_that_they_need(pair: Any, small: Path) -> None:
    """No panel is smaller for them, and none of the text lies on a panel."""
    _, tokens = pair
    found = explain(None, tokens, [0, 15], sources=Sources(root=small))
    long = "a bird of the woods that sits on a branch and " * 4
    names = SimpleNamespace(
        samples=tokens.samples,
        meta=SimpleNamespace(classes=(long, "x" * 60), attributes=tokens.meta.attributes),
    )
    heights = []
    for cache in (tokens, names):
        drawn = figure({"run " * 20: found}, cache)  # type: ignore[arg-type]
        drawn.draw_without_rendering()
        boxes = [ax.get_window_extent() for ax in drawn.axes[:6]]
        heights.append(min(box.height for box in boxes))
        whole = drawn.get_window_extent()
        for ax in drawn.axes[:6]:
            label = ax.xaxis.label.get_window_extent()
            assert not any(label.overlaps(box) for box in boxes)
            assert label.y0 >= whole.y0
            assert ax.title.get_window_extent().y1 <= whole.y1
    assert heights[1] > 0.85 * heights[0]
