"""The cells that a rule of environments judged runs by, which groups would be to another rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedcal.comparing.recorded import Found
from embedcal.comparing.verdicts import counted
from embedcal.evaluate import Rule


def cells_notes(found: Sequence[Found], wanted: Rule) -> tuple[str, ...]:
    """A line on the cells of each probe that judged; nothing for a rule of no environments.

    One cache has one probe, unless devices rounded it otherwise: scores by cells that are not the
    same ones are no basis for a choice, which a further line says.
    """
    if not wanted.environments:
        return ()
    known = [run.record["environments"] for run, _ in found if "environments" in run.record]
    seen = dict.fromkeys(map(_words, known))
    notes = [f"{wanted.name} judged val rows by class and environment: {words}" for words in seen]
    if len(seen) > 1:
        notes.append(
            f"{counted(len(seen), 'probe')} judged under {wanted.name}, where one should: fit all "
            "runs anew into one folder"
        )
    return tuple(notes)


def _words(environments: Mapping[str, Any]) -> str:
    """Rows of both environments of each class, as the report of a run has them."""
    whole = set(environments["joined"])
    return ", ".join(
        f"{a:,}+{b:,}" + (" (judged whole)" if c in whole else "")
        for c, (a, b) in enumerate(environments["sizes"])
    )
