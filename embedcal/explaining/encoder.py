"""The encoder that a cache was made with, loaded again from the cache's facts and held to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedcal.cache import FeatureCache
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.encoders.clip import ClipEncoder

TINY, HUB = "tiny", "hf-hub:"


def encoder_of(cache: FeatureCache, pretrained: str | None, device: str) -> ClipEncoder:
    """The cache's encoder in float32, since gradients underflow in less, on a device of torch's.

    ``pretrained`` names the file of the weights where the cache was made from one; the cache
    keeps the name of that file but not its folder. Raises EmbedcalError where the encoder is not
    of open_clip's, and where weights or preprocessing differ from those of the cache.
    """
    from embedcal.encoders.load import load_encoder

    meta = cache.meta
    if not meta.library.startswith("open_clip "):
        raise EmbedcalError(
            f"expected an encoder of open_clip's for Grad-CAM, found {meta.backbone}: only a cache "
            "of such an encoder can be explained"
        )
    own = meta.backbone == TINY or meta.backbone.startswith(HUB)
    weights = None if own else pretrained or meta.weights
    try:
        encoder = load_encoder(meta.backbone, pretrained=weights, device=device)
    except EmbedcalError as error:
        if pretrained is None and not own:
            raise EmbedcalError(
                f"expected the weights '{meta.weights}' that {meta.path.name} was made with, found "
                f"none that can be loaded ({error}): give their file with --pretrained"
            ) from None
        raise
    if encoder.meta.weights_sha256 != meta.weights_sha256:
        raise EmbedcalError(
            f"expected the weights that {meta.path.name} was made with, found others in "
            f"{encoder.meta.weights}: give their file with --pretrained"
        )
    wanted = {key: value for key, value in meta.preprocessing.items() if key != "center_crop"}
    if dict(encoder.meta.preprocessing) != wanted:
        raise EmbedcalError(
            f"expected the preprocessing that {meta.path.name} was made with, found another in "
            f"{encoder.meta.library}: cache again"
        )
    from embedcal.encoders.clip import ClipEncoder

    assert isinstance(encoder, ClipEncoder)
    return encoder
