"""Commands of passes from outside the package: their fields are the options."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, Union

import click

from onnxprune.app.cli.options import Writes, model_argument, size_options
from onnxprune.app.cli.program import Facts, command
from onnxprune.errors import PluginError
from onnxprune.support.plugins import plugin, plugin_names

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.passes import Pass

ENTRY_POINTS = "onnxprune.passes"
_TYPES: dict[Any, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING}
_SIZES = ("input_shapes", "dims")


def pass_names() -> list[str]:
    """Return the names of the passes of other packages."""
    return plugin_names(ENTRY_POINTS)


def pass_command(name: str) -> click.Command | None:
    """Return the command of a pass of another package; ``None`` where there is none of that name.

    Raises:
        PluginError: It is no pass, or has a field of a type that no option can have.
    """
    found = plugin(ENTRY_POINTS, name)
    if found is None:
        return None
    from onnxprune.passes import Pass

    is_class = isinstance(found, type) and dataclasses.is_dataclass(found)
    if not is_class or not issubclass(found, Pass):
        raise PluginError(
            f"'{name}' of {ENTRY_POINTS} is no pass", "let it name a frozen dataclass that derives from Pass"
        )
    return _command(name, found)


def _command(name: str, step: type[Pass]) -> click.Command:
    def run(model: str, output: str, **options: Any) -> Facts:
        from onnxprune.ir import load
        from onnxprune.ir.output import write_model
        from onnxprune.support.progress import task

        shapes = {"input_shapes": dict(options.pop("shapes")), "dims": dict(options.pop("dims"))}
        own = {field.name for field in dataclasses.fields(step)}  # type: ignore[arg-type]
        with task(name):
            result = step(**options, **{k: v for k, v in shapes.items() if k in own})(load(model))
        with task("write and try"):
            size = write_model(result.model, output, inputs=[model])
        written = {"model": model, "output": output, "unchanged": not result.modified, "size_bytes": size}
        return {**written, **result.facts}

    run.__doc__ = inspect.cleandoc(step.__doc__ or "").split("\n\n")[0]
    function: Any = size_options(click.option("-o", "--output", required=True, type=Writes())(run))
    hints = typing.get_type_hints(step)
    for field in reversed(dataclasses.fields(step)):  # type: ignore[arg-type]
        if field.name not in _SIZES:
            function = _option(step, field, hints[field.name])(function)
    return command(name, _render)(model_argument()(function))


def _option(step: type, field: dataclasses.Field[Any], hint: Any) -> Any:
    """Return the option of a field: its name, type and default; the docstring says what it is for."""
    flag = f"--{field.name.replace('_', '-')}"
    required = field.default is dataclasses.MISSING
    default = None if required else field.default
    if hint is bool and not required:
        switch = f"{flag}/--no-{flag[2:]}" if default else flag
        return click.option(switch, default=default, help=_help(step, field.name))
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    known = [_TYPES[k] for k in kinds if k in _TYPES]
    if len(known) != 1 or len([k for k in kinds if k is not type(None)]) != 1:
        raise PluginError(
            f"the field '{field.name}' of the pass {step.__name__} is of a type that no option can have",
            "fields are bool, int, float or str, or one of these or None",
        )
    return click.option(
        flag,
        type=known[0],
        required=required,
        default=default,
        show_default=default is not None,
        help=_help(step, field.name),
    )


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is Union


def _help(step: type, name: str) -> str:
    """Return what the section ``Attributes`` of a class says of a field."""
    lines = inspect.cleandoc(step.__doc__ or "").partition("Attributes:")[2].splitlines()
    said: list[str] = []
    for line in lines:
        head, colon, rest = line.strip().partition(":")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            if said:
                break
            if head == name:
                said.append(rest.strip())
        elif said and line.strip():
            said.append(line.strip())
    return " ".join(said)


def _render(facts: Facts) -> RenderableType:
    """Show the figures of a pass."""
    from rich.console import Group

    said = {k: v for k, v in facts.items() if k not in ("model", "output", "unchanged")}
    return Group(*(f"{name}: {value}" for name, value in said.items()), f"model: {facts['output']}")
