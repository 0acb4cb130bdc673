"""The tiny CLIP: it loads, knows its words, and its pre-training repeats itself."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import open_clip
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP
from safetensors import safe_open

from embedcal.datasets.birds.species import CLASSES, PLACES, SPECIES
from embedcal.encoders.tiny import captions, pretrain
from embedcal.encoders.tiny.model import (
    CONTEXT_LENGTH,
    WEIGHTS,
    known_tokens,
    load,
    tokenize,
    tokenizer,
    unknown_words,
)


@pytest.fixture(scope="module")
def model() -> CLIP:
    return load()


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    with safe_open(WEIGHTS, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 5_000_000


def test_the_default_recipe_made_the_weights() -> None:
    with safe_open(WEIGHTS, framework="pt") as file:
        made_by = json.loads(file.metadata()["recipe"])
    assert made_by.pop("torch")
    assert made_by == asdict(pretrain.Recipe())


def test_it_is_open_clips_own_class_in_evaluation_mode(model: CLIP) -> None:
    assert type(model) is CLIP
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.token_embedding.weight.shape == (49408, 64)


def test_shapes_of_encodings(model: CLIP) -> None:
    with torch.no_grad():
        image = model.encode_image(torch.zeros(3, 3, 64, 64))
        text = model.encode_text(tokenize(["a landbird", "a waterbird"]))
    assert image.shape == (3, 128)
    assert text.shape == (2, 128)
    assert image.isfinite().all()
    assert text.isfinite().all()


def test_known_tokens_keep_their_rows(model: CLIP, stored: dict[str, torch.Tensor]) -> None:
    rows = stored["token_embedding.weight"].float()
    for row, token in zip(rows[1:], stored["token_ids"], strict=True):
        assert torch.equal(model.token_embedding.weight[token], row)
    assert known_tokens() == set(stored["token_ids"].tolist())


def test_unknown_tokens_share_one_row(model: CLIP, stored: dict[str, torch.Tensor]) -> None:
    unknown = torch.ones(49408, dtype=torch.bool)
    unknown[stored["token_ids"]] = False
    rows = model.token_embedding.weight[unknown]
    assert torch.equal(rows, stored["token_embedding.weight"][0].float().expand_as(rows))


def test_expanding_leaves_the_encoding_of_text_alone(
    model: CLIP, stored: dict[str, torch.Tensor]
) -> None:
    compact = pretrain.build(len(stored["token_embedding.weight"])).eval()
    compact.load_state_dict(
        {name: value.float() for name, value in stored.items() if name != "token_ids"},
        strict=False,
    )
    vocabulary = pretrain.Vocabulary(captions.vocabulary(OPENAI_IMAGENET_TEMPLATES))
    texts = ["landbird", OPENAI_IMAGENET_TEMPLATES[3]("gull on the lake")]
    with torch.no_grad():
        expected = compact.encode_text(vocabulary.encode(texts))
        found = model.encode_text(tokenize(texts))
    torch.testing.assert_close(found, expected)


def test_unknown_words_look_alike(model: CLIP) -> None:
    # Both are one token of CLIP's vocabulary.
    with torch.no_grad():
        zebra, laptop, gull = model.encode_text(tokenize(["a zebra", "a laptop", "a gull"]))
    assert torch.equal(zebra, laptop)
    assert not torch.allclose(zebra, gull)


def test_unknown_words_are_named() -> None:
    found = unknown_words("A photo of a Zebra and a zebra beside a gull's laptop.")
    assert found == ["zebra", "beside", "'s", "laptop"]


@pytest.mark.parametrize("word", [*CLASSES, *PLACES, *(species.name for species in SPECIES)])
def test_every_word_of_the_world_is_known_in_every_template(word: str) -> None:
    for template in OPENAI_IMAGENET_TEMPLATES:
        assert unknown_words(template(word)) == []
    assert unknown_words(f"bird on {word}") == []


def test_tokens_are_open_clips(model: CLIP) -> None:
    texts = ["a photo of a landbird.", "waterbird"]
    assert torch.equal(tokenize(texts), open_clip.tokenize(texts, CONTEXT_LENGTH))


def test_long_prompts_are_cut_and_closed() -> None:
    tokens = tokenize(["bird " * 100])
    assert tokens.shape == (1, 32)
    assert tokens[0, -1] == tokenizer().eot_token_id


def test_pretraining_repeats_itself() -> None:
    recipe = pretrain.Recipe(images=20, steps=3, batch=8)
    images, subjects = pretrain.draw_pool(recipe)
    first = pretrain.pretrain(recipe, images, subjects, log_every=0)
    torch.rand(7)  # the global generator's state must not matter
    second = pretrain.pretrain(recipe, *pretrain.draw_pool(recipe), log_every=0)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    other = pretrain.pretrain(
        pretrain.Recipe(seed=1, steps=3, batch=8), images, subjects, log_every=0
    )
    assert not torch.equal(first["visual.conv1.weight"], other["visual.conv1.weight"])


def test_pretraining_reduces_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = pretrain.Recipe(images=16, steps=12, batch=16, warm_up=2)
    pretrain.pretrain(recipe, *pretrain.draw_pool(recipe), log_every=1)
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 12
    assert losses[-1] < 0.9 * losses[0]


def test_captions_agree_with_the_shares() -> None:
    rng = np.random.default_rng((0, 0, 0))
    gull = captions.Subject(SPECIES[8], 0, "forest")
    plain = [lambda text: text]
    said = [captions.caption(gull, plain, 0.5, rng) for _ in range(2000)]
    named = sum("gull" in text for text in said) / len(said)
    assert named == pytest.approx(captions.SHARES[0] + captions.SHARES[1], abs=0.04)
    classes = [text for text in said if "landbird" in text or "waterbird" in text]
    assert sum("landbird" in text for text in classes) / len(classes) == pytest.approx(0.5, abs=0.1)
    assert not any("ocean" in text or "water " in text for text in said)


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import json, sys, embedcal.encoders.tiny; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) is False
