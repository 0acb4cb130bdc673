"""Methods as commands: one sub-command of ``fit`` a method, its options from the dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from embedcal import methods
from embedcal.commands import completing

if TYPE_CHECKING:
    from embedcal.methods.base import Method

FitCallback = Callable[[str, Mapping[str, Any], Mapping[str, Any]], None]

# Both --batch-size and --batch_size are accepted, as in the neighbouring tools.
CONTEXT = {
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}
# Of a command that is only looked at, without the options that its method adds.
LOOSE: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}


def in_order(*names: str) -> type[TyperGroup]:
    """A group that lists these commands first, in this order: that in which they are needed."""

    class Ordered(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            listed = super().list_commands(ctx)
            return sorted(listed, key=lambda n: names.index(n) if n in names else len(names))

    return Ordered


def method_group(run: FitCallback, common: Callable[..., None]) -> type[TyperGroup]:
    """A group with one command a method, made when it is asked for.

    ``run(name, options, shared)`` is called with the method's own options and those that
    ``common``, a function with typer's annotations, declares for all of them.
    """

    class MethodGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return methods.names()

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            name = cmd_name if cmd_name.endswith(".py") else cmd_name.replace("_", "-").lower()
            return _command(methods.find(name), name, run, common)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """The method's command; none is imported to complete the value of a shared option."""
            if ctx.resilient_parsing and len(args) > 1:
                shared = _typer_command(lambda: None, args[0], _own_and(common, []), **LOOSE)
                if any(args[-1] in each.opts and not each.is_flag for each in shared.params):
                    return args[0], shared, args[1:]
            return super().resolve_command(ctx, args)

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            """Names alone here too: a shell asks with every press of a key."""
            from typer.core import CompletionItem  # type: ignore[attr-defined]

            found = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
            options = super(TyperGroup, self).shell_complete(ctx, incomplete)
            return [*map(CompletionItem, found), *options]

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            """Names alone: a summary of each would import torch (``embedcal methods`` has them)."""
            with formatter.section("Methods"):
                formatter.write_text(f"{', '.join(self.list_commands(ctx))}, or FILE.py")

    return MethodGroup


def _command(cls: type[Method], name: str, run: FitCallback, common: Callable[..., None]) -> Any:
    from embedcal.methods.base import options

    hints = get_type_hints(cls)
    own = {item.name: item for item in options(cls)}
    # The method's own before those that all trained methods share.
    order = sorted(own.values(), key=lambda item: item.name not in cls.__annotations__)
    own_parameters = [_parameter(item, hints[item.name], cls) for item in order]

    def command(**given: Any) -> None:
        chosen = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in given.items()
            if key in own
        }
        run(name, chosen, {key: value for key, value in given.items() if key not in own})

    parameters = _own_and(common, own_parameters)
    return _typer_command(command, name, parameters, help=cls.__doc__ or "")


def _own_and(
    common: Callable[..., None], own: Sequence[inspect.Parameter]
) -> Sequence[inspect.Parameter]:
    """A method's own parameters before those that all methods have."""
    shared = inspect.signature(common, eval_str=True).parameters.values()
    return [*own, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shared)]


def _typer_command(
    command: Any, name: str, parameters: Sequence[inspect.Parameter], *, help: str = "", **how: Any
) -> Any:
    """A function as a command that takes these parameters, whatever its own are."""
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(
        add_completion=False, context_settings={**CONTEXT, **how}, rich_markup_mode=None
    )
    app.command(name, help=inspect.cleandoc(help).replace("``", ""))(command)
    return typer.main.get_command(app)


def _parameter(item: Field[Any], hint: Any, cls: type[Method]) -> inspect.Parameter:
    from embedcal.methods.base import default_of

    choices = cls.variants if item.name == "variant" else item.metadata["choices"]
    many = getattr(hint, "__origin__", None) is tuple
    kind = list[hint.__args__[0]] if many else hint
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(default_of(item)) if many else default_of(item),
        annotation=Annotated[
            kind,
            typer.Option(
                help=item.metadata["help"],
                metavar="|".join(choices) or None,
                autocompletion=completing.words(*choices) if choices else None,
                rich_help_panel=f"Options of {cls.name}",
            ),
        ],
    )
