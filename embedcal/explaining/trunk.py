"""Grad-CAM at any layer of the trunk, by running the encoder again.

The graph begins at the layer: nothing before it needs gradients, so that none are kept. The logit
is that of the head, through whatever stands between the layer and it.

In a ResNet a layer is one of the four stages. In a ViT it is what a block's first layer norm,
``ln_1``, gives, by default the last block's: the last place where patches still act on the class
token, as pytorch-grad-cam has it for CLIP. After the block only the class token is read, so that
patches have no gradient there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.datasets.printable import printable
from embedcal.explaining.readout import Readout
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.encoders.clip import ClipEncoder

STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCK = re.compile(r"(?:transformer\.resblocks\.)?(\d{1,4})(?:\.ln_1)?")
# Numbers that one image leaves behind for the way back, as multiples of the layer's own size.
AFTER_STAGE = 12  # RN50 from layer1 on
AFTER_BLOCK = 16  # one block of a transformer: queries, keys, values and the wide hidden layer


@dataclass(frozen=True)
class Layer:
    """A place in a trunk. ``module``'s output is A; ``grid`` are a ViT's patches (h, w).

    ``elements`` is how many numbers an image leaves behind for the way back, about.
    """

    module: Any
    elements: int
    grid: tuple[int, int] | None = None


def is_last(layer: str | None) -> bool:
    """Whether a ResNet's cached tokens are this layer's output."""
    return layer is None or stage(layer) == STAGES[-1]


def stage(layer: str) -> str:
    """A ResNet's layer by name; EmbedcalError for any other."""
    name = layer.removeprefix("visual.")
    if name not in STAGES:
        raise EmbedcalError(
            f"expected a layer among {', '.join(STAGES)}, found '{printable(layer)}': take "
            f"{STAGES[-1]}, the last"
        )
    return name


def layer_of(encoder: ClipEncoder, layer: str | None) -> Layer:
    """The layer of that name in an encoder's trunk; None is the default.

    ``layer1`` to ``layer4`` (default) of a ResNet; the index of a ViT's block, or
    ``transformer.resblocks.INDEX.ln_1`` (default: the last). Raises EmbedcalError for a name that
    is neither, and for a tower that is neither of open_clip's.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    tower: Any = encoder._model.visual  # a ViT's is shared with the encoder's trunk
    height, width = encoder._size
    if isinstance(tower, ModifiedResNet):
        name = STAGES[-1] if layer is None else stage(layer)
        module: Any = getattr(encoder._trunk, name)  # folded: what is run, not what was loaded
        stride = 4 * 2 ** STAGES.index(name)
        own = (height // stride) * (width // stride) * module[-1].conv3.out_channels
        return Layer(module, AFTER_STAGE * own)
    blocks: Any = tower.transformer.resblocks if isinstance(tower, VisionTransformer) else ()
    if not len(blocks) or not hasattr(blocks[-1], "ln_1"):
        raise EmbedcalError(
            f"expected a ViT or a ResNet of CLIP's, found {type(tower).__name__} in "
            f"{encoder.meta.name}: cache with one of them"
        )
    index = _block(layer, len(blocks))
    h, w = map(int, tower.grid_size)
    own = h * w * int(blocks[index].ln_1.normalized_shape[0])
    return Layer(blocks[index].ln_1, AFTER_BLOCK * own * (len(blocks) - index), (h, w))


def from_pixels(
    encoder: ClipEncoder,
    pixels: npt.NDArray[np.uint8],
    readout: Readout,
    classes: Sequence[int],
    layer: Layer,
) -> tuple[Tensor, Tensor]:
    """Maps (b, C, h, w) on the layer's grid, not normalised, and logits (b, K).

    ``pixels`` (b, H, W, 3) as the encoder's ``prepare`` gives them. A ViT's class token is dropped.
    """
    import torch

    from embedcal.explaining.gradcam import class_gradients, class_maps
    from embedcal.threads import threads

    seen: list[Tensor] = []

    def cut(module: object, given: object, out: Tensor) -> Tensor:
        """The layer's output as a leaf; of a ViT's (b, 1 + h w', w) only the patches count."""
        del module, given
        whole = out.detach()
        if layer.grid is None:
            seen.append(whole.requires_grad_())
            return seen[0]
        patches = layer.grid[0] * layer.grid[1]
        seen.append(whole[:, -patches:].requires_grad_())
        return torch.cat([whole[:, :-patches], seen[0]], dim=1)

    encoder._model.requires_grad_(requires_grad=False)  # the graph begins at the layer
    encoder._trunk.requires_grad_(requires_grad=False)
    hook = layer.module.register_forward_hook(cut)
    try:
        with torch.enable_grad(), threads(shared=encoder._large):
            logits = readout.of_trunk(encoder._image_trunk(pixels))
            over = (2, 3) if layer.grid is None else (1,)
            alpha = class_gradients(logits, seen[0], classes, mean=over)
    finally:
        hook.remove()
    with torch.no_grad():
        cells = seen[0]
        if layer.grid is not None:
            return class_maps(cells, alpha, layer.grid), logits.detach()
        grid = (cells.shape[2], cells.shape[3])
        return class_maps(cells.flatten(2).transpose(1, 2), alpha, grid), logits.detach()


def _block(layer: str | None, count: int) -> int:
    """The index of a ViT's block."""
    if layer is None:
        return count - 1
    found = BLOCK.fullmatch(layer.removeprefix("visual."))
    if found is None or int(found[1]) >= count:
        raise EmbedcalError(
            f"expected a block from 0 to {count - 1}, as a number or as "
            f"transformer.resblocks.{count - 1}.ln_1, found '{printable(layer)}': take "
            f"{count - 1}, the last"
        )
    return int(found[1])
