"""Format 2 of the cache file: the schema as data, and the 512 bytes that stand before it.

A cache is an HDF5 file behind a user block of 512 bytes. The user block names the format, says
whether the file is complete, and holds the length and SHA-256 of everything behind it, so that
a file can be judged before HDF5 parses a byte of it. ``docs/reference/cache-format.md`` is the
specification; a test holds its tables against ``ENTRIES`` and ``ATTRIBUTES``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal
from urllib.parse import quote, unquote

from embedcal.errors import UnjudgedError
from embedcal.types import EmbedcalError

FORMAT = "embedcal-cache"
FORMAT_VERSION = 2  # what is written; older ones are read
USER_BLOCK = 512  # bytes; the smallest that HDF5 allows
REASON_BYTES = 96  # room for why an image could not be read, UTF-8, cut at a character

OK = 0
UNREADABLE = 1

TEXT = "text"  # fixed-length UTF-8, padded with NUL
SHARD = "/shard/"  # below it a shard says what it is a part of
PAIRS = "pairs"  # the bank whose prompts belong together two by two
PAIR_ROWS, PAIR_ROLES = f"/text/{PAIRS}/rows", f"/text/{PAIRS}/role"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One array that a cache must or may hold.

    ``<name>`` in a path stands for a name that the data brings. Equal letters in shapes are equal
    numbers throughout the file, except those of ``LOCAL``, which belong to one ``<name>``, and
    those of ``DESCRIBED``, which do so in a bank that has ``/text/<name>/text``. A file of a format
    before ``since`` has none.
    """

    path: str
    dtypes: tuple[str, ...]
    shape: str
    required: bool
    meaning: str
    since: int = 1

    @property
    def per_row(self) -> bool:
        """Whether the array is filled batch by batch while the cache is built."""
        return self.path.startswith("/images/") or self.path in (
            "/samples/status",
            "/samples/reason",
            "/samples/crc32",
        )


LOCAL = frozenset("PA")  # prompts of one bank, values of one attribute
DESCRIBED = LOCAL | {"T"}  # a bank with texts of its own has as many a prompt as it likes


def _entry(
    path: str,
    dtypes: str,
    shape: str,
    need: Literal["MUST", "MAY"],
    meaning: str,
    *,
    since: int = 1,
) -> Entry:
    return Entry(
        path=path,
        dtypes=tuple(dtypes.split()),
        shape=shape,
        required=need == "MUST",
        meaning=meaning,
        since=since,
    )


ENTRIES: tuple[Entry, ...] = (
    _entry("/rows_done", "<i8", "1", "MUST", "rows written so far; N in a complete file"),
    _entry("/samples/id", "text", "N", "MUST", "one id a row, unique"),
    _entry("/samples/path", "text", "N", "MUST", "image path below the root, POSIX"),
    _entry("/samples/sha256", "|u1", "N 32", "MUST", "SHA-256 of the image's bytes"),
    _entry("/samples/y", "<i4", "N", "MUST", "class label, 0 <= y < C"),
    _entry("/samples/split", "|u1", "N", "MUST", "0 train, 1 val, 2 test"),
    _entry("/samples/status", "|u1", "N", "MUST", "0 encoded, 1 unreadable"),
    _entry("/samples/reason", "text", "N", "MUST", "why a row is unreadable, else empty"),
    _entry("/samples/crc32", "<u4", "N", "MUST", "CRC-32 of the row's other per-row bytes"),
    _entry("/samples/attributes/<name>", "<i4", "N", "MAY", "attribute value, -1 unknown"),
    _entry("/samples/box", "<f4", "N 4", "MAY", "x, y, width, height in pixels of the file"),
    _entry("/samples/mask", "text", "N", "MAY", "path of the object's mask, empty for none"),
    _entry("/classes", "text", "C", "MUST", "class names"),
    _entry("/attributes/<name>", "text", "A", "MAY", "names of the attribute's values"),
    _entry("/warnings", "text", "E", "MAY", "what the manifest warned of"),
    _entry("/images/embedding", "<f4 <f2", "N D", "MUST", "joint space, raw, not normalised"),
    _entry("/images/pooled", "<f4 <f2", "N W", "MAY", "what the last projection matrix eats"),
    _entry("/images/tokens", "<f4 <f2", "N L M", "MAY", "tokens or the spatial map, row-major"),
    _entry("/templates", "text", "T", "MAY", "prompt templates, {} where the prompt goes"),
    _entry("/text/<name>/prompt", "text", "P", "MAY", "prompts of one bank"),
    _entry("/text/<name>/text", "text", "P T", "MAY", "texts in place of prompt and template"),
    _entry("/text/<name>/pooled", "<f4", "P T V", "MAY", "what the text projection eats"),
    _entry("/text/<name>/embedding", "<f4", "P T D", "MAY", "joint space, none averaged"),
    _entry(PAIR_ROWS, "<i4", "R 2", "MAY", "concept pairs: two prompts of that bank", since=2),
    _entry(PAIR_ROLES, "|u1", "R", "MAY", "0 reject, 1 accept, 2 equal", since=2),
    _entry("/projection/image_weight", "<f4", "D W", "MAY", "embedding = pooled @ weight.T + bias"),
    _entry("/projection/image_bias", "<f4", "D", "MAY", "bias of the image projection"),
    _entry("/projection/text_weight", "<f4", "D V", "MAY", "embedding = pooled @ weight.T"),
    _entry("/projection/logit_scale", "<f8", "1", "MAY", "natural logarithm of the multiplier"),
    _entry("/projection/attnpool_heads", "<i4", "1", "MAY", "heads of the attention pool"),
    _entry("/projection/attnpool/<name>", "<f4", "*", "MAY", "attention pool, open_clip's names"),
    _entry("/shard/part", "<i8", "2", "MAY", "a shard: its number from 1, and of how many"),
    _entry("/shard/rows", "<i8", "3", "MAY", "a shard: first row, row after its last, all rows"),
    _entry("/shard/whole", "text", "1", "MAY", "a shard: digest of what it is a part of"),
    _entry("/shards/name", "text", "K", "MAY", "a virtual cache: files beside it, in row order"),
    _entry("/shards/sha256", "text", "K", "MAY", "a virtual cache: digests of those files"),
)


@dataclass(frozen=True, kw_only=True)
class RootAttribute:
    """One attribute of the root group; all of them are required."""

    name: str
    kind: Literal["text", "int", "json"]
    meaning: str


ATTRIBUTES: tuple[RootAttribute, ...] = tuple(
    RootAttribute(name=name, kind=kind, meaning=meaning)  # type: ignore[arg-type]
    for name, kind, meaning in (
        ("format", "text", "the words embedcal-cache"),
        ("format_version", "int", "that of the user block"),
        ("dataset", "text", "name of the data set"),
        ("encoder", "text", "the encoder's name"),
        ("weights", "text", "pretrained tag, file name or random:SEED"),
        ("weights_sha256", "text", "SHA-256 of the weights"),
        ("library", "text", "what ran the encoder, with its version"),
        ("preprocessing", "json", "object: how pixels were made"),
        ("precision", "text", "arithmetic: fp32, bf16, fp16"),
        ("levels", "json", "object: level to stored type"),
        ("attributes", "json", "list: attribute names in order"),
        ("context_length", "int", "tokens a prompt may have, 0 without text"),
        ("batch_size", "int", "images encoded together, 0 if it varied"),
        ("identity", "text", "identity of the encoding, 64 hex digits"),
        ("fingerprint", "text", "identity with labels, 64 hex digits"),
    )
)


def escape_name(name: str) -> str:
    """A user's name as one HDF5 link name: percent-encoded outside letters, digits, ``_-.~``.

    A name of dots alone has them encoded too, since HDF5 reads ``.`` as "here".
    """
    escaped = quote(name, safe=" ")
    return escaped if name.strip(".") else escaped.replace(".", "%2E")


def unescape_name(name: str) -> str:
    return unquote(name)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Entry], ...]:
    return tuple(
        (re.compile(re.escape(entry.path).replace("<name>", "([^/]+)")), entry) for entry in ENTRIES
    )


def schema_order(path: str) -> tuple[int, str]:
    """Where a path stands among the format's: files laid out by it are equal if contents are."""
    found = entry_for(path)
    assert found is not None, path
    return ENTRIES.index(found[0]), path


@cache
def _group_patterns() -> tuple[re.Pattern[str], ...]:
    parents = {entry.path.rsplit("/", depth)[0] for entry in ENTRIES for depth in (1, 2, 3)}
    return tuple(
        re.compile(re.escape(parent).replace("<name>", "([^/]+)")) for parent in parents if parent
    )


def entry_for(path: str) -> tuple[Entry, str] | None:
    """The schema's entry for a path in a file and what stands for ``<name>`` there."""
    for pattern, entry in _patterns():
        if match := pattern.fullmatch(path):
            return entry, (match.group(1) if match.groups() else "")
    return None


def is_group(path: str) -> bool:
    """Whether the format has a group at this path."""
    return any(pattern.fullmatch(path) for pattern in _group_patterns())


def canonical(value: Any) -> str:
    """JSON with one spelling for equal values: sorted keys, no spaces, plain UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the user block says. ``length`` and ``sha256`` are of everything behind it.

    While a file is being built, ``sha256`` covers everything but the per-row arrays, which have
    checksums of their own: a resumed build trusts nothing that it has not checked. ``version`` is
    the format's, in the line above the rest.
    """

    state: Literal["building", "complete"]
    length: int
    sha256: str
    identity: str
    fingerprint: str
    created: str  # UTC, ISO 8601; it stands here so that equal contents are equal bytes behind
    version: int = FORMAT_VERSION

    def render(self) -> bytes:
        """The 512 bytes: a line naming the format, JSON, a digest of both, zeros."""
        fields = asdict(self)
        body = f"{FORMAT} {fields.pop('version')}\n{canonical(fields)}\n".encode()
        block = body + hashlib.sha256(body).hexdigest().encode() + b"\n"
        assert len(block) <= USER_BLOCK
        return block.ljust(USER_BLOCK, b"\0")


def parse_head(block: bytes, where: str) -> Head:
    """The user block read back; every bit of it counts.

    Raises ``EmbedcalError`` for another format, a newer version, or a block that is not, byte for
    byte, what ``Head.render`` writes.
    """
    first = block[: block.find(b"\n")] if b"\n" in block[:64] else b""
    name, _, version = first.decode("ascii", "replace").partition(" ")
    if name != FORMAT or not version.isdecimal():
        raise EmbedcalError(
            f"expected a cache written by embedcal, found another kind of file in {where}: "
            "name a cache, or make one with 'embedcal cache'"
        )
    if not 1 <= int(version) <= FORMAT_VERSION:
        raise UnjudgedError(
            f"expected cache format 1 to {FORMAT_VERSION}, found format {int(version)} in {where}: "
            "use a newer embedcal, or make the cache again"
        )
    damaged = EmbedcalError(
        f"expected an intact user block, found changed bytes in the first {USER_BLOCK} bytes of "
        f"{where}: restore the file or make the cache again"
    )
    try:
        head = Head(**json.loads(block.split(b"\n")[1]), version=int(version))
        intact = head.render() == block
    except (ValueError, TypeError, IndexError, AssertionError, RecursionError):
        raise damaged from None
    facts = asdict(head)
    numbers = facts.pop("version"), facts.pop("length")
    typed = all(type(n) is int for n in numbers) and all(type(t) is str for t in facts.values())
    if not (intact and typed and head.state in ("building", "complete")):
        raise damaged
    if not 0 <= head.length < 2**62:
        raise damaged
    return head
