"""Write tables of the program into the documentation: options of commands, keys of recipes.

    python docs/generate.py            # bring all pages up to date
    python docs/generate.py --check    # exit with 1 if one is not

The generated parts stand between ``<!-- options -->`` or ``<!-- keys -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from onnxprune.app.cli import program
from onnxprune.app.recipe import Recipe
from onnxprune.support.option_fields import alternatives, attributes

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- (?P<table>options|keys) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Return all pages with generated parts, as they should be."""
    found = {
        HERE / "commands" / f"{name}.md": options_of(command) for name, command in program.commands.items()
    }
    found[HERE / "recipe.md"] = "\n".join(keys())
    return {page: filled(page, text) for page, text in found.items()}


def filled(page: Path, text: str) -> str:
    """Return a page with its generated part replaced."""
    return BLOCK.sub(lambda found: f"{found[1]}{text}\n{found[3]}", page.read_text("utf-8"))


def options_of(command: click.Command) -> str:
    """Return a table of a command's options."""
    context = click.Context(command)
    lines = ["| option | default | |", "|---|---|---|"]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = ", ".join(f"`{name}`" for name in parameter.opts)
            kind = "" if parameter.is_flag else f" {cell(parameter.make_metavar(context))}"
            lines.append(f"| {names}{kind} | {default_of(parameter)} | {cell(parameter.help or '')} |")
    usage = " ".join(command.collect_usage_pieces(context))
    return "\n".join([f"    python -m onnxprune {command.name} {usage}", "", *lines])


def default_of(option: click.Option) -> str:
    """Return an option's default as text; nothing where it has none to show."""
    if option.required:
        return "required"
    value = option.to_info_dict()["default"]
    plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return f"`{value}`" if plain and option.show_default else ""


def keys() -> list[str]:
    """Return a table for every section of a recipe, the keys outside of all sections first."""
    sections = {n: f for n, f in Recipe.model_fields.items() if section_of(f)}
    outside = {n: f for n, f in Recipe.model_fields.items() if n not in sections}
    lines = [*table(Recipe, outside), ""]
    for name, field in sections.items():
        section = section_of(field)
        assert section is not None
        summary = said(section).partition("\n\n")[0].replace("\n", " ")
        lines += [
            f"### `[{name}]`",
            "",
            cell(" ".join(summary.split())),
            "",
            *table(section, section.model_fields),
            "",
        ]
    return lines[:-1]


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a key that is a section of its own."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def table(section: type[BaseModel], fields: dict[str, FieldInfo]) -> list[str]:
    """Return a table of keys."""
    meanings = attributes(said(section))
    lines = ["| key | value | default | |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = "required" if field.is_required() else toml(field.default)
        lines.append(
            f"| `{name}` | {kind_of(field)} | {default} | {cell(field.description or meanings[name])} |"
        )
    return lines


def kind_of(field: FieldInfo) -> str:
    """Return the type and the bounds of a key, in words."""
    kinds = [kind for kind in alternatives(field.annotation) if kind is not type(None)]
    return " or ".join(word for kind in kinds for word in words(kind)) + bounds(field.metadata)


def bounds(metadata: Sequence[Any]) -> str:
    """Return the bounds of a number, in words."""
    found = {type(m).__name__: m for m in metadata}
    if "Gt" in found and "Lt" in found:
        return f", between {found['Gt'].gt} and {found['Lt'].lt}"
    if "Ge" in found:
        return f", {found['Ge'].ge} or more" + (f", below {found['Lt'].lt}" if "Lt" in found else "")
    return f", above {found['Gt'].gt}" if "Gt" in found else ""


def words(kind: Any) -> list[str]:
    """Return the names of a type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return [", ".join(f"`{value}`" for value in inner)]
    if origin is typing.Annotated:
        return [word + bounds(inner[1].metadata) for word in words(inner[0])]
    if origin is tuple:
        return [f"list of {words(inner[0])[0]}"]
    if origin is dict:
        return [f"table of {words(inner[1])[0]}"]
    return [{str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[kind]]


def toml(value: object) -> str:
    """Return a default as it would stand in a file."""
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{[*value]}`".replace("'", '"')
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def said(section: type[BaseModel]) -> str:
    """Return a section's docstring."""
    return inspect.cleandoc(section.__doc__ or "")


def cell(text: str) -> str:
    """Return text that fits into a cell of a table."""
    return re.sub(r"``(.+?)``", r"`\1`", text).replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write, or check, all pages."""
    stale = [page for page, text in pages().items() if page.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"{page} is not up to date: python docs/generate.py" for page in stale) or 0)
    for page, text in pages().items():
        page.write_text(text, "utf-8")
        print(f"{'written' if page in stale else 'as it was'}: {page.relative_to(HERE)}")


if __name__ == "__main__":
    main()
