"""Reading of recipes from TOML files.

A wrong recipe is refused before any work on it: every error names the line, the key and the values allowed
there.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from onnxprune.app.recipe.schema import Recipe
from onnxprune.errors import UsageError
from onnxprune.support.callables import is_reference

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Table: TypeAlias = dict[str, Any]


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe; paths in it count from its own folder.

    Args:
        path: The file.
        overrides: Values that count instead of those in the file, as ``finetune.epochs=3``.

    Raises:
        UsageError: The file cannot be read, is no TOML, or holds unknown keys or values.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}", "`init MODEL` writes a recipe") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {path}: {reason}", "`init MODEL` writes a recipe") from error
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is no TOMLDecodeError
        raise UsageError(f"{path} is not TOML: {error}", "text is written in quotes: key = 'text'") from error
    given = [_override(o) for o in overrides]
    for keys, value in given:
        _put(table, keys, value)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        raise _refusal(path, text, error, {keys for keys, _ in given}) from error
    return _placed(recipe, path)


def _override(text: str) -> tuple[tuple[str, ...], Any]:
    """Read ``section.key=value``; a value that is no TOML is text."""
    name, equals, value = text.partition("=")
    keys = tuple(k.strip() for k in name.split("."))
    if not equals or not all(keys):
        raise UsageError(f"'{text}' is not of the form section.key=value", "such as finetune.epochs=3")
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return keys, value.strip()


def _put(table: Table, keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UsageError(
                f"'{key}' has no keys of its own", "sections are listed in the recipe `init` writes"
            )
    table[keys[-1]] = value


def _placed(recipe: Recipe, path: Path) -> Recipe:
    """Make the paths of a recipe absolute."""
    here = path.resolve().parent

    def place(value: str | None) -> str | None:
        reference = value is None or (is_reference(value) and not (here / value).exists())
        return value if reference else os.path.normpath(here / str(value))

    data = {name: place(getattr(recipe.data, name)) for name in ("train", "val", "calibration", "test")}
    folder = os.path.normpath(here / (recipe.folder or f"{path.stem}-run"))
    table = recipe.bench.table and os.path.normpath(here / recipe.bench.table)
    rows = recipe.vocabulary.keep_rows and os.path.normpath(here / recipe.vocabulary.keep_rows)
    board = recipe.log.tensorboard and os.path.normpath(here / recipe.log.tensorboard)
    return recipe.model_copy(
        update={
            "model": os.path.normpath(here / recipe.model),
            "folder": folder,
            "data": recipe.data.model_copy(update=data),
            "vocabulary": recipe.vocabulary.model_copy(update={"keep_rows": rows}),
            "bench": recipe.bench.model_copy(update={"table": table}),
            "log": recipe.log.model_copy(update={"tensorboard": board}),
        }
    )


def _refusal(path: Path, text: str, error: ValidationError, given: set[tuple[str, ...]]) -> UsageError:
    """State the mistakes of a recipe, each with its line and the allowed values."""
    sentences, lines = [], _lines_of_keys(text)
    for mistake in error.errors():
        keys = tuple(str(k) for k in mistake["loc"] if not isinstance(k, int))
        ours = keys in given or (keys not in lines and any(g[: len(keys)] == keys for g in given))
        where = "--set" if ours else f"line {line_of(text, keys)}"
        sentences.append(f"{path}, {where}: {_sentence(keys, mistake)}")
    return UsageError("\n       ".join(sentences), "`init MODEL` writes a recipe with all keys explained")


def _sentence(keys: tuple[str, ...], mistake: Mapping[str, Any]) -> str:
    name, kind = ".".join(keys) or "recipe", str(mistake["type"])
    if kind == "extra_forbidden":
        known = _known(keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, 1)
        meant = f"did you mean {close[0]}? " if close else ""
        return f"there is no key {name}; {meant}allowed: {', '.join(known)}"
    if kind == "missing":
        return f"{name} is missing"
    fault = str(mistake["msg"]).removeprefix("Value error, ").replace("Input should", "it should")
    given = "" if isinstance(mistake["input"], dict) else f" is {mistake['input']!r}"
    return f"{name}{given}: {fault}"


def _known(keys: tuple[str, ...]) -> list[str]:
    """Return the keys of a section."""
    section: type[BaseModel] = Recipe
    for key in keys:
        annotation = section.model_fields[key].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line of a key, or else of the innermost section around it, or else the first line."""
    lines = _lines_of_keys(text)
    return next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), 1)


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    """Return where the sections and the keys of a file stand."""
    found: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([\w.\- ]+)\]", line):
            section = tuple(k.strip() for k in header[1].split("."))
            found.setdefault(section, number)
        elif assigned := re.match(r"\s*([\w.\-]+)\s*=", line):
            found.setdefault((*section, *assigned[1].split(".")), number)
    return found
