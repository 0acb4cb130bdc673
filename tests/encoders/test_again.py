"""The encoder of a cache, loaded again from facts alone and held to them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from embedcal.encoders.again import check_preprocessing, encoder_again
from embedcal.encoders.load import load_encoder
from embedcal.errors import EmbedcalError


@dataclass(frozen=True)
class Facts:
    """What a cache notes, without a cache."""

    path: Path = Path("some/where.h5")
    backbone: str = "tiny"
    weights: str = "embedded"
    weights_sha256: str = ""
    precision: str = "fp32"
    preprocessing: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def facts() -> Facts:
    meta = load_encoder("tiny").meta
    return Facts(weights_sha256=meta.weights_sha256, preprocessing=dict(meta.preprocessing))


def test_the_tiny_clip_is_found_by_its_name(facts: Facts) -> None:
    found = encoder_again(facts)
    assert found.meta.weights_sha256 == facts.weights_sha256
    assert found.meta.precision == "fp32"
    check_preprocessing(found, facts)
    check_preprocessing(
        found, replace(facts, preprocessing={**facts.preprocessing, "center_crop": 168})
    )
    with pytest.raises(EmbedcalError, match=r"preprocessing that where\.h5 was made with.*again"):
        check_preprocessing(
            found, replace(facts, preprocessing={**facts.preprocessing, "size": [32, 32]})
        )


def test_arithmetic_is_that_of_the_cache_unless_another_is_asked_for(facts: Facts) -> None:
    half = replace(facts, precision="bf16")
    assert encoder_again(half).meta.precision == "bf16"
    assert encoder_again(half, precision="fp32").meta.precision == "fp32"
    imported = replace(facts, precision="", weights_sha256="")  # features from elsewhere
    assert encoder_again(imported).meta.precision == "fp32"


@pytest.mark.parametrize(
    ("changed", "asked", "message"),
    [
        ({"weights_sha256": "0" * 64}, {}, r"weights that made where\.h5, found others in embedd"),
        ({"backbone": "mine.py:Mine"}, {}, r"--backbone for where\.h5, whose encoder is code"),
        ({"backbone": "RN50", "weights": "lost.pt"}, {}, "'lost.pt', found none .*--pretrained$"),
        ({}, {"backbone": "no-such"}, "found none .*no-such"),
        ({"backbone": "RN50", "weights": "lost.pt"}, {"remedy": "ask Ann"}, "ask Ann$"),
    ],
)
def test_what_is_not_found_is_told_in_one_line(
    facts: Facts, changed: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(EmbedcalError, match=message) as told:
        encoder_again(replace(facts, **changed), **asked)
    assert "\n" not in str(told.value)


def test_code_in_a_file_runs_only_when_its_file_is_named(facts: Facts, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(ran)!r}, 'w').close()\nclass Mine: pass\n")
    noted = replace(facts, backbone=f"{file}:Mine")
    with pytest.raises(EmbedcalError, match="name that file"):
        encoder_again(noted)
    assert not ran.exists()
    with pytest.raises(EmbedcalError, match="found none"):  # it is no encoder, but it was read
        encoder_again(noted, backbone=f"{file}:Mine")
    assert ran.exists()
