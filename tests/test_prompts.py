"""What the text tower is asked, from files to a zero-shot classifier and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from embedcal.cache import BuildOptions, FeatureCache, open_cache
from embedcal.caching import cache as make_cache
from embedcal.cli import app
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.prompts import read_pairs
from embedcal.encoders.load import load_encoder
from embedcal.fitting import fit
from embedcal.types import EmbedcalError

TEXTS = {
    "Landbird": ["a small brown bird in a tree", "a bird with claws", "it [red]sings[/red]"],
    "WATERBIRD": ["a bird with webbed feet", "a duck on a lake", "a white gull"],
}


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 birds through the tiny CLIP, three descriptions a class, seven templates otherwise."""
    folder = tmp_path_factory.mktemp("described")
    (folder / "d.json").write_text(json.dumps(TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(folder))
        read = ReadOptions(descriptions=folder / "d.json", rows=300, seed=77)
        return make_cache("birds", templates="simple", read=read).path


def zeroshot_logits(cache: FeatureCache, weights: np.ndarray) -> np.ndarray:
    x = cache.split("test").x.astype(np.float64)
    scale = np.exp(cache.projection().logit_scale)
    return scale * (x / np.linalg.norm(x, axis=1, keepdims=True)) @ weights.T


@pytest.mark.parametrize("first", [0, 2])
def test_zero_shot_is_the_mean_of_the_sentences(described: Path, tmp_path: Path, first) -> None:
    """Against the tower's own encode_text, one sentence at a time, averaged by hand."""
    encoder = load_encoder("tiny")
    with open_cache(described) as cache:
        run = fit("zeroshot", cache, out=tmp_path, device="cpu", templates=first)
        weights = []
        for name in ("Landbird", "WATERBIRD"):
            sentences = TEXTS[name][: first or None]
            units = [encoder.text([text])["embedding"][0].astype(np.float64) for text in sentences]
            mean = sum(unit / np.linalg.norm(unit) for unit in units) / len(units)
            weights.append(mean / np.linalg.norm(mean))
        wanted = zeroshot_logits(cache, np.stack(weights))
        found = run.all_predictions()[f"{run.record['selection']}/test"].numpy()
        np.testing.assert_allclose(found, wanted, atol=2e-4)
        assert np.ptp(wanted) > 1
        said = run.record["prompts"]
        assert said == {
            "prompts": ["landbird", "waterbird"],
            "descriptions": [texts[: first or None] for texts in TEXTS.values()],
        }
        assert json.loads((run.folder / "run.json").read_text())["prompts"] == said


def test_the_record_of_zero_shot_names_its_templates_and_others_do_not(
    birds: Path, tmp_path: Path
) -> None:
    with open_cache(birds) as cache:
        record = fit("zeroshot", cache, out=tmp_path, templates=3).record
        assert record["prompts"] == {
            "prompts": ["landbird", "waterbird"], "templates": list(cache.meta.templates[:3]),
        }  # fmt: skip
        assert "prompts" not in fit("erm", cache, out=tmp_path, epochs=1).record


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clip", {}),
        ("clip", {"variant": "paper_sampled"}),
        ("erm", {"head": "projection", "scope": "image+text_proj"}),
        ("con-adapter", {}),
        ("spurious", {"vs_weight": 1.0}),
        ("spurious", {"ls_form": "class_x_attribute"}),
        ("spurious", {"variant": "official_fixed", "cross_weight": 1.0, "domain_weight": 1.0}),
    ],
)
def test_other_methods_take_another_number_of_texts_a_class(
    described: Path, tmp_path: Path, method: str, options: dict[str, object]
) -> None:
    """Three descriptions of each class beside seven templates of the other banks."""
    with open_cache(described) as cache:
        run = fit(method, cache, out=tmp_path, epochs=1, **options)
    assert run.record["status"] == "done"


def test_a_term_that_pairs_prompts_by_template_says_why_it_cannot(
    described: Path, tmp_path: Path
) -> None:
    with (
        open_cache(described) as cache,
        pytest.raises(EmbedcalError, match="as many texts of every class as of every attribute"),
    ):
        fit("spurious", cache, out=tmp_path, epochs=1, variant="official_fixed", diagonal="on")


def run(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_people_see(described: Path, birds: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    shown = run("fit", "zeroshot", "--cache", str(described), *out)
    assert "prompts       2: landbird, waterbird" in shown
    assert f"descriptions  3 for each, the first '{TEXTS['Landbird'][0]}'" in shown
    assert "templates  80, the first 'a bad photo of a {}.'" in run(
        "fit", "zeroshot", "--cache", str(birds), *out
    )
    shown = run("info", str(described))
    assert "attribute (2), context (2), group (4) x 7 templates; class (2) x 3 desc" in shown
    assert "templates     the first is 'itap of a {}.'" in shown
    record = json.loads(run("info", str(described), "--json"))
    assert record["descriptions"]["class"] == list(TEXTS.values())
    assert record["banks"]["pairs"]  # the data set's own
    assert len(record["template_texts"]) == record["templates"] == 7


def test_options_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--descriptions, --crop and FILE#KEY arrive; a mistake in a templates file comes early."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    rows = ["path,y,split"]
    for i in range(6):
        Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(f"{i}.png")
        rows.append(f"{i}.png,{i % 2},{i // 2}")
    Path("mine.csv").write_text("\n".join(rows))
    Path("d.json").write_text(json.dumps({"a": ["one", "two"], "b": ["three", "four"]}))
    Path("t.json").write_text(json.dumps({"mine": ["m {c}"], "x": ["x {c}"]}))
    words = ("cache", "mine.csv", "--backbone", "tiny", "--classes", "a,b")
    run(*words, "--out", "1.h5", "--descriptions", "d.json", "--crop", "20")
    with open_cache("1.h5") as cache:
        assert cache.text("class").descriptions == (("one", "two"), ("three", "four"))
        assert cache.meta.preprocessing["center_crop"] == 20
    for k, (key, wanted) in enumerate((("", "m {}"), ("#x", "x {}"))):
        run(*words, "--out", f"t{k}.h5", "--templates", f"t.json{key}", "--crop", "none")
        with open_cache(f"t{k}.h5") as cache:
            assert cache.meta.templates == (wanted,)
            assert "center_crop" not in cache.meta.preprocessing
    said = run(*words, "--out", "1.h5", "--descriptions", "d.json", "--crop", "20",
               "--explain-miss")  # fmt: skip
    assert "preprocessing center_crop: wanted 20, found None" in said
    for wrong in (("--crop", "x"), ("--templates", "no.txt"), ("--templates", "t.json#y")):
        done = CliRunner().invoke(app, [*words, "--out", "w.h5", *wrong])
        assert isinstance(done.exception, EmbedcalError | SystemExit)
        assert not Path("w.h5").exists()


def test_what_is_to_be_built_may_be_said_by_options_alone(tmp_path: Path) -> None:
    pairs = read_pairs({"reject": [["a bird", "a lake"]]})
    build = BuildOptions(out=tmp_path / "x.h5", templates=("{}!",), pairs=pairs)
    how = {"read": ReadOptions(rows=240), "build": build}
    with open_cache(make_cache("birds", **how).path) as opened:
        assert opened.meta.path == tmp_path / "x.h5"
        assert opened.meta.templates == ("{}!",)
        assert opened.text("pairs").prompts == pairs.prompts
    report = make_cache("birds", **how, out=tmp_path / "y.h5", templates="simple", pairs="none")
    with open_cache(report.path) as opened:  # what is given to cache itself goes first
        assert report.path == tmp_path / "y.h5"
        assert len(opened.meta.templates) == 7
        assert "pairs" not in opened.banks
    with open_cache(make_cache("birds", read=how["read"], build=BuildOptions()).path) as opened:
        assert len(opened.meta.templates) == 80
