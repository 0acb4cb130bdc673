"""From a name to an encoder: OpenAI's names, open_clip's, the tiny CLIP, and plug-ins."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.encoders import plugins
from embedcal.encoders.base import Encoder
from embedcal.encoders.compiled import TORCH, check_runtime
from embedcal.errors import did_you_mean
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedcal.encoders.clip import Tokenizer

OPENAI = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "RN50x4": "RN50x4-quickgelu",
    "RN50x16": "RN50x16-quickgelu",
    "RN50x64": "RN50x64-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu",
}
TINY = "tiny"
HUB = "hf-hub:"
QUICK = "-quickgelu"
PRECISIONS = ("fp32", "bf16", "fp16")
AUTO = "auto"

logger = logging.getLogger(__name__)


def backbones() -> list[str]:
    """Names for help and completion: tiny, OpenAI's, and installed plug-ins. Imports no torch.

    ``load_encoder`` knows all of open_clip's names besides.
    """
    return [TINY, *OPENAI, *sorted(plugins.installed())]


def load_encoder(
    backbone: str,
    *,
    pretrained: str | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    runtime: str = TORCH,
) -> Encoder:
    """The encoder that a name stands for, in eval mode on ``device``.

    ``backbone``: "tiny"; a name of OpenAI's ("RN50", "ViT-L/14@336px"), which means OpenAI's
    weights with QuickGELU unless ``pretrained`` says otherwise; a name of open_clip's
    ("ViT-B-32") with ``pretrained``, or both in one ("ViT-B-32,laion2b_s34b_b79k");
    "hf-hub:ORG/REPO"; an installed plug-in; or "path/to/file.py:Name".
    ``pretrained``: a tag of open_clip's, a file, or "random:SEED".
    ``precision``: that of the trunks, "fp32", "bf16", "fp16"; "auto" is bf16 where the device has
    matrix units for it (``fast_in_bf16``), else fp32, and always fp32 for a plug-in or another
    runtime. ``meta.precision`` says which.
    ``runtime``: what runs the image trunk: "torch"; "openvino" or "onnxruntime", on the CPU in
    fp32, held to torch's features on the first batch. ``meta.precision`` ends in its name.

    Raises EmbedcalError for an unknown name, a QuickGELU mismatch, weights that do not fit, are
    not to be trusted, or cannot be had without a network, and for a runtime that is not installed
    or does not go with the device or the precision.

    Example:
        >>> import embedcal
        >>> encoder = embedcal.load_encoder("tiny")
        >>> encoder.meta.name, encoder.meta.precision
        ('tiny', 'fp32')
    """
    if precision not in (*PRECISIONS, AUTO):
        raise EmbedcalError(
            f"expected a precision among {', '.join((*PRECISIONS, AUTO))}, found '{precision}': "
            "take fp32, or auto, which is bf16 where the device is made for it"
        )
    check_runtime(runtime)
    if runtime != TORCH and precision not in ("fp32", AUTO):
        raise EmbedcalError(
            f"expected --precision fp32 with --runtime {runtime}, found {precision}: drop one of "
            "them"
        )
    if plugins.is_file(backbone):
        _refuse_pretrained(backbone, pretrained)
        return plugins.from_file(backbone, _offers(backbone, precision, device, runtime))
    name, comma, tag = backbone.partition(",")
    if comma:
        if pretrained not in (None, tag):
            raise EmbedcalError(
                f"expected one source of weights, found '{tag}' in --backbone and '{pretrained}' "
                "in --pretrained: drop one"
            )
        pretrained = tag
    if name not in OPENAI and name != TINY and name in plugins.installed():
        _refuse_pretrained(name, pretrained)
        return plugins.from_entry_point(name, _offers(name, precision, device, runtime))
    if runtime != TORCH:
        precision = f"fp32-{runtime}"
    return _clip(name, pretrained, precision, device)


def _offers(backbone: str, precision: str, device: str, runtime: str) -> dict[str, str]:
    """What a plug-in is handed, which runs its own code in its own way."""
    if runtime != TORCH:
        raise EmbedcalError(
            f"expected --runtime torch with {backbone}, which runs its own code, found {runtime}: "
            "drop it"
        )
    return {"device": device, "precision": "fp32" if precision == AUTO else precision}


def fast_in_bf16(device: str) -> bool:
    """Whether a device of torch's multiplies matrices in bfloat16 by units made for that.

    CUDA devices from Ampere on, and CPUs with AMX. Others are as slow as in float32, or slower.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def _refuse_pretrained(backbone: str, pretrained: str | None) -> None:
    if pretrained is not None:
        raise EmbedcalError(
            f"expected no --pretrained with {backbone}, which brings its own weights, found "
            f"'{pretrained}': drop it"
        )


def _clip(name: str, pretrained: str | None, precision: str, device: str) -> Encoder:
    with _quiet():
        _check_device(device)
        from embedcal.encoders.clip import ClipEncoder

        if precision == AUTO:
            precision = "bf16" if fast_in_bf16(device) else "fp32"
        model, tokenizer, name, weights, preprocessing = _build(name, pretrained)
        return ClipEncoder(
            model,
            tokenizer,
            name=name,
            weights=weights,
            preprocessing=preprocessing,
            device=device,
            precision=precision,
        )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        found = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
        raise EmbedcalError(
            f"expected a device of this machine, found '{device}': use {' or '.join(found)}"
        ) from None


_Built = tuple["nn.Module", "Tokenizer", str, str, dict[str, Any] | None]


def _build(name: str, pretrained: str | None) -> _Built:
    """(model in float32 on the CPU, tokenizer, open_clip's name, weights, preprocessing)."""
    import open_clip

    if name == TINY:
        return _tiny(pretrained)
    if name.startswith(HUB):
        _refuse_pretrained(name, pretrained)
        model = _or_explain(
            lambda: open_clip.create_model(name, require_pretrained=True, weights_only=True), name
        )
        return model, _tokenizer(name), name, "hub", None
    architecture = _architecture(name, pretrained)
    pretrained = pretrained or ("openai" if name in OPENAI else None)
    if pretrained is None:
        raise EmbedcalError(
            f"expected --pretrained with {name}, found none: give a file or one of its tags, "
            f"{_tags(architecture)}"
        )
    tokenizer = _tokenizer(architecture)
    if pretrained.startswith("random:"):
        return _random(architecture, pretrained), tokenizer, architecture, pretrained, None
    if _is_tag(architecture, pretrained):
        model = _or_explain(
            lambda: open_clip.create_model(architecture, pretrained, weights_only=True),
            f"{architecture},{pretrained}",
        )
        return model, tokenizer, architecture, pretrained.lower().replace("-", "_"), None
    path = Path(pretrained).expanduser()
    if not path.is_file():
        raise EmbedcalError(_no_such_weights(architecture, pretrained))
    from embedcal.encoders.weights import load_file

    model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False)
    load_file(model, path, architecture)
    return model, tokenizer, architecture, path.name, _preprocessing_of(architecture)


def _architecture(name: str, pretrained: str | None) -> str:
    """open_clip's name for what was asked; refused if its activation is not that of the weights.

    open_clip only warns of a QuickGELU mismatch, and users have published numbers from it.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    known = open_clip.list_models()
    architecture = OPENAI.get(name, name.replace("/", "-"))
    if architecture not in known:
        names = dict.fromkeys([*backbones(), *known])  # RN50 is a name of both
        hint = did_you_mean(name, names, "open_clip has no such model")
        raise EmbedcalError(f"expected the name of a backbone, found '{name}': {hint}")
    twin = (
        architecture.removesuffix(QUICK) if architecture.endswith(QUICK) else architecture + QUICK
    )
    tag = pretrained or ""
    facts = get_pretrained_cfg(architecture, tag) or get_pretrained_cfg(twin, tag)
    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
    wanted = bool(facts.get("quick_gelu", False))
    if not facts or wanted == quick:
        return architecture
    remedy = f"use --backbone {twin}" if twin in known else "give the weights as a file"
    raise EmbedcalError(
        f"expected a model {_with(quick=wanted)} QuickGELU for the weights '{pretrained}', found "
        f"{name}, which is one {_with(quick=quick)}: {remedy}"
    )


def _with(*, quick: bool) -> str:
    return "with" if quick else "without"


def _is_tag(architecture: str, pretrained: str) -> bool:
    from open_clip.pretrained import is_pretrained_cfg

    return bool(is_pretrained_cfg(architecture, pretrained))


def _tags(architecture: str) -> str:
    """The tags whose weights fit, a handful of them; the rest is a number."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not architecture.endswith(QUICK):
        quick = set(open_clip.list_pretrained_tags_by_model(architecture + QUICK))
        tags = [tag for tag in tags if tag not in quick]
    rest = f" and {len(tags) - 6} more" if len(tags) > 6 else ""
    return (", ".join(tags[:6]) or "of which it has none") + rest


def _no_such_weights(architecture: str, pretrained: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    hint = did_you_mean(pretrained, tags, f"tags: {_tags(architecture)}")
    return (
        f"expected a tag of {architecture}, a file, or random:SEED as --pretrained, found "
        f"'{pretrained}': {hint}"
    )


def _random(architecture: str, pretrained: str) -> nn.Module:
    import open_clip
    import torch

    from embedcal.encoders.weights import randomise

    number = pretrained.removeprefix("random:")
    if not number.isdecimal():
        raise EmbedcalError(
            f"expected random:SEED with a whole number, found '{pretrained}': write, say, random:0"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(number))
        model: nn.Module = open_clip.create_model(
            architecture, load_weights=False, pretrained_text=False
        )
    randomise(model, int(number))
    return model


def _tiny(pretrained: str | None) -> _Built:
    _refuse_pretrained(TINY, pretrained)
    from embedcal.encoders.tiny import model as tiny

    seen: set[str] = set()

    def tokenize(texts: list[str]) -> Tensor:
        """Says once of each word that the model never saw: such words all look alike to it."""
        unknown = {word for text in texts for word in tiny.unknown_words(text)} - seen
        if unknown:
            seen.update(unknown)
            logger.warning("the tiny CLIP does not know: %s", ", ".join(sorted(unknown)))
        return tiny.tokenize(texts)

    return tiny.load(), tokenize, TINY, "embedded", {"size": 64}


def _tokenizer(name: str) -> Tokenizer:
    import open_clip

    tokenizer: Tokenizer = _or_explain(lambda: open_clip.get_tokenizer(name), name)
    return tokenizer


def _preprocessing_of(architecture: str) -> dict[str, Any] | None:
    """How pictures are prepared for weights from a file, which does not say.

    What all of the architecture's published weights agree on (SigLIP's are not CLIP's), else
    open_clip's default.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    keys = ("mean", "std", "interpolation", "resize_mode")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    cfgs = [{k: get_pretrained_cfg(architecture, tag)[k] for k in keys} for tag in tags]
    return cfgs[0] if cfgs and all(cfg == cfgs[0] for cfg in cfgs) else None


def _or_explain(fetch: Callable[[], Any], what: str) -> Any:
    """Whatever goes wrong while open_clip fetches something, in one line with the ways out."""
    try:
        return fetch()
    except Exception as error:
        logger.debug("open_clip failed on %s", what, exc_info=True)
        found = " ".join(str(error).split())
        raise EmbedcalError(
            f"expected the files of {what} on this machine or a network to fetch them, found "
            f"neither ({found[:160]}{'...' * (len(found) > 160)}): give --pretrained FILE, or run "
            "once where there is a network"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what open_clip logs at the root and warns of; its news are errors of ours here.

    ``logging.warning`` on a root without handlers installs one for the whole process; the null
    handler prevents that.
    """
    root, hub, null = (
        logging.getLogger(),
        logging.getLogger("huggingface_hub"),  # tells of every retry
        logging.NullHandler(),
    )
    levels = root.level, hub.level
    root.addHandler(null)
    root.setLevel(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(levels[0])
        hub.setLevel(levels[1])
        root.removeHandler(null)
