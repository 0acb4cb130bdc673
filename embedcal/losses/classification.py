"""Cross-entropy of each example.

Shapes: b batch, C classes.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Float[Tensor, "b C"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """CE(l, y) = logsumexp(l) - l_y for each example; means are the caller's."""
    return F.cross_entropy(logits, y, reduction="none")
