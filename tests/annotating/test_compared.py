"""Stored runs judged by other groups: as if they had been fitted with them, but for selection."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from embedcal.annotating import annotate, annotation, remove
from embedcal.answers.comparison import latex, markdown
from embedcal.comparing import compare
from embedcal.comparing.judging import judged
from embedcal.comparing.recorded import collect
from embedcal.evaluate import bootstrap, evaluate_strata
from embedcal.fitting import fit
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

from .conftest import labels_of, made_cache


@pytest.fixture
def noted(made):
    annotate(made, "water", "spurious", labels_of("water"), source="clip")
    return made


def only(comparison):
    (block,) = comparison.blocks
    return block, {row.label: row for row in block.rows}


@pytest.mark.parametrize(
    ("fitted", "asked"), [("place", "water"), ("water", "place"), (None, "water")]
)
def test_it_is_fitting_under_that_attribute_with_the_last_rule(noted, tmp_path, fitted, asked):
    given = {"select": "last", "epochs": 3}
    for seed in range(2):
        fit("erm", noted, attribute=fitted, seed=seed, out=tmp_path / "a", **given)
        fit("erm", noted, attribute=asked, seed=seed, out=tmp_path / "b", **given)
    ours, one = only(compare(tmp_path / "a", select="last", attribute=asked))
    theirs, other = only(compare(tmp_path / "b", select="last"))
    assert (ours.judged, theirs.judged) == (True, False)
    assert ours.attributes == theirs.attributes == (asked,)
    assert ours.group_names == theirs.group_names
    for field in ("mean", "values", "deviation", "interval", "metrics", "seeds"):
        assert getattr(one["erm"], field) == getattr(other["erm"], field), field
    before = only(compare(tmp_path / "a", select="last"))[1]["erm"]
    assert one["erm"].validation == before.validation  # what chose stays
    assert one["erm"].labels_used == before.labels_used
    assert one["erm"].metrics["groups"] != before.metrics["groups"]


def test_numbers_are_those_of_the_predictions(noted, tmp_path):
    run = fit("dfr", noted, attribute="water", c=(1.0,), refits=2, out=tmp_path / "r")
    block, rows = only(compare(tmp_path / "r", attribute=["place", "water"]))
    cells = Workbench(noted, ["water", "place"]).strata("test", "embedding")
    predicted = run.logits(run.record["selection"], "test").argmax(1)
    row = rows["dfr"]
    assert row.metrics["groups"] == tuple(evaluate_strata(predicted, cells).groups)
    assert row.interval == bootstrap((predicted == cells.y)[None], cells).worst_group
    assert len(block.group_names) == 8
    assert block.attributes == ("place", "water")


def test_runs_of_different_groups_meet_under_one_judge(noted, tmp_path):
    for seed in range(2):
        for attribute in ("place", "water"):
            fit("group-dro", noted, attribute=attribute, seed=seed, epochs=2, out=tmp_path / "r")
    apart = compare(tmp_path / "r")
    assert len(apart.blocks) == 2
    block, rows = only(compare(tmp_path / "r", attribute="place"))
    assert set(rows) == {"group-dro, groups of place", "group-dro, groups of water (inferred)"}
    own = next(b for b in apart.blocks if b.attributes == ("place",)).rows[0]
    same = rows["group-dro, groups of place"]
    assert (same.values, same.metrics, same.interval) == (own.values, own.metrics, own.interval)
    assert len(block.pairs) == 1
    assert "judged on test by groups of place; settings and epochs stay" in block.notes[0]
    marked = rows["group-dro, groups of water (inferred)"].labels_used
    assert "train.g (inferred: water)" in marked
    found = compare(tmp_path / "r", attribute="place", baseline="group-dro, groups of place")
    for text in (markdown(found), latex(found)):
        assert "judged by place" in text
        assert "(inferred: water)" in text
    for block in apart.blocks:
        told = any("the labels of water are inferred" in note for note in block.notes)
        assert told == (block.attributes == ("water",))


def test_other_labels_of_one_name_are_other_groups(noted, tmp_path):
    digests = []
    for labels in (labels_of("water"), labels_of("fog")):
        annotate(noted, "water", "spurious", labels)
        digests.append(annotation(noted, "water").digest)
        fit("erm", noted, attribute="water", epochs=1, out=tmp_path / "r")
    assert [pool.inferred["water"] for pool in collect(tmp_path / "r")] == digests
    assert len(compare(tmp_path / "r").blocks) == 2
    _, rows = only(compare(tmp_path / "r", attribute="place"))
    assert set(rows) == {f"erm, groups of water (inferred) {digest[:6]}" for digest in digests}


def test_a_cache_that_moved_is_named(noted, tmp_path):
    fit("erm", noted, epochs=1, out=tmp_path / "r")
    there, here = noted.meta.path, tmp_path / "elsewhere" / "moved.h5"
    here.parent.mkdir()
    shutil.copy(there, here)
    shutil.copytree(there.with_suffix(".beside"), here.with_suffix(".beside"))
    there.unlink()
    with pytest.raises(EmbedcalError, match=r"the cache of the runs at .*: name it with --cache"):
        compare(tmp_path / "r", attribute="water")
    block, _ = only(compare(tmp_path / "r", attribute="water", cache=here))
    assert block.group_names[1] == "crow | water"
    other = made_cache(tmp_path / "other.h5", seed=4)
    with pytest.raises(EmbedcalError, match=r"found another in .*other\.h5"):
        compare(tmp_path / "r", attribute="place", cache=other)
    with pytest.raises(EmbedcalError, match=r"found 'mist': choose place, water \(inferred\)"):
        compare(tmp_path / "r", attribute="mist", cache=here)


def test_predictions_of_other_rows_are_refused(noted, tmp_path):
    run = fit("erm", noted, epochs=1, out=tmp_path / "r")
    (pool,) = judged(collect(tmp_path / "r"), "water")
    assert pool.judge(run, "last")["groups"] != run.record["rules"]["last"]["test"]["groups"]
    turned = replace(pool.judge.cells, cell=pool.judge.cells.cell[::-1])
    with pytest.raises(EmbedcalError, match="predictions of the 80 test rows"):
        replace(pool.judge, cells=turned)(run, "last")


def test_an_attribute_unknown_on_test_judges_nothing(made, tmp_path):
    labels = np.where(made.samples.split == 2, -1, labels_of("water"))
    annotate(made, "water", "spurious", labels)
    fit("erm", made, epochs=1, out=tmp_path / "r")
    with pytest.raises(EmbedcalError, match="test rows of known water"):
        compare(tmp_path / "r", attribute="water")


def test_when_the_annotation_is_gone_its_runs_can_still_be_compared(noted, tmp_path):
    fit("erm", noted, attribute="water", epochs=1, out=tmp_path / "r")
    named = only(compare(tmp_path / "r"))[0].group_names
    remove(noted, "water")
    block, _ = only(compare(tmp_path / "r"))
    assert named[0] == "crow | no water"
    assert block.group_names[0] == "class 0 | water 0"
    assert json.dumps(compare(tmp_path / "r").record)
