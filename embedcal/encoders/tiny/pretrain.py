"""Pre-train the tiny CLIP on captioned scenes and write its weights.

    python -m embedcal.encoders.tiny.pretrain --out weights.safetensors

With its defaults this made the weights that the package ships. One thread, one seed and one
order of operations make it repeatable bit for bit on one machine and one build of torch; another
processor or build rounds differently, and rounding grows over a thousand steps, so that it
reaches there a model of the same behaviour, not the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.datasets.birds.scene import SIDE, draw_scene
from embedcal.encoders.tiny.captions import Subject, caption, choose_subject, vocabulary
from embedcal.encoders.tiny.model import EMBEDDING, TOKEN_IDS, build, tokenize

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# First words of the seeds, apart from those of the rendered worlds.
_SCENE, _STEP = 11, 12


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the weights depend on."""

    seed: int = 0
    images: int = 23_000
    agreement: float = 0.95
    misnamed: float = 0.14
    steps: int = 800
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: int = 40
    shift: int = 4
    unknown: float = 0.01


def draw_pool(recipe: Recipe) -> tuple[NDArray[np.uint8], list[Subject]]:
    """The scenes of the pre-training, shape (images, 64, 64, 3), and what each one shows."""
    images = np.empty((recipe.images, SIDE, SIDE, 3), np.uint8)
    subjects = []
    for index in range(recipe.images):
        rng = np.random.default_rng((_SCENE, recipe.seed, index))
        subject = choose_subject(recipe.agreement, rng)
        images[index] = draw_scene(subject.species, subject.word, rng).image
        subjects.append(subject)
    return images, subjects


class Vocabulary:
    """The tokens that occur, numbered from 1; 0 stands for every other one and for padding.

    The order of CLIP's ids is kept: its text tower pools where the id is largest, which must
    remain the end of the text.
    """

    def __init__(self, texts: list[str]) -> None:
        self.ids = torch.unique(tokenize(texts))[1:]  # without the padding
        self._seen: dict[str, Tensor] = {}

    def encode(self, texts: list[str]) -> Tensor:
        """Compact token ids of texts, shape (n, 32)."""
        for text in texts:
            if text not in self._seen:
                tokens = tokenize([text])[0]
                place = torch.searchsorted(self.ids, tokens) + 1
                self._seen[text] = torch.where(tokens > 0, place, 0)
        return torch.stack([self._seen[text] for text in texts])


def _batch(images: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Shifted, mirrored and normalised pictures, shape (n, 3, 64, 64), channels last."""
    margin = recipe.shift
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    moved = np.empty_like(images)
    for i, (top, left) in enumerate(rng.integers(0, 2 * margin + 1, (len(images), 2))):
        moved[i] = padded[i, top : top + SIDE, left : left + SIDE]
    mirrored = rng.random(len(images)) < 0.5
    moved[mirrored] = moved[mirrored, :, ::-1]
    pixels = torch.from_numpy(moved).float().div_(255)
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels.permute(0, 3, 1, 2)


def _optimizer(model: CLIP, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that decays matrices and kernels, but neither vectors nor the token embedding."""
    free: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or name == EMBEDDING else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )


def _rate(step: int, recipe: Recipe) -> float:
    """The learning rate: a linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / recipe.warm_up)
    done = max(0, step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))


@contextmanager
def _one_thread(seed: int) -> Iterator[None]:
    """One torch thread and a seeded generator; both as they were afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def pretrain(
    recipe: Recipe, images: NDArray[np.uint8], subjects: list[Subject], *, log_every: int = 50
) -> dict[str, Tensor]:
    """Train from scratch by the symmetric InfoNCE loss of CLIP; return the weights as stored.

    Matrices and kernels come in float16, vectors in float32, the token embedding with its
    compact rows (the unknown one first), and `token_ids` with CLIP's ids of the others.
    """
    vocabulary_ = Vocabulary(vocabulary(OPENAI_IMAGENET_TEMPLATES))
    with _one_thread(recipe.seed):
        model = build(1 + len(vocabulary_.ids)).to(memory_format=torch.channels_last).train()
        optimizer = _optimizer(model, recipe)
        order: NDArray[np.int64] = np.empty(0, np.int64)
        for step in range(recipe.steps):
            rng = np.random.default_rng((_STEP, recipe.seed, step))
            if len(order) < recipe.batch:
                order = rng.permutation(len(images))
            rows, order = order[: recipe.batch], order[recipe.batch :]
            captions = [
                caption(subjects[row], OPENAI_IMAGENET_TEMPLATES, recipe.misnamed, rng)
                for row in rows
            ]
            tokens = vocabulary_.encode(captions)
            hidden = torch.from_numpy(rng.random(tokens.shape) < recipe.unknown)
            # The first and the last token carry the text's bounds, not words.
            hidden &= (tokens > 0) & (tokens < len(vocabulary_.ids) - 1)
            tokens = tokens.masked_fill(hidden, 0)

            image = F.normalize(model.encode_image(_batch(images[rows], recipe, rng)), dim=1)
            text = F.normalize(model.encode_text(tokens), dim=1)
            logits = model.logit_scale.exp() * image @ text.T  # (n, n)
            target = torch.arange(len(rows))
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

            for group in optimizer.param_groups:
                group["lr"] = _rate(step, recipe)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            if log_every and (step % log_every == 0 or step == recipe.steps - 1):
                print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
    stored = {
        name: (tensor.half() if tensor.ndim >= 2 else tensor).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return {**stored, TOKEN_IDS: vocabulary_.ids}


def main() -> None:
    """Draw the scenes, train, write the file."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny CLIP of embedcal.")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    arguments = parser.parse_args()
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps)
    print(f"drawing {recipe.images} scenes", flush=True)
    state = pretrain(recipe, *draw_pool(recipe))
    partial = arguments.out.with_name(arguments.out.name + ".part")
    # One entry: safetensors writes several in no fixed order, and the bytes would vary with it.
    made_by = {**asdict(recipe), "torch": torch.__version__}
    save_file(state, partial, metadata={"recipe": json.dumps(made_by)})
    partial.chmod(0o644)  # safetensors makes it private
    partial.replace(arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
