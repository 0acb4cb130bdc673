"""Maps from tokens and from re-run trunks against hooks on open_clip's own, unfolded model."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hooked_for_tests import doubled, hooked, pooled
from torch import nn
from torch.nn import functional as F

from embedcal.encoders.attnpool import attention_pool
from embedcal.encoders.clip import ClipEncoder
from embedcal.encoders.tiny import model as tiny
from embedcal.encoders.weights import randomise
from embedcal.explaining.gradcam import class_gradients, class_maps, enlarged, pool_alphas
from embedcal.explaining.readout import readout
from embedcal.explaining.trunk import from_pixels, layer_of
from embedcal.heads import AdapterHead, AttnPoolHead, LinearHead, MlpHead, ProjectionHead
from embedcal.types import EmbedcalError, TextBank

TEXT = {"context_length": 77, "width": 64, "heads": 2, "layers": 1}
RESNET = {"image_size": 96, "layers": (2, 1, 1, 1), "width": 16, "head_width": 64}
VIT = {"image_size": 48, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}


@cache
def model_of(name: str) -> Any:
    torch.manual_seed(0)
    if name == "tiny":
        return tiny.load()
    if name in ("resnet", "vit"):
        vision = open_clip.CLIPVisionCfg(**(RESNET if name == "resnet" else VIT))
        text = open_clip.CLIPTextCfg(**TEXT)
        model = open_clip.CLIP(embed_dim=48, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    else:
        model = open_clip.create_model(name, load_weights=False)
    randomise(model, 0)
    return model.eval()


@cache
def encoder_of(name: str) -> ClipEncoder:
    tokenizer = open_clip.get_tokenizer("RN50")
    size = {"size": 64} if name == "tiny" else None
    return ClipEncoder(model_of(name), tokenizer, name=name, weights="w", preprocessing=size)


def head_of(kind: str, name: str) -> Any:
    """A head of six classes whose every part matters."""
    generator = torch.Generator().manual_seed(1)
    encoder = encoder_of(name)
    projection = encoder.projection()
    assert projection is not None
    d, wt = encoder.meta.shapes["embedding"][0], encoder.meta.text_shapes["pooled"][0]
    bank = TextBank(
        name="class",
        prompts=tuple("abcdef"),
        templates=("{}", "{}!"),
        embedding=torch.randn(6, 2, d, generator=generator).numpy(),
        pooled=torch.randn(6, 2, wt, generator=generator).numpy(),
    )
    if kind == "linear":
        return LinearHead.start(d, 6, generator, normalise=False)
    if kind == "zeroshot":
        weight = 100 * F.normalize(torch.randn(6, d, generator=generator), dim=1)
        return LinearHead(weight, torch.zeros(6), normalise=True, level="embedding")
    if kind == "mlp":
        return MlpHead.start(d, 6, generator, hidden=8)
    if kind == "adapter":
        head = AdapterHead.start(bank, generator, hidden=8, residual=0.5)
        head.running_mean.uniform_(-1, 1, generator=generator)
        return head
    if kind == "projection":
        return ProjectionHead.start(projection, bank, scope="image+text_proj")
    head = AttnPoolHead.start(projection, bank, scope="image")
    with torch.no_grad():
        for parameter in head.parameters():  # another pool than the encoder's
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.1 * parameter.std(correction=0) * noise
    return head


def wanted_of(
    kind: str, name: str, layer: str | None, pixels: np.ndarray, classes: list[int]
) -> Any:
    head = copy.deepcopy(head_of(kind, name)).double().eval()
    tower: Any = (pooled if kind == "projection" else doubled)(model_of(name).visual)
    if kind == "attnpool":
        own = dict(head.named_parameters())
        with torch.no_grad():
            for parameter, value in tower.attnpool.named_parameters():
                value.copy_(own[parameter])
    if hasattr(tower, "layer4"):
        module = getattr(tower, layer or "layer4")
    else:
        module = tower.transformer.resblocks[-1 if layer is None else int(layer)].ln_1
    return hooked(tower, pixels, module, head.classify if kind == "attnpool" else head, classes)


def found_of(
    kind: str, name: str, layer: str | None, pixels: np.ndarray, classes: list[int]
) -> Any:
    encoder = encoder_of(name)
    reads = readout(head_of(kind, name), encoder.projection(), "cpu")
    if "tokens" in encoder.meta.shapes and layer is None:
        tokens = torch.tensor(encoder.images(pixels, ["tokens"])["tokens"])
        maps, logits = reads.from_tokens(tokens, classes)
    else:
        maps, logits = from_pixels(encoder, pixels, reads, classes, layer_of(encoder, layer))
    return enlarged(maps, pixels.shape[1:3]).numpy(), logits.numpy()


def blocks(size: int, n: int) -> np.ndarray:
    """Coarse blocks of colour: cells that see the same would make maps without range."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 3, 3, 3), dtype=np.uint8)
    place = np.arange(size) * 3 // size
    return coarse[:, place][:, :, place]


HEADS = ["zeroshot", "linear", "adapter", "mlp", "projection", "attnpool"]
CASES = [
    *[("resnet", 96, kind, None) for kind in HEADS],
    *[("vit", 48, kind, None) for kind in HEADS[:-1]],
    ("tiny", 64, "zeroshot", None),
    ("tiny", 64, "attnpool", None),
    ("RN50-quickgelu", 224, "zeroshot", None),
    ("ViT-B-32-quickgelu", 224, "zeroshot", None),
    pytest.param("RN50-quickgelu", 224, "attnpool", None, marks=pytest.mark.slow),
    pytest.param("ViT-B-32-quickgelu", 224, "projection", None, marks=pytest.mark.slow),
    # Another layer: the encoder runs again from there.
    *[("resnet", 96, kind, "layer3") for kind in HEADS],
    ("resnet", 96, "zeroshot", "layer1"),
    ("resnet", 96, "attnpool", "layer4"),
    ("vit", 48, "mlp", "0"),
    ("vit", 48, "projection", "0"),
    ("tiny", 64, "zeroshot", "layer3"),
    ("tiny", 64, "attnpool", "layer3"),
    ("RN50-quickgelu", 224, "zeroshot", "layer3"),
    pytest.param("RN50-quickgelu", 224, "attnpool", "layer2", marks=pytest.mark.slow),
    pytest.param("ViT-B-32-quickgelu", 224, "zeroshot", "7", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size", "kind", "layer"), CASES)
def test_equal_to_hooks_on_the_full_model(
    name: str, size: int, kind: str, layer: str | None
) -> None:
    pixels = blocks(size, 1 if size == 224 else 3)
    classes = [4, 2] if size == 224 else [4, 2, 0, 5, 1, 3]
    maps, logits = found_of(kind, name, layer, pixels, classes)
    wanted, outputs, condition = wanted_of(kind, name, layer, pixels, classes)
    # Where signs cancel, float32 cannot do better than a few of its steps, magnified.
    # Half of an RN50 lies between its middle layers and the logit: units near zero take one side
    # or the other by a last bit, which depends on the processor.
    deep = 2e-4 if name.startswith("RN50") and layer else 1e-5
    allowed = np.clip(1e-6 * condition, deep, max(deep, 5e-5))
    sound = condition < 200
    assert sound.any(), condition
    assert wanted[sound].std() > 0.05, "maps without contrast prove nothing"
    assert (np.abs(maps - wanted).max(axis=(2, 3)) < allowed).all()
    assert np.abs(logits - outputs).max() < 1e-5 * np.abs(outputs).max()


def test_the_grid_is_that_of_the_layer() -> None:
    encoder = encoder_of("tiny")
    reads = readout(head_of("linear", "tiny"), encoder.projection(), "cpu")
    for layer, side in (("layer1", 16), ("layer2", 8), ("visual.layer3", 4), (None, 2)):
        maps, _ = from_pixels(encoder, blocks(64, 2), reads, [0, 3], layer_of(encoder, layer))
        assert maps.shape == (2, 2, side, side)


def test_a_layer_by_any_of_its_names() -> None:
    vit = encoder_of("vit")
    first = layer_of(vit, "0")
    for name in ("transformer.resblocks.0.ln_1", "visual.transformer.resblocks.0.ln_1", "00"):
        assert layer_of(vit, name).module is first.module
    assert layer_of(vit, None).module is layer_of(vit, "1").module is not first.module
    assert first.elements == 2 * layer_of(vit, None).elements  # two blocks on the way back
    for name in ("2", "-1", "layer4", "", "1.ln_2"):
        with pytest.raises(EmbedcalError, match=r"expected a block from 0 to 1, .* found '"):
            layer_of(vit, name)
    for name in ("layer5", "3", "layer4.0", ""):
        with pytest.raises(EmbedcalError, match="layer1, layer2, layer3, layer4, found '"):
            layer_of(encoder_of("resnet"), name)


def test_the_hook_is_gone_and_nothing_before_the_layer_is_kept() -> None:
    """Also after a failure; the encoder goes on as it was."""
    encoder, pixels = encoder_of("tiny"), blocks(64, 2)
    before = encoder.images(pixels, ["embedding"])["embedding"]
    layer = layer_of(encoder, "layer2")
    reads = readout(head_of("linear", "tiny"), encoder.projection(), "cpu")
    with pytest.raises(IndexError):
        from_pixels(encoder, pixels, reads, [99], layer)
    assert not layer.module._forward_hooks
    np.testing.assert_array_equal(encoder.images(pixels, ["embedding"])["embedding"], before)
    assert not any(value.requires_grad for value in encoder._trunk.parameters())


def test_closed_form_equals_gradients_of_the_pool() -> None:
    """In float64, for every cell's gradient and its mean; several classes at once."""
    torch.manual_seed(0)
    b, t, w, heads, n_classes = 3, 9, 16, 4, 5
    module = open_clip.modified_resnet.AttentionPool2d(3, w, heads, 7).double()
    nn.init.normal_(module.k_proj.weight)  # attention far from uniform
    pool = {name: value.detach() for name, value in module.named_parameters()}
    tokens = torch.randn(b, t, w, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n_classes, w, dtype=torch.float64)
    logits = torch.tanh(attention_pool(tokens, pool, heads)) @ weight.T
    by_hand = class_gradients(logits, tokens, range(n_classes)).mean(dim=2)

    leaf = attention_pool(tokens.detach(), pool, heads).requires_grad_()
    gradients = class_gradients(torch.tanh(leaf) @ weight.T, leaf, range(n_classes))
    found = pool_alphas(tokens.detach(), pool, heads, gradients)
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-14)


def test_maps_by_loops_and_of_constants() -> None:
    rng = np.random.default_rng(0)
    activations, alpha = rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 3, 4))
    found = class_maps(torch.tensor(activations), torch.tensor(alpha), (2, 3)).numpy()
    for i in range(2):
        for c in range(3):
            for j in range(6):
                wanted = max(0.0, float((alpha[i, c] * activations[i, j]).sum()))
                assert found[i, c, j // 3, j % 3] == pytest.approx(wanted)
    flat = enlarged(torch.full((1, 1, 2, 2), 3.0), (4, 4))
    assert (flat == 0).all()
    corner = torch.zeros(1, 1, 2, 2)
    corner[..., 0, 0] = 5.0
    large = enlarged(corner, (4, 4))[0, 0]
    # Half-pixel centres: 1, 3/4, 1/4, 0 along either side.
    side = torch.tensor([1.0, 0.75, 0.25, 0.0])
    torch.testing.assert_close(large, side[:, None] * side[None], atol=1e-6, rtol=0)


def test_what_cannot_be_explained_says_so() -> None:
    head = head_of("linear", "resnet")
    with pytest.raises(EmbedcalError, match="expected a projection"):
        readout(head, None, "cpu")
    head.level = "tokens"
    with pytest.raises(EmbedcalError, match="'linear' on tokens"):
        readout(head, encoder_of("resnet").projection(), "cpu")
