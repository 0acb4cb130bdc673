"""Grad-CAM of a vision transformer, by running its encoder again.

The layer is what the last block's first layer norm, ``ln_1``, gives: the last place where patches
still act on the class token, as pytorch-grad-cam has it for CLIP. After the block only the class
token is read, so that patches have no gradient there. Neither needs gradients before that layer,
so none are made: the memory is that of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.explaining.readout import Readout
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.encoders.clip import ClipEncoder


def from_pixels(
    encoder: ClipEncoder,
    pixels: npt.NDArray[np.uint8],
    readout: Readout,
    classes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Maps (b, C, h, w) on the grid of patches, not normalised, and logits (b, K).

    ``pixels`` (b, H, W, 3) as the encoder's ``prepare`` gives them. The class token is dropped.
    Raises EmbedcalError for a tower that is not open_clip's ``VisionTransformer``.
    """
    import torch
    from open_clip.transformer import VisionTransformer

    from embedcal.explaining.gradcam import class_gradients, class_maps

    tower: Any = encoder._model.visual  # what is hooked is shared with the encoder's trunk
    last: Any = None
    if isinstance(tower, VisionTransformer):
        last = tower.transformer.resblocks[-1]
    if not hasattr(last, "ln_1"):
        raise EmbedcalError(
            f"expected a ViT or a ResNet of CLIP's, found {type(tower).__name__} in "
            f"{encoder.meta.name}: it cannot be explained"
        )
    height, width = map(int, tower.grid_size)
    layer: list[Tensor] = []

    def cut(module: object, given: object, out: Tensor) -> Tensor:
        del module, given
        layer.append(out.detach().requires_grad_())
        return layer[0]

    encoder._model.requires_grad_(requires_grad=False)  # the graph begins at the layer
    hook = last.ln_1.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = readout.logits(encoder._image_trunk(pixels))
            gradients = class_gradients(logits, layer[0], classes)  # (b, C, 1 + h w, w)
    finally:
        hook.remove()
    with torch.no_grad():
        patches = layer[0][:, -height * width :]
        alpha = gradients[:, :, -height * width :].mean(dim=2)
        return class_maps(patches, alpha, (height, width)), logits.detach()
