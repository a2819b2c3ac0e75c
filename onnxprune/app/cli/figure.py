"""One figure as a file, beside the other output of a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from onnxprune.app.cli.command_options import Writes

figure_option = click.option(
    "--figure",
    type=Writes(path_type=Path),
    help="Draw it to this file: .svg, .png or .pdf (needs matplotlib).",
)


def check_figure(path: Path | None) -> None:
    """See that a figure can be drawn, before the work begins.

    Raises:
        UsageError: matplotlib is not installed, or the name has no ending of a known form.
    """
    if path is not None:
        from onnxprune.app.report.plots import plot

        plot("widths", {"widths": []}, _form(path))


def draw(path: Path | None, name: str, facts: Mapping[str, Any]) -> None:
    """Draw a figure, if there is a place for it.

    Args:
        path: The file.
        name: ``sensitivity`` or ``widths``.
        facts: Facts that it shows.
    """
    if path is not None:
        from onnxprune.app.report.plots import plot
        from onnxprune.ir.output import write_bytes

        write_bytes(path, plot(name, facts, _form(path)))


def _form(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
