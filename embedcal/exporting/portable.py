"""What of a head goes out: named tensors, and what must be known to use them without embedcal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedcal.types import EmbedcalError, Level

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.heads import Head

TEXT = "text"
CLASSES = "logits = exp(logit_scale) * unit(z) @ text.T"
FORMULAS = {
    TEXT: f"{CLASSES}, z the image embedding",
    "projection": f"{CLASSES}, z = x @ image_weight.T (+ image_bias), x the pooled vector",
    "attnpool": f"{CLASSES}, z = open_clip's AttentionPool2d of the tokens with these tensors",
    "linear": "logits = f @ weight.T + bias, f = unit(x) where normalise, else x",
    "mlp": "logits = relu(f @ first_weight.T + first_bias) @ last_weight.T + last_bias, "
    "f = unit(x) where normalise, else x",
    "adapter": f"{CLASSES}, z = relu(n) @ last_weight.T + last_bias + residual * x, "
    "n = (x @ first_weight.T - running_mean) / sqrt(running_var + 1e-5) * norm_weight + norm_bias",
    "mapped": "logits = unit(x + x @ basis.T @ change) @ weight.T",
    "context": "logits_y = log sum_z P(z|x) P(y|x, z), P(y|x, z) = softmax over y of "
    "f_yz = exp(logit_scale) * unit(x) . text_yz, P(z|x) = softmax over z of exp(logit_scale) * "
    "unit(x) . contexts_z / temperature where there are contexts, else of logsumexp_y f_yz / "
    "temperature",
    "templates": "logits = exp(logit_scale) * the mean cosine of x with text_yt over the keep "
    "templates t of largest max_y - min_y, or the cosine with the mean of text_yt over them where "
    "combine is embeddings",
}


@dataclass(frozen=True, kw_only=True)
class Portable:
    """A head as plain tensors: ``kind`` names its formula, ``level`` is what it reads.

    ``options`` are what besides the tensors decides its logits. A trained text side has become the
    class texts (C, d) that it gives: there is no text projection any more.
    """

    kind: str
    level: Level
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]

    @property
    def formula(self) -> str:
        """How features become logits, ``unit`` dividing rows by their length."""
        return FORMULAS[self.kind]


def portable(head: Head) -> Portable:
    """All of a head over the features of its level; EmbedcalError for a kind without a formula."""
    import torch

    from embedcal.heads import ClipHead

    if head.name not in FORMULAS:
        raise EmbedcalError(
            f"expected a head among {', '.join(each for each in FORMULAS if each != TEXT)}, found "
            f"'{head.name}': export a run with one of them"
        )
    head = head.eval()
    tensors = {name: value.detach().cpu() for name, value in head.state_dict().items()}
    options = {name: value for name, value in head.config.items() if name != "level"}
    if isinstance(head, ClipHead):
        tensors.pop("text_weight", None)
        with torch.no_grad():
            tensors[TEXT] = head.prototypes().detach().cpu()
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    return Portable(kind=head.name, level=head.level, tensors=tensors, options=options)


def class_texts(head: Portable) -> Portable:
    """What is left of CLIP's own heads once their image part is inside the model."""
    tensors = {name: head.tensors[name] for name in (TEXT, "logit_scale")}
    return Portable(kind=TEXT, level="embedding", tensors=tensors, options=head.options)
