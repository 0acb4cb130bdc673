"""Makes the small cache of this release, and beside it what must be read from it.

    python tests/data/caches/make.py

writes ``format-F-release-R.h5`` and ``.json`` for the format and the release of the embedcal that
runs it. The values in the JSON file are computed here from plain rules, not read back from the
cache. Run it once for a release; a file that is there is never written again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import embedcal
from embedcal.cache import BuildOptions, build_cache
from embedcal.cache.format import FORMAT_VERSION
from embedcal.datasets.manifest import Attribute, Manifest
from embedcal.encoders.base import EncoderMeta
from embedcal.types import Pairs, Projection

HERE = Path(__file__).parent
N, D, W, L, M, V = 7, 3, 2, 2, 2, 2
UNREADABLE = 4


def embedding(i: int) -> list[float]:
    return [float(i), i / 2 - 1, 10.0 - i]


def pooled(i: int) -> list[float]:
    return [i * i / 4, -float(i)]


def tokens(i: int) -> list[list[float]]:
    return [[float(i), 0.5], [-0.25, i + 0.125]]  # all of them numbers of float16


def text(prompt: str) -> list[float]:
    return [float(len(prompt)), float(prompt.count("a")), -1.5]


class Rule:
    """An encoder whose features are rules of the first pixel's red, which is the row's number."""

    meta = EncoderMeta(
        name="rule/å",
        weights="none",
        weights_sha256="5" * 64,
        library="rules 1",
        preprocessing={"size": 1},
        precision="fp32",
        shapes={"tokens": (L, M), "pooled": (W,), "embedding": (D,)},
        text_shapes={"pooled": (V,), "embedding": (D,)},
        context_length=77,
    )

    def prepare(self, image):
        return np.asarray(image)

    def images(self, pixels, levels):
        rules = {"embedding": embedding, "pooled": pooled, "tokens": tokens}
        rows = [int(each[0, 0, 0]) for each in pixels]
        return {level: np.array([rules[level](i) for i in rows], np.float32) for level in levels}

    def text(self, prompts):
        found = np.array([text(prompt) for prompt in prompts], np.float32)
        return {"pooled": found[:, :V], "embedding": found}

    def projection(self):
        return Projection(
            image_weight=np.arange(6, dtype=np.float32).reshape(D, W),
            text_weight=-np.arange(6, dtype=np.float32).reshape(D, V),
            logit_scale=4.5,
        )


def main() -> None:
    name = f"format-{FORMAT_VERSION}-release-{embedcal.__version__}"
    out = HERE / f"{name}.h5"
    if out.exists():
        raise SystemExit(f"{out.name} is there already, and stays as it is")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = [f"bïrds/{i}.png" for i in range(N)]
        (root / "bïrds").mkdir()
        for i, path in enumerate(paths):
            Image.new("RGB", (1, 1), (i, 0, 0)).save(root / path)
        (root / paths[UNREADABLE]).write_bytes(b"no image")
        digests = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths]
        y, split = [0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 2, 2]
        place = [0, 1, -1, 0, 1, 0, 1]
        boxes = [[float(i), 0.5, 2.0, 3.0] for i in range(N)]
        classes, values = ["landbird", "wäterbird"], ["land", "water"]
        templates, prompts = ["a photo of a {}.", "{}"], ["a landbird", "a waterbird"]
        described = [["it sings", "it is brown"], ["it swims", "it has webbed feet"]]
        manifest = Manifest(
            name="small",
            root=root,
            ids=tuple(f"id {i}" for i in range(N)),
            paths=tuple(paths),
            y=np.array(y),
            split=np.array(split),
            classes=tuple(classes),
            attributes=(Attribute(name="place", values=tuple(values), labels=np.array(place)),),
            prompts={"class": tuple(prompts), "attribute": tuple(values)},
            descriptions={"class": tuple(map(tuple, described))},
            box=np.array(boxes, np.float32),
            masks=tuple(f"masks/{i}.png" for i in range(N)),
            warnings=("the group 1 is small",),
        )
        concepts = ["a bird on land", "a bird on water", "perching feet", "webbed feet"]
        pairs = [[0, 1, "reject"], [2, 3, "accept"], [1, 0, "equal"]]
        options = BuildOptions(
            out=out,
            tokens=True,
            batch_size=4,
            templates=tuple(templates),
            pairs=Pairs(prompts=tuple(concepts), pairs=tuple((i, j, r) for i, j, r in pairs)),
        )
        build_cache(manifest, Rule(), options=options)
    blank = [i == UNREADABLE for i in range(N)]

    def features(rule):
        found = np.array([rule(i) for i in range(N)])
        found[UNREADABLE] = 0
        return found.tolist()

    expected = {
        "format_version": FORMAT_VERSION,
        "dataset": "small",
        "backbone": "rule/å",
        "precision": "fp32",
        "preprocessing": {"size": 1},
        "ids": [f"id {i}" for i in range(N)],
        "paths": paths,
        "sha256": digests,
        "y": y,
        "split": split,
        "status": [int(each) for each in blank],
        "box": boxes,
        "masks": [f"masks/{i}.png" for i in range(N)],
        "classes": classes,
        "attributes": {"place": {"values": values, "labels": place}},
        "warnings": ["the group 1 is small"],
        "embedding": features(embedding),
        "pooled": features(pooled),
        "tokens": features(tokens),
        "text": {
            "class": {"prompts": prompts, "embedding": [list(map(text, d)) for d in described]},
            "attribute": {
                "prompts": values,
                "embedding": [[text(t.replace("{}", v)) for t in templates] for v in values],
            },
            "pairs": {"prompts": concepts, "embedding": [[text(each)] for each in concepts]},
        },
        "templates": templates,
        "descriptions": described,
        "pairs": pairs,
        "image_weight": [[0, 1], [2, 3], [4, 5]],
        "text_weight": [[0, -1], [-2, -3], [-4, -5]],
        "logit_scale": 4.5,
        "file_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    document = json.dumps(expected, indent=1, ensure_ascii=False)
    out.with_suffix(".json").write_text(document + "\n", encoding="utf-8")
    for extra in HERE.glob("*.lock"):
        extra.unlink()


if __name__ == "__main__":
    main()
