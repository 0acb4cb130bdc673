"""What figures have in common, and how one becomes a file: whole, and the same bytes twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.errors import EmbedcalError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "embedcal",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # names come from files
}
UNDATED: dict[str, dict[str, Any]] = {  # what else would differ from run to run
    "svg": {"Date": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
}


def write(figure: Figure, file: Path, *, dpi: int = 150, mend: str = "another place") -> Path:
    """Write a figure as the .svg, .png or .pdf that the file's name says; its folder is made.

    Raises EmbedcalError where that cannot be; ``mend`` is what to choose instead.
    """
    import matplotlib

    kind, part = file.suffix.lower()[1:], file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            figure.savefig(part, format=kind, metadata=UNDATED[kind], dpi=dpi)
        part.replace(file)
    except OSError as error:
        raise EmbedcalError(
            f"expected to write {file}, found: {error.strerror}: choose {mend}"
        ) from None
    return file
