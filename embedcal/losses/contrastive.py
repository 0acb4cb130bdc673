"""Contrastive losses over unit vectors: pairs in a batch, sets by label, lists of positives.

Shapes: b batch, n anchors, m candidates, p positives, q negatives, P prompts, T templates, d joint
dimension. Who has no positive costs nothing and gets a zero gradient, never NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def paired(
    images: Float[Tensor, "b d"],
    captions: Float[Tensor, "b d"],
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, " b"]:
    """Symmetric InfoNCE within the batch, per item: 0.5 (CE(S_i, i) + CE(S^T_i, i)).

    S = ``scale`` images captions^T, image i belonging to caption i. Radford et al., 2021
    (arXiv:2103.00020); Yang et al., 2023 (arXiv:2304.03916), equation 1. Neither side is
    normalised here: the official code averages unit captions over the templates and leaves the
    average as it is. Items of one class are each other's negatives, so the loss stays above 0.
    """
    s = scale * images @ captions.T  # (b, b)
    own = scale * (images * captions).sum(-1)
    return 0.5 * (torch.logsumexp(s, 1) + torch.logsumexp(s, 0)) - own


def same_label(
    rows: Int[Tensor, " n"], columns: Int[Tensor, " m"], *, include_self: bool = True
) -> Bool[Tensor, "n m"]:
    """Where row and column carry one label; without the diagonal unless ``include_self``.

    The diagonal is a row's pair with itself, so without it both sides must be the same items.
    """
    same = rows[:, None] == columns[None, :]
    if include_self:
        return same
    assert len(rows) == len(columns)
    return same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)


def set_contrast(
    similarity: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
) -> Float[Tensor, ""]:
    """Pull anchors to a set of positives, away from a set of negatives.

    The mean, over anchors i with a positive, of
    mean_{p in P(i)} -[s_ip - log(sum_{p' in P(i)} exp s_ip' + sum_{q in Q(i)} exp s_iq)],
    and 0 if no anchor has one. ``similarity`` is divided by the temperature already; the sets are
    disjoint. Yang et al., 2023 (arXiv:2304.03916), equations 3 to 6.
    """
    loss = _mean_of_positives(
        _masked_logsumexp(similarity, positive | negative), similarity, positive
    )
    return loss.sum() / positive.any(-1).sum().clamp(min=1)


def image_contrast(
    unit: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    tau: Float[Tensor, ""] | float,
    *,
    include_self: bool = False,
) -> Float[Tensor, ""]:
    """Images of one label attract, images of different labels repel.

    With classes as ``labels`` L_vc, with attribute values or groups L_vs of Yang et al., 2023
    (arXiv:2304.03916, equations 4 and 6). The paper does not say whether an image is its own
    positive: here it is not, unless ``include_self``.
    """
    positive = same_label(labels, labels, include_self=include_self)
    return set_contrast(unit @ unit.T / tau, positive, ~same_label(labels, labels))


def language_contrast(
    text: Float[Tensor, "P T d"],
    tau: Float[Tensor, ""] | float,
    *,
    negatives: Float[Tensor, "N U d"] | None = None,
) -> Float[Tensor, ""]:
    """Templates of one prompt attract, different prompts repel; all P * T prompts are anchors.

    Positives: the same prompt in another template, so one template alone gives 0. Negatives: every
    other prompt in every template. With class prompts L_lc, with attribute prompts L_ls of Yang et
    al., 2023 (arXiv:2304.03916, equations 3 and 5). ``text`` holds unit vectors.

    ``negatives`` (N prompts, U templates) takes the place of the other prompts. With class prompts
    as ``text`` and attribute prompts as ``negatives`` it is the other reading of L_ls: the
    paper's abstract separates attribute names from class names, its equation 5 attribute values
    from each other. Other classes are neither positive nor negative then; L_lc parts those.
    """
    p, t, _ = text.shape
    if t == 1:
        return 0 * text.sum()
    within = text @ text.mT / tau  # (P, T, T)
    itself = torch.eye(t, dtype=torch.bool, device=text.device)
    pull = (within.sum(-1) - within.diagonal(dim1=-2, dim2=-1)) / (t - 1)  # mean over positives
    anchors = text.flatten(0, 1)  # (P * T, d)
    if negatives is None:
        itself = torch.eye(p * t, dtype=torch.bool, device=text.device)
        against = (anchors @ anchors.T / tau).masked_fill(itself, float("-inf"))
        return (torch.logsumexp(against, -1) - pull.flatten()).mean()
    others = (anchors @ negatives.flatten(0, 1).T / tau).view(p, t, -1)  # (P, T, N * U)
    against = torch.cat([within.masked_fill(itself, float("-inf")), others], -1)
    return (torch.logsumexp(against, -1) - pull).mean()


def info_nce(
    positive: Float[Tensor, "n p"],
    negative: Float[Tensor, "n q"],
    *,
    positive_mask: Bool[Tensor, "n p"] | None = None,
    negative_mask: Bool[Tensor, "n q"] | None = None,
    all_positives: bool = False,
) -> Float[Tensor, " n"]:
    """Per anchor, the mean over its positives of -log[exp s_p / (D + sum_n exp s_n)].

    D = exp s_p, or with ``all_positives`` the sum over all of the anchor's positives. Similarities
    come divided by the temperature; masks say which entries count (all, if left out). An anchor
    without positives gives 0. You et al., 2024 (CFR; the calibration term) and Zhang and Re, 2022
    (Con-Adapter) have a denominator for each positive, Zhang et al., 2022 (Correct-n-Contrast)
    one for all.
    """
    counted = torch.ones_like(positive, dtype=torch.bool)
    counted = counted if positive_mask is None else positive_mask
    against = torch.ones_like(negative, dtype=torch.bool)
    against = against if negative_mask is None else negative_mask
    if all_positives:
        everything = torch.cat([positive, negative], -1)
        total = _masked_logsumexp(everything, torch.cat([counted, against], -1))
        return _mean_of_positives(total, positive, counted)
    # log(1 + exp(N - s_p)), N = logsumexp of the negatives: nothing cancels where s_p is large.
    gap = _masked_logsumexp(negative, against)[:, None] - torch.where(counted, positive, 0.0)
    each = torch.where(counted, torch.logaddexp(torch.zeros_like(gap), gap), 0.0)
    return each.sum(-1) / counted.sum(-1).clamp(min=1)


def _mean_of_positives(
    total: Float[Tensor, " n"], values: Float[Tensor, "n p"], counted: Bool[Tensor, "n p"]
) -> Float[Tensor, " n"]:
    """mean_p (total - s_p) over the counted entries of each row, 0 for a row without any."""
    mean = torch.where(counted, values, 0.0).sum(-1) / counted.sum(-1).clamp(min=1)
    return torch.where(counted.any(-1), total - mean, 0.0)


def _masked_logsumexp(
    values: Float[Tensor, "n m"], mask: Bool[Tensor, "n m"]
) -> Float[Tensor, " n"]:
    """logsumexp over the entries of each row that count; -inf, with zero gradient, if none does."""
    some = mask.any(-1)
    # A row of -inf alone has a NaN gradient, so an empty row is computed over zeros, then replaced.
    kept = torch.where(mask, values, float("-inf"))
    total = torch.logsumexp(torch.where(some[:, None], kept, 0.0), -1)
    return torch.where(some, total, float("-inf"))
