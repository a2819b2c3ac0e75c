"""Options that several commands share, and how their values are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import click

from onnxprune.support.option_fields import NumberRange

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Reads(click.Path):
    """The type of an option whose value a command reads: a file, a folder, or ``module:callable``.

    No command overwrites the file of such an option, nor a file that belongs to it.
    """

    def names(self, value: Any) -> list[str]:
        """Return the files that a value names."""
        return [str(value)]


class ReadsSum(Reads):
    """The type of an option whose value is a weighted sum of such names, and of words that name no file."""

    def names(self, value: Any) -> list[str]:
        """Return the terms of the sum."""
        return [part.strip() for part in re.split(r"[+*]", str(value))]


class Writes(click.Path):
    """The type of an option that names a file a command writes."""


def reads_of(context: click.Context) -> list[str]:
    """Return everything the options of a command line read."""
    found = ((p.type, v) for p, v in _given(context) if isinstance(p.type, Reads))
    return [name for kind, value in found for name in kind.names(value)]


def writes_of(context: click.Context) -> dict[str, str]:
    """Return the files the options of a command line write, by option."""
    found = ((p, v) for p, v in _given(context) if isinstance(p.type, Writes))
    return {min(parameter.opts, key=len): str(value) for parameter, value in found}


def _given(context: click.Context) -> Iterator[tuple[click.Parameter, Any]]:
    """Yield the parameters that have a value, one that may be repeated with each of its values."""
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        for one in value if isinstance(value, tuple | list) else (value,):
            if one is not None:
                yield parameter, one


def pair(kind: Any, example: str, bounds: NumberRange) -> Callable[[str], tuple[str, Any]]:
    """Return the reader of a value for a name: ``sequence_length=128``, ``flash=0.3``, ``image=1x3x640x640``.

    Args:
        kind: The type of the value: ``int``, ``float``, ``str``, or a tuple, written 1x3x640x640.
        example: Such a pair.
        bounds: The numbers that it takes.
    """

    def values(text: str) -> tuple[Any, ...]:
        if kind in (int, float, str):
            return (kind(text),)
        return tuple(int(size) for size in text.split("x"))

    def read(text: str) -> tuple[str, Any]:
        name, _, value = text.rpartition("=")
        try:
            found = values(value)
        except ValueError:
            found = ()
        if not name or not found or not (kind is str or all(number in bounds for number in found)):
            raise click.BadParameter(f"'{text}' is not of the form {example}")
        return name, found[0] if kind in (int, float, str) else found

    return read


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them: ``0.1,0.2,0.5``."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a list of numbers such as 0.1,0.2,0.5") from error


def model_argument(name: str = "model") -> Decorator:
    """Return an argument that names an ONNX file; the loader checks that it can be read."""
    return click.argument(name, type=Reads())


def output_option(result: str) -> Decorator:
    """Return the option for the file of the result."""
    return click.option("-o", "--output", required=True, type=Writes(), help=f"File to write {result} to.")


def provider_option(text: str) -> tuple[str, str]:
    """Read an option of an execution provider: ``device_id=1``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"'{text}' is not of the form device_id=1")
    return name, value


def execution_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--provider`` and ``--provider-option``."""
    options = click.option(
        "--provider-option",
        "provider_options",
        multiple=True,
        type=provider_option,
        metavar="KEY=VALUE",
        help="Option of the execution provider, such as device_id=1 (repeatable).",
    )
    provider = click.option(
        "--provider",
        metavar="NAME",
        help="Execution provider to run models on: cpu, cuda, tensorrt, openvino, … (see doctor);"
        " comparisons run on the CPU, and then on this one.",
    )
    return provider(options(function))


unverified_option = click.option(
    "--unverified",
    is_flag=True,
    help="Write the result under its own name although no input could show that it is right.",
)
samples_option = click.option(
    "--samples", type=click.IntRange(1), default=64, show_default=True, help="Number of samples of the data."
)


def data_option(use: str, required: bool = False, without: str = "") -> Decorator:
    """Return the option that names data.

    Args:
        use: The use of the data.
        required: True if the command needs them.
        without: A sentence on the command without them.
    """
    forms = "an .npz or .jsonl file, a folder of samples, or module:callable"
    text = f"{use}: {forms}. {without}".strip()
    return click.option("--data", required=required, type=Reads(), metavar="DATA", help=text)
