"""Prompt templates, each with one ``{}`` where the name goes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedcal.datasets.printable import printable
from embedcal.errors import did_you_mean
from embedcal.types import EmbedcalError

PHOTO2 = ("a photo of the {}.", "a photo of a {}.")
NAMES = ("openai", "simple", "photo2")
LONGEST = 2000  # characters of a list of keys: CLIP_benchmark's has 40 of them
FORM = '["a photo of a {}."]'


def templates(name_or_file: str, dataset: str = "") -> tuple[str, ...]:
    """Templates by name or from a file, in order.

    "openai" are the 80 of Radford et al. 2021 (arXiv 2103.00020, section 3.1.4), "simple" the
    seven that OpenAI picked from them, "photo2" the pair of Yang et al. 2023 (arXiv 2304.03916) in
    their code's setting of two. A text file has one template a line (blank lines are skipped), a
    JSON file a list of strings, or an object from data sets to such lists, as CLIP_benchmark
    keeps them; see :func:`choose`. The name's place is written ``{}`` or ``{c}``.

    Raises EmbedcalError for an unknown name, an unreadable or empty file, a key that it does not
    have, and a template without exactly one place or given twice.
    """
    return choose(load(name_or_file), name_or_file, dataset)


def load(name_or_file: str) -> Mapping[str, Sequence[Any]]:
    """What a name stands for or a file holds, by data set; a list by itself under the key ""."""
    if name_or_file == "photo2":
        return {"": PHOTO2}
    if name_or_file in NAMES:
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

        chosen = (
            OPENAI_IMAGENET_TEMPLATES if name_or_file == "openai" else SIMPLE_IMAGENET_TEMPLATES
        )
        return {"": [template("{}") for template in chosen]}
    path = _parts(name_or_file)[0]
    if not path.is_file():
        hint = did_you_mean(name_or_file, NAMES, "check the path, or take openai, the 80")
        raise EmbedcalError(
            f"expected templates among {', '.join(NAMES)} or a file, found '{name_or_file}': {hint}"
        )
    found = _read(path)
    return found if isinstance(found, dict) else {"": found}


def choose(found: Mapping[str, Sequence[Any]], name_or_file: str, dataset: str) -> tuple[str, ...]:
    """The templates of one data set among those that :func:`load` found, checked.

    ``FILE#KEY`` names the key. Otherwise it is the data set's name (whatever its case, with ``_``
    and ``-`` as one), else the only key that there is.
    """
    path, asked = _parts(name_or_file)
    wanted = asked or dataset
    keys = [key for key in found if key == wanted]
    keys = keys or [key for key in found if not asked and _plain(key) == _plain(wanted)]
    if not asked and len(keys) != 1 and len(found) == 1:
        keys = list(found)
    if len(keys) != 1:
        listed = ", ".join(found) if "" not in found else "a list without keys"
        raise EmbedcalError(
            f"expected templates for '{printable(wanted)}' in {printable(str(path), longest=300)}, "
            f"found {printable(listed, longest=LONGEST) or 'none'}: name the file as FILE#KEY"
        )
    where = f"'{printable(keys[0])}' of {path}" if keys[0] else str(path)
    return _checked(found[keys[0]], where)


def _parts(name_or_file: str) -> tuple[Path, str]:
    """The file and the key of FILE#KEY; a file whose name has a # is itself."""
    path = Path(name_or_file).expanduser()
    file, mark, key = name_or_file.rpartition("#")
    if mark and not path.is_file():
        return Path(file).expanduser(), key
    return path, ""


def _plain(key: str) -> str:
    return key.casefold().replace("_", "-")


def _read(path: Path) -> Any:
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return [line.strip() for line in content.splitlines() if line.strip()]
        found = json.loads(content)
    except OSError as error:
        raise EmbedcalError(
            f"expected to read templates from {path}, found: {error.strerror}: check the file"
        ) from None
    except UnicodeDecodeError:
        raise EmbedcalError(
            f"expected UTF-8 text in {path}, found other bytes: save the file as UTF-8"
        ) from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise EmbedcalError(
            f"expected JSON in {path}, found a fault ({error}): write it as {FORM}"
        ) from None
    lists = list(found.values()) if isinstance(found, dict) else [found]
    strange = [type(each).__name__ for each in lists if not isinstance(each, list)]
    if strange:
        raise EmbedcalError(
            f"expected a JSON list of templates in {path}, or an object of lists by data set, "
            f"found {strange[0]}: write it as {FORM}"
        )
    if isinstance(found, dict) and "" in found:
        raise EmbedcalError(f"expected names as the keys of {path}, found an empty one: name it")
    return found


def _checked(lines: Sequence[Any], where: str) -> tuple[str, ...]:
    if not lines:
        raise EmbedcalError(
            f"expected at least one template in {where}, found none: write, say, a photo of a {{}}."
        )
    found: list[str] = []
    for number, line in enumerate(lines, start=1):
        template = line.replace("{c}", "{}") if isinstance(line, str) else ""
        if template.count("{}") != 1 or set(template.replace("{}", "")) & {"{", "}"}:
            raise EmbedcalError(
                f"expected one {{}} (or {{c}}) in template {number} of {where}, found {line!r}: "
                "write it once, where the name goes"
            )
        if template in found:
            raise EmbedcalError(
                f"expected each template once in {where}, found {line!r} again as number "
                f"{number}: remove one"
            )
        found.append(template)
    return tuple(found)
