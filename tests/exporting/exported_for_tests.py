"""Caches through small CLIPs, one run of every head, and fresh processes without embedcal."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from embedcal.cache import BuildOptions, FeatureCache, open_cache
from embedcal.caching import cache as build
from embedcal.datasets.options import ReadOptions
from embedcal.fitting import fit
from embedcal.heads import (
    AdapterHead,
    ContextHead,
    Head,
    LinearHead,
    MappedHead,
    MlpHead,
    TemplatesHead,
    predict,
    save_head,
)
from embedcal.heads.templates import COMBINE
from embedcal.runs import Run

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "small-resnet": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [2, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": TEXT,
    },
    "small-vit": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32,
        },
        "text_cfg": TEXT,
    },
    # Its towers stand apart, the text projection is a linear layer, and pictures are squashed.
    "small-custom": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {"image_size": 48, "patch_size": 16, "width": 64, "layers": 1},
        "text_cfg": {**TEXT, "proj_type": "linear", "pool_type": "last"},
    },
}  # fmt: skip

# A few steps, far enough that a head that was left out changes predictions.
STEPS: dict[str, Any] = {"epochs": 4, "lr": 0.02, "batch_size": 16}
FITTED: dict[str, tuple[str, dict[str, Any]]] = {
    "zeroshot": ("zeroshot", {"templates": 3}),
    "linear": ("linear-probe", {}),
    "projection": ("erm", {"head": "projection", **STEPS}),
    "both": ("erm", {"head": "projection", "scope": "image+text_proj", **STEPS}),
    "mean": ("erm", {"head": "projection", "prototype": "mean", "templates": 2, **STEPS}),
    "attnpool": ("erm", {"head": "attnpool", **STEPS, "lr": 0.003}),
}
MADE = ("pooled", "mlp", "adapter", "mapped", "context", "alone", "cosines", "embeddings")
HEADS = (*FITTED, *MADE)
WHOLE = ("projection", "both", "mean", "attnpool")


def add_configs(folder: Path) -> None:
    """Make open_clip know the small architectures, in this process."""
    for name, config in CONFIGS.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps(config))
        open_clip.add_model_config(file)


def pictures(folder: Path, n: int = 72) -> Path:
    """Files of many sizes and modes, with a colour for the class and another for the place."""
    rng = np.random.default_rng(4)
    (folder / "im ages").mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "y", "place", "split"])
        for i in range(n):
            y, place = i % 2, (i // 2) % 2
            h, w = rng.integers(40, 110, 2)
            pixels = rng.integers(0, 256, (h, w, 3))
            pixels[..., 0] = pixels[..., 0] // 2 + 100 * y
            pixels[: h // 2, :, 2] = pixels[: h // 2, :, 2] // 3 + 150 * place
            image = Image.fromarray(pixels.astype(np.uint8))
            mode = ("RGB", "L", "RGBA", "P")[i % 4] if i % 5 == 0 else "RGB"
            name = f"im ages/{i}.png"
            image.convert(mode).save(folder / name)
            rows.writerow([name, y, place, ("train", "val", "test")[(i // 4) % 3]])
    return folder / "table.csv"


def cached(table: Path, backbone: str, out: Path, **options: Any) -> Path:
    read = ReadOptions(
        classes="left, right|hand", attributes={"place": "in,out"}, **options.pop("read", {})
    )
    if backbone != "tiny":
        options.setdefault("pretrained", "random:3")
    return build(
        table,
        backbone=backbone,
        out=out,
        templates="simple",
        read=read,
        build=BuildOptions(
            tokens="vit" not in backbone and "custom" not in backbone, store_tokens="float32"
        ),
        device="cpu",
        **options,
    ).path


def run_of(name: str, cache: FeatureCache, out: Path) -> Run:
    """A run of one of ``HEADS``, fitted, or with a random head in the place of a fitted one."""
    if name in FITTED:
        method, options = FITTED[name]
        return fit(method, cache, out=out, device="cpu", **options)
    return with_head(name, made_head(name, cache), run_of("zeroshot", cache, out), cache)


def unit(x: Tensor) -> Tensor:
    return normalize(x, dim=-1)


def made_head(name: str, cache: FeatureCache) -> Head:
    """Random weights, shifted so that about half of the test images fall into each class."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    level: Any = "pooled" if name == "pooled" else "embedding"
    x = torch.tensor(cache.split("test", level).x)
    mean = unit(unit(x).mean(0))

    def across(*shape: int) -> Tensor:
        """Random unit rows across the mean image, so that images lie on either side of them."""
        found = normal(*shape, x.shape[1])
        return unit(found - (found @ mean)[..., None] * mean)

    scale = torch.tensor(3.0)
    if name == "mapped":
        basis = across(2)
        change = across(2)
        v = across()
        return MappedHead({"basis": basis, "change": change, "weight": torch.stack([v, -v])})
    if name in ("context", "alone"):
        v, infer = across(3), "alone" if name == "alone" else "with-class"
        state = {"text": torch.stack([v, unit(0.3 * across(3) - v)]), "logit_scale": scale}
        state |= {"contexts": across(3)} if name == "alone" else {}
        return ContextHead(state, infer=infer, temperature=2.0)
    if name in COMBINE:
        v = 3 * across(5)
        state = {"text": torch.stack([v, 0.5 * across(5) - v]), "logit_scale": scale}
        return TemplatesHead(state, keep=2, combine=name)
    if name == "pooled":
        weight = normal(2, x.shape[1])
        bias = -(x @ weight.T).median(0).values
        return LinearHead(weight, bias, normalise=False, level="pooled")
    if name == "mlp":
        mlp = MlpHead.start(x.shape[1], 2, generator, hidden=20)
        with torch.no_grad():
            mlp.last_bias.copy_(-mlp(x).median(0).values)
        return mlp
    adapter = AdapterHead.start(cache.text("class"), generator, hidden=24, residual=0.1)
    with torch.no_grad():
        hidden = adapter.hidden(x)
        adapter.get_buffer("running_mean").copy_(hidden.mean(0))
        adapter.get_buffer("running_var").copy_(hidden.var(0))
        adapter.norm_weight.copy_(normal(24).abs() + 0.5)
        adapter.norm_bias.copy_(normal(24))
        adapter.eval()
        adapter.last_bias.sub_(adapter.project(x).mean(0))
        text = normal(x.shape[1])
        adapter.get_buffer("text").copy_(unit(torch.stack([text, -text])))
    return adapter


def with_head(name: str, head: Head, like: Run, cache: FeatureCache) -> Run:
    """A copy of a run's folder under another name, with another head and what that predicts."""
    folder = like.folder.with_name(name)
    shutil.copytree(like.folder, folder, dirs_exist_ok=True)
    record = {**like.record, "id": folder.name, "head": head.name, "method": "erm"}
    (folder / "run.json").write_text(json.dumps(record))
    save_head(head, folder / "rules" / f"{record['selection']}.safetensors")
    logits = {
        f"{record['selection']}/{split}": predict(
            head, torch.tensor(cache.split(split, head.level).x)
        )
        for split in ("val", "test")
    }
    save_file(logits, folder / "predictions.safetensors")
    return Run(folder=folder, record=record)


def fresh(code: str, *words: str, cwd: Path | None = None) -> str:
    """What Python code prints in a new process that cannot import embedcal."""
    guard = "import sys; sys.modules['embedcal'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + code, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = """
import contextlib, io, json, os, re, runpy
import open_clip, torch
from PIL import Image
from torchvision.transforms import CenterCrop

asked = json.loads(sys.argv[1])
files, crop = asked["files"], asked["crop"]


def script(folder):
    out, sys.argv = io.StringIO(), ["score.py", *files]
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(folder + "/score.py", run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code
    return out.getvalue()


def texts(folder):
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
    tokenizer = open_clip.get_tokenizer("local-dir:" + folder)
    model.eval()
    rows, logits = [], []
    with torch.no_grad():
        for prompt in asked["prompts"]:
            lines = [template.replace("{}", prompt) for template in asked["templates"]]
            rows.append(model.encode_text(tokenizer(lines), normalize=True).mean(0))
        rows = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
        for file in files:
            image = Image.open(file)
            picture = preprocess(CenterCrop(crop)(image) if crop else image)[None]
            features = model.encode_image(picture, normalize=True)
            logits.append((model.logit_scale.exp() * features @ rows.T)[0].tolist())
    return logits


def card(folder):
    os.chdir(folder)
    sys.path.insert(0, folder)
    found, names = [], {}
    for block in re.findall("^```python\\n(.*?)^```$", open("README.md").read(), re.M | re.S):
        exec(block, names)
        found.append([names["logits"](Image.open(file))[0].tolist() for file in files])
    sys.path.remove(folder)
    sys.modules.pop("score", None)
    return found


print(json.dumps({
    name: {"script": script(folder), "texts": whole and texts(folder), "card": card(folder)}
    for name, (folder, whole) in asked["folders"].items()
}))
"""


def ask(
    folders: Mapping[str, tuple[Path, bool]], files: list[Path], cache: FeatureCache
) -> dict[str, Any]:
    """What exported folders say of some files, by script, by texts (if whole) and by their cards.

    One fresh process for all of them.
    """
    bank = cache.text("class")
    asked = {
        "folders": {name: (str(folder), whole) for name, (folder, whole) in folders.items()},
        "files": list(map(str, files)),
        "crop": cache.meta.preprocessing.get("center_crop"),
        "prompts": bank.prompts,
        "templates": bank.templates,
    }
    found: dict[str, Any] = json.loads(fresh(ASK, json.dumps(asked)))
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@dataclass(frozen=True)
class Small:
    """A cache through the tiny CLIP, where it lies, and runs over it by name."""

    path: Path
    cache: FeatureCache
    runs: dict[str, Run]


@contextmanager
def small_world(folder: Path) -> Iterator[Small]:
    table = pictures(folder / "data", 36)
    path = cached(table, "tiny", folder / "small.h5", read={"crop": 50})
    with open_cache(path) as cache:
        names = ("zeroshot", "projection", "both", "attnpool", "pooled", "adapter")
        yield Small(path, cache, {n: run_of(n, cache, folder / "runs") for n in names})
