"""Options that several commands share, and how their values are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Reads(click.Path):
    """The type of an option whose value a command reads: a file, a folder, or ``module:callable``.

    No command overwrites what such an option names, nor what belongs to it.
    """

    def names(self, value: Any) -> list[str]:
        """Return what a value names."""
        return [str(value)]


class ReadsSum(Reads):
    """The same for a weighted sum of them, and of words that name no file."""

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


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read the full shape of an input: ``name=1x3x640x640``."""
    name, _, sizes = text.rpartition("=")
    try:
        found = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        found = ()
    if not name or not found or min(found) < 1:
        raise click.BadParameter(f"'{text}' is not of the form name=1x3x640x640")
    return name, found


def dim(text: str) -> tuple[str, int]:
    """Read the size of a named axis: ``sequence_length=128``."""
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise click.BadParameter(f"'{text}' is not of the form sequence_length=128")
    return name, int(size)


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them: ``0.1,0.2,0.5``."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a list of numbers such as 0.1,0.2,0.5") from error


def model_argument(name: str = "model") -> Decorator:
    """Return an argument that names an ONNX file; that it can be read is for the loader to say."""
    return click.argument(name, type=Reads())


def output_option(what: str) -> Decorator:
    """Return the option that says where the result goes."""
    return click.option("-o", "--output", required=True, type=Writes(), help=f"Where to write {what}.")


def glob_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--exclude`` and ``--only``."""
    only = click.option(
        "--only",
        multiple=True,
        metavar="GLOB",
        help="Work on no other groups than those that this names (a group, node or tensor; repeatable).",
    )
    exclude = click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave alone what this names: a group, node or tensor (repeatable).",
    )
    return exclude(only(function))


def size_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--shape`` and ``--dim``: the sizes that a model is analysed and run with."""
    shapes = click.option(
        "--shape",
        "shapes",
        multiple=True,
        type=shape,
        metavar="NAME=SHAPE",
        help="Full shape of an input to analyse and run with, such as image=1x3x640x640; other inputs follow"
        " where their axes have the same names (repeatable).",
    )
    dims = click.option(
        "--dim",
        "dims",
        multiple=True,
        type=dim,
        metavar="NAME=N",
        help="Size of an open axis to analyse and run with, such as sequence_length=128; one without a name"
        " is called INPUT.AXIS, such as image.2 (repeatable).",
    )
    return dims(shapes(function))


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


def latency_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--latency-backend`` and ``--latency-timeout``."""
    backend = click.option(
        "--latency-backend",
        metavar="NAME",
        help="What latency is measured on: onnxruntime[:PROVIDER] (the default), openvino[:DEVICE],"
        " tensorrt[:trtexec or :polygraphy], module:callable, or a command that is given a model file and"
        " prints milliseconds: 'cmd:ssh board bench {model}'.",
    )
    timeout = click.option(
        "--latency-timeout",
        type=click.FloatRange(0, min_open=True),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="How long one call of such a command may take.",
    )
    return backend(timeout(function))


open_option = click.option(
    "--open-io",
    "open_io",
    multiple=True,
    metavar="GLOB",
    help="Let the fixed axes of this input or output shrink, such as 'past*' of caches (repeatable).",
)
equal_option = click.option(
    "--equal-layers",
    is_flag=True,
    help="Keep as many in every layer along each axis that --open-io opens: some runtimes want one number.",
)
inexact_option = click.option(
    "--allow-inexact",
    is_flag=True,
    help="Also open axes the model normalises over; the result is then only nearly the same.",
)
unchanged_option = click.option(
    "--allow-unchanged", is_flag=True, help="Write a copy, and do not fail, where there is nothing to do."
)
unverified_option = click.option(
    "--unverified",
    is_flag=True,
    help="Write the result under its own name although no input could show that it is right.",
)
threads_option = click.option("--threads", type=click.IntRange(1), help="How many threads to compute with.")
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn."
)
samples_option = click.option(
    "--samples", type=click.IntRange(1), default=64, show_default=True, help="How many samples of the data."
)


def data_option(use: str, required: bool = False) -> Decorator:
    """Return the option that names data."""
    text = f"{use}: an .npz file, a folder of them, or module:callable."
    return click.option("--data", required=required, type=Reads(), metavar="DATA", help=text)
