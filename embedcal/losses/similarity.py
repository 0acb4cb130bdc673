"""The similarity terms of the official code of Yang et al., 2023 (arXiv:2304.03916), closed forms.

None of them is the contrastive loss that the paper prints. They are given as the code computes
them, mistakes included, and with ``fixed=True`` as the code evidently meant them. Every text block
here is prompt-major, (prompts, templates, d); the code's is template-major, row r = t C + c, and
most of its mistakes read that order as the other one. All vectors are unit vectors. Where the
official code would fail, the function raises EmbedcalError.

Shapes: b batch, n rows, m columns, C classes, A attribute values, T templates, d joint dimension.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedcal.errors import EmbedcalError
from embedcal.losses.classification import cross_entropy


def similarity_block(
    rows: Float[Tensor, "n d"],
    columns: Float[Tensor, "m d"],
    row_labels: Int[Tensor, " n"],
    column_labels: Int[Tensor, " m"],
    *,
    pos: Float[Tensor, ""] | float,
    neg: Float[Tensor, ""] | float,
) -> Float[Tensor, " n"]:
    """Per row -pos mean_s cos(r, s) [same label] + neg mean_s cos(r, s) [other label].

    Both means divide by the number of all columns, not of those with the label.
    """
    same = row_labels[:, None] == column_labels[None, :]
    cosine = rows @ columns.T
    return torch.where(same, -pos * cosine, neg * cosine).mean(-1)


def official_image(
    unit: Float[Tensor, "b d"],
    y: Int[Tensor, " b"],
    pos: Float[Tensor, ""] | float,
    neg: Float[Tensor, ""] | float,
    *,
    fixed: bool,
) -> Float[Tensor, " b"]:
    """L_vc of each image: the block of the batch with itself, an image its own positive.

    The code picks the label column by the position of another table's field, and finds one that
    is constant in training: every image is drawn to every other, whatever their classes. Fixed:
    labels are the classes. The code's option ``spur_img`` adds the fixed form once more.
    """
    labels = y if fixed else torch.zeros_like(y)
    return similarity_block(unit, unit, labels, labels, pos=pos, neg=neg)


def official_language(
    text: Float[Tensor, "C T d"],
    y: Int[Tensor, " b"],
    pos: Float[Tensor, ""] | float,
    neg: Float[Tensor, ""] | float,
    *,
    fixed: bool,
) -> Float[Tensor, " b"]:
    """L_lc of each item, a function of its class alone: the block of all prompts with themselves.

    In the code row r gets the label r // T, so its "classes" are runs of templates, and the item
    reads the mean over classes of template number y. Fixed: label r % C, and the mean over
    templates of class y. Raises EmbedcalError where C > T: the code has no template number y then.
    """
    c, t, _ = text.shape
    flat, labels = _template_major(text), _flat_labels(c, t, fixed=fixed, like=y)
    row = similarity_block(flat, flat, labels, labels, pos=pos, neg=neg)
    return _of_item(row, c, t, y, fixed=fixed)


def official_spurious_language(
    class_text: Float[Tensor, "C T d"],
    attribute_text: Float[Tensor, "A U d"],
    y: Int[Tensor, " b"],
    neg: Float[Tensor, ""] | float,
    *,
    fixed: bool,
    diagonal: bool = False,
) -> Float[Tensor, " b"]:
    """L_ls of each item: neg times the mean |cos| of its class's prompts with attribute prompts.

    In the code the item reads all classes of template number y; fixed, all templates of class y.
    ``diagonal`` compares each class prompt with the attribute prompt of its own number and
    template only, the code's ``diag_spurious``. Raises EmbedcalError where C > T, or where
    ``diagonal`` and A differs from C or U from T.
    """
    c, t, _ = class_text.shape
    rows, columns = _template_major(class_text), _template_major(attribute_text)
    if diagonal:
        _same_count(len(attribute_text), c)
        if attribute_text.shape[1] != t:
            raise EmbedcalError(
                "expected as many texts of every class as of every attribute value, found "
                f"{t} and {attribute_text.shape[1]}: leave out the diagonal, or the descriptions"
            )
        row = (rows * columns).sum(-1).abs()
    else:
        row = (rows @ columns.T).abs().mean(-1)
    return neg * _of_item(row, c, t, y, fixed=fixed)


def official_tracker(
    class_text: Float[Tensor, "C T d"],
    y: Int[Tensor, " b"],
    neg: Float[Tensor, ""] | float,
) -> Float[Tensor, " b"]:
    """What switching on experiment tracking (``--use_wandb``) adds to the loss of each item.

    Through the precedence of ``and`` over ``or``, L_ls then runs with the class prompts in the
    place of the attribute prompts too. It carries the weights of L_ls.
    """
    return official_spurious_language(class_text, class_text, y, neg, fixed=False)


def official_spurious_vision(
    images: Float[Tensor, "b d"],
    context_text: Float[Tensor, "A T d"],
    a: Int[Tensor, " b"],
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, " b"]:
    """L_vs of each image: CE(scale f M'^T, a), so image features come to predict the attribute.

    M is the mean over templates of the prompts that name a context ('bird on land'), and M' is M
    over its Frobenius norm: the norm of the whole matrix where that of each row was due, so the
    logits shrink by about sqrt(A). ``scale`` is the multiplier, exp(s).
    """
    mean = context_text.mean(1)  # (A, d)
    logits = scale * images @ (mean / torch.linalg.vector_norm(mean)).T
    return cross_entropy(logits, a)


def official_domain(
    context_text: Float[Tensor, "A T d"],
    a: Int[Tensor, " b"],
    pos: Float[Tensor, ""] | float,
    neg: Float[Tensor, ""] | float,
    *,
    n_classes: int,
    fixed: bool,
) -> Float[Tensor, " b"]:
    """The domain term of each item: L_lc over the context prompts, with the attribute as class.

    Raises EmbedcalError where the code's rows do not fall into C columns (A differs from C), or
    where A > T; neither when fixed.
    """
    if not fixed:
        _same_count(len(context_text), n_classes)
    return official_language(context_text, a, pos, neg, fixed=fixed)


def official_cross(
    images: Float[Tensor, "b d"],
    class_text: Float[Tensor, "C T d"],
    y: Int[Tensor, " b"],
    pos: Float[Tensor, ""] | float,
    neg: Float[Tensor, ""] | float,
    *,
    fixed: bool,
) -> Float[Tensor, " b"]:
    """The cross-modal term of each image: its block with all class prompts.

    In the code every image has the label 1 (the constant column of :func:`official_image`) and
    prompt r the label r // T. Fixed: the image's class, and r % C.
    """
    c, t, _ = class_text.shape
    labels = _flat_labels(c, t, fixed=fixed, like=y)
    rows = y if fixed else torch.ones_like(y)
    return similarity_block(images, _template_major(class_text), rows, labels, pos=pos, neg=neg)


def official_spurious_cross(
    images: Float[Tensor, "b d"],
    attribute_text: Float[Tensor, "A T d"],
    neg: Float[Tensor, ""] | float,
) -> Float[Tensor, " b"]:
    """The cross-modal part of the spurious branch: neg mean |cos| of an image and the prompts."""
    return neg * (images @ attribute_text.flatten(0, 1).T).abs().mean(-1)


def _template_major(text: Float[Tensor, "C T d"]) -> Float[Tensor, "R d"]:
    """Rows (T * C, d) in the order of the code: every class of a template, then the next one."""
    return text.transpose(0, 1).flatten(0, 1)


def _flat_labels(c: int, t: int, *, fixed: bool, like: Tensor) -> Int[Tensor, " R"]:
    """A label for each of the T * C rows: the class, or what the code takes for it."""
    rows = torch.arange(t * c, device=like.device, dtype=like.dtype)
    return rows % c if fixed else rows // t


def _of_item(
    row: Float[Tensor, " R"], c: int, t: int, y: Int[Tensor, " b"], *, fixed: bool
) -> Float[Tensor, " b"]:
    """What each item reads of the T * C rows: template number y, or class y when fixed."""
    if not fixed and c > t:
        raise EmbedcalError(
            f"expected no more classes than templates for the variant official, found {c} and {t}: "
            "use official_fixed, or more templates"
        )
    return row.reshape(t, c).mean(0 if fixed else 1).gather(0, y)


def _same_count(attributes: int, classes: int) -> None:
    if attributes != classes:
        raise EmbedcalError(
            f"expected as many attribute values as classes, found {attributes} and {classes}: "
            "leave out the domain term or the diagonal, or use official_fixed"
        )
