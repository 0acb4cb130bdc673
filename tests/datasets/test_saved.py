"""Directories that the real Hugging Face datasets saves to disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets as hf
import pytest
from PIL import Image

from embedcal.datasets import Manifest, ReadOptions, build_manifest
from embedcal.datasets.containers.saved import is_saved, read_saved
from embedcal.types import EmbedcalError

hf.disable_progress_bars()
FEATURES = hf.Features(
    {
        "image": hf.Image(),
        "label": hf.ClassLabel(names=["wet", "dry"]),
        "place": hf.Value("string"),
        "note": hf.List(hf.Value("int8")),
    }
)


def pictures(folder: Path, n: int = 4) -> list[str]:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        Image.new("L", (3, 3), 10 * i).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(n)]


@pytest.fixture
def rows(tmp_path: Path) -> hf.Dataset:
    return hf.Dataset.from_dict(
        {
            "image": pictures(tmp_path / "pictures"),
            "label": [0, 1, 1, 0],
            "place": ["sea", None, "land", "sea"],
            "note": [[], [1], [2, 3], []],
        },
        features=FEATURES,
    )


def save(rows: Any, folder: Path, **options: Any) -> Path:
    rows.save_to_disk(str(folder), **options)
    return folder


def manifest_of(folder: Path, **options: Any) -> Manifest:
    chosen = ReadOptions(**options)
    table, root = read_saved(folder, options=chosen)
    return build_manifest(table, root=root, name="t", options=chosen)


def fault(folder: Path, root: Path | None = None, **options: Any) -> str:
    with pytest.raises(EmbedcalError) as caught:
        read_saved(folder, root=root, options=ReadOptions(**options))
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_dict_of_splits(rows: hf.Dataset, tmp_path: Path) -> None:
    splits = {"train": rows, "validation": rows.select([2]), "test": rows.select([3, 0])}
    folder = save(hf.DatasetDict(splits), tmp_path / "d")
    assert is_saved(folder)
    manifest = manifest_of(folder, columns={"a": "place"}, attribute_name="place")
    assert manifest.classes == ("wet", "dry")
    assert manifest.y.tolist() == [0, 1, 1, 0, 1, 0, 0]
    assert manifest.split.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert manifest.attribute("place").values == ("land", "sea")
    assert manifest.attribute("place").labels.tolist() == [1, -1, 0, 1, 0, 1, 1]
    for path, i in zip(manifest.paths, [0, 1, 2, 3, 2, 3, 0], strict=True):
        assert (manifest.root / path).read_bytes() == (tmp_path / f"pictures/{i}.png").read_bytes()
    assert [warning.split("'")[1] for warning in manifest.warnings if "passed" in warning] == [
        "note"
    ]


def test_one_dataset_needs_a_split_or_a_rule(rows: hf.Dataset, tmp_path: Path) -> None:
    folder = save(rows, tmp_path / "one", num_shards=3)
    assert is_saved(folder)
    with pytest.raises(EmbedcalError, match="'split' is missing; cut the rows by a rule"):
        manifest_of(folder)
    named = save(rows.add_column("fold", [0, 1, 2, 0]), tmp_path / "two")
    assert manifest_of(named, columns={"split": "fold"}).split.tolist() == [0, 1, 2, 0]
    table, _ = read_saved(save(hf.DatasetDict(full=rows), tmp_path / "three"))
    assert "split" not in table.columns


def test_rows_filtered_before_they_were_saved(rows: hf.Dataset, tmp_path: Path) -> None:
    some = rows.filter(lambda row: row["label"] == 1)
    folder = save(hf.DatasetDict(train=some), tmp_path / "d")
    manifest = manifest_of(folder)
    assert manifest.y.tolist() == [1, 1]
    kept = [(manifest.root / path).read_bytes() for path in manifest.paths]
    assert kept == [(tmp_path / f"pictures/{i}.png").read_bytes() for i in (1, 2)]


def test_images_as_paths_in_text(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    paths = [str(Path(path).relative_to(tmp_path)) for path in pictures(tmp_path / "pictures", 2)]
    save(hf.DatasetDict(train=hf.Dataset.from_dict({"image": paths, "y": ["b", "a"]})), folder)
    table, root = read_saved(folder)
    assert (table.columns["path"], root) == (tuple(paths), folder)
    table, root = read_saved(folder, root=tmp_path)
    manifest = build_manifest(table, root=root, name="t")
    assert (manifest.y.tolist(), manifest.classes) == ([1, 0], ("a", "b"))


def test_a_root_beside_images(rows: hf.Dataset, tmp_path: Path) -> None:
    assert "expected no root beside" in fault(save(rows, tmp_path / "d"), root=tmp_path)


def test_no_rows(tmp_path: Path) -> None:
    none: dict[str, list[Any]] = {name: [] for name in FEATURES}
    folder = save(hf.Dataset.from_dict(none, features=FEATURES), tmp_path / "d")
    assert "found none" in fault(folder)


def test_splits_that_are_odd_or_differ(rows: hf.Dataset, tmp_path: Path) -> None:
    other = rows.cast_column("label", hf.ClassLabel(names=["dry", "wet"]))
    folder = save(hf.DatasetDict(train=rows, test=other), tmp_path / "names")
    assert "the same class names for 'label' in every split" in fault(folder)
    folder = save(hf.DatasetDict(train=rows, test=rows.remove_columns("place")), tmp_path / "cols")
    assert "found a difference in place (string)" in fault(folder)
    folder = save(hf.DatasetDict(train=rows, extra=rows), tmp_path / "extra")
    assert "found 'extra' beside them" in fault(folder)


@pytest.mark.parametrize("cut", [0, 5, 400, -1, -8])
def test_torn_files(rows: hf.Dataset, tmp_path: Path, cut: int) -> None:
    """At -8 the file ends between two batches, which is no error to pyarrow itself."""
    folder = save(rows, tmp_path / "d")
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:cut])
    assert f"expected to read {file}" in fault(folder)
    file.unlink()
    assert "No such file" in fault(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("state.json", "{", "no JSON"),
        ("state.json", "[" * 100_000, "no JSON"),
        ("state.json", "[]", "no JSON object"),
        ("state.json", "{}", "no list of plain file names"),
        ("state.json", '{"_data_files": 3}', "no list of plain"),
        ("state.json", '{"_data_files": ["a"]}', "no list of plain"),
        ("state.json", '{"_data_files": [{"filename": "../../x.arrow"}]}', "no list of plain"),
        ("state.json", '{"_data_files": [{"filename": ".."}]}', "no list of plain"),
        ("state.json", '{"_data_files": [], "_indices_data_files": [1]}', "another order"),
        ("dataset_info.json", "", "no JSON"),
        ("dataset_dict.json", '{"splits": []}', "no list of splits"),
        ("dataset_dict.json", '{"splits": ["/etc"]}', "no list of splits"),
        ("dataset_dict.json", '{"splits": ["train"]}', "No such file"),
    ],
)
def test_documents_that_are_none(
    rows: hf.Dataset, tmp_path: Path, name: str, content: str, said: str
) -> None:
    folder = save(rows, tmp_path / "d")
    (folder / name).write_text(content)
    assert said in fault(folder)


def test_odd_class_names_leave_the_numbers(rows: hf.Dataset, tmp_path: Path) -> None:
    folder = save(hf.DatasetDict(train=rows), tmp_path / "d")
    for names in (["a", "a"], ["a", " "], [1, 2], "ab", []):
        file = folder / "train" / "dataset_info.json"
        document = json.loads(file.read_text())
        document["features"]["label"]["names"] = names
        file.write_text(json.dumps(document))
        manifest = manifest_of(folder)
        assert (manifest.y.tolist(), manifest.classes) == ([0, 1, 1, 0], ("0", "1"))


def test_datasets_itself_is_not_needed(rows: hf.Dataset, tmp_path: Path) -> None:
    folder = save(hf.DatasetDict(train=rows), tmp_path / "d")
    script = (
        "import sys; sys.modules['datasets'] = sys.modules['torch'] = None\n"
        "from pathlib import Path; from embedcal.datasets.containers.saved import read_saved\n"
        "print(len(read_saved(Path(sys.argv[1]))[0]), 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["4", "False"]
