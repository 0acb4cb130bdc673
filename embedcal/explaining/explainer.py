"""Maps of any rows of a cache under one head, from cached tokens or by encoding again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.explaining.readout import Readout, head_of, readout
from embedcal.explaining.trunk import Layer, is_last, stage
from embedcal.pictures import Pictures
from embedcal.types import EmbedcalError, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.encoders.clip import ClipEncoder
    from embedcal.heads import Head
    from embedcal.runs import Run

ELEMENTS = 2**25  # numbers in the largest tensors of one batch together: 128 MiB
IMAGES = 32  # at most so many are encoded at once
BEHIND = 2**28  # numbers that they may leave behind for gradients: 1 GiB
HEADS = 32  # of an attention pool, for the estimate of memory: RN50's


@dataclass(frozen=True)
class Explainer:
    """What turns rows into maps: a head's readout, and the encoder where it has to run again.

    ``layer`` is None where the maps are of tokens, cached or not.
    """

    cache: FeatureCache
    readout: Readout
    device: str
    encoder: ClipEncoder | None = None
    pictures: Pictures | None = None
    layer: Layer | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the encoder's input."""
        height, width = self.cache.meta.preprocessing["size"]
        return int(height), int(width)

    def batches(
        self, rows: IntArray, classes: Sequence[int]
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Places among ``rows``, enlarged maps (b, C, H, W) in [0, 1], and logits (b, K).

        The memory is bounded whatever the number of rows.
        """
        import torch

        from embedcal.explaining.gradcam import enlarged

        step = self._step(len(classes))
        for start in range(0, len(rows), step):
            places = slice(start, min(start + step, len(rows)))
            maps, logits = self._coarse(rows[places], classes)
            with torch.no_grad():
                yield places, enlarged(maps, self.size), logits

    def _coarse(self, rows: IntArray, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        import torch

        if self.encoder is None:
            tokens = self.cache.tokens(rows)
        else:
            assert self.pictures is not None
            pixels = self.pictures.pixels(rows, self.encoder.prepare)
            if self.layer is not None:
                from embedcal.explaining.trunk import from_pixels

                return from_pixels(self.encoder, pixels, self.readout, classes, self.layer)
            tokens = self.encoder.images(pixels, ["tokens"])["tokens"]
        return self.readout.from_tokens(torch.from_numpy(tokens).to(self.device), classes)

    def _step(self, n_classes: int) -> int:
        """Rows at once."""
        height, width = self.size
        channels = self.cache.meta.shapes.get("pooled", (0,))[0]
        each = n_classes * (4 * height * width + 3 * HEADS * channels) + 3 * height * width
        step = max(1, ELEMENTS // each)
        if self.layer is not None:
            step = min(step, max(1, BEHIND // self.layer.elements))
        return step if self.encoder is None else min(step, IMAGES)


def explainer(
    run: Run | None,
    cache: FeatureCache,
    *,
    pictures: Pictures | None,
    pretrained: str | None = None,
    device: str = "auto",
    layer: str | None = None,
) -> Explainer:
    """The explainer of a run's head, or of zero-shot for None; see ``explainer_of``."""
    return explainer_of(
        head_of(run, cache),
        cache,
        pictures=pictures,
        pretrained=pretrained,
        device=device,
        layer=layer,
    )


def explainer_of(
    head: Head,
    cache: FeatureCache,
    *,
    pictures: Pictures | None,
    pretrained: str | None = None,
    device: str = "auto",
    layer: str | None = None,
) -> Explainer:
    """The explainer of a head over a cache.

    Cached tokens are used where there are any and the layer is theirs; the encoder is loaded only
    where it is not so, and then ``pictures`` are needed. Raises EmbedcalError for a layer that the
    encoder lacks, and where something between tokens and head is missing.
    """
    from embedcal.heads import torch_device

    place = torch_device(device)
    reads = readout(head, cache.projection(), place)
    if from_tokens(cache, layer):
        return Explainer(cache, reads, place)
    from embedcal.explaining.encoder import encoder_of
    from embedcal.explaining.trunk import layer_of

    assert pictures is not None
    encoder = encoder_of(cache, pretrained, place)
    closed = is_resnet(cache) and is_last(layer)  # a closed form is at hand for a ResNet's last
    chosen = None if closed else layer_of(encoder, layer)
    return Explainer(cache, reads, place, encoder, pictures, chosen)


def is_resnet(cache: FeatureCache) -> bool:
    """Whether the encoder pools its last map by attention, as CLIP's ResNets do."""
    return any(name.startswith("/projection/attnpool") for name in cache.stored.arrays)


def from_tokens(cache: FeatureCache, layer: str | None) -> bool:
    """Whether the cache alone gives the maps: it has tokens, and they are the layer's output."""
    return "tokens" in cache.meta.levels and is_last(layer)


def check_encoder(cache: FeatureCache, layer: str | None = None) -> None:
    """EmbedcalError for features that were imported, for encoders that are no CLIP's, and for a
    layer that a ResNet lacks (a ViT is asked when it is loaded)."""
    size = cache.meta.preprocessing.get("size")
    split = "/projection/image_weight" in cache.stored.arrays
    if not split or not isinstance(size, list | tuple) or len(size) != 2:
        raise EmbedcalError(
            "expected a cache made with a ViT or a ResNet of open_clip's for Grad-CAM, found "
            f"{printable(cache.meta.backbone)} in {cache.meta.path.name}: cache with one"
        )
    if layer is not None and is_resnet(cache):
        stage(layer)


def checked_classes(classes: Sequence[int] | None, cache: FeatureCache) -> tuple[int, ...]:
    """Classes that the cache has, all of them for None."""
    asked = tuple(range(cache.n_classes)) if classes is None else tuple(classes)
    wrong = [c for c in asked if not 0 <= c < cache.n_classes]
    if wrong or not asked:
        found = ", ".join(map(str, wrong)) or "none"
        raise EmbedcalError(
            f"expected classes from 0 to {cache.n_classes - 1}, found {found}: name some of the "
            "cache's"
        )
    return asked


def checked_rows(rows: Sequence[int] | IntArray, cache: FeatureCache) -> IntArray:
    """Rows (n,) of the cache that were encoded, at least one, in the order asked for."""
    asked = np.asarray(rows, dtype=np.int64).reshape(-1)
    if not len(asked) or asked.min() < 0 or asked.max() >= len(cache):
        found = "none" if not len(asked) else f"{asked.min()} to {asked.max()}"
        raise EmbedcalError(
            f"expected rows between 0 and {len(cache) - 1}, found {found}: name rows of "
            f"{cache.meta.path.name}"
        )
    unreadable = asked[cache.samples.status[asked] != 0]
    if len(unreadable):
        raise EmbedcalError(
            f"expected rows whose image was encoded, found row {unreadable[0]}, which could not "
            f"be read ({cache.samples.reasons[unreadable[0]]}): leave it out"
        )
    return asked
