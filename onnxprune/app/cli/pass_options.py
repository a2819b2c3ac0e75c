"""Options of a command that are made of the fields of a dataclass: a pass, or the options of a job."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import click

from onnxprune.app.cli.command_options import Reads, ReadsSum, Writes, numbers, pair
from onnxprune.errors import PluginError
from onnxprune.support.option_fields import NumberRange, OptionField, options_of


class Number(click.types.FloatParamType):
    """A number; one that is written with a percent sign is refused with the fraction that it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of a text."""
        text = str(value).strip()
        if text.endswith("%"):
            with contextlib.suppress(ValueError):
                self.fail(f"{text!r} is no number: write {float(text[:-1]) / 100:g}", param, ctx)
        return super().convert(value, param, ctx)


_TYPES: Mapping[Any, Any] = {
    int: click.INT,
    float: Number(),
    str: click.STRING,
    Path: click.Path(path_type=Path),
}

_FIRST = ("data", "output")
COMMON = ("provider", "provider_options", "memory", "verbose", "quiet", "as_json")
"""Names of the options that many commands have."""


class PassCommand(click.Command):
    """A command whose options are its own and those of a class, which is imported at their first use.

    Args:
        fields_of: The class, or ``module:name``, or several.
        options: Options of `click.Command`.
    """

    def __init__(self, *options: Any, fields_of: str | type | Sequence[type], **named: Any) -> None:
        self._params: list[click.Parameter] = []
        self._of: Sequence[str | type] = [fields_of] if isinstance(fields_of, str | type) else fields_of
        super().__init__(*options, **named)

    @property
    def params(self) -> list[click.Parameter]:
        """The list of click: arguments, options of the class, options of the command."""
        if self._of:
            own = {str(p.name): max(p.opts, key=len) for p in self._params if isinstance(p, click.Option)}
            derived = [o for of in self._of for o in derived_options(_imported(of), own)]
            self._params = sorted([*derived, *self._params], key=_place_in_help)
            self._of = ()
        return self._params

    @params.setter
    def params(self, own: list[click.Parameter]) -> None:
        self._params = sorted(own, key=lambda p: not isinstance(p, click.Argument))


def _place_in_help(option: click.Parameter) -> int:
    """Return the rank of an option in the list: data and result first, options of all commands last."""
    if isinstance(option, click.Argument):
        return 0
    return {**dict.fromkeys(_FIRST, 1), **dict.fromkeys(COMMON, 3)}.get(str(option.name), 2)


def _imported(owner: str | type) -> type:
    if isinstance(owner, type):
        return owner
    module, _, name = owner.partition(":")
    found: type = getattr(import_module(module), name)
    return found


def derived_options(owner: type, own: Mapping[str, str] | None = None) -> list[click.Option]:
    """Return the options of a class.

    Args:
        owner: A dataclass.
        own: Options that the command has itself, and their flags.

    Raises:
        PluginError: A field is of a type that no option can have.
    """
    found = [of for of in options_of(owner) if of.flag]
    flags = {of.name: of.flag for of in found} | dict(own or {})
    return [click_option(owner, of, flags) for of in found if of.name not in (own or {})]


def click_option(owner: type, of: OptionField, flags: Mapping[str, str]) -> click.Option:
    """Return the option of the command line for a field."""
    required, switch = of.default is MISSING, of.kind is bool
    default = None if required or of.default in (None, (), {}) else of.default
    named: dict[str, Any] = {"help": in_flags(of.text, flags)}
    named |= {"required": True} if required else {"default": default}
    if switch:
        both = f"{of.flag}/--no-{of.flag[2:]}" if of.default else of.flag
        return click.Option(
            [both, of.name], is_flag=not of.default or None, show_default=bool(of.default), **named
        )
    named |= {"metavar": of.option.metavar, "show_default": default is not None}
    if of.several and of.kinds[0] is not None and get_args(of.kinds[0])[0] is float:
        named |= {} if required else {"default": default and ",".join(f"{n:g}" for n in default)}
        return click.Option([of.flag, of.name], type=numbers, **named)
    if of.several:
        named["help"] = f"{named['help'].removesuffix('.')} (repeatable)."
        named |= {} if required else {"default": None}
        named |= {"multiple": True, "show_default": False, "callback": _gathered(of)}
    return click.Option([of.flag, of.name], type=_type(owner, of), **named)


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """Write the entry of a docstring for a command line: names of fields as flags, values without quotes."""
    return re.sub(r"``(.+?)``", lambda found: flags.get(found[1], found[1]), text)


def _gathered(of: OptionField) -> Callable[[click.Context, click.Parameter, Sequence[Any]], Any]:
    """Return the function from the values that were given one by one to the value of a field."""

    def gather(context: click.Context, parameter: click.Parameter, given: Sequence[Any]) -> Any:
        if not given:
            return of.default
        return dict(given) if of.several is Mapping else tuple(given)

    return gather


def _type(owner: type, of: OptionField) -> Any:
    place: Mapping[str, type[click.Path]] = {"reads": Reads, "reads a sum": ReadsSum, "writes": Writes}
    if of.option.place in place:
        return place[of.option.place](path_type=Path if of.kinds == (Path,) else None)
    if of.several is Mapping:
        return pair(get_args(of.kinds[0])[1], of.option.example or "NAME=VALUE", of.option.bounds)
    if of.choices and of.option.metavar is None:
        return click.Choice(list(of.choices))
    kinds = get_args(of.kinds[0])[:1] if of.several else of.kinds
    kinds = (str,) if of.choices else kinds
    if len(kinds) != 1 or kinds[0] not in _TYPES:
        raise PluginError(
            f"the field '{of.name}' of the pass {owner.__name__} is of a type that no option can have",
            "fields are bool, int, float, str, Path or Literal, sequences of them, or one of these or None",
        )
    return _ranged(kinds[0], of.option.bounds)


def _ranged(kind: Any, bounds: NumberRange) -> Any:
    if bounds == NumberRange(infinite=bounds.infinite):
        return _TYPES[kind]
    if kind is int:
        return click.IntRange(None if bounds.least is None else int(bounds.least))
    low = bounds.least if bounds.above is None else bounds.above
    return click.FloatRange(
        low, bounds.below, min_open=bounds.above is not None, max_open=bounds.below is not None
    )
