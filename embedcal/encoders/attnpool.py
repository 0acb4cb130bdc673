"""CLIP's attention pool for the one query that is kept, reassociated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

PARAMETERS = (
    "positional_embedding",
    "q_proj.weight",
    "q_proj.bias",
    "k_proj.weight",
    "k_proj.bias",
    "v_proj.weight",
    "v_proj.bias",
)


def attention_pool(
    tokens: Float[Tensor, "b t w"], parameters: Mapping[str, Tensor], heads: int
) -> Float[Tensor, "b w"]:
    """The output of open_clip's ``AttentionPool2d`` before ``c_proj``, for its mean-token query.

    ``tokens`` are the t = s * s cells of the last feature map in row-major order, without the
    mean token; ``parameters`` holds ``PARAMETERS`` by open_clip's names (more are ignored).
    Radford et al. 2021 (arXiv 2103.00020, section 2.4) pool with one multi-head attention whose
    query is the mean of the cells, yet the usual module computes keys, values and outputs of all
    t + 1 tokens. One query needs none of them: with z_j the token j and q_h the query of head h,

        score_hj = (Wk_h^T q_h) . z_j         (the key bias adds the same to every j: no effect)
        out_h    = Wv_h (sum_j a_hj z_j) + bv_h,   a_h = softmax_j(score_hj / sqrt(w / heads))

    which is equal to the module, forward and backward, at 2 w^2 + 2 h t w multiplications for
    keys and values of an image instead of 2 t w^2. The gradient of ``k_proj.bias`` is exactly
    zero, and it is given as zeros, not as None, so that weight decay acts as it does on the
    usual module.
    """
    b, _, w = tokens.shape
    depth = w // heads
    position = parameters["positional_embedding"]
    z = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + position  # (b, t + 1, w)
    query = torch.nn.functional.linear(
        z[:, 0], parameters["q_proj.weight"], parameters["q_proj.bias"]
    )
    query = query.view(b, heads, depth) * depth**-0.5
    key_weight = parameters["k_proj.weight"].view(heads, depth, w)
    value_weight = parameters["v_proj.weight"].view(heads, depth, w)
    probe = torch.einsum("bhd,hdw->bhw", query, key_weight)
    attention = torch.softmax(probe @ z.transpose(1, 2), dim=-1)  # (b, h, t + 1)
    mixed = attention @ z  # (b, h, w)
    out = torch.einsum("bhw,hdw->bhd", mixed, value_weight).reshape(b, w)
    no_effect = 0.0 * parameters["k_proj.bias"]
    return out + parameters["v_proj.bias"] + no_effect
