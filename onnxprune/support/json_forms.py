"""JSON of a known form, read with suspicion; each error names the place of the fault.

A form is a description of the content of a file:

* ``NUMBER``, ``REAL``, ``COUNT``, ``TEXT``, ``FLAG``, ``ANYTHING``;
* ``[form]``: a list of values of that form;
* ``{"name": form, "other?": form}``: an object with these keys, the second of which may be left out, and
  others, which are ignored;
* ``MappingOf(form)``: an object with any keys;
* ``Nullable(form)``: that or ``null``; ``OneOf(…)``: one of several.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Form: TypeAlias = Any

NUMBER = "a finite number"
REAL = "a number"
COUNT = "a count"
TEXT = "text"
FLAG = "true or false"
ANYTHING = "anything"
LARGEST = 1 << 53
"""The largest count: beyond, JSON of other programs loses digits."""


@dataclass(frozen=True)
class MappingOf:
    """An object whose values are all of one form."""

    form: Form


@dataclass(frozen=True)
class Nullable:
    """A form that allows ``null``, too."""

    form: Form


class OneOf:
    """One of several forms, the first that fits."""

    def __init__(self, *forms: Form) -> None:
        self.forms = forms


def read_form(text: str, form: Form) -> Any:
    """Read JSON and compare it with a form.

    Raises:
        ValueError: It is no JSON or not of the form; the message states the place and the expected form.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_form(content, form)
    return content


def check_form(value: Any, form: Form, where: str = "") -> None:
    """Compare a value read from JSON with a form.

    Raises:
        ValueError: It differs; the message states the place and the expected form.
    """
    if isinstance(form, str):
        if not _FITS[form](value):
            raise ValueError(f"{_place(where)} should be {form}, not {_shown(value)}")
    elif isinstance(form, Nullable):
        if value is not None:
            check_form(value, form.form, where)
    elif isinstance(form, OneOf):
        _check_either(value, form, where)
    elif isinstance(form, list):
        _check_kind(value, list, "a list", where)
        for place, entry in enumerate(value):
            check_form(entry, form[0], f"{where}[{place}]")
    else:
        _check_kind(value, dict, "an object", where)
        _check_object(value, form, where)


def _check_object(value: dict[str, Any], form: MappingOf | dict[str, Form], where: str) -> None:
    under = f"{where}." if where else ""
    for key in value:
        if not _is_text(key):
            raise ValueError(f"{_place(where)} has a key that is no text: {_shown(key)}")
    if isinstance(form, MappingOf):
        for key, entry in value.items():
            check_form(entry, form.form, f"{under}{key}")
        return
    for name, inner in form.items():
        key = name.removesuffix("?")
        if key in value:
            check_form(value[key], inner, f"{under}{key}")
        elif key == name:
            raise ValueError(f"{under}{key} is missing")


def _check_either(value: Any, form: OneOf, where: str) -> None:
    for inner in form.forms[:-1]:
        try:
            return check_form(value, inner, where)
        except ValueError:
            continue
    return check_form(value, form.forms[-1], where)


def _check_kind(value: Any, kind: type, called: str, where: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{_place(where)} should be {called}, not {_shown(value)}")


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold, infinity and NaN among them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_text(value: Any) -> bool:
    """Return whether a value is text that can be written again: half a surrogate pair cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


_FITS: dict[str, Callable[[Any], bool]] = {
    NUMBER: lambda v: _is_number(v) and math.isfinite(v),
    REAL: _is_number,
    COUNT: lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= LARGEST,
    TEXT: _is_text,
    FLAG: lambda v: isinstance(v, bool),
    ANYTHING: lambda _: True,
}


def _place(where: str) -> str:
    return where or "the content"


def _shown(value: Any) -> str:
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # more digits than Python converts to text
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}…"
