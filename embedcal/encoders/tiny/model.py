"""The tiny CLIP: open_clip's own classes at a small size, and the weights beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors import safe_open

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CONTEXT_LENGTH = 32
VOCABULARY = 49408
EMBEDDING = "token_embedding.weight"
TOKEN_IDS = "token_ids"


def build(vocabulary: int = VOCABULARY) -> CLIP:
    """The architecture, randomly initialised: 64-pixel images, joint dimension 128.

    The image tower is a modified ResNet with an attention pool (2 x 2 tokens of 512, 8 heads);
    the text tower has 2 layers of width 64. GELU, not QuickGELU. `vocabulary` is the number of
    rows of the token embedding.
    """
    return CLIP(
        embed_dim=128,
        vision_cfg=CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, head_width=64, image_size=64),
        text_cfg=CLIPTextCfg(
            context_length=CONTEXT_LENGTH, vocab_size=vocabulary, width=64, heads=2, layers=2
        ),
    )


def load(path: Path = WEIGHTS) -> CLIP:
    """The pre-trained model in float32 and evaluation mode, with all rows of CLIP's vocabulary.

    A token that the pre-training never met gets the one row that stands for unknown tokens.
    """
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    known = state.pop(TOKEN_IDS)
    compact = state[EMBEDDING].float()  # (1 + known, width): the first row is the unknown one
    expanded = compact[0].repeat(VOCABULARY, 1)
    expanded[known] = compact[1:]
    model = build()
    # The counters of batches seen are not stored: evaluation does not read them.
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    floats = {name: tensor.float() for name, tensor in state.items()}
    model.load_state_dict({**counters, **floats, EMBEDDING: expanded})
    return model.eval()


@cache
def tokenizer() -> SimpleTokenizer:
    """CLIP's byte-pair tokenizer with this model's context length."""
    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def tokenize(texts: list[str]) -> torch.Tensor:
    """Token ids, shape (n, 32); a longer prompt is cut and closed, as open_clip does."""
    tokens: torch.Tensor = tokenizer()(texts)
    return tokens


@cache
def known_tokens(path: Path = WEIGHTS) -> frozenset[int]:
    """The ids of the tokens that occurred in the pre-training's captions."""
    with safe_open(path, framework="pt") as file:
        return frozenset(file.get_tensor(TOKEN_IDS).tolist())


def unknown_words(text: str) -> list[str]:
    """The words of `text`, in order and without repeats, that the model has never seen.

    They all look alike to it, so that prompts which differ only in such words get one embedding.
    """
    bpe = tokenizer()
    words = dict.fromkeys(bpe.pat.findall(bpe.clean_fn(text)))
    return [word for word in words if not known_tokens().issuperset(bpe.encode(word))]
