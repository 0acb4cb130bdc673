"""Prompt templates, each with one ``{}`` where the name goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedcal.types import EmbedcalError

PHOTO2 = ("a photo of the {}.", "a photo of a {}.")
NAMES = ("openai", "simple", "photo2")


def templates(name_or_file: str) -> tuple[str, ...]:
    """Templates by name or from a file, in order.

    "openai" are the 80 of Radford et al. 2021 (arXiv 2103.00020, section 3.1.4), "simple" the
    seven that OpenAI picked from them, "photo2" the pair of Yang et al. 2023 (arXiv 2304.03916) in
    their code's setting of two. A text file has one template a line (blank lines are skipped), a
    JSON file a list of strings; the name's place is written ``{}`` or ``{c}``.

    Raises EmbedcalError for an unknown name, an unreadable or empty file, and a template without
    exactly one place or given twice.
    """
    if name_or_file == "photo2":
        return PHOTO2
    if name_or_file in NAMES:
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

        chosen = (
            OPENAI_IMAGENET_TEMPLATES if name_or_file == "openai" else SIMPLE_IMAGENET_TEMPLATES
        )
        return tuple(template("{}") for template in chosen)
    path = Path(name_or_file).expanduser()
    if not path.is_file():
        raise EmbedcalError(
            f"expected templates among {', '.join(NAMES)} or a file, found '{name_or_file}'"
        )
    return _checked(_read(path), path)


def _read(path: Path) -> Sequence[Any]:
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return [line.strip() for line in content.splitlines() if line.strip()]
        lines = json.loads(content)
    except UnicodeDecodeError:
        raise EmbedcalError(f"expected UTF-8 text in {path}, found other bytes") from None
    except json.JSONDecodeError as error:
        raise EmbedcalError(f"expected JSON in {path}, found {error}") from None
    if not isinstance(lines, list):
        raise EmbedcalError(
            f"expected a JSON list of templates in {path}, found {type(lines).__name__}"
        )
    return lines


def _checked(lines: Sequence[Any], path: Path) -> tuple[str, ...]:
    if not lines:
        raise EmbedcalError(f"expected at least one template in {path}, found none")
    found: list[str] = []
    for number, line in enumerate(lines, start=1):
        template = line.replace("{c}", "{}") if isinstance(line, str) else ""
        if template.count("{}") != 1 or set(template.replace("{}", "")) & {"{", "}"}:
            raise EmbedcalError(
                f"expected one {{}} (or {{c}}) in template {number} of {path}, found {line!r}"
            )
        if template in found:
            raise EmbedcalError(
                f"expected each template once in {path}, found {line!r} again as number {number}"
            )
        found.append(template)
    return tuple(found)
