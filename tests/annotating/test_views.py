"""A cache with inferred attributes: as one that has them, in fits, ids, records and grids."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedcal.annotating import annotate, annotation, labelled, notes, remove
from embedcal.fitting import Place, configure, fit
from embedcal.grids import grid
from embedcal.grids.engines.ray import Order, known_of, perform
from embedcal.grids.jobs import Site
from embedcal.records import identity
from embedcal.sharing import gather
from embedcal.tables import labels_used
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

from .conftest import VALUES, labels_of

OPTIONS: dict[str, dict[str, Any]] = {
    "dfr": {"c": (1.0,), "refits": 2},
    "group-dro": {"epochs": 2},
    "jtt": {"epochs": 2, "stage_epochs": 1},
}


@pytest.fixture
def noted(made):
    """The cache with two attributes annotated beside it."""
    for name in ("water", "fog"):
        annotate(made, name, "spurious", labels_of(name), source="clip")
    return made


def place_of(on: Workbench, runs: Path = Path()) -> Place:
    return Place(on=on, seed=0, runs=runs, device="cpu")


# -- the view --------------------------------------------------------------------------------------


def test_nothing_is_added_that_nobody_names(noted):
    for ask in (None, (), "place", ["place"]):
        assert labelled(noted, ask) is noted
    assert Workbench(noted).attributes == ("place",)
    assert noted.inferred == Workbench(noted).inferred == {}
    on = Workbench(labelled(noted, "water"), "place")  # a view whose own labels are chosen
    assert (on.inferred, on.banks) == ({}, frozenset(noted.banks))


def test_a_view_is_as_a_cache_that_has_the_labels(noted, whole):
    view = labelled(noted, ["water", "fog"])
    assert view.meta.attributes == whole.meta.attributes == tuple(VALUES.items())
    assert list(noted.samples.attributes) == ["place"]
    assert view.inferred == {name: annotation(noted, name).digest for name in ("fog", "water")}
    for ask in ("fog", "water", ["water", "place"], None):
        assert view.n_attributes(ask) == whole.n_attributes(ask)
        assert view.group_names(ask) == whole.group_names(ask)
        for split in ("train", "val", "test"):
            assert view.has_groups(split, ask) == whole.has_groups(split, ask)
            ours, theirs = (cache.split(split, "embedding", ask) for cache in (view, whole))
            assert ours.arrays.keys() == theirs.arrays.keys()
            for name, array in ours.arrays.items():
                assert np.array_equal(array, theirs.arrays[name]), name
                assert array.dtype == theirs.arrays[name].dtype, name


@pytest.mark.parametrize("ask", [["fog", "water", "place"], ["water", "place", "fog"]])
def test_a_choice_has_one_form_in_whatever_order_it_is_named(noted, ask):
    assert Workbench(noted, ask).attributes == ("place", "fog", "water")
    twice = labelled(labelled(noted, "water"), "fog")
    assert [name for name, _ in twice.meta.attributes] == ["place", "fog", "water"]
    assert list(twice.inferred) == ["fog", "water"]


def test_an_unknown_name_is_one_line_that_names_both_kinds(noted, made, tmp_path):
    said = r"an attribute of made.h5, found 'mist': choose place, fog \(inferred\), water"
    for ask in (lambda: labelled(noted, "mist"), lambda: fit("erm", noted, attribute="mist")):
        with pytest.raises(EmbedcalError, match=said):
            ask()
    for name in ("fog", "water"):
        remove(noted, name)
    with pytest.raises(EmbedcalError, match=r"found 'water': choose place$"):
        Workbench(noted, "water")


def test_what_the_cache_has_of_its_own_is_never_replaced(noted, whole):
    folder = whole.meta.path.with_suffix(".beside") / "attributes"
    folder.mkdir(parents=True)
    file = noted.meta.path.with_suffix(".beside") / "attributes" / "water.json"
    (folder / "water.json").write_text(file.read_text())
    assert labelled(whole, "water") is whole
    assert Workbench(whole, "water").inferred == {}


@pytest.mark.parametrize(
    ("name", "labels"),
    [("place", labels_of("fog")), ("x", labels_of("fog")[1:]), ("x", labels_of("fog") + 1),
     ("x", labels_of("fog") - 1)],
)  # fmt: skip
def test_what_is_no_attribute_of_a_view(made, name, labels):
    with pytest.raises(EmbedcalError, match="expected"):
        made.with_attribute(name, ("no", "yes"), labels, "d")


def test_a_healthy_attribute_is_told_of(noted):
    annotate(noted, "beak", "healthy", labels_of("fog"))
    (line,) = notes(noted, ["beak", "water"])
    assert line.startswith("note: beak was judged healthy")
    assert notes(noted, ["place", "water"]) == notes(noted, None) == ()


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("attribute", ["water", ["water", "place"]])
def test_a_run_is_that_over_labels_of_the_caches_own(name, attribute, noted, whole, tmp_path):
    given = {"attribute": attribute, **OPTIONS[name]}
    ours, theirs = (fit(name, cache, out=tmp_path / "r", **given) for cache in (noted, whole))
    assert ours.id != theirs.id
    one, other = ours.all_predictions(), theirs.all_predictions()
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)
    for split in ("val", "test"):
        assert ours.record[split] == theirs.record[split]
    assert ours.record["inferred"] == {"water": annotation(noted, "water").digest}
    assert "inferred" not in theirs.record
    marked = [
        f"{n} (inferred: water)" if n.endswith(".g") else n for n in theirs.record["labels_used"]
    ]
    assert ours.record["labels_used"] == marked
    assert any("inferred" in need for need in marked)
    for kept in ours.record["rules"].values():
        assert all(need.endswith(("y", "water)")) for need in kept["labels_used"])
    first = theirs.record["stage"]
    assert (ours.record["stage"] != first) == (first is not None)
    again = fit(name, noted, out=tmp_path / "r", **given)
    assert again.reused


def test_words_say_which_labels_are_inferred():
    plain = ["train.g", "train.y", "val.g", "val.y"]
    assert labels_used(plain) == "train y+g, val y+g"
    marked = [f"{n} (inferred: a.b)" if n.endswith(".g") else n for n in plain]
    assert labels_used(marked) == "train y+g (inferred: a.b), val y+g (inferred: a.b)"


def test_an_id_is_made_of_the_digest_only_where_labels_are_inferred(noted):
    """Spelled out, so that a run over a cache's own labels keeps the id that it always had."""

    def by_hand(on: Workbench, **more: Any) -> str:
        erm = configure("erm", {}).resolve(on.offer)
        facts = {
            "cache": on.cache.fingerprint,
            "attributes": list(on.attributes),
            "method": "erm",
            "source": erm.source,
            "variant": erm.variant,
            "head": erm.head_name,
            "options": erm.record(),
            "seed": 0,
            "revision": [erm.revision, 1],
            **more,
        }
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    for ask in (None, "place"):
        on = Workbench(noted, ask)
        erm = configure("erm", {}).resolve(on.offer)
        assert place_of(on).id(erm) == by_hand(on)
        assert "inferred" not in identity(erm, 0, on)
    on = Workbench(noted, ["place", "water"])
    digest = annotation(noted, "water").digest
    assert place_of(on).id(erm) == by_hand(on, inferred={"water": digest})


def test_another_annotation_gives_other_ids(noted):
    erm = configure("erm", {})

    def named() -> str:
        return place_of(Workbench(noted, "water")).id(erm)

    before, labels = named(), labels_of("water")
    assert named() == before
    labels[0] = 1 - labels[0] if labels[0] >= 0 else 1
    for verdict, given, source in [
        ("healthy", labels_of("water"), "clip"),
        ("spurious", labels_of("water"), "table.csv"),
        ("spurious", labels, "clip"),
    ]:
        annotate(noted, "water", verdict, given, source=source)
        assert named() != before
    annotate(noted, "water", "spurious", labels_of("water"), source="clip")
    assert named() == before


# -- grids -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_have_the_labels(noted, tmp_path):
    found = {
        engine: grid(
            ["group-dro:epochs=2", "dfr:c=1:refits=2"], noted, seeds=1, attribute="water",
            engine=engine, jobs=2, out=tmp_path / engine,
        )
        for engine in ("sequential", "processes")
    }  # fmt: skip
    one, other = (
        {record["id"]: (record["test"], record["inferred"]) for record in done.done}
        for done in found.values()
    )
    assert len(one) == 2
    assert one == other


def test_a_node_has_the_labels_from_values_alone(noted, tmp_path, monkeypatch):
    on = Workbench(noted, "water")
    calm = grid(["dfr:c=1:refits=2"], noted, attribute="water", seeds=1, out=tmp_path / "calm")
    known = known_of(on)
    known = pickle.loads(
        pickle.dumps(replace(known, meta=replace(known.meta, path=tmp_path / "x")))
    )
    (record,) = calm.records
    site = Site(
        cache=tmp_path / "x", attributes=on.attributes, folder=tmp_path / "g", device="cpu",
        select="val.worst_group", inferred=on.inferred,
    )  # fmt: skip
    order = Order(setting=calm.settings[record["id"]], seed=0, site=site)
    monkeypatch.setattr("embedcal.cache.open_cache", lambda *a: pytest.fail("a file was opened"))
    done, _ = perform(order, gather(on, ("embedding",)), known, {})
    for key in ("id", "rules", "test", "inferred", "labels_used"):
        assert done[key] == record[key]


def test_labels_that_change_under_a_grid_end_it(noted, tmp_path):
    on = Workbench(noted, "water")
    site = Site(
        cache=noted.meta.path, attributes=on.attributes, folder=tmp_path, device="cpu",
        select="last", inferred=on.inferred,
    )  # fmt: skip
    assert site.place(on, 0, "").id(configure("erm", {})) == place_of(on).id(configure("erm", {}))
    annotate(noted, "water", "spurious", labels_of("fog"))
    with pytest.raises(EmbedcalError, match=r"the labels of water .* annotated again since"):
        site.place(Workbench(noted, "water"), 0, "")


def test_a_grid_of_its_own_for_labels_of_its_own(noted):
    def folder() -> Path:
        return grid(["erm:epochs=1"], noted, seeds=1, attribute="water",
                    engine="sequential").folder  # fmt: skip

    before = folder()
    assert folder() == before
    annotate(noted, "water", "spurious", labels_of("fog"))
    assert folder() != before
