"""What a user can mend. Apart from the other types, so that importing it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable


class EmbedcalError(Exception):
    """Something that the user can mend.

    The message is one line: what was expected, what was found, what to do. The command line
    prints it without a traceback and exits with status 2.

    Example:
        >>> import embedcal
        >>> try:
        ...     embedcal.open("nothing.h5")
        ... except embedcal.EmbedcalError as error:
        ...     print(error)
        expected a readable cache file, found No such file ... for nothing.h5: check the path
    """


class UnjudgedError(EmbedcalError):
    """A file that cannot be read here and may be whole: no ground to take it for damaged."""


class WithheldError(EmbedcalError):
    """A method read an array that it did not declare in its ``needs``."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about an unknown name: take the nearest of those known, or do ``otherwise``.

    Upper and lower case count as the same.
    """
    import difflib  # only a mistake needs it

    plain = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), plain, n=2, cutoff=0.5)
    near = [plain[each] for each in close]
    return f"did you mean {' or '.join(near)}?" if near else otherwise
