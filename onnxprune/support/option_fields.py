"""Options: fields of a dataclass, each with its entry in the docstring and the metadata given here.

A command line, the keys of a recipe, its drafts and the documentation are made of them, so that an option is
written once: the name, type and default are those of the field, the explanation is the entry in the section
``Attributes`` of the docstring.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from inspect import cleandoc, get_annotations
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from onnxprune.errors import UsageError

Place = Literal["none", "reads", "reads a sum", "writes"]


@dataclass(frozen=True)
class NumberRange:
    """The numbers that an option takes; an option of several numbers takes each of them.

    Attributes:
        least: The smallest.
        above: The largest that is too small.
        below: The smallest that is too large.
        infinite: True if infinity is one of them.
    """

    least: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False

    def __contains__(self, number: float) -> bool:
        """Return whether a number is within the bounds."""
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """Return the bounds in words: ``1 or more``."""
        if self.above is not None and self.below is not None:
            return f"a value between {self.above:g} and {self.below:g}"
        parts = [f"{self.least:g} or more"] if self.least is not None else []
        parts += [f"more than {self.above:g}"] if self.above is not None else []
        parts += [f"less than {self.below:g}"] if self.below is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Key:
    """A key of a recipe, made of an option.

    Attributes:
        default: The default in a recipe; ``...`` for that of the option.
        bounds: The numbers that it takes; by default those of the option.
        text: The explanation, where the one of the option does not hold.
        note: A remark of a few words for the drafted recipe.
        example: A value for the drafted recipe, where the key is a comment there; as it is written in TOML.
        after: The key that it comes behind, for one that no option has.
    """

    default: Any = ...
    bounds: NumberRange | None = None
    text: str = ""
    note: str = ""
    example: str = ""
    after: str = ""


@dataclass(frozen=True)
class Option:
    """The metadata of an option.

    Attributes:
        flag: Spelling on the command line, where it differs from the field's name; empty for an option
            that only Python has.
        metavar: The word for its value.
        example: A pair ``name=value`` as it would be given, for options that take such.
        place: Use of its value as the name of a file.
        bounds: The numbers that it takes.
        key: The key of a recipe; ``None`` where there is none.
    """

    flag: str | None = None
    metavar: str | None = None
    example: str = ""
    place: Place = "none"
    bounds: NumberRange = NumberRange()
    key: Key | None = None


def option(
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    infinite: bool = False,
    **metadata: Any,
) -> Mapping[str, Option]:
    """Return the ``metadata`` of a field: see `NumberRange` and `Option`."""
    bounds = NumberRange(least, above, below, infinite)
    return MappingProxyType({"option": Option(bounds=bounds, **metadata)})


@dataclass(frozen=True)
class OptionField:
    """An option of a class.

    Attributes:
        name: The name of the field.
        kind: Its type.
        default: Its default, ``MISSING`` where it has to be given.
        text: The entry in the docstring.
        option: The metadata.
    """

    name: str
    kind: Any
    default: Any
    text: str
    option: Option

    @property
    def flag(self) -> str:
        """The spelling on the command line; empty where it is no option there."""
        own = self.option.flag
        return f"--{self.name.replace('_', '-')}" if own is None else own

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The alternatives of the type but for ``None``."""
        return tuple(kind for kind in alternatives(self.kind) if kind is not type(None))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a ``Literal``, or of one of which several may be given; empty for other types."""
        found = self.kinds
        if len(found) == 1 and get_origin(found[0]) is not Literal:
            found = get_args(found[0])[:1]
        is_choice = len(found) == 1 and get_origin(found[0]) is Literal
        return tuple(get_args(found[0])) if is_choice else ()

    @property
    def several(self) -> type | None:
        """``Sequence`` or ``Mapping`` where the option takes several values, else ``None``."""
        origin = get_origin(self.kinds[0]) if len(self.kinds) == 1 else None
        return origin if origin in (Mapping, Sequence) else None


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Take a union apart."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


@cache
def options_of(owner: type) -> tuple[OptionField, ...]:
    """Return the options of a dataclass: its own in their order, then those that it inherits.

    The own ones of a class without options are those of its first base that has some. Those of a base that
    has ``leads = True`` come before its own.
    """
    found = {f.name: f for f in fields(owner)}
    declared = (get_annotations(base) for base in owner.__mro__)
    own = next((names for names in declared if not found.keys().isdisjoint(names)), {})
    first = {name for base in owner.__mro__ if base.__dict__.get("leads") for name in get_annotations(base)}
    names = sorted(found, key=lambda name: (name not in first, name not in own))
    return tuple(_option(owner, found[name], _type_of(owner, name)) for name in names)


def _type_of(owner: type, name: str) -> Any:
    """Return the type of a field; forward references within it stay as they are."""
    home = next(base for base in owner.__mro__ if name in get_annotations(base))
    kind = get_annotations(home)[name]
    return eval(kind, vars(sys.modules[home.__module__])) if isinstance(kind, str) else kind


def _option(owner: type, of: Field[Any], kind: Any) -> OptionField:
    made = of.default_factory() if of.default_factory is not MISSING else of.default
    return OptionField(
        of.name, kind, made, _texts(owner).get(of.name, ""), of.metadata.get("option", Option())
    )


@cache
def _texts(owner: type) -> dict[str, str]:
    """Return the entries of the sections ``Attributes`` of a class and its bases, by name."""
    found: dict[str, str] = {}
    for base in owner.__mro__:
        for name, text in attributes(base.__dict__.get("__doc__") or "").items():
            found.setdefault(name, text)
    return found


def attributes(docstring: str) -> dict[str, str]:
    """Return the texts of the section ``Attributes`` of a docstring, one line an attribute."""
    _, _, listed = cleandoc(docstring).partition("Attributes:\n")
    section = re.split(r"^\S", listed, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", section, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in entries}


def check_bounds(owner: Any, name: str) -> None:
    """Refuse numbers that an option does not take, and words that are not among its choices.

    Args:
        owner: An instance of a dataclass; one of another class has no options.
        name: Its name for people.

    Raises:
        UsageError: Naming the option and the values that it takes.
    """
    kind: type = type(owner)
    for of in options_of(kind) if is_dataclass(kind) else ():
        value = getattr(owner, of.name)
        for one in _values(value):
            if isinstance(one, int | float) and not isinstance(one, bool) and one not in of.option.bounds:
                raise UsageError(f"{name}: `{of.name}` is {one:g}", f"give {of.option.bounds}")
            if isinstance(one, str) and of.choices and one not in of.choices:
                known = ", ".join(of.choices)
                raise UsageError(f"{name}: `{of.name}` is '{one}'", f"choose from: {known}")


def _values(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def one_of(owner: type) -> str:
    """Name all options of a class, for a hint."""
    return ", ".join(f"`{of.name}`" for of in options_of(owner))
