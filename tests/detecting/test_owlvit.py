"""Boxes: what is kept, stored and resumed, and the real classes where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import embedcal
from embedcal.detecting import DetectOptions, detect
from embedcal.detecting.owlvit import corners_of, keep, load_owlvit, owlvit_boxes, owlvit_presence
from embedcal.errors import EmbedcalError

NAMES = ("dark", "bright", "blue")


def images_in(log: list) -> int:
    return sum(isinstance(entry, float) for entry in log)


class Colours:
    """Finds by the mean colour of either half of a picture; counts what it is asked."""

    identity = "colours 1"

    def __init__(self, log: list, stop_after: int | None = None) -> None:
        self.log, self.stop_after = log, stop_after

    def names(self, prompts):
        self.log.append(tuple(prompts))
        return prompts

    def __call__(self, images, names):
        found = []
        for image in images:
            if self.stop_after is not None and images_in(self.log) >= self.stop_after:
                raise KeyboardInterrupt
            width, height = image.size
            pixels = np.asarray(image, float) / 255
            halves = [pixels[:, : width // 2], pixels[:, width // 2 :]]
            light = np.array([half.mean() for half in halves])
            blue = np.array([half[..., 2].mean() - half[..., 0].mean() for half in halves])
            self.log.append(round(float(light.sum()), 6))
            scores = np.stack([(1 - light) ** 6, light**6, np.clip(blue, 0, 1)], axis=1)
            corners = np.array([[0, 0, width / 2, height], [width / 2, 0, width, height]])
            found.append((scores, corners))
        return found


@pytest.fixture
def world(birds, tmp_path):
    copy = tmp_path / "birds.h5"
    copy.write_bytes(birds.read_bytes())
    (root,) = (birds.parent.parent / "birds").glob("rows-600-*")
    with embedcal.open(copy) as cache:
        yield cache, root


def options(root, log, stop_after=None, **more):
    return DetectOptions(
        root=root, load=lambda model, device: Colours(log, stop_after), batch_size=4, **more
    )


def test_a_box_counts_for_its_best_name_where_that_scores_enough():
    scores = np.array([[0.05, 0.3, 0.2], [0.09, 0.02, 0.01], [0.1, 0.0, 0.05]])
    corners = np.arange(12.0).reshape(3, 4)
    name, score, kept = keep(scores, corners, 0.1)
    assert (name.tolist(), score.tolist()) == ([1, 0], [0.3, 0.1])
    assert kept.tolist() == corners[[0, 2]].tolist()


def test_corners_are_pixels_of_the_file():
    boxes = np.array([[0.5, 0.5, 0.5, 1.0], [0.0, 0.0, 0.5, 0.5]])
    stretched = corners_of(boxes, (200, 100), square=False)
    assert stretched.tolist() == [[50, 0, 150, 100], [0, 0, 50, 25]]
    padded = corners_of(boxes, (200, 100), square=True)
    assert padded.tolist() == [[50, 0, 150, 100], [0, 0, 50, 50]]


def test_presence_is_that_of_the_boxes_and_names_are_encoded_once(world):
    cache, root = world
    rows, log = cache.split("val").rows, []
    found = owlvit_presence(cache, NAMES, rows, options(root, log))
    prompts = tuple(f"a photo of a {name}" for name in NAMES)
    assert [entry for entry in log if not isinstance(entry, float)] == [prompts]
    assert images_in(log) == len(rows)
    boxes = owlvit_boxes(cache, NAMES, rows, options(root, log))
    assert images_in(log) == len(rows)  # read again
    for i, row in enumerate(rows):
        for j in range(3):
            scores = boxes.score[(boxes.row == row) & (boxes.name == j)]
            assert found.present[i, j] == (len(scores) > 0)
            if len(scores):
                assert found.margin[i, j] == pytest.approx(scores.max() - 0.1, abs=1e-6)
    assert 0 < found.present.mean() < 1
    assert boxes.score.min() >= 0.1


def test_a_killed_search_goes_on_where_it_stopped(world):
    cache, root = world
    rows = cache.split("test").rows
    log: list = []
    whole = owlvit_boxes(cache, NAMES, rows, options(root, log, threshold=0.11))
    with pytest.raises(KeyboardInterrupt):
        owlvit_boxes(cache, NAMES, rows, options(root, [], stop_after=len(rows) // 2))
    log = []
    resumed = owlvit_boxes(cache, NAMES, rows, options(root, log))
    assert 0 < images_in(log) < 0.75 * len(rows)
    log = []
    straight = owlvit_boxes(cache, ("x", *NAMES[1:]), rows, options(root, log))
    assert images_in(log) == len(rows)  # other names, another search
    for one in ("row", "name", "score", "corners"):
        assert np.array_equal(getattr(resumed, one), getattr(straight, one))
    assert len(whole.row) < len(resumed.row)


def test_boxes_of_other_images_in_a_cache_of_the_same_name_are_not_read(tmp_path):
    file, found = tmp_path / "same.h5", []
    for seed in (5, 6):
        read = embedcal.ReadOptions(rows=220, seed=seed)
        embedcal.cache("birds", backbone="tiny", read=read, out=file)
        (root,) = (Path(os.environ["EMBEDCAL_HOME"]) / "birds").glob(f"rows-220-*{seed}*")
        with embedcal.open(file) as cache:
            log: list = []
            found.append(owlvit_boxes(cache, NAMES, np.arange(8), options(root, log)))
            assert images_in(log) == 8
        file.unlink()
    assert not np.array_equal(found[0].score, found[1].score)


def test_a_torn_part_is_made_again_and_more_rows_join_it(world):
    cache, root = world
    log: list = []
    first = owlvit_boxes(cache, NAMES, np.arange(5), options(root, log))
    (part,) = cache.meta.path.with_suffix(".beside").glob("owlvit-*/*.npz")
    more = owlvit_boxes(cache, NAMES, np.arange(8), options(root, log))
    assert images_in(log) == 8
    assert np.array_equal(more.row[more.row < 5], first.row)
    part.write_bytes(part.read_bytes()[:100])
    again = owlvit_boxes(cache, NAMES, np.arange(8), options(root, log))
    assert images_in(log) == 16
    assert np.array_equal(np.sort(again.score), np.sort(more.score))


def test_other_images_and_missing_ones_are_told(world, tmp_path):
    cache, root = world
    with pytest.raises(EmbedcalError, match=r"found no file that can be read at .*--root"):
        owlvit_boxes(cache, NAMES, np.arange(2), options(tmp_path, []))
    path = tmp_path / cache.samples.paths[0]
    path.parent.mkdir(parents=True)
    path.write_bytes((root / cache.samples.paths[1]).read_bytes())
    with pytest.raises(EmbedcalError, match=r"expected the bytes that .* found others"):
        owlvit_boxes(cache, NAMES, np.arange(1), options(tmp_path, []))


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(world, tmp_path):
    cache, _ = world
    path = tmp_path / cache.samples.paths[0]
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(EmbedcalError, match="not a regular file"):
        owlvit_boxes(cache, NAMES, np.arange(1), options(tmp_path, []))


def test_detection_by_boxes(world):
    cache, root = world
    found = detect(
        cache, detector="owlvit", vocabulary=NAMES, split="test", options=options(root, [])
    )
    assert found.presence.names == NAMES
    assert found.effects


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(EmbedcalError, match=r"pip install 'embedcal\[detect\]'"):
        load_owlvit("anything")


# The real classes at a small size, with random weights: the wiring, not the quality.


def tiny_owl(folder: Path, *, kind: str) -> Path:
    transformers = pytest.importorskip("transformers", reason="the extra detect is not installed")
    import torch

    letters = "abcdefghijklmnopqrstuvwxyz"
    # The end of text is the last word, as in CLIP: the model finds it as the largest number.
    words = ["!", *letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", model_max_length=16
    )
    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[kind]
    size = {"height": 64, "width": 64}
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=getattr(transformers, f"{name}ImageProcessor")(size=size),
        tokenizer=tokenizer,
    )
    tower = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **tower,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,
            "pad_token_id": 0,
        },
        vision_config={**tower, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    with torch.no_grad():
        for part, parameter in model.named_parameters():  # at first all names are nearly one
            if "text" in part and parameter.ndim > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures_of(*shapes):
    from PIL import Image

    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(256, size=(h, w, 3), dtype=np.uint8)) for h, w in shapes]


@pytest.mark.parametrize("kind", ["owlvit", "owlv2"])
@pytest.mark.filterwarnings("ignore")
def test_the_real_classes_find_what_a_plain_call_of_the_library_finds(tmp_path, kind):
    """Processor, forward, and the library's own post-processing, with the names in every call."""
    import torch

    owl = load_owlvit(str(tiny_owl(tmp_path / kind, kind=kind)), "cpu")
    pictures = pictures_of((64, 64), (50, 90), (120, 40))
    prompts = [f"a photo of a {name}" for name in ("cat", "sea", "tree")]
    inputs = owl._processor(
        text=[prompts] * 3, images=pictures, return_tensors="pt", padding="max_length"
    )
    with torch.inference_mode():
        plain = owl._model(**inputs)
    sizes = [(image.height, image.width) for image in pictures]
    wanted = owl._processor.post_process_grounded_object_detection(
        plain, threshold=-1, target_sizes=sizes
    )
    seen = set()
    for i, (scores, corners) in enumerate(owl(pictures, owl.names(prompts))):
        assert scores == pytest.approx(plain.logits[i].sigmoid().numpy(), abs=1e-5)
        name, score, kept = keep(scores, corners, 0)
        assert score == pytest.approx(wanted[i]["scores"].numpy(), abs=1e-5)
        clear = np.diff(np.sort(scores, axis=1))[:, -1] > 1e-4  # elsewhere rounding decides
        assert name[clear].tolist() == wanted[i]["labels"].numpy()[clear].tolist()
        seen |= set(name[clear].tolist())
        height, width = sizes[i]  # the library lets a box leave the picture
        inside = wanted[i]["boxes"].numpy().clip(0, [width, height, width, height])
        assert kept == pytest.approx(inside, abs=1e-3)
    assert len(seen) > 1


@pytest.mark.filterwarnings("ignore")
def test_a_name_that_would_be_cut_is_refused(tmp_path):
    owl = load_owlvit(str(tiny_owl(tmp_path / "owl", kind="owlvit")), "cpu")
    with pytest.raises(
        EmbedcalError, match="at most 16 tokens for owlvit, found 17 in 'a photo of"
    ):
        owl.names(["a photo of a sea", "a photo of a rivers"])


@pytest.mark.filterwarnings("ignore")
def test_the_identity_is_that_of_weights_and_sizes(tmp_path):
    folder = tiny_owl(tmp_path / "owl", kind="owlvit")
    first = load_owlvit(str(folder), "cpu").identity
    assert load_owlvit(str(folder), "cpu").identity == first
    told = folder / "processor_config.json"
    assert told.is_file()
    told.write_text(told.read_text().replace("64", "48"))
    assert load_owlvit(str(folder), "cpu").identity != first


class Counted:
    """How often the real towers are run: a row of prompts, a row of pictures at a time."""

    def __init__(self) -> None:
        self.prompts: list[int] = []
        self.images: list[int] = []

    def __call__(self, model, device):
        owl = load_owlvit(model, device)
        base = owl._model.base_model
        base.text_model.register_forward_hook(
            lambda module, args, kwargs, out: self.prompts.append(len(kwargs["input_ids"])),
            with_kwargs=True,
        )
        base.vision_model.register_forward_hook(
            lambda module, args, kwargs, out: self.images.append(len(out[0])), with_kwargs=True
        )
        return owl


@pytest.mark.filterwarnings("ignore")
def test_real_names_are_encoded_once_for_all_images_and_boxes_are_kept(tmp_path, world):
    cache, root = world
    folder, counted = tiny_owl(tmp_path / "owl", kind="owlvit"), Counted()
    names = tuple("abcdefghij"[k // 10] + "abcdefghij"[k % 10] for k in range(70))
    asked = DetectOptions(
        root=root, model=str(folder), threshold=0.3, device="cpu", batch_size=4, load=counted
    )
    rows = np.array([0, 1, 2, 60, 61, 70, 130, 131, 132])  # in three parts
    found = owlvit_boxes(cache, names, rows, asked)
    assert counted.prompts == [64, 6]
    assert sum(counted.images) == 9
    assert len(found.row)
    parts = sorted(cache.meta.path.with_suffix(".beside").glob("owlvit-*/*.npz"))
    assert len(parts) == 3
    stored = [dict(np.load(part, allow_pickle=False)) for part in parts]
    assert np.concatenate([part["looked"] for part in stored]).tolist() == rows.tolist()
    for field in ("row", "name", "score", "corners"):
        assert np.array_equal(
            np.concatenate([part[field] for part in stored]), getattr(found, field)
        )
    again = owlvit_boxes(cache, names, rows, asked)
    assert (sum(counted.prompts), sum(counted.images)) == (70, 9)  # nothing is run again
    assert np.array_equal(again.corners, found.corners)
    owlvit_boxes(cache, names, np.array([0, 3]), asked)
    assert (sum(counted.prompts), sum(counted.images)) == (140, 10)


KILLED = """
import os, signal, sys
import numpy as np
import embedcal
from embedcal.detecting import DetectOptions, owlvit

path, root, model, parts = sys.argv[1:]
write = owlvit._write

def write_and_die(*args):
    write(*args)
    global parts
    parts = int(parts) - 1
    if parts == 0:
        os.kill(os.getpid(), signal.SIGKILL)

owlvit._write = write_and_die
with embedcal.open(path) as cache:
    owlvit.owlvit_boxes(
        cache, ("sea", "tree"), np.arange(200),
        DetectOptions(root=owlvit.Path(root), model=model, threshold=0.3, device="cpu"),
    )
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_search_with_the_real_classes_goes_on_after_a_kill(tmp_path, world):
    cache, root = world
    folder, rows = tiny_owl(tmp_path / "owl", kind="owlvit"), np.arange(200)
    words = [str(cache.meta.path), str(root), str(folder), "2"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    counted = Counted()
    asked = DetectOptions(root=root, model=str(folder), threshold=0.3, device="cpu", load=counted)
    resumed = owlvit_boxes(cache, ("sea", "tree"), rows, asked)
    assert sum(counted.images) == 200 - 2 * 64
    shutil.rmtree(cache.meta.path.with_suffix(".beside"))
    straight = owlvit_boxes(cache, ("sea", "tree"), rows, asked)
    for field in ("row", "name", "score", "corners"):
        assert np.array_equal(getattr(resumed, field), getattr(straight, field))


def test_an_image_that_cannot_be_read_is_passed_over_or_told(tmp_path):
    from PIL import Image

    lines = ["path,y,split"]
    for k in range(12):
        pixels = np.full((64, 64, 3), 20 * k, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,{k % 2},{('train', 'val', 'test')[k // 4]}")
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:60])  # torn
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    path = embedcal.cache(
        tmp_path / "mine.csv",
        backbone="tiny",
        templates="simple",
        out=tmp_path / "mine.h5",
        read=embedcal.ReadOptions(classes="landbird,waterbird"),
    ).path
    log: list = []
    with embedcal.open(path) as cache:
        asked = options(tmp_path, log)
        found = detect(cache, detector="owlvit", vocabulary=NAMES, split="val", options=asked)
        assert found.presence.rows.tolist() == [4, 5, 6]
        assert images_in(log) == 3
        with pytest.raises(EmbedcalError, match=r"an image that can be read at .*leave row 7 out"):
            owlvit_boxes(cache, NAMES, np.arange(8), asked)


@pytest.mark.filterwarnings("ignore")
def test_the_real_classes_over_a_cache(tmp_path, world):
    cache, root = world
    folder = tiny_owl(tmp_path / "owl", kind="owlvit")
    asked = DetectOptions(root=root, model=str(folder), threshold=0.3, device="cpu")
    found = owlvit_boxes(cache, ("sea", "tree"), np.arange(6), asked)
    assert set(found.row) <= set(range(6))
    again = owlvit_boxes(cache, ("sea", "tree"), np.arange(6), asked)
    assert np.array_equal(found.corners, again.corners)
