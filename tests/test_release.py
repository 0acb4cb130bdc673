"""What is released: one version, files that hold everything, a wheel that works by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import embedcal

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Data that the code opens beside itself: without one of these a command fails at a user's only.
DATA = {
    "embedcal/py.typed",
    "embedcal/encoders/tiny/weights.safetensors",
    "embedcal/detecting/vocabulary.txt",
    "embedcal/reporting/page.js",
    "embedcal/reporting/style.css",
}
KINDS = {".toml", ".j2", ".txt", ".css", ".js", ".safetensors"}


def citation() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads CITATION.cff")
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    return found


def test_the_version_stands_in_one_place_and_others_agree() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", embedcal.__version__)
    assert str(citation()["version"]) == embedcal.__version__


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[?{re.escape(embedcal.__version__)}\]?", text, re.MULTILINE)


def test_the_citation_has_what_its_schema_asks_for() -> None:
    """Citation File Format 1.2.0: the required keys, and values of the right kind."""
    found = citation()
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    known = {"abstract", "keywords", "license", "type", "version", "repository-code", "url"}
    known |= {"cff-version", "message", "title", "authors", "date-released", "doi", "references"}
    assert set(found) <= known
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert found["license"] == PROJECT["license"]
    assert set(found["keywords"]) == set(PROJECT["keywords"])
    for author in found["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= set(author)


def test_the_lower_bounds_are_those_of_the_project() -> None:
    script = ROOT / "tests" / "lower_bounds.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "pinned"),
    [
        ("torch>=2.13", "torch===2.13.0\n"),
        ("a-b_c>=1.2,<3; sys_platform == 'linux'", "a-b_c==1.2; sys_platform == 'linux'\n"),
    ],
)
def test_a_bound_becomes_a_pin(line: str, pinned: str) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from lower_bounds import HEAD, constraints

    assert constraints([line]) == HEAD + pinned
    with pytest.raises(SystemExit, match="expected NAME>=VERSION"):
        constraints(["numpy"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it and from nothing else."""
    pytest.importorskip("build", reason="build makes the distributions")
    pytest.importorskip("hatchling", reason="no network: the backend has to be there")
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    for path in (source, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return source, wheel


def packaged() -> set[str]:
    """Every file of the package in this checkout."""
    files = (path for path in (ROOT / "embedcal").rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as file:
        names = {name for name in file.namelist() if not name.endswith("/")}
        weights = file.getinfo("embedcal/encoders/tiny/weights.safetensors").file_size
    info = f"embedcal-{embedcal.__version__}.dist-info/"
    inside = {name for name in names if not name.startswith(info)}
    assert inside == packaged()
    assert inside >= DATA
    assert {PurePosixPath(name).suffix for name in inside} <= KINDS | {".py", ".typed"}
    for folder, suffix in (
        ("datasets/facts", ".toml"),
        ("studies/presets", ".toml"),
        ("reproducing/recipes", ".toml"),
        ("reporting/templates", ".j2"),
    ):
        assert any(n.startswith(f"embedcal/{folder}/") and n.endswith(suffix) for n in inside)
    assert weights == (ROOT / "embedcal/encoders/tiny/weights.safetensors").stat().st_size
    assert {f"{info}licenses/LICENSE", f"{info}entry_points.txt"} <= names
    assert built[1].stat().st_size < 10e6


@pytest.mark.slow
def test_the_source_has_what_its_tests_and_docs_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert packaged() <= names
    wanted = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "Makefile"}
    assert wanted <= names
    assert {"tests/conftest.py", "docs/index.md", "benchmarks/run.py"} <= names
    assert not [n for n in names if n.startswith((".venv", ".git/", "dist/", "site/", "runs/"))]
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".part"))]


@pytest.mark.slow
def test_the_metadata_is_valid_and_the_projects(built: tuple[Path, Path]) -> None:
    found = pytest.importorskip("packaging.metadata")
    with zipfile.ZipFile(built[1]) as file:
        text = file.read(f"embedcal-{embedcal.__version__}.dist-info/METADATA")
    told = found.Metadata.from_email(text, validate=True)
    assert (told.name, str(told.version)) == ("embedcal", embedcal.__version__)
    assert told.license_expression == "Apache-2.0"
    assert str(told.requires_python) == PROJECT["requires-python"]
    assert set(told.provides_extra) == set(PROJECT["optional-dependencies"])
    assert told.description_content_type.startswith("text/markdown")
    core = [need for need in told.requires_dist if "extra" not in str(need.marker)]
    assert len(core) == len(PROJECT["dependencies"])


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel, and beside it the packages that it needs.

    Those are borrowed from the environment of the tests, since installing them takes gigabytes; a
    folder that a ``.pth`` file names has its own ``.pth`` files unread, so that the checkout, which
    may be installed there, stays out of reach.
    """
    env = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    python = env / ("Scripts" if os.name == "nt" else "bin") / "python"
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = _said([str(python), "-c", where]).strip()
    lent = _said([sys.executable, "-c", where]).strip()
    (Path(site) / "lent.pth").write_text(f"{lent}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    _said([*pip, "--no-index", "--ignore-installed", "--no-warn-script-location", str(built[1])])
    return python


def _said(words: list[str], **environment: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=280, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_does_the_main_job_in_an_environment_of_its_own(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    home = {"EMBEDCAL_HOME": str(tmp_path / "home of its own"), "HF_HUB_OFFLINE": "1"}
    command = str(installed.with_name("embedcal"))
    file = _said([str(installed), "-c", "import embedcal; print(embedcal.__file__)"]).strip()
    assert Path(file).is_relative_to(installed.parent.parent)
    assert _said([command, "--version"]) == f"embedcal {embedcal.__version__}\n"
    demo = json.loads(_said([command, "demo", "--rows", "300", "--seeds", "1", "--json"], **home))
    assert {row["method"] for row in demo["methods"]} >= {"zeroshot", "erm", "dfr"}
    assert Path(demo["cache"]).is_file()
    # data files of the package, each through the command that opens it
    assert "waterbirds" in _said([command, "datasets"], **home)
    assert json.loads(_said([command, "study", "--json"], **home))
    assert json.loads(_said([command, "reproduce", "--json"], **home))
    page = tmp_path / "page.html"
    _said([command, "report", demo["runs"], "--no-images", "-o", str(page)], **home)
    assert page.stat().st_size > 10_000
