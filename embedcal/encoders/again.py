"""The encoder that made some features, loaded again from what was noted of it and held to that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.encoders.base import Encoder

FILE = ".py:"  # in the name of an encoder that is code of the user's
CROP = "center_crop"  # what a cache adds to the preprocessing of its encoder
REMEDY = "name it with --backbone and --pretrained"


class Origin(Protocol):
    """Facts about the encoder of a cache, as ``CacheMeta`` has them; ``EncoderMeta`` says of what.

    ``path`` is the cache's, for messages. ``weights`` of a file are its name without the folder.
    ``weights_sha256`` is empty for features that were imported.
    """

    @property
    def path(self) -> Path: ...
    @property
    def backbone(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def weights_sha256(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def preprocessing(self) -> Mapping[str, Any]: ...


def encoder_again(
    origin: Origin,
    *,
    backbone: str | None = None,
    pretrained: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
    remedy: str = REMEDY,
) -> Encoder:
    """The encoder of ``origin`` on a device of torch's, its weights held to their SHA-256.

    ``backbone`` and ``pretrained`` replace the names that were noted, where these do not find it:
    weights from a file, a plug-in from a file. ``precision`` is by default that of the cache.
    ``remedy`` ends the messages: how the caller's user may say where the encoder is.

    Code in a file is never run because a cache names it: such an encoder must be named anew.
    Raises EmbedcalError for that, for what cannot be loaded, and for other weights.
    """
    from embedcal.encoders.load import HUB, PRECISIONS, TINY, load_encoder

    name = backbone or origin.backbone
    if backbone is None and FILE in name:
        raise EmbedcalError(
            f"expected --backbone for {origin.path.name}, whose encoder is code in a file "
            f"({name}): name that file"
        )
    own = backbone is not None or name == TINY or name.startswith(HUB)
    known = origin.precision if origin.precision in PRECISIONS else "fp32"
    try:
        encoder = load_encoder(
            name,
            pretrained=pretrained or (None if own else origin.weights or None),
            precision=precision or known,
            device=device,
        )
    except EmbedcalError as error:
        raise EmbedcalError(
            f"expected the encoder of {origin.path.name}, {origin.backbone} with the weights "
            f"'{origin.weights}', found none ({error}): {remedy}"
        ) from None
    found = encoder.meta.weights_sha256
    if origin.weights_sha256 and found != origin.weights_sha256:
        raise EmbedcalError(
            f"expected the weights that made {origin.path.name}, found others in "
            f"{encoder.meta.weights or name}: {remedy}"
        )
    return encoder


def check_preprocessing(encoder: Encoder, origin: Origin) -> None:
    """EmbedcalError where an encoder would prepare pictures otherwise than when they were cached.

    Text needs no such check. A crop before the preprocessing is the cache's own affair.
    """
    wanted = {key: value for key, value in origin.preprocessing.items() if key != CROP}
    if dict(encoder.meta.preprocessing) != wanted:
        raise EmbedcalError(
            f"expected the preprocessing that {origin.path.name} was made with, found another in "
            f"{encoder.meta.library}: cache again"
        )
