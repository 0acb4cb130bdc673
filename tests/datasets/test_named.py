"""CelebA, MetaShift, CheXpert and ImageNet's pairs as they lie on people's disks."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedcal.datasets import ReadOptions, group_counts, read_manifest
from embedcal.datasets.named import benchmark
from embedcal.datasets.named.reading import row_digest, version
from embedcal.types import EmbedcalError

# CelebA

FACES = [(f"{i + 1:06d}.jpg", i // 2 % 2, i % 2, i // 4 % 3) for i in range(12)]


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def celeba_text(folder: Path) -> None:
    """torchvision's and the authors' own files: blanks, a count, a header without its first."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{len(FACES)}", "5_o_Clock_Shadow Blond_Hair Male Young"]
    lines += [f"{name} -1  {2 * y - 1} {2 * a - 1}  1" for name, y, a, _ in FACES]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [f"{name} {split}" for name, _, _, split in FACES]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    for name, *_ in FACES:
        _touch(folder / "img_align_celeba" / name)


def celeba_csv(folder: Path, images: str) -> None:
    """Kaggle's and WILDS': two CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image_id,Blond_Hair,Male,Young"]
    lines += [f"{name},{2 * y - 1},{2 * a - 1},1" for name, y, a, _ in FACES]
    (folder / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
    parts = ["image_id,partition", *(f"{name},{split}" for name, _, _, split in reversed(FACES))]
    (folder / "list_eval_partition.csv").write_text("\n".join(parts) + "\n")
    for name, *_ in FACES:
        _touch(folder / images / name)


@pytest.mark.parametrize("layout", ["wilds", "kaggle", "torchvision", "authors"])
def test_celeba(tmp_path: Path, layout: str) -> None:
    match layout:
        case "wilds":
            celeba_csv(tmp_path / "celebA_v1.0", "img_align_celeba")
        case "kaggle":
            celeba_csv(tmp_path, "img_align_celeba/img_align_celeba")
        case "torchvision":
            celeba_text(tmp_path / "celeba")
        case _:
            celeba_text(tmp_path)
    manifest = read_manifest("celeba", root=tmp_path)
    assert manifest.ids == tuple(name for name, *_ in FACES)
    assert manifest.y.tolist() == [y for _, y, _, _ in FACES]
    assert manifest.attribute("gender").labels.tolist() == [a for _, _, a, _ in FACES]
    assert manifest.split.tolist() == [split for *_, split in FACES]
    assert all((manifest.root / path).is_file() for path in manifest.paths)
    assert manifest.classes == ("not blond", "blond")
    assert manifest.attribute().values == ("female", "male")
    assert "71629/66874/22880/1387" in manifest.warnings[0]


def test_celeba_counts_are_the_known_totals() -> None:
    counts = benchmark("celeba").counts
    assert {split: sum(rows) for split, rows in counts.items()} == {
        "train": 162770,
        "val": 19867,
        "test": 19962,
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("list_attr_celeba.txt", "12\n", "13\n", "13 rows.*found 12"),
        ("list_attr_celeba.txt", "000003.jpg -1  1", "000003.jpg -1", "found 4 in line 5"),
        ("list_attr_celeba.txt", "000003.jpg -1  1", "000003.jpg -1  7", r"y none of.*\('7'\)"),
        ("list_eval_partition.txt", "000003.jpg 0\n", "", "without a partner.*line 5"),
        ("list_eval_partition.txt", "000003.jpg", "000002.jpg", "'000002.jpg' again"),
    ],
)
def test_celeba_at_fault(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    celeba_text(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(EmbedcalError, match=said):
        read_manifest("celeba", root=tmp_path)


def test_celeba_without_its_partition(tmp_path: Path) -> None:
    celeba_text(tmp_path)
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(EmbedcalError, match=r"expected list_eval_partition\.txt beside"):
        read_manifest("celeba", root=tmp_path)


# MetaShift


def test_metashift_by_the_published_table(real_data: Path) -> None:
    options = ReadOptions(check_files=False)
    manifest = read_manifest("metashift", root=real_data, options=options)
    assert group_counts(manifest) == {
        "train": [784, 507, 196, 789],
        "val": [127, 75, 33, 114],
        "test": [273, 191, 65, 345],
    }
    assert version(benchmark("metashift"), manifest) == "published split"
    assert manifest.warnings == ()
    assert manifest.classes == ("dog", "cat")


@pytest.mark.parametrize("inner", ["", "data/metashift", "MetaShift-Cat-Dog-indoor-outdoor"])
def test_metashift_by_its_folders(real_data: Path, tmp_path: Path, inner: str) -> None:
    """All that the names of the files say, and a split that is the same on every machine."""
    with (real_data / "metashift-cat-dog-metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    home = tmp_path if inner.startswith("Meta") else tmp_path / inner
    for row in reversed(rows):
        _touch(home / row["filename"])
    root = tmp_path / inner if inner.startswith("Meta") else tmp_path
    manifest = read_manifest("metashift", root=root)
    assert version(benchmark("metashift"), manifest) == "sorted names"
    assert manifest.warnings == ()
    by_path = {row["filename"].rsplit("/", 1)[1]: row for row in rows}
    for path, y, a in zip(manifest.paths, manifest.y, manifest.attribute().labels, strict=True):
        row = by_path[path.rsplit("/", 1)[1]]
        assert (int(row["y"]), int(row["a"])) == (y, a)


def test_a_version_does_not_depend_on_the_order_of_rows(real_data: Path, tmp_path: Path) -> None:
    text = (real_data / "metashift-cat-dog-metadata.csv").read_text().splitlines()
    (tmp_path / "metadata.csv").write_text("\n".join([text[0], *reversed(text[1:])]))
    options = ReadOptions(check_files=False)
    turned = read_manifest("metashift", root=tmp_path, options=options)
    assert row_digest(turned) == benchmark("metashift").versions["published split"]
    swapped = [text[0], text[1][:-1] + "0", *text[2:]]  # one row in another split
    (tmp_path / "metadata.csv").write_text("\n".join(swapped))
    other = read_manifest("metashift", root=tmp_path, options=options)
    assert "no known version of metashift" in other.warnings[0]


# CheXpert


def chexpert(folder: Path, patients: int = 60) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema"
    lines: dict[str, list[str]] = {"train": [header], "valid": [header]}
    for k in range(patients):
        part = "valid" if k % 20 == 19 else "train"
        sex = "Unknown" if k == 5 else ("Male", "Female")[k % 2]
        for view in range(int(generator.integers(1, 5))):
            path = f"{part}/patient{k:05d}/study1/view{view}_frontal.jpg"
            finding = ("1.0", "", "0.0")[int(generator.integers(3))]
            lines[part].append(f"CheXpert-v1.0-small/{path},{sex},50,Frontal,AP,{finding},")
            _touch(folder / path)
    for part, rows in lines.items():
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")
    races = ["White", "White, non-Hispanic", "Black or African American", "Asian", "Unknown", ""]
    demo = ["PATIENT,GENDER,PRIMARY_RACE"]
    demo += [f'patient{k:05d},X,"{races[k % 6]}"' for k in range(patients) if k != 7]
    (folder / "CHEXPERT DEMO.csv").write_text("\n".join(demo) + "\n")


@pytest.mark.parametrize("layout", [".", "CheXpert-v1.0-small", "chexpert"])
def test_chexpert(tmp_path: Path, layout: str) -> None:
    chexpert(tmp_path / layout)
    manifest = read_manifest("chexpert", root=tmp_path)
    assert [attribute.name for attribute in manifest.attributes] == ["race", "sex"]
    patients = [path.split("/")[1] for path in manifest.paths]
    assert {"patient00005", "patient00007"}.isdisjoint(patients)  # sex unknown; in no sheet
    assert "patient00019" in patients  # of valid.csv
    homes: dict[str, set[int]] = {}
    for patient, split in zip(patients, manifest.split.tolist(), strict=True):
        homes.setdefault(patient, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    race, sex = (attribute.labels for attribute in manifest.attributes)
    for patient, r, s in zip(patients, race, sex, strict=True):
        k = int(patient.removeprefix("patient"))
        assert (r, s) == ((0, 0, 1, 2, 2, 2)[k % 6], k % 2)
    raw = {}
    for name in ("train", "valid"):
        with (tmp_path / layout / f"{name}.csv").open() as file:
            for row in csv.DictReader(file):
                raw[row["Path"].partition("/")[2]] = row["No Finding"]
    assert manifest.y.tolist() == [int(raw[path] == "1.0") for path in manifest.paths]
    assert any("left out" in line for line in manifest.warnings)


def test_chexpert_as_the_code_has_it(tmp_path: Path) -> None:
    chexpert(tmp_path)
    manifest = read_manifest("chexpert", root=tmp_path, options=ReadOptions(split="official"))
    assert any("one patient are in several splits" in line for line in manifest.warnings)
    sizes = Counter(manifest.split.tolist())
    assert abs(sizes[2] - 0.15 * len(manifest)) <= 1
    with pytest.raises(EmbedcalError, match="one of patient, official, fractions"):
        read_manifest("chexpert", root=tmp_path, options=ReadOptions(split="patients"))
    drawn = read_manifest("chexpert", root=tmp_path, options=ReadOptions(split="0.5,0.2,0.3"))
    assert abs(Counter(drawn.split.tolist())[0] - 0.5 * len(drawn)) <= 1


def test_the_seed_of_a_split_draws_a_named_data_set_too(tmp_path: Path) -> None:
    chexpert(tmp_path)
    fractions = ReadOptions(split="0.5,0.2,0.3")
    first, other, again = (
        read_manifest("chexpert", root=tmp_path, options=replace(fractions, split_seed=seed))
        for seed in (0, 1, 1)
    )
    default = read_manifest("chexpert", root=tmp_path, options=fractions)
    assert np.array_equal(first.split, default.split)
    assert np.array_equal(other.split, again.split)
    assert not np.array_equal(first.split, other.split)
    assert np.array_equal(np.bincount(first.split), np.bincount(other.split))
    for split in (None, "official", "patient"):
        with pytest.raises(EmbedcalError, match="expected fractions beside --split-seed, found 1"):
            read_manifest("chexpert", root=tmp_path, options=ReadOptions(split=split, split_seed=1))


def test_attributes_with_names_take_no_other(tmp_path: Path) -> None:
    chexpert(tmp_path)
    with pytest.raises(EmbedcalError, match="found 'place' beside race, sex: leave it out"):
        read_manifest("chexpert", root=tmp_path, options=ReadOptions(attribute_name="place"))


def test_chexpert_with_the_workbook_as_it_comes(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    chexpert(tmp_path)
    by_csv = read_manifest("chexpert", root=tmp_path)
    sheet = tmp_path / "CHEXPERT DEMO.csv"
    pd.read_csv(sheet, dtype=str).to_excel(tmp_path / "CHEXPERT DEMO.xlsx", index=False)
    sheet.unlink()
    by_excel = read_manifest("chexpert", root=tmp_path)
    assert by_excel.paths == by_csv.paths
    for one, other in zip(by_excel.attributes, by_csv.attributes, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
    (tmp_path / "CHEXPERT DEMO.xlsx").write_bytes(b"no workbook")
    with pytest.raises(EmbedcalError, match="expected an Excel workbook"):
        read_manifest("chexpert", root=tmp_path)


# ImageNet's pairs


def imagenet(root: Path, *, attributes: bool) -> None:
    lines = ["path,baby"]
    for split, each in (("train", 120), ("val", 50)):
        for synset in ("n04557648", "n03825788", "n01440764"):
            for i in range(each):
                path = f"{split}/{synset}/{synset}_{i}.JPEG"
                _touch(root / path)
                lines.append(f"{path},{i % 2}")
    if attributes:
        (root / "attributes.csv").write_text("\n".join(lines) + "\n")


def test_imagenet_pair(tmp_path: Path) -> None:
    imagenet(tmp_path, attributes=True)
    manifest = read_manifest("imagenet-pacifier", root=tmp_path)
    assert group_counts(manifest) == {
        "train": [35, 35, 35, 35],
        "val": [25, 25, 25, 25],
        "test": [25, 25, 25, 25],
    }
    assert all("n01440764" not in path for path in manifest.paths)
    assert set(manifest.y[["n03825788" in path for path in manifest.paths]]) == {1}


def test_imagenet_pair_without_its_attribute(tmp_path: Path) -> None:
    imagenet(tmp_path, attributes=False)
    manifest = read_manifest("imagenet-pacifier", root=tmp_path)
    assert manifest.attributes == ()
    assert "the groups" in manifest.warnings[0]
    assert Counter(manifest.split.tolist()) == {0: 190, 1: 50, 2: 100}
    with pytest.raises(EmbedcalError, match=r"images.*found none"):
        read_manifest("imagenet-opener", root=tmp_path)


# Colored MNIST


def test_checksums_of_mnist_are_torchvisions(real_data: Path) -> None:
    from torchvision.datasets import MNIST

    known = dict(MNIST.resources)
    for name, files in (("colored-mnist", 4), ("colored-mnist-2x2", 2)):
        downloads = benchmark(name).downloads
        assert len(downloads) == files
        for each in downloads:
            assert each.md5 == known[each.file]
            assert each.url == MNIST.mirrors[0] + each.file
    for file in (real_data / "mnist-t10k").iterdir():
        assert hashlib.md5(file.read_bytes()).hexdigest() == known[file.name]
