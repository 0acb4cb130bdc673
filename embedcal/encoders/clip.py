"""Any open_clip model as an encoder: frozen trunk, projection, and facts about both.

The split is made by taking the projection away from a view of the model and calling open_clip's
own forward on what is left, so that a tower is never written down a second time. The exception
is the ResNet: its trunk is folded for speed and its attention pool is ``attention_pool``.
Everything after the trunk is computed in float32 whatever the precision of the trunk, hence
``embedding == projection(pooled)`` holds for every precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer, VisionTransformer
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize, ToTensor

from embedcal.encoders.attnpool import attention_pool
from embedcal.encoders.base import EncoderMeta
from embedcal.encoders.compiled import EXTRAS, Elsewhere, check_runtime, version
from embedcal.encoders.context import refuse_long
from embedcal.encoders.decode import refuse_size
from embedcal.encoders.digest import state_sha256
from embedcal.encoders.fold import fold
from embedcal.threads import side_by_side, threads
from embedcal.types import LEVELS, EmbedcalError, FloatArray, Level, Projection

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS |= {f"fp32-{runtime}": None for runtime in EXTRAS}
LARGE = 20_000_000  # parameters from which several threads pay
SLICE = 16  # images that one thread of a CPU takes through a large trunk
TEXT_BATCH = 256  # prompts at once: 80 templates times classes would not fit at ViT-L width

Tokenizer = Callable[[list[str]], Tensor]


def _without(module: nn.Module, name: str) -> nn.Module:
    """A view of ``module`` that shares all its weights and has None in place of ``name``."""
    view = copy.copy(module)
    view._parameters = dict(module._parameters)
    view._modules = dict(module._modules)
    setattr(view, name, None)
    if getattr(view, "output_tokens", False):
        setattr(view, "output_tokens", False)  # noqa: B010 - CoCa's towers give tokens as well
    return view


class ClipEncoder:
    """An open_clip model split into trunk and projection, in eval mode, without gradients.

    Vision towers: ``VisionTransformer`` (pooled = its class token, mean token or attentional pool
    as ``proj`` takes it; embedding = pooled @ proj), ``ModifiedResNet`` (tokens = the last map,
    (s * s, w) row-major without the mean token; pooled = the attention pool before ``c_proj``;
    embedding = after it). Any other tower (timm) gives its embedding only and has no projection.
    Text towers: open_clip's own transformer (pooled = the EOT or class state after ``ln_final``,
    embedding = after ``text_projection``), or embedding only. A tower that gives several vectors is
    refused.

    ``precision`` is that of the trunks: "fp32", or "bf16"/"fp16" by autocast. "fp32-openvino" and
    "fp32-onnxruntime" run the image trunk in that runtime, on the CPU, from its first batch on,
    which torch runs too: EmbedcalError where the two differ. Gradients are torch's in any case.
    ``preprocessing`` overrides what the model carries, as open_clip's ``PreprocessCfg`` fields.
    ``model`` is set to eval mode and moved to ``device``, and is otherwise left as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        name: str,
        weights: str,
        preprocessing: Mapping[str, Any] | None = None,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        if precision not in PRECISIONS:
            raise EmbedcalError(
                f"expected a precision among {', '.join(PRECISIONS)}, found '{precision}': "
                "take fp32, the default"
            )
        self._name = name
        self._device = torch.device(device)
        self._dtype = PRECISIONS[precision]
        runtime = precision.partition("-")[2]
        if runtime:
            check_runtime(runtime, self._device.type)
        sha256 = state_sha256(model.state_dict())  # before anything is folded or moved
        self._model: Any = model.eval().to(self._device)
        self._large = sum(p.numel() for p in model.parameters()) >= LARGE
        self._tokenizer = tokenizer
        self._preprocessing = _preprocessing(model, preprocessing)
        transform = image_transform_v2(self._preprocessing, is_train=False)
        *pixel_steps, to_tensor, normalize = transform.transforms
        assert isinstance(to_tensor, ToTensor)
        assert isinstance(normalize, Normalize)
        self._to_pixels = Compose(pixel_steps)
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self._device).view(1, 3, 1, 1)
            for v in (normalize.mean, normalize.std)
        )
        self._split_vision()
        self._elsewhere = Elsewhere(self._trunk, runtime, self._size) if runtime else None
        self._split_text()
        self.meta = EncoderMeta(
            name=name,
            weights=weights,
            weights_sha256=sha256,
            library=f"open_clip {open_clip.__version__}" + (runtime and f", {version(runtime)}"),
            preprocessing=_jsonable(self._preprocessing),
            precision=precision,
            shapes=self._image_shapes(),
            text_shapes=self._text_shapes(),
            context_length=int(getattr(model, "context_length", 0)),
        )

    # -- the split ------------------------------------------------------------------------------

    def _split_vision(self) -> None:
        tower = self._model.visual
        self._attnpool: dict[str, Tensor] = {}
        self._image_weight: Tensor | None = None  # (d, w)
        self._image_bias: Tensor | None = None  # (d,)
        self._trunk: nn.Module = tower
        if isinstance(tower, ModifiedResNet):
            self._trunk = fold(tower)
            self._attnpool = {k: v.detach() for k, v in tower.attnpool.named_parameters()}
            self._heads = int(tower.attnpool.num_heads)
            self._image_weight = self._attnpool["c_proj.weight"]
            self._image_bias = self._attnpool["c_proj.bias"]
        elif isinstance(tower, VisionTransformer):
            self._trunk = _without(tower, "proj")
            if tower.proj is not None and tower.pool_type != "none":
                self._image_weight = tower.proj.detach().T

    def _split_text(self) -> None:
        model = self._model
        self._text_weight: Tensor | None = None  # (d, wt)
        self._text_bias: Tensor | None = None
        own = isinstance(getattr(model, "text", None), TextTransformer)
        holder = model.text if own else model
        projection = getattr(holder, "text_projection", None)
        self._text_trunk: Callable[[Tensor], Tensor] = model.encode_text
        if isinstance(model, open_clip.CoCa):
            self._text_trunk = partial(model.encode_text, normalize=False)
        if not (own or isinstance(model, open_clip.CLIP)):
            return
        view: Any = _without(holder, "text_projection")
        self._text_trunk = view if own else view.encode_text
        pooling = holder.pool_type if own else holder.text_pool_type
        if projection is None or pooling == "none":
            return
        if isinstance(projection, nn.Linear):
            self._text_weight = projection.weight.detach()
            self._text_bias = None if projection.bias is None else projection.bias.detach()
        else:
            self._text_weight = projection.detach().T

    def _image_shapes(self) -> dict[Level, tuple[int, ...]]:
        if self._image_weight is None:
            height, width = self._size
            probe = np.zeros((1, height, width, 3), np.uint8)
            with torch.inference_mode():
                return {"embedding": self._vector(self._image_trunk(probe), "an image")}
        d, w = self._image_weight.shape
        shapes: dict[Level, tuple[int, ...]] = {"pooled": (w,), "embedding": (d,)}
        if self._attnpool:
            cells = self._attnpool["positional_embedding"].shape[0] - 1
            shapes = {"tokens": (cells, w), **shapes}
        return shapes

    def _text_shapes(self) -> dict[str, tuple[int, ...]]:
        if self._text_weight is None:
            with torch.inference_mode():
                found = self._text_features(["a"])["embedding"]
                return {"embedding": self._vector(found, "a prompt")}
        d, w = self._text_weight.shape
        return {"pooled": (w,), "embedding": (d,)}

    def _vector(self, found: Tensor, of: str) -> tuple[int, ...]:
        if found.ndim != 2:
            raise EmbedcalError(
                f"expected one vector {of} from {self._name}, found shape "
                f"{tuple(found.shape[1:])}: choose a model whose towers pool their tokens"
            )
        return tuple(found.shape[1:])

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self._preprocessing.size
        return int(height), int(width)

    # -- images ---------------------------------------------------------------------------------

    def prepare(self, image: Image) -> npt.NDArray[np.uint8]:
        """open_clip's own evaluation transform up to ToTensor: (h, w, 3) uint8, to the pixel.

        Raises UnreadableImageError where resizing a very long, thin picture would need more
        pixels than PIL's limit.
        """
        if self._preprocessing.resize_mode == "shortest":
            grow = max(self._size) / max(1, min(image.size))
            refuse_size(int(image.width * grow), int(image.height * grow), "a resized image")
        if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.copy()  # the same pixels without PIL's warning about transparency
            del image.info["transparency"]
        return np.array(self._to_pixels(image), dtype=np.uint8)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def _normalised(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Pixels -> (b, 3, h, w) float32, normalised on the device as open_clip does."""
        # Bytes travel, a quarter of the floats. A GPU fetches them from pinned memory while
        # this thread goes on.
        pinned = self._device.type == "cuda"
        x = torch.tensor(pixels, pin_memory=pinned).to(self._device, non_blocking=pinned)
        x = x.permute(0, 3, 1, 2)
        x = x.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        return x if self._attnpool else x.contiguous()  # channels last pays for convolutions only

    def _image_trunk(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Pixels -> the output of torch's trunk in float32."""
        with self._autocast(), _no_tf32(self._device):
            return cast(Tensor, self._trunk(self._normalised(pixels))).float()

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        """Pixels (b, h, w, 3) uint8 -> float32 features of each level asked for."""
        absent = [level for level in levels if level not in self.meta.shapes]
        if absent:
            raise EmbedcalError(_absent(absent, self.meta))
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (*self._size, 3):
            raise EmbedcalError(
                f"expected pixels (b, {self._size[0]}, {self._size[1]}, 3) uint8 for "
                f"{self.meta.name}, found {pixels.shape} {pixels.dtype}: use the encoder's prepare"
            )
        features = partial(self._image_features, levels=levels)
        if self._large and self._device.type == "cpu" and self._elsewhere is None:
            starts = range(0, max(1, len(pixels)), SLICE)
            parts = side_by_side(features, [pixels[i : i + SLICE] for i in starts], spare=True)
            return {level: np.concatenate([p[level] for p in parts]) for level in parts[0]}
        with threads(shared=self._large):
            return features(pixels)

    def _image_features(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> dict[Level, FloatArray]:
        with torch.inference_mode():
            if self._elsewhere is None:
                out = self._image_trunk(pixels)
            else:
                every = partial(self._split, levels=tuple(self.meta.shapes))
                out = self._elsewhere(self._normalised(pixels), every)
            found = self._split(out, levels)
            return {level: found[level].cpu().numpy() for level in LEVELS if level in levels}

    def _split(self, out: Tensor, levels: Sequence[Level]) -> dict[Level, Tensor]:
        """The trunk's output -> features of the levels asked for, and of those on the way."""
        if self._image_weight is None:
            return {"embedding": out}
        features: dict[Level, Tensor] = {}
        if self._attnpool:
            out = out.flatten(2).transpose(1, 2)  # (b, s * s, w): already so in memory
            features["tokens"] = out
            if set(levels) == {"tokens"}:
                return features
            out = attention_pool(out, self._attnpool, self._heads)
        features["pooled"] = out
        features["embedding"] = nn.functional.linear(out, self._image_weight, self._image_bias)
        return features

    # -- text -----------------------------------------------------------------------------------

    def text(self, prompts: Sequence[str]) -> Mapping[str, FloatArray]:
        """Prompts, fully formatted -> {"pooled": (n, wt), "embedding": (n, d)} float32."""
        refuse_long(prompts, self._tokenizer, self.meta.context_length, self._name)
        if not prompts:
            return {k: np.zeros((0, *s), np.float32) for k, s in self.meta.text_shapes.items()}
        with torch.inference_mode(), threads(shared=self._large):
            parts = [
                self._text_features(list(prompts[i : i + TEXT_BATCH]))
                for i in range(0, len(prompts), TEXT_BATCH)
            ]
            return {k: torch.cat([p[k] for p in parts]).cpu().numpy() for k in parts[0]}

    def _text_features(self, prompts: list[str]) -> dict[str, Tensor]:
        with self._autocast():
            out = self._text_trunk(self._tokenizer(prompts).to(self._device)).float()
        if self._text_weight is None:
            return {"embedding": out}
        return {
            "pooled": out,
            "embedding": nn.functional.linear(out, self._text_weight, self._text_bias),
        }

    # -- the weights between --------------------------------------------------------------------

    def projection(self) -> Projection | None:
        """The weights between pooled and embedding; None where the image tower has no split.

        ``text_weight`` is None where the text tower has none, or projects with a bias, which a
        Projection does not hold.
        """
        if self._image_weight is None:
            return None
        scale = getattr(self._model, "logit_scale", None)
        return Projection(
            image_weight=_array(self._image_weight),
            image_bias=None if self._image_bias is None else _array(self._image_bias),
            text_weight=None
            if self._text_weight is None or self._text_bias is not None
            else _array(self._text_weight),
            logit_scale=None if scale is None else float(scale.detach()),
            attnpool={k: _array(v) for k, v in self._attnpool.items()},
            attnpool_heads=self._heads if self._attnpool else 0,
        )


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    """A copy of its own in float32, so that nobody writes into the model."""
    return np.array(tensor.float().cpu().numpy(), order="C", copy=True)


def _no_tf32(device: torch.device) -> AbstractContextManager[Any]:
    """fp32 means fp32: cuDNN would round convolutions to TF32 by default."""
    if device.type != "cuda":  # its switch is the process's, and threads share a CPU
        return nullcontext()
    return cast(AbstractContextManager[Any], torch.backends.cudnn.flags(allow_tf32=False))


def _preprocessing(model: nn.Module, given: Mapping[str, Any] | None) -> PreprocessCfg:
    carried = getattr(model.visual, "preprocess_cfg", None) or {}
    size = getattr(model.visual, "image_size", None)
    merged = {**({"size": size} if size else {}), **carried, **(given or {})}
    if isinstance(merged.get("size"), int):
        merged["size"] = (merged["size"], merged["size"])
    return PreprocessCfg(**{k: tuple(v) if isinstance(v, list) else v for k, v in merged.items()})


def _jsonable(config: PreprocessCfg) -> dict[str, Any]:
    facts = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    return {"decoder": "pillow", **facts}


def _absent(absent: Sequence[str], meta: EncoderMeta) -> str:
    if "tokens" in absent and "pooled" in meta.shapes:
        why = "the token level exists for CLIP's ResNets only"
    elif "pooled" in absent:
        why = (
            "only open_clip's VisionTransformer and ModifiedResNet towers can be split into "
            "trunk and projection"
        )
    else:
        why = "ask for those"
    return (
        f"expected levels among {', '.join(meta.shapes)} for {meta.name}, found "
        f"{', '.join(absent)}: {why}"
    )
