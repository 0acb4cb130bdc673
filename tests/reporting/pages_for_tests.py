"""A page as a tree, and pages of made-up runs, for the tests of reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from html.parser import HTMLParser
from typing import Any

from markupsafe import Markup

HOSTILE = (
    "<img src=x onerror=alert(1)></script><script>alert(2)</script>\" onload='alert(3)' "
    "{{7*7}} {% raw %} ]]> --> &lt; \u202eltr\u200f"
)
OWN = {"name", "picture", "detector"}  # ids, data and names that are the package's own
EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str | None]
    children: list[Any] = field(default_factory=list)

    def all(self, *tags: str) -> list[Node]:
        return [node for node in self.walk() if not tags or node.tag in tags]

    def walk(self) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    @property
    def text(self) -> str:
        return "".join(c.text if isinstance(c, Node) else c for c in self.children)

    def get(self, name: str) -> str:
        return self.attributes.get(name) or ""


class Tree(HTMLParser):
    """Every element must be closed where it ought to be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in EMPTY:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> in <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def tree(html: str) -> Node:
    parser = Tree()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1, parser.open[-1].tag
    return parser.root


def poisoned(value: Any) -> Any:
    """The same content with every text of it hostile, but for what the package names itself."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, Mapping):
        return {f"{i} {poisoned(k)}": poisoned(v) for i, (k, v) in enumerate(value.items())}
    if isinstance(value, list | tuple):
        return type(value)(map(poisoned, value))
    if is_dataclass(value) and not isinstance(value, type):
        found = {each.name: getattr(value, each.name) for each in fields(value)}
        made = {
            key: inner if key in OWN or key in ("metrics", "second") else poisoned(inner)
            for key, inner in found.items()
        }
        return type(value)(**made)
    return value
