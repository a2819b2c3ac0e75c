"""Standard streams in any state: closed, full, of any encoding."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TextIO

import click

from onnxprune.errors import OutputError
from onnxprune.support.wording import ENCODING_ERRORS

_HINT = "files that the command writes are in their places"
_closed = set[int]()
"""Descriptors of standard streams that the process was started without."""


def prepare() -> None:
    """Make the standard streams safe to be used, once, before anything else.

    A file that is opened while one of them is closed would take its number, and so receive the output.
    Characters that an encoding lacks are replaced.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _closed.add(descriptor)
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=ENCODING_ERRORS)


def put(text: str) -> None:
    """Print the result; a pipe that its reader has closed is no fault.

    Raises:
        OutputError: It cannot be printed.
    """
    if 1 in _closed:
        raise OutputError("the result cannot be printed: standard output is closed", _HINT)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(1)
    except OSError as error:
        _drop(1)
        raise OutputError(f"the result cannot be printed: {error.strerror}", _HINT) from error


def tell(text: str, *, end: str = "\n", color: str | None = None) -> None:
    """Print a message on standard error, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        colored = color is not None and sys.stderr.isatty()
        sys.stderr.write((click.style(text, fg=color, bold=True) if colored else text) + end)
        sys.stderr.flush()


def _drop(descriptor: int) -> None:
    """Lead a stream nowhere, or the interpreter tries to write once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
