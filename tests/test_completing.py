"""What the Tab key offers: every value that can be known, fast, and nothing where looking fails."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from typer.models import ParameterInfo

from embedcal.cli import app
from embedcal.commands import completing
from embedcal.commands.runs import _shared

# By name, wherever a parameter of that name is; and where one command has another meaning of it.
BY_NAME: dict[str, Any] = {
    "cache": completing.caches,
    "backbone": completing.backbones,
    "device": completing.devices,
    "engine": completing.engines,
    "select": completing.rules,
    "metric": completing.metrics,
    "attribute": completing.attributes,
    "by": completing.keys,
    "detector": completing.detectors,
    "vocabulary": completing.vocabularies,
    "run": completing.run_names,
    "runs": completing.folders,
    "file": completing.caches,
}
ELSEWHERE: dict[tuple[str, str], Any] = {
    ("annotate", "attribute"): completing.vocabulary,
    ("annotate", "gone"): completing.judged,
    ("cache", "source"): completing.datasets,
    ("cache", "split"): completing.splits,
    ("cache", "templates"): completing.templates,
    ("cache", "precision"): completing.precisions,
    ("cache", "extend"): completing.caches,
    ("datasets show", "name"): completing.datasets,
    ("datasets check", "name"): completing.datasets,
    ("datasets check", "split"): completing.splits,
    ("datasets get", "name"): completing.datasets,
    ("grid", "specs"): completing.methods,
    ("grid", "search"): completing.searches,
    ("compare", "baseline"): completing.methods,
    ("sensitivity", "method"): completing.methods,
    ("merge", "folders"): completing.shards,
    ("report", "runs"): completing.runs,
    ("track", "runs"): completing.runs,
    ("track", "to"): completing.trackers,
    ("explain", "runs"): completing.heads,
    ("explain", "class_name"): completing.classes,
    ("map", "runs"): completing.heads,
    ("predict", "run"): completing.heads,
    ("study", "name"): completing.studies,
    ("reproduce", "name"): completing.recipes,
    ("export", "to"): completing.forms,
}
# Words of the option's own, which no list elsewhere has.
OWN: dict[tuple[str, str], list[str]] = {
    ("demo", "dataset"): ["birds", "digits"],
    ("cache", "pairs"): ["none"],
    ("cache", "crop"): ["auto", "none"],
    ("cache", "keep"): ["tokens"],
    ("predict", "temperature"): ["calibrated"],
    ("export-features", "split"): ["train", "val", "test"],
    ("leaderboard", "methods"): completing.methods(""),
}
# Nobody can know these. A new parameter is red until it is given a completer, or stands here.
FREE = {
    "pretrained",  # tags are open_clip's, which is slow to import; or any file
    "memory", "seeds", "shard", "rows", "project",  # sizes, numbers, a name of one's own
    ("annotate", "file"), ("grid", "file"),  # any file: a shell's own completion
    ("cache", "classes"), ("cache", "attributes"), ("cache", "attribute_name"),
    ("cache", "attribute"), ("cache", "columns"),  # headers and values of a table that is not read
    ("import-features", "name"), ("import-features", "features"), ("import-features", "attribute"),
    ("import-features", "classes"), ("import-features", "attributes"),
    ("explain", "layer"),  # of an encoder that is not loaded
    ("leaderboard", "options"),  # of methods that are not loaded
}  # fmt: skip
# Files and folders that are no caches: a shell completes them by itself.
PATHS = {
    "out", "root", "csv", "plot", "path", "table", "images", "boxes", "prompts", "descriptions",
    "grid",
}  # fmt: skip


def commands(of: typer.Typer = app, before: str = "") -> Iterator[tuple[str, Callable[..., None]]]:
    """Every command's name as it is typed, and the function whose signature its options are."""
    for each in of.registered_commands:
        assert each.callback is not None
        yield before + (each.name or each.callback.__name__.replace("_", "-")), each.callback
    for group in of.registered_groups:
        if group.name == "fit":
            yield "fit", _shared
        else:
            assert group.typer_instance is not None
            yield from commands(group.typer_instance, f"{before}{group.name} ")


def parameters() -> Iterator[tuple[str, str, Any, ParameterInfo]]:
    """Command, name, type, and what typer was told, of everything that takes a value."""
    for command, function in commands():
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            hint, *told = get_args(parameter.annotation) or (parameter.annotation,)
            info = next((each for each in told if isinstance(each, ParameterInfo)), None)
            inner = [each for each in get_args(hint) if each is not type(None)]
            kind = hint if get_origin(hint) in (None, Literal) else inner[0]
            if get_origin(kind) is list:
                (kind,) = get_args(kind)
            if info is not None and kind not in (bool, int, float):
                yield command, name, kind, info


EVERY = {(command, name): (kind, info) for command, name, kind, info in parameters()}


def test_the_walk_sees_the_commands() -> None:
    assert {"fit", "cache", "grid", "datasets check", "import-features", "map"} <= {
        command for command, _ in EVERY
    }
    assert len(EVERY) > 120
    named = {*ELSEWHERE, *OWN, *(each for each in FREE if isinstance(each, tuple))}
    assert named <= set(EVERY), "a parameter that was renamed, or is gone"


@pytest.mark.parametrize(("command", "name"), EVERY)
def test_every_value_that_can_be_known_is_offered(command: str, name: str) -> None:
    kind, info = EVERY[command, name]
    given, key = info.autocompletion, (command, name)
    if get_origin(kind) is Literal:
        assert given is None, "typer offers its words already"
    elif key in OWN:
        assert given("") == OWN[key]
    elif key in ELSEWHERE:
        assert given is ELSEWHERE[key]
    elif key in FREE or name in FREE or (kind is Path and name in PATHS):
        assert given is None
    else:
        assert name in BY_NAME, f"give {command}'s {name} a completer, or say here why it has none"
        assert given is BY_NAME[name]


def test_words_are_those_of_the_modules_that_know_them() -> None:
    """They are written again in ``completing``, since these are slow to import."""
    from embedcal.comparing.comparison import FACTS
    from embedcal.detecting.detection import CLIP, OWLVIT
    from embedcal.detecting.vocabulary import VISUAL_GENOME, vocabulary
    from embedcal.encoders.load import AUTO, PRECISIONS
    from embedcal.encoders.templates import NAMES
    from embedcal.exporting import FORMS
    from embedcal.grids import ENGINES
    from embedcal.grids.search import SEARCHES
    from embedcal.predicting.prediction import ZERO_SHOT
    from embedcal.reproducing import recipe_names
    from embedcal.studies.preset import names

    assert completing.engines("") == list(ENGINES)
    assert completing.searches("") == list(SEARCHES)
    assert completing.precisions("") == [AUTO, *PRECISIONS]
    assert completing.templates("") == list(NAMES)
    assert completing.forms("") == list(FORMS)
    assert completing.detectors("") == [CLIP, OWLVIT]
    assert completing.keys("") == list(FACTS)
    assert completing.vocabularies("") == [VISUAL_GENOME]
    assert completing.heads("z") == [ZERO_SHOT]
    assert completing.studies("") == names()
    assert completing.recipes("") == list(recipe_names())
    assert set(completing.vocabulary("")) == set(vocabulary())


def test_choices_of_methods_are_offered() -> None:
    from embedcal import methods
    from embedcal.commands.by_method import _parameter
    from embedcal.methods.base import options

    seen = 0
    for name in methods.names():
        cls = methods.find(name)
        for item in options(cls):
            (info,) = _parameter(item, str, cls).annotation.__metadata__
            choices = cls.variants if item.name == "variant" else item.metadata["choices"]
            assert (info.autocompletion("") if choices else []) == list(dict.fromkeys(choices))
            seen += bool(choices)
    assert seen > 20


def test_a_list_goes_on_behind_its_comma() -> None:
    assert completing.keys("me") == ["method"]
    assert completing.keys("method,h") == ["method,head"]
    assert "method,method" not in completing.keys("method,")
    assert completing.keys("neg,") == [f"neg,{each}" for each in completing.keys("")]


def line(cache: Path | None = None, **typed: Any) -> Any:
    """What typer hands over of a line: the parameters that are on it already."""
    return SimpleNamespace(params={"cache": cache, **typed}, args=[])


def test_names_of_the_cache_on_the_line_are_offered(
    birds: Path, own_home: Path, tmp_path: Path
) -> None:
    from embedcal.cache import open_cache
    from embedcal.datasets.places import remember_last_cache

    mine = shutil.copy(birds, tmp_path / "mine.h5")
    assert completing.attributes(line(mine), "") == ["place"]
    assert completing.attributes(line([mine]), "pl") == ["place"]
    assert completing.attributes(line(mine), "x") == []
    with open_cache(mine) as cache:
        assert completing.classes(line(mine), "") == list(cache.meta.classes)
        folder = mine.with_suffix(".beside") / "attributes"
        folder.mkdir(parents=True)
        (folder / "palm tree.json").write_text("{}")
    assert completing.judged(line(mine), "") == ["palm tree"]
    assert completing.attributes(line(mine), "") == ["place", "palm tree"]
    assert completing.attributes(line(), "") == []
    remember_last_cache(mine)
    assert completing.attributes(line(), "pl") == ["place"]


def test_rules_of_the_data_set_on_the_line_are_offered() -> None:
    assert completing.splits(line(source="chexpert"), "") == ["patient", "official"]
    assert completing.splits(line(name="chexpert"), "o") == ["official"]
    assert completing.splits(line(source="my.csv"), "") == []
    assert completing.splits(line(), "") == []


def test_files_are_looked_for_where_the_word_leads(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedcal.datasets.places import remember

    monkeypatch.chdir(tmp_path)
    for name in ("grids/a/1f", "grids/a/2e", "b/3d"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    for name in ("grids/a/results.jsonl", "b/results.jsonl", "x.h5", "grids/y.h5", "bad\nname.h5"):
        (tmp_path / name).write_text("")
    assert completing.folders("") == ["b"]
    assert completing.folders("grids/") == ["grids/a"]
    assert completing.folders("grids/a/1") == ["grids/a/1f"]
    assert completing.run_names("b/") == ["b/3d"]
    assert completing.caches("") == ["x.h5"]
    assert completing.caches("grids/") == ["grids/y.h5"]
    assert completing.shards("") == ["b", "x.h5"]
    assert completing.caches(f"{tmp_path}/x") == [f"{tmp_path}/x.h5"]
    remember("grid", tmp_path / "grids" / "a")
    remember("run", tmp_path / "b" / "3d")
    assert completing.folders("") == ["b", str(tmp_path / "grids" / "a")]
    assert {"last", "1f", "2e", "3d"} == set(completing.run_names(""))
    assert completing.heads("")[-1] == "zero-shot"


BROKEN = {
    "a file": lambda home: home.write_text("no folder"),
    "a loop": lambda home: home.symlink_to(home),
    "a cache that is none": lambda home: (
        (home / "caches").mkdir(parents=True),
        (home / "caches" / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
        (home / "last-cache.json").write_text(json.dumps({"cache": str(home / "caches" / "x.h5")})),
        (home / "last-grid.json").write_text('{"grid": ["odd"]}'),
        (home / "last-run.json").write_bytes(b"\xff"),
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_home_offers_nothing_and_raises_nothing(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    BROKEN[broken](home)
    monkeypatch.setenv("EMBEDCAL_HOME", str(home))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for find in (completing.attributes, completing.judged, completing.classes):
        assert find(line(), "") == []
    assert completing.folders("") == []
    assert set(completing.runs("")) <= {"last"}
    assert completing.caches("") in ([], [str(home / "caches" / "x.h5")])
    for given in ("\0", "no such/\0", "~/x", "/proc/1/root/"):
        assert completing.caches(given) == completing.folders(given) == []


LINES = (
    "fit ",
    "fit cfr --neg rns --attribute ",
    "fit cfr --pos dps --select ",
    "fit erm --device ",
    "grid erm --attribute ", "grid ", "grid erm --engine ", "compare ", "compare --by ",
    "compare --metric ", "explain --class ", "explain ", "map ", "predict ", "export ", "report ",
    "annotate --remove ",
    "annotate --attribute wat", "study ", "reproduce ", "cache wat", "cache chexpert --split ",
    "cache --backbone ", "verify ", "merge ", "detect --detector ", "demo --dataset ",
)  # fmt: skip


def test_no_line_loads_anything_heavy(birds: Path, tmp_path: Path) -> None:
    """All lines in one process, as a shell would ask for each: what is imported stays so."""
    (tmp_path / "caches").mkdir()
    shutil.copy(birds, tmp_path / "caches" / birds.name)
    code = (
        "import contextlib, io, os, sys\n"
        "from embedcal.cli import main\n"
        "heavy = {'torch', 'open_clip', 'sklearn', 'faiss', 'matplotlib', 'pandas', 'scipy'}\n"
        "for line in sys.argv[1:]:\n"
        "    os.environ['COMP_WORDS'] = 'embedcal ' + line\n"
        "    os.environ['COMP_CWORD'] = str(len(line.split(' ')))\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        try: main()\n"
        "        except SystemExit: pass\n"
        "    print(line, '|', ','.join(sorted(heavy & set(sys.modules))), '|',\n"
        "          len(said.getvalue().split()))\n"
    )
    given = {"_EMBEDCAL_COMPLETE": "complete_bash", "EMBEDCAL_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *LINES],
        capture_output=True, text=True, timeout=120, env={**os.environ, **given}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == ""
    told = [tuple(each.split(" | ")) for each in done.stdout.splitlines()]
    assert [each[0] for each in told] == list(LINES)
    assert {each[0]: each[1] for each in told if each[1]} == {}
    empty = {each[0] for each in told if each[2] == "0"}
    assert empty == {"compare ", "annotate --remove "}, "this home has no runs and no verdicts"
