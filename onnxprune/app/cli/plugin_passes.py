"""Commands of passes from outside the package: their fields are the options."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import Writes, model_argument
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.errors import PluginError
from onnxprune.support.entry_points import plugin, plugin_names

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.passes import Pass

ENTRY_POINTS = "onnxprune.passes"


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

        with task(name):
            result = step(**options)(load(model))
        with task("write and try"):
            size = write_model(result.model, output, inputs=[model])
        written = {"model": model, "output": output, "unchanged": not result.modified, "size_bytes": size}
        return {**written, **result.facts}

    run.__doc__ = inspect.cleandoc(step.__doc__ or "").split("\n\n")[0]
    written = click.option("-o", "--output", required=True, type=Writes())(run)
    return command(name, _render, fields_of=step)(model_argument()(written))


def _render(facts: Facts) -> RenderableType:
    """Show the figures of a pass."""
    from rich.console import Group

    shown = {k: v for k, v in facts.items() if k not in ("model", "output", "unchanged")}
    return Group(*(f"{name}: {value}" for name, value in shown.items()), f"model: {facts['output']}")
