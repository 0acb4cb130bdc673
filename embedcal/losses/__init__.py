"""Losses and group weights as pure functions of tensors; none keeps state, none logs.

Every function maps over stacked runs (``torch.func.vmap``): shapes never depend on the data.
"""

from embedcal.losses.calibration import (
    ema_centroids,
    enqueue,
    match_targets,
    similarity_loss,
    targeted_contrast,
)
from embedcal.losses.classification import cross_entropy
from embedcal.losses.contrastive import (
    image_contrast,
    info_nce,
    language_contrast,
    paired,
    same_label,
    set_contrast,
)
from embedcal.losses.groups import (
    adjusted,
    count_adjustment,
    greedy_cvar,
    group_means,
    group_weights,
)
from embedcal.losses.similarity import (
    official_cross,
    official_domain,
    official_image,
    official_language,
    official_spurious_cross,
    official_spurious_language,
    official_spurious_vision,
    official_tracker,
    similarity_block,
)

__all__ = [
    "adjusted",
    "count_adjustment",
    "cross_entropy",
    "ema_centroids",
    "enqueue",
    "greedy_cvar",
    "group_means",
    "group_weights",
    "image_contrast",
    "info_nce",
    "language_contrast",
    "match_targets",
    "official_cross",
    "official_domain",
    "official_image",
    "official_language",
    "official_spurious_cross",
    "official_spurious_language",
    "official_spurious_vision",
    "official_tracker",
    "paired",
    "same_label",
    "set_contrast",
    "similarity_block",
    "similarity_loss",
    "targeted_contrast",
]
