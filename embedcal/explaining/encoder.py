"""The encoder that a cache was made with, loaded again for gradients through its trunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedcal.cache import FeatureCache
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.encoders.clip import ClipEncoder


def encoder_of(cache: FeatureCache, pretrained: str | None, device: str) -> ClipEncoder:
    """The cache's encoder in float32, since gradients underflow in less, on a device of torch's.

    ``pretrained`` names the file of the weights where the cache was made from one; the cache
    keeps the name of that file but not its folder. Raises EmbedcalError where the encoder is not
    of open_clip's, and where weights or preprocessing differ from those of the cache.
    """
    from embedcal.encoders.again import check_preprocessing, encoder_again

    meta = cache.meta
    if not meta.library.startswith("open_clip "):
        raise EmbedcalError(
            f"expected an encoder of open_clip's for Grad-CAM, found {meta.backbone}: only a cache "
            "of such an encoder can be explained"
        )
    encoder = encoder_again(
        meta,
        pretrained=pretrained,
        precision="fp32",
        device=device,
        remedy="give their file with --pretrained",
    )
    check_preprocessing(encoder, meta)
    from embedcal.encoders.clip import ClipEncoder

    assert isinstance(encoder, ClipEncoder)
    return encoder
