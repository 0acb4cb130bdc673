"""The reference of methods: what each reads, and its options, from the classes themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from markdown_text import MADE, page, prose, table


def methods_page() -> str:
    from embedcal.methods import find, names
    from embedcal.methods.base import Gradient, options

    classes = [find(name) for name in names()]
    rows = [
        (f"[`{cls.name}`](#{cls.name})", _labels(_resolved(cls)), prose(cls.summary()))
        for cls in classes
    ]
    parts = [
        MADE,
        "# Methods",
        METHODS_INTRODUCTION,
        table(("method", "labels that it reads", "in one line"), rows),
    ]
    for cls in classes:
        parts += [f"## {cls.name}", prose(inspect.cleandoc(cls.__doc__ or "")), _facts(cls)]
        own = _own_options(cls)
        parts.append(_options(own))
        if issubclass(cls, Gradient):
            also = "also has" if own else "has"
            parts.append(f"It {also} [the options of every trained method](#trained-methods).")
    parts += [
        "## Trained methods",
        "Methods that are trained by gradient steps share these options, where a method's own "
        "table does not say otherwise. `projection` trains the last matrix of CLIP's image tower "
        "against the class prompts, `attnpool` a ResNet's whole attention pool; `linear` is a new "
        "linear classifier on the unit embedding. "
        "[Frozen features](../explanation/frozen-features.md#heads) has more on them. "
        "`--sampler group` adds the groups of training to the labels.",
        _options(options(Gradient)),
    ]
    return page(parts)


METHODS_INTRODUCTION = """\
Each method is one file of `embedcal/methods/`, and its options are the fields of one class. They
are options of `embedcal fit METHOD` (`--weight-decay 0.01`) and arguments of `embedcal.fit`
(`weight_decay=0.01`). `grid` lists the values that are worth trying first. `embedcal methods`
prints this list shorter.

The labels below are a method's own, `y` for classes and `g` for groups; those of the run that it
starts from, and of the rule that chooses there, are among them. What a run used in all also counts
what its own selection rule reads: [What a method sees](../explanation/what-a-method-sees.md). The
first table of a method has a line for each variant, and one for each value of an option that
changes anything in it."""


def _resolved(cls: Any, **given: Any) -> Any:
    """A method with ``auto`` options decided as for a cache that has everything."""
    from embedcal.methods.base import Offer

    offer = Offer(
        levels=frozenset({"tokens", "pooled", "embedding"}),
        banks=frozenset({"class", "attribute", "context", "group", "pairs"}),
        projection=True,
        attributes=True,
        attnpool=True,
    )
    return cls(**given).resolve(offer)


def _labels(method: Any) -> str:
    from embedcal.methods import labels_of
    from embedcal.tables import labels_used

    return labels_used([need for need in labels_of(method) if need.endswith((".y", ".g", ".a"))])


def _facts(cls: Any) -> str:
    """A line a variant, and one for each value of an option that changes what the line says."""
    from embedcal.errors import EmbedcalError

    default = _line(_resolved(cls))
    rows = [(f"`{variant}`", *_line(_resolved(cls, variant=variant))) for variant in cls.variants]
    for item in _own_options(cls):
        for value in dict.fromkeys((*item.metadata["choices"], *item.metadata["grid"])):
            try:
                line = _line(_resolved(cls, **{item.name: value}))
            except EmbedcalError:  # it goes with other options only
                continue
            if line != default:
                rows.append((f"`{_flag(item)} {value}`", *line))
    heads = ("variant or option", "head", "features", "labels", "chosen by", "validation in-sample")
    return table(heads, rows)


def _line(method: Any) -> tuple[str, ...]:
    from embedcal.methods.base import Solver

    solver = isinstance(method, Solver)
    chosen = method.selection if solver else "the rule of `--select`"
    in_sample = "yes" if solver and method.fits_val else "no"
    return (method.head_name, method.level, _labels(method), chosen, in_sample)


def _own_options(cls: Any) -> list[Any]:
    """The options that a method declares itself, the variant left out."""
    from embedcal.methods.base import Gradient, options

    shared = options(Gradient) if issubclass(cls, Gradient) else []
    return [item for item in options(cls) if item not in shared and item.name != "variant"]


def _options(items: Iterable[Any]) -> str:
    from embedcal.methods.base import default_of

    rows = [
        (
            f"`{_flag(item)}`",
            f"`{_value(default_of(item))}`",
            _codes(item.metadata["choices"]),
            _codes(item.metadata["grid"]),
            prose(item.metadata["help"]),
        )
        for item in items
        if item.name != "variant"
    ]
    return table(("option", "default", "choices", "grid", "meaning"), rows) if rows else ""


def _flag(item: Any) -> str:
    return f"--{item.name.replace('_', '-')}"


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _codes(values: Iterable[Any]) -> str:
    return ", ".join(f"`{value}`" for value in values)
