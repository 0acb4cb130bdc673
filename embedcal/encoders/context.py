"""How long a prompt is to a tokenizer of open_clip's, which cuts what is too long silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedcal.types import EmbedcalError


def refuse_long(prompts: Sequence[str], tokenizer: Any, context: int, name: str) -> None:
    """EmbedcalError for a prompt that would be cut; one that was cut is another prompt.

    ``context`` is the model's length, 0 where it has none. A tokenizer of Hugging Face's has a
    length of its own, by which it cuts. One that is neither that nor open_clip's is not asked.
    """
    if hasattr(tokenizer, "tokenizer"):
        room = tokenizer.context_length
        if getattr(tokenizer, "tokenizer_mode", "") == "clips":
            room -= 3  # start, end and class, which are not counted
    else:
        room = context - 2 if hasattr(tokenizer, "encode") else 0  # start and end of text
    if room <= 0:
        return
    for prompt in prompts:
        found = _tokens(prompt, tokenizer)
        if found > room:
            raise EmbedcalError(
                f"expected prompts of at most {room} tokens for {name}, found {found} in "
                f"'{prompt[:60]}...': shorten it"
            )


def _tokens(prompt: str, tokenizer: Any) -> int:
    """Tokens of a prompt, uncut."""
    if not hasattr(tokenizer, "tokenizer"):
        return len(tokenizer.encode(prompt))
    from open_clip.tokenizer import get_clean_fn

    # SigLipTokenizer keeps its cleaning to itself.
    clean = getattr(tokenizer, "clean_fn", get_clean_fn("canonicalize"))
    special = getattr(tokenizer, "tokenizer_mode", "") != "clips"
    ids = tokenizer.tokenizer(clean(prompt), add_special_tokens=special, verbose=False).input_ids
    return len(ids)
