"""The command line: each command is parse, one call of a public function, print.

Exit status: 0 done, 1 a bug of ours, 2 something that the user can mend, 3 finished with samples
skipped, 130 interrupted. Heavy imports are guests of the commands that need them.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer

from embedcal.commands import (
    annotating,
    caches,
    datasets,
    doctor,
    exporting,
    features,
    grids,
    leaderboard,
    mapping,
    predicting,
    reporting,
    runs,
    seeing,
    studies,
    tracking,
    verifying,
)
from embedcal.commands.by_method import CONTEXT, in_order
from embedcal.commands.shared import Quiet, Verbose, listen, say
from embedcal.errors import EmbedcalError
from embedcal.volume import Volume, set_volume, volume

ORDER = (
    "demo", "cache", "fit", "grid", "compare", "leaderboard", "sensitivity", "report", "study",
    "reproduce", "detect", "annotate", "explain", "map", "calibrate", "predict", "export", "track",
    "info", "verify", "repair", "methods", "datasets", "merge", "import-features",
    "export-features", "doctor",
)  # fmt: skip
app = typer.Typer(
    name="embedcal",
    cls=in_order(*ORDER),
    help="Cache a frozen CLIP once, then train robust heads over it in seconds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)

INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT)
BARRED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


def main() -> None:
    """Run the command line; every mistake of the user's ends in one line and status 2."""
    from typer.exceptions import TyperException

    set_volume(Volume.NORMAL)
    stdout = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no sign for "±"
            stream.reconfigure(errors="replace")
    try:
        _refuse_blanks(sys.argv[1:])
        status = app(standalone_mode=False, prog_name="embedcal")
        sys.stdout.flush()
    except EmbedcalError as error:
        if volume() is Volume.VERBOSE:
            traceback.print_exc()
        status = _fail(str(error))
    except TyperException as error:
        status = _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except SystemExit as stop:  # typer's own way out of a closed pipe
        status = stop.code if sys.stdout is stdout else 0
    except BrokenPipeError:
        _close_output()
        status = 0
    except OSError as error:
        if error.errno in FULL:
            _close_output()
            status = _fail(f"expected room to write, found: {error.strerror}: make some, and go on")
        elif error.errno in BARRED and error.filename is not None:
            if volume() is Volume.VERBOSE:
                traceback.print_exc()
            status = _fail(_barred(error))
        else:
            raise
    if status == INTERRUPTED:  # typer turns some of them into a status itself
        again = shlex.join(["embedcal", *sys.argv[1:]])
        say(f"interrupted; what was finished is kept. To go on: {again}")
    sys.exit(status if isinstance(status, int) else 0)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    listen(quiet=quiet, verbose=verbose)
    if version:
        from embedcal import __version__

        typer.echo(f"embedcal {__version__}")
        raise typer.Exit


def _refuse_blanks(words: Sequence[str]) -> None:
    """No option or argument has a blank value: it is a mistake, often a variable of the shell's
    that is not set, and some would take it for nothing given, others for the current folder."""
    for before, word in pairwise(["", *words]):
        name, equals, value = word.partition("=")
        if equals and name.startswith("--") and not value.strip():
            option = name
        elif not word.strip():
            option = before if before.startswith("-") else "an argument"
        else:
            continue
        raise EmbedcalError(
            f"expected a value for {option}, found a blank one: write it, or leave it out"
        )


def _close_output() -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _barred(error: OSError) -> str:
    """A path that may not be looked at, which is often learnt far from where it was asked for."""
    from embedcal.datasets.printable import printable

    path = printable(os.fsdecode(error.filename), longest=300)
    return (
        f"expected to reach {path}, found: {error.strerror}: name another path, or have its "
        "permissions changed"
    )


def _fail(message: str) -> int:
    from embedcal.datasets.printable import printable

    sys.stderr.write(f"embedcal: {printable(message, longest=4000)}\n")
    return 2


def _usage(error: Any) -> int:
    """A mistyped command or option in one line; the whole help where nothing was typed at all."""
    message = str(error.format_message()).strip()
    ctx = getattr(error, "ctx", None)
    if ctx is not None and message == ctx.get_help().strip():
        sys.stderr.write(message + "\n")
        return 2
    see = f" (see '{ctx.command_path} --help')" if ctx is not None else ""
    return _fail(message.replace("\n", " ") + see)


GROUPS = (
    runs, caches, features, datasets, grids, leaderboard, studies, seeing, annotating, mapping,
    reporting, predicting, exporting, tracking, verifying, doctor,
)  # fmt: skip
for group in GROUPS:
    group.register(app)
