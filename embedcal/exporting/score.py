"""Class and probability of image files, as CSV: python score.py IMAGE ... > scores.csv

Needs torch, open_clip_torch, pillow and safetensors, and the files that lie beside this one.
Files that cannot be read are named on standard error; the exit status is then 1. Control characters
in names are escaped, and what a spreadsheet would take for a formula gets an apostrophe, or as a
path "./", before it.
"""

# ruff: noqa: TID253 - this file is copied into exports and must stand alone

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

BATCH = 32
Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]


def load_head(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The head's tensors by name, and the facts about it."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["embedcal"])
        return {name: file.get_tensor(name) for name in list(file.keys())}, facts


def cut(tower: Any, level: str) -> None:
    """Make an image tower give what the head reads: at level "pooled", no projection follows."""
    if level == "pooled" and hasattr(tower, "attnpool"):
        width = tower.attnpool.c_proj.in_features
        tower.attnpool.c_proj = nn.Linear(width, width)
        nn.init.eye_(tower.attnpool.c_proj.weight)
        nn.init.zeros_(tower.attnpool.c_proj.bias)
    elif level == "pooled":
        tower.proj = None


def center_crop(image: Image.Image, size: int | None) -> Image.Image:
    """The middle of a picture, padded with zeros where it is smaller; all of it for None."""
    if size is None:
        return image
    left, top = (
        -((size - side) // 2) if size > side else round((side - size) / 2) for side in image.size
    )
    return image.crop((left, top, left + size, top + size))


def unit(x: Tensor) -> Tensor:
    """Rows of length 1."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
    divided: Tensor = x / length
    return divided


def by_text(x: Tensor, head: Tensors, _: Options) -> Tensor:
    """Embeddings (b, d) -> logits (b, C): cosines with the texts of the classes."""
    return head["logit_scale"].exp() * unit(x) @ head["text"].T


def by_projection(x: Tensor, head: Tensors, options: Options) -> Tensor:
    """Pooled vectors (b, w) -> logits (b, C)."""
    bias = head.get("image_bias")
    return by_text(nn.functional.linear(x, head["image_weight"], bias), head, options)


def by_linear(x: Tensor, head: Tensors, options: Options) -> Tensor:
    """Features (b, d) -> logits (b, C)."""
    x = unit(x) if options["normalise"] else x
    return nn.functional.linear(x, head["weight"], head["bias"])


def by_mlp(x: Tensor, head: Tensors, options: Options) -> Tensor:
    """Embeddings (b, d) -> logits (b, C)."""
    x = unit(x) if options["normalise"] else x
    z = nn.functional.linear(x, head["first_weight"], head["first_bias"]).relu()
    return nn.functional.linear(z, head["last_weight"], head["last_bias"])


def by_adapter(x: Tensor, head: Tensors, options: Options) -> Tensor:
    """Embeddings (b, d) -> logits (b, C)."""
    z = x @ head["first_weight"].T
    z = (z - head["running_mean"]) / (head["running_var"] + 1e-5).sqrt()
    z = (z * head["norm_weight"] + head["norm_bias"]).relu()
    z = nn.functional.linear(z, head["last_weight"], head["last_bias"])
    return by_text(z + options["residual"] * x, head, options)


def by_map(x: Tensor, head: Tensors, _: Options) -> Tensor:
    """Embeddings (b, d) -> logits (b, C): changed along a few directions before a classifier."""
    return unit(x + x @ head["basis"].T @ head["change"]) @ head["weight"].T


def by_context(x: Tensor, head: Tensors, options: Options) -> Tensor:
    """Embeddings (b, d) -> logits (b, C): texts of classes under contexts, weighed by context."""
    scale, warmth = head["logit_scale"].exp(), options["temperature"]
    scores = scale * torch.einsum("nd,czd->ncz", unit(x), head["text"])
    if "contexts" in head:
        contexts = scale * unit(x) @ head["contexts"].T / warmth
    else:
        contexts = torch.logsumexp(scores / warmth, dim=1)
    weights = contexts.log_softmax(dim=1)[:, None]
    found: Tensor = torch.logsumexp(scores.log_softmax(dim=1) + weights, dim=2)
    return found


def by_templates(x: Tensor, head: Tensors, options: Options) -> Tensor:
    """Embeddings (b, d) -> logits (b, C): the templates that part the classes furthest."""
    cosines = torch.einsum("nd,ctd->nct", unit(x), unit(head["text"]))
    parted = cosines.amax(1) - cosines.amin(1)
    kept = parted.sort(dim=1, descending=True, stable=True).indices[:, : options["keep"]]
    taken = torch.zeros_like(parted).scatter(1, kept, 1.0)  # (b, T) of 0 and 1
    if options["combine"] == "cosines":
        found = torch.einsum("nct,nt->nc", cosines, taken) / options["keep"]
    else:
        mixed = unit(torch.einsum("nt,ctd->ncd", taken, head["text"]))
        found = torch.einsum("nd,ncd->nc", unit(x), mixed)
    scaled: Tensor = head["logit_scale"].exp() * found
    return scaled


HEADS: Mapping[str, Callable[[Tensor, Tensors, Options], Tensor]] = {
    "text": by_text,
    "projection": by_projection,
    "linear": by_linear,
    "mlp": by_mlp,
    "adapter": by_adapter,
    "mapped": by_map,
    "context": by_context,
    "templates": by_templates,
}


class Scorer:
    """Pictures -> logits, from the files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{folder}"
        )
        self.head, self.facts = load_head(folder / "head.safetensors")
        cut(self.model.visual, self.facts["level"])
        self.model.eval()

    def prepare(self, image: Image.Image) -> Tensor:
        """A picture as PIL opened it -> (3, h, w)."""
        prepared: Tensor = self.preprocess(center_crop(image, self.facts["center_crop"]))
        return prepared

    def logits(self, pictures: Tensor) -> Tensor:
        """Prepared pictures (b, 3, h, w) -> logits (b, C)."""
        with torch.inference_mode():
            features = self.model.encode_image(pictures, normalize=False)
            return HEADS[self.facts["head"]](features, self.head, self.facts["options"])

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Prepared pictures (b, 3, h, w) -> probabilities (b, C), calibrated where the run was."""
        found: Tensor = (self.logits(pictures) / self.facts["temperature"]).softmax(-1)
        return found


def batches(scorer: Scorer, files: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
    """The files that can be read, and their pictures (b, 3, h, w)."""
    for start in range(0, len(files), BATCH):
        names, pictures = [], []
        for name in files[start : start + BATCH]:
            try:
                with Image.open(name) as image:
                    pictures.append(scorer.prepare(image))
                names.append(name)
            except Exception as error:  # PIL raises anything on damaged files
                sys.stderr.write(f"{name}: {error}\n")
        if names:
            yield names, torch.stack(pictures)


def cell(text: str) -> str:
    """A name as a cell of a CSV: one line, nothing hidden, and no formula."""
    plain = "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else char
        for char in text
    )
    return "'" + plain if re.match(r"'*\s*[=+\-@]", plain) else plain


def path_cell(name: str) -> str:
    """A path as a cell: ``./=a.png`` is the same file as ``=a.png``, and no formula."""
    return cell("./" + name if name.lstrip().startswith(("=", "+", "-", "@")) else name)


def main(files: Sequence[str]) -> int:
    """Score the files; the exit status."""
    if not files:
        sys.stderr.write("expected image files: python score.py IMAGE ...\n")
        return 2
    scorer, done = Scorer(Path(__file__).resolve().parent), 0
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["file", "class", "probability"])
    for names, pictures in batches(scorer, files):
        for name, chances in zip(names, scorer.probabilities(pictures), strict=True):
            best = int(chances.argmax())
            label = cell(scorer.facts["classes"][best])
            rows.writerow([path_cell(name), label, f"{float(chances[best]):.6f}"])
        done += len(names)
    return int(done < len(files))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
