"""Grad-CAM as pure functions of a layer's activations, and its closed form for an attention pool.

Selvaraju et al. 2017 (arXiv:1610.02391, eq. 1 and 2): with A the activations of a layer and l_c the
logit of class c,

    alpha_ck = mean over cells j of d l_c / d A_jk,   map_c = relu(sum_k alpha_ck A_k)

Letters in shapes: b images, t cells (h * w of them), w channels, C classes asked for, K classes
of the head, H and W pixels of the encoder's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-7  # added to the largest value of a map before it divides the map


def class_gradients(
    logits: Float[Tensor, "b K"],
    leaf: Float[Tensor, "b ..."],
    classes: Sequence[int],
    mean: tuple[int, ...] = (),
) -> Float[Tensor, "b C ..."]:
    """d logits[i, c] / d leaf[i] for each class asked for; rows must not depend on each other.

    ``mean``: dimensions of ``leaf`` over which each class's gradient is averaged before the next
    is computed, so that only one is in memory.
    """
    import torch

    last, parts = len(classes) - 1, []
    for place, c in enumerate(classes):
        (part,) = torch.autograd.grad(logits[:, c].sum(), leaf, retain_graph=place < last)
        parts.append(part.mean(mean) if mean else part)
    return torch.stack(parts, dim=1)


def pool_alphas(
    tokens: Float[Tensor, "b t w"],
    parameters: Mapping[str, Tensor],
    heads: int,
    gradients: Float[Tensor, "b C w"],
) -> Float[Tensor, "b C w"]:
    """alpha (b, C, w) of the tokens, from d l_c / d pooled (b, C, w), without automatic gradients.

    ``parameters`` and ``heads`` are those of ``encoders.attnpool.attention_pool``, whose output
    ``pooled`` is. alpha needs the sum over cells of the gradient only, and most of it falls away.
    With z_0 the mean token and z_j the cells (positions added), a_hj the attention of head h, and
    g the gradient at ``pooled``:

    * z_0 is the mean of the cells, so that sum_j dl/dA_j is the sum of dl/dz over all t + 1 tokens;
    * through the values, sum_j a_hj Wv_h^T g_h = Wv_h^T g_h, since attention sums to 1;
    * through the keys, sum_j (dl/ds_hj) Wk_h^T q_h = 0, since a softmax's gradient sums to 0;
    * through the query, Wq^T dl/dq, which is all that is left to compute:

        t alpha = Wv^T g + Wq^T dl/dq
        dl/dq_h = Wk_h sum_j s_hj z_j / sqrt(w / heads)
        s_hj    = a_hj (u_hj - sum_i a_hi u_hi),   u_hj = (Wv_h^T g_h) . z_j

    which is equal to back-propagation to every token followed by the mean.
    """
    import torch

    b, t, w = tokens.shape
    depth = w // heads
    key = parameters["k_proj.weight"].view(heads, depth, w)
    value = parameters["v_proj.weight"].view(heads, depth, w)
    mean = tokens.mean(dim=1, keepdim=True)
    z = torch.cat([mean, tokens], dim=1) + parameters["positional_embedding"]  # (b, t + 1, w)
    query = torch.nn.functional.linear(
        z[:, 0], parameters["q_proj.weight"], parameters["q_proj.bias"]
    )
    query = query.view(b, heads, depth) * depth**-0.5
    zt = z.transpose(1, 2)
    attention = torch.softmax(torch.einsum("bhd,hdw->bhw", query, key) @ zt, dim=-1)
    attention = attention.unsqueeze(1)  # (b, 1, h, t + 1)
    g = gradients.reshape(b, -1, heads, depth)
    back = torch.einsum("bchd,hdw->bchw", g, value)
    u = (back.flatten(1, 2) @ zt).view(b, -1, heads, t + 1)
    s = attention * (u - (attention * u).sum(dim=-1, keepdim=True))
    mixed = (s.flatten(1, 2) @ z).view(b, -1, heads, w)
    at_query = torch.einsum("bchw,hdw->bchd", mixed, key).flatten(2) * depth**-0.5
    total: Tensor = back.sum(dim=2) + at_query @ parameters["q_proj.weight"]
    return total / t


def class_maps(
    activations: Float[Tensor, "b t w"], alpha: Float[Tensor, "b C w"], grid: tuple[int, int]
) -> Float[Tensor, "b C h w"]:
    """relu(sum_k alpha_ck A_jk) on the grid of cells, row by row; not normalised."""
    maps: Tensor = alpha @ activations.transpose(1, 2)  # (b, C, t)
    return maps.relu().reshape(*maps.shape[:2], *grid)


def normalised(maps: Float[Tensor, "... h w"]) -> Float[Tensor, "... h w"]:
    """(m - min m) / (1e-7 + max(m - min m)) of each map, as pytorch-grad-cam has it."""
    shifted = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return shifted / (SMALLEST + shifted.amax(dim=(-2, -1), keepdim=True))


def enlarged(maps: Float[Tensor, "b C h w"], size: tuple[int, int]) -> Float[Tensor, "b C H W"]:
    """Maps from the grid of cells to the pixels of the encoder's input, from 0 to 1.

    Normalised, resized bilinearly with half-pixel centres and without antialiasing, and
    normalised again: the order of the official code of Yang et al. 2023 (arXiv:2304.03916). A map
    that is the same everywhere, such as one without positive evidence, is 0 everywhere.
    """
    from torch.nn.functional import interpolate

    large = interpolate(normalised(maps), size=size, mode="bilinear", align_corners=False)
    return normalised(large)
