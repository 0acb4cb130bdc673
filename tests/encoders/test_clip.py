"""The split encoder against open_clip's own encode_image and encode_text, at true shapes."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import HFTokenizer

from embedcal.encoders.attnpool import attention_pool
from embedcal.encoders.base import Encoder
from embedcal.encoders.clip import SLICE, ClipEncoder
from embedcal.encoders.fold import fold
from embedcal.encoders.weights import randomise
from embedcal.types import EmbedcalError, Level

PROMPTS = ["a photo of a landbird.", "a bad photo of the waterbird on water.", "land", ""]

SMALL_TEXT = {"context_length": 77, "width": 64, "heads": 2, "layers": 1}
SMALL_VIT = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
SMALL_RESNET = {"image_size": 64, "layers": (2, 1, 1, 1), "width": 16, "head_width": 64}


@cache
def model_of(architecture: str) -> Any:
    """True shapes, random weights of which every one matters."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, load_weights=False).eval()
    randomise(model, 0)
    return model


@cache
def encoder_of(architecture: str) -> ClipEncoder:
    tokenizer = open_clip.get_tokenizer(architecture)
    return ClipEncoder(model_of(architecture), tokenizer, name=architecture, weights="random:0")


@cache
def small(text: tuple[tuple[str, Any], ...] = (), vision: str = "vit", **_: Any) -> Any:
    torch.manual_seed(1)
    vision_cfg = SMALL_VIT if vision == "vit" else SMALL_RESNET
    model = open_clip.CLIP(
        embed_dim=48,
        vision_cfg=open_clip.CLIPVisionCfg(**vision_cfg),
        text_cfg=open_clip.CLIPTextCfg(**SMALL_TEXT, **dict(text)),
        quick_gelu=True,
    ).eval()
    randomise(model, 1)
    return model


def small_encoder(model: Any, **options: Any) -> ClipEncoder:
    tokenizer = open_clip.get_tokenizer("RN50")
    return ClipEncoder(model, tokenizer, name="small", weights="random:1", **options)


def noise(size: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def plain(model: Any, pixels: np.ndarray, **options: Any) -> np.ndarray:
    """ToTensor, Normalize, encode_image: what a user of open_clip would write."""
    mean, std = (torch.tensor(getattr(model.visual, k, v)).view(1, 3, 1, 1) for k, v in FACTS)
    x = (torch.tensor(pixels).permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
    with torch.no_grad():
        return model.encode_image(x, **options).numpy()


FACTS = (
    ("image_mean", open_clip.OPENAI_DATASET_MEAN),
    ("image_std", open_clip.OPENAI_DATASET_STD),
)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    assert wanted.std() > 1e-3, "features without scale prove nothing"
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def project(pooled: np.ndarray, encoder: Encoder) -> np.ndarray:
    projection = encoder.projection()
    assert projection is not None
    bias = 0 if projection.image_bias is None else projection.image_bias
    return (pooled @ projection.image_weight.T + bias).astype(np.float32)


ARCHITECTURES = [
    "RN50-quickgelu",
    "ViT-B-32-quickgelu",
    pytest.param("ViT-L-14-336-quickgelu", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_to_open_clip_at_true_shapes(architecture: str) -> None:
    model, encoder = model_of(architecture), encoder_of(architecture)
    pixels = noise(336 if "336" in architecture else 224)
    features = encoder.images(pixels, tuple(encoder.meta.shapes))
    wanted = plain(model, pixels)
    assert relative(features["embedding"], wanted) < 1e-5
    assert relative(project(features["pooled"], encoder), wanted) < 1e-5
    for level, shape in encoder.meta.shapes.items():
        assert features[level].shape == (2, *shape)

    text = encoder.text(PROMPTS)
    with torch.no_grad():
        wanted_text = model.encode_text(open_clip.get_tokenizer(architecture)(PROMPTS)).numpy()
    assert relative(text["embedding"], wanted_text) < 1e-5
    projection = encoder.projection()
    assert projection is not None
    assert projection.text_weight is not None
    assert relative(text["pooled"] @ projection.text_weight.T, wanted_text) < 1e-5
    assert projection.logit_scale == pytest.approx(np.log(1 / 0.07))


def test_resnet_tokens_are_the_last_map_and_pool_to_pooled() -> None:
    model, encoder = model_of("RN50-quickgelu"), encoder_of("RN50-quickgelu")
    assert encoder.meta.shapes == {"tokens": (49, 2048), "pooled": (2048,), "embedding": (1024,)}
    maps: list[torch.Tensor] = []
    handle = model.visual.layer4.register_forward_hook(lambda *args: maps.append(args[2]))
    pixels = noise(224)
    plain(model, pixels)
    handle.remove()
    features = encoder.images(pixels, ("tokens", "pooled"))
    assert set(features) == {"tokens", "pooled"}
    rows = maps[0].permute(0, 2, 3, 1).reshape(2, 49, 2048).numpy()
    assert relative(features["tokens"], rows) < 1e-5
    projection = encoder.projection()
    assert projection is not None
    assert projection.attnpool_heads == 32
    weights = {k: torch.from_numpy(v) for k, v in projection.attnpool.items()}
    again = attention_pool(torch.from_numpy(features["tokens"]), weights, 32).numpy()
    assert relative(again, features["pooled"]) < 1e-5
    assert np.array_equal(projection.attnpool["c_proj.weight"], projection.image_weight)


def test_every_residual_branch_of_the_test_model_is_alive() -> None:
    """Zero gains would hide a wrong fold; so would batch norms that are the identity."""
    model = small(vision="resnet")
    pixels = noise(64)
    before = plain(model, pixels)
    for name, module in list(model.visual.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            kept = module.weight.detach().clone()
            module.weight.data.mul_(1.5)
            assert not np.allclose(plain(model, pixels), before, rtol=1e-3), name
            module.weight.data.copy_(kept)


def test_folding_leaves_no_batch_norm_and_does_not_touch_the_model() -> None:
    tower = model_of("RN50-quickgelu").visual
    assert isinstance(tower, ModifiedResNet)
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    trunk = fold(tower)
    assert not [m for m in trunk.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(torch.equal(v, before[k]) for k, v in tower.state_dict().items())


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_the_model_handed_over_still_works_and_is_unchanged(vision: str) -> None:
    model = copy.deepcopy(small(vision=vision))
    size = 32 if vision == "vit" else 64
    before, state = plain(model, noise(size)), copy.deepcopy(model.state_dict())
    encoder = small_encoder(model)
    encoder.images(noise(size), ("embedding",))
    encoder.text(PROMPTS)
    assert np.array_equal(plain(model, noise(size)), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_linear_text_projection_with_bias() -> None:
    model = small((("proj_bias", True),))
    torch.nn.init.normal_(model.text_projection.bias)
    encoder = small_encoder(model)
    with torch.no_grad():
        wanted = model.encode_text(open_clip.get_tokenizer("RN50")(PROMPTS)).numpy()
    assert relative(encoder.text(PROMPTS)["embedding"], wanted) < 1e-5
    projection = encoder.projection()
    assert projection is not None
    assert projection.text_weight is None  # the bias has no place in it


def test_a_text_tower_of_its_own() -> None:
    """CustomTextCLIP and CoCa keep the text tower as a module."""
    torch.manual_seed(2)
    model = open_clip.CustomTextCLIP(
        embed_dim=48,
        vision_cfg=open_clip.CLIPVisionCfg(**SMALL_VIT, output_tokens=True),
        text_cfg=open_clip.CLIPTextCfg(**SMALL_TEXT, output_tokens=True),
    ).eval()
    encoder = small_encoder(model)
    tokens = open_clip.get_tokenizer("RN50")(PROMPTS)
    with torch.no_grad():
        wanted, _ = model.text(tokens)
    text = encoder.text(PROMPTS)
    assert relative(text["embedding"], wanted.numpy()) < 1e-5
    projection = encoder.projection()
    assert projection is not None
    assert projection.text_weight is not None
    assert relative(text["pooled"] @ projection.text_weight.T, wanted.numpy()) < 1e-5
    features = encoder.images(noise(32), ("pooled", "embedding"))
    assert relative(project(features["pooled"], encoder), features["embedding"]) < 1e-5


ATTENTIONAL = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4}
TOWERS: dict[str, dict[str, Any]] = {
    "tok": {},
    "avg": {"pool_type": "avg"},
    "avg, norm after": {"pool_type": "avg", "final_ln_after_pool": True},
    "tok, norm after": {"final_ln_after_pool": True},
    "attentional, tok": ATTENTIONAL,
    "attentional, avg": {**ATTENTIONAL, "pool_type": "avg"},
    "tokens too": {"output_tokens": True},
    "no first norm, fixed positions": {"no_ln_pre": True, "pos_embed_type": "sin_cos_2d"},
    "layer scale, norms inside": {"ls_init_value": 0.1, "qk_norm": True, "scale_attn": True},
    "oblong": {"image_size": (32, 48)},
}


def tower(joint: int = 48, **vision: Any) -> Any:
    """A model whose vision tower is a small transformer with these options."""
    torch.manual_seed(3)
    vision_cfg = open_clip.CLIPVisionCfg(**{**SMALL_VIT, **vision})
    text_cfg = open_clip.CLIPTextCfg(**SMALL_TEXT)
    model = open_clip.CustomTextCLIP(joint, vision_cfg, text_cfg).eval()
    randomise(model, 3)
    for name, parameter in model.visual.named_parameters():
        if "ln_" in name:  # their start, one and zero, would hide a norm in the wrong place
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return model


def features_of(model: Any, pixels: np.ndarray) -> np.ndarray:
    """encode_image without normalising, for towers that give tokens as well."""
    output_tokens, model.visual.output_tokens = model.visual.output_tokens, False
    found = plain(model, pixels)
    model.visual.output_tokens = output_tokens
    return found


@pytest.mark.parametrize("options", TOWERS.values(), ids=TOWERS)
def test_every_pooling_of_a_vit_is_split_before_its_projection(options: dict[str, Any]) -> None:
    model = tower(**options)
    encoder = small_encoder(model)
    height, width = encoder.meta.preprocessing["size"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    features = encoder.images(pixels, ("pooled", "embedding"))
    wanted = features_of(model, pixels)
    assert relative(features["embedding"], wanted) < 1e-5
    assert relative(project(features["pooled"], encoder), wanted) < 1e-5
    pooled = 48 if "attentional_pool" in options else 64  # the pooler has the joint width already
    assert encoder.meta.shapes == {"pooled": (pooled,), "embedding": (48,)}
    assert features["pooled"].shape == (2, pooled)
    projection = encoder.projection()
    assert projection is not None
    assert projection.image_weight.shape == (48, pooled)


@pytest.mark.parametrize("output_tokens", [False, True])
def test_a_vit_without_projection_gives_its_embedding_only(output_tokens: bool) -> None:
    model = tower(output_tokens=output_tokens)
    model.visual.proj = None
    encoder = small_encoder(model)
    assert encoder.meta.shapes == {"embedding": (64,)}
    assert encoder.projection() is None
    found = encoder.images(noise(32), ("embedding",))["embedding"]
    assert relative(found, features_of(model, noise(32))) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "none"},
        {**ATTENTIONAL, "pool_type": "none"},
        {**ATTENTIONAL, "attentional_pool": "parallel", "joint": 64},
        {**ATTENTIONAL, "attentional_pool": "cascade", "joint": 64, "output_tokens": True},
    ],
)
def test_a_tower_that_gives_no_one_vector_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EmbedcalError, match="one vector an image from small, found shape") as error:
        small_encoder(tower(**options))
    assert "\n" not in str(error.value)


def test_a_text_tower_that_gives_no_one_vector_is_refused() -> None:
    with pytest.raises(EmbedcalError, match="one vector a prompt from small, found shape"):
        small_encoder(small((("pool_type", "none"),)))


@pytest.mark.parametrize("output_tokens", [False, True])
def test_a_text_tower_without_projection(output_tokens: bool) -> None:
    text_cfg = open_clip.CLIPTextCfg(**SMALL_TEXT, proj_type="none", output_tokens=output_tokens)
    torch.manual_seed(4)
    vision_cfg = open_clip.CLIPVisionCfg(**SMALL_VIT)
    encoder = small_encoder(open_clip.CustomTextCLIP(64, vision_cfg, text_cfg).eval())
    assert encoder.meta.text_shapes == {"embedding": (64,)}
    assert encoder.text(PROMPTS)["embedding"].shape == (4, 64)


@cache
def coca() -> Any:
    """CoCa in small: attentional pool, a class token in the text tower, both give tokens."""
    torch.manual_seed(5)
    text = {**SMALL_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 76, "width": 48, "heads": 2, "layers": 1}
    model = open_clip.CoCa(
        48,
        open_clip.coca_model.MultimodalCfg(**decoder),
        open_clip.CLIPTextCfg(**text),
        open_clip.CLIPVisionCfg(**SMALL_VIT, **ATTENTIONAL, output_tokens=True),
    ).eval()
    randomise(model, 5)
    return model


def coca_encoder(model: Any) -> ClipEncoder:
    tokenizer = open_clip.get_tokenizer("coca_ViT-B-32")
    return ClipEncoder(model, tokenizer, name="coca", weights="random:5")


def test_both_towers_of_coca_are_split() -> None:
    model, encoder = coca(), coca_encoder(coca())
    tokens = open_clip.get_tokenizer("coca_ViT-B-32")(PROMPTS)
    with torch.no_grad():
        wanted_text = model.encode_text(tokens, normalize=False).numpy()
        unit = model.encode_text(tokens).numpy()  # CoCa's default
    text, projection = encoder.text(PROMPTS), encoder.projection()
    assert encoder.meta.context_length == 76
    assert relative(text["embedding"], wanted_text) < 1e-5
    assert projection is not None
    assert projection.text_weight is not None
    assert relative(text["pooled"] @ projection.text_weight.T, wanted_text) < 1e-5
    lengths = np.linalg.norm(text["embedding"], axis=1, keepdims=True)
    assert relative(text["embedding"] / lengths, unit) < 1e-5
    features = encoder.images(noise(32), ("pooled", "embedding"))
    wanted = plain(model, noise(32), normalize=False)
    assert relative(features["embedding"], wanted) < 1e-5
    assert relative(project(features["pooled"], encoder), wanted) < 1e-5


def test_a_foreign_text_tower_of_coca_is_not_normalised() -> None:
    class Foreign(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return tokens[:, :48].float(), tokens

    model = copy.deepcopy(coca())
    model.text = Foreign()
    encoder = coca_encoder(model)
    assert encoder.meta.text_shapes == {"embedding": (48,)}
    tokens = open_clip.get_tokenizer("coca_ViT-B-32")(PROMPTS)
    assert np.array_equal(encoder.text(PROMPTS)["embedding"], tokens[:, :48].float().numpy())


def test_a_tower_that_cannot_be_split_gives_its_embedding_only() -> None:
    class Foreign(torch.nn.Module):
        image_size = 32

        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Conv2d(3, 48, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).flatten(1)

    model = copy.deepcopy(small())
    model.visual = Foreign()
    encoder = small_encoder(model)
    assert encoder.meta.shapes == {"embedding": (48,)}
    assert (
        relative(encoder.images(noise(32), ("embedding",))["embedding"], plain(model, noise(32)))
        < 1e-5
    )
    assert encoder.projection() is None
    with pytest.raises(EmbedcalError, match="VisionTransformer and ModifiedResNet") as caught:
        encoder.images(noise(32), ("pooled",))
    assert "\n" not in str(caught.value)


def test_tokens_of_a_vit_are_refused() -> None:
    with pytest.raises(EmbedcalError, match="ResNets only"):
        small_encoder(small()).images(noise(32), ("tokens",))


@pytest.mark.parametrize("pixels", [noise(48), noise(32).astype(np.float32), noise(32)[0]])
def test_pixels_of_another_kind_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(EmbedcalError, match=r"expected pixels \(b, 32, 32, 3\) uint8"):
        small_encoder(small()).images(pixels, ("embedding",))


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_near_and_its_projection_is_exact(vision: str, precision: str) -> None:
    model, pixels = small(vision=vision), noise(32 if vision == "vit" else 64)
    encoder = small_encoder(model, precision=precision)
    features = encoder.images(pixels, ("pooled", "embedding"))
    wanted = plain(model, pixels)
    assert 1e-6 < relative(features["embedding"], wanted) < 0.05
    assert relative(project(features["pooled"], encoder), features["embedding"]) < 1e-5
    assert encoder.meta.precision == precision
    full = small_encoder(model).meta
    assert encoder.meta.weights_sha256 == full.weights_sha256
    text = encoder.text(PROMPTS)["embedding"]
    assert 1e-6 < relative(text, small_encoder(model).text(PROMPTS)["embedding"]) < 0.05


def test_training_mode_and_batch_size_do_not_matter() -> None:
    model = copy.deepcopy(small(vision="resnet")).train()
    encoder = small_encoder(model)
    pixels = noise(64, 5)
    together = encoder.images(pixels, ("pooled",))["pooled"]
    alone = np.concatenate([encoder.images(row[None], ("pooled",))["pooled"] for row in pixels])
    assert relative(alone, together) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_slices_of_a_large_trunk_are_the_whole_in_its_order(
    vision: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many threads there are: three slices are the work of one thread each."""
    model, pixels = small(vision=vision), noise(32 if vision == "vit" else 64, 2 * SLICE + 3)
    levels: tuple[Level, ...] = ("pooled", "embedding")
    together = small_encoder(model, precision=precision).images(pixels, levels)
    monkeypatch.setattr("embedcal.encoders.clip.LARGE", 1)
    encoder = small_encoder(model, precision=precision)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(encoder.images(pixels, levels))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for level in levels:
        assert found[0][level].shape == together[level].shape
        assert relative(found[0][level], together[level]) < (1e-5 if precision == "fp32" else 0.05)
        assert all(np.array_equal(found[0][level], other[level]) for other in found)
    if vision == "resnet":  # open_clip's ViT takes no empty batch
        assert encoder.images(pixels[:0], levels)["pooled"].shape[0] == 0


def test_a_model_in_training_mode_drops_no_patches() -> None:
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(**SMALL_VIT, patch_dropout=0.75)
    model = open_clip.CLIP(48, vision, open_clip.CLIPTextCfg(**SMALL_TEXT)).train()
    encoder = small_encoder(model)
    once, again = (encoder.images(noise(32), ("pooled",))["pooled"] for _ in range(2))
    assert np.array_equal(once, again)


def test_text_in_many_batches_is_text_in_one() -> None:
    encoder = small_encoder(small())
    prompts = [f"a photo of number {i}" for i in range(300)]
    text = encoder.text(prompts)
    assert text["pooled"].shape == (300, 64)
    alone = encoder.text(prompts[270:272])
    assert relative(text["embedding"][270:272], alone["embedding"]) < 1e-5
    assert encoder.text([])["embedding"].shape == (0, 48)


def test_a_prompt_that_would_be_cut_is_refused() -> None:
    encoder = small_encoder(small())
    encoder.text(["bird " * 75])
    with pytest.raises(EmbedcalError, match=r"at most 75 tokens .* found 76"):
        encoder.text(["bird " * 76])


@pytest.mark.parametrize(("mode", "counted"), [("", 77), ("clips", 74)])
def test_a_prompt_that_hugging_face_would_cut_is_refused(
    tmp_path: Path, mode: str, counted: int
) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra detect is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "!": 2, "bird": 3}))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<s>", "cls_token": "<s>"}
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    whole.save_pretrained(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), clean="canonicalize", tokenizer_mode=mode)
    try:
        tokenizer("bird")
    except AttributeError:
        pytest.skip("open_clip 3.2 asks transformers 5 for what it has no more")
    encoder = ClipEncoder(small(), tokenizer, name="small", weights="random:1")
    words = counted if mode else counted - 1  # it counts the end as well
    longest, longer = "bird! " * words, "bird! " * (words + 1)
    birds = [int((tokenizer(text) == 3).sum()) for text in (longest, longer)]
    assert birds == [words, words]  # the longer one would be cut
    encoder.text([longest])
    with pytest.raises(EmbedcalError, match=f"at most {counted} tokens .* found {counted + 1}"):
        encoder.text([longer])


def test_identity_of_weights_is_their_content() -> None:
    model = copy.deepcopy(small())
    before = small_encoder(model).meta.weights_sha256
    assert len(before) == 64
    assert small_encoder(copy.deepcopy(model)).meta.weights_sha256 == before
    model.visual.ln_post.bias.data[0] += 1e-6
    assert small_encoder(model).meta.weights_sha256 != before


def test_it_is_an_encoder_and_says_what_it_is() -> None:
    encoder = small_encoder(small())
    assert isinstance(encoder, Encoder)
    assert encoder.meta.library == f"open_clip {open_clip.__version__}"
    assert encoder.meta.preprocessing["size"] == [32, 32]
    assert encoder.meta.has_text
    assert encoder.meta.context_length == 77


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(EmbedcalError, match="fp32, bf16, fp16"):
        small_encoder(small(), precision="int8")
