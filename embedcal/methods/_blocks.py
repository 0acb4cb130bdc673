"""Inner products within blocks of rows, each of which is a batch norm's batch of its own.

A row is in many blocks and looks different in each, so the activated rows of all blocks are far
more numbers than the rows themselves. On a CPU they are made some blocks at a time, which use one
another's memory again, and once more for the gradient; nothing of their size is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from embedcal.heads.adapter import EPSILON

# Activated numbers at a time: 2 MB on a CPU. An accelerator would rather have few large products.
NUMBERS, NUMBERS_ELSEWHERE = 2**19, 2**26


class Forms(NamedTuple):
    """Of each of m blocks of b rows, r being a row activated with its block and r_0 its first."""

    first: Float[Tensor, "m b"]  # r_0' G r
    own: Float[Tensor, "m b"]  # r' G r
    line: Float[Tensor, "m b"]  # q . r
    mean: Float[Tensor, "m h"]  # of the block before activation; without gradient
    var: Float[Tensor, "m h"]  # the biased one; without gradient


def block_forms(
    hidden: Float[Tensor, "u h"],
    blocks: Int[Tensor, "m b"],
    gain: Float[Tensor, " h"],
    shift: Float[Tensor, " h"],
    gram: Float[Tensor, "h h"],
    q: Float[Tensor, " h"],
) -> Forms:
    """Forms of r = relu(BN(v)), v the rows of ``hidden`` that a block names, BN over the block.

    ``gain`` and ``shift`` are the norm's weight and bias, ``gram`` is a symmetric G. Differentiable
    once, in everything but ``blocks``.
    """
    return Forms(*_Forms.apply(hidden, blocks, gain, shift, gram, q))


class _Piece(NamedTuple):
    """Some blocks, activated."""

    centred: Tensor  # (k, b, h) rows less the mean of their block
    mean: Tensor  # (k, 1, h)
    var: Tensor  # (k, 1, h)
    activated: Tensor  # (k, b, h)


def _activate(hidden: Tensor, blocks: Tensor, gain: Tensor, shift: Tensor) -> _Piece:
    rows = F.embedding(blocks, hidden)
    mean = rows.mean(1, keepdim=True)
    centred = rows.sub_(mean)
    var = centred.square().mean(1, keepdim=True)
    activated = torch.addcmul(shift, centred, gain * (var + EPSILON).rsqrt()).relu_()
    return _Piece(centred, mean, var, activated)


def _pieces(hidden: Tensor, *of_blocks: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors (m, b), cut to so many blocks at a time as are ``NUMBERS`` when activated."""
    numbers = NUMBERS if hidden.device.type == "cpu" else NUMBERS_ELSEWHERE
    most = max(1, numbers // (of_blocks[0].shape[1] * hidden.shape[1]))
    return list(zip(*(torch.split(each, most) for each in of_blocks), strict=True))


class _Forms(torch.autograd.Function):
    """Under vmap products have two or three dimensions here: of more, matrices would be copied."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        hidden: Tensor, blocks: Tensor, gain: Tensor, shift: Tensor, gram: Tensor, q: Tensor
    ) -> tuple[Tensor, ...]:
        found = []
        for (part,) in _pieces(hidden, blocks):
            _, mean, var, r = _activate(hidden, part, gain, shift)
            flat = r.flatten(0, 1)
            s = (flat @ gram).view_as(r)  # G r
            first = torch.bmm(r, s[:, 0, :, None])[:, :, 0]
            line = (flat @ q).view_as(first)
            found.append((first, (s * r).sum(-1), line, mean[:, 0], var[:, 0]))
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.mark_non_differentiable(*output[3:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        hidden, blocks, gain, shift, gram, q = ctx.saved_tensors
        to_hidden, to_gain, to_shift, to_gram, to_q = (
            torch.zeros_like(each) for each in (hidden, gain, shift, gram, q)
        )
        b = blocks.shape[1]
        for part, first, own, line in _pieces(hidden, blocks, *slopes[:3]):
            centred, _, var, r = _activate(hidden, part, gain, shift)
            flat = r.flatten(0, 1)
            s = (flat @ gram).view_as(r)
            start, weighed = s[:, 0].clone(), torch.bmm(first[:, None], r)[:, 0]  # (k, h)
            to_gram += (flat * own.flatten()[:, None]).T @ flat + weighed.T @ r[:, 0]
            to_q += line.flatten() @ flat
            # Of r: 2 own G r + first G r_0 + line q, and of r_0 besides the sum of first G r.
            of_first = torch.bmm(first[:, None], s)[:, 0]
            s = torch.baddbmm(
                s.mul_(2 * own[:, :, None]),
                torch.stack([first, line], 2),
                torch.stack([start, q.expand_as(start)], 1),
            )
            s[:, 0] += of_first
            s.mul_(r.sign_())  # ReLU's slope; r is not read again
            # Of the batch norm's input: the slope less its mean and less its part along the input.
            total, along = s.sum(1, keepdim=True), (s * centred).sum(1, keepdim=True)
            rate = (var + EPSILON).rsqrt()
            to_shift += total[:, 0].sum(0)
            to_gain += (along * rate)[:, 0].sum(0)
            s.sub_(total / b).sub_(centred.mul_(along * rate.square() / b)).mul_(gain * rate)
            to_hidden.index_add_(0, part.flatten(), s.flatten(0, 1))
        return to_hidden, None, to_gain, to_shift, to_gram, to_q
