"""``report``: a page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.cli.options import output_option
from onnxprune.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Say where the page is."""
    return f"report: {facts['output']}"


@command("report", render)
@click.argument("folder", metavar="WORKDIR", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["html", "md"]), help="By default what the name ends in.")
@click.option("--against", type=click.Path(path_type=Path), help="Another run, to be set beside this one.")
@click.option(
    "--figures", "place", type=click.Path(path_type=Path), help="A folder for the figures as SVG files."
)
@output_option("the page")
def report(folder: Path, form: str | None, against: Path | None, place: Path | None, output: str) -> Facts:
    """Make a page of what a run has done: one file, without a network."""
    from onnxprune.output import check_output, write_text
    from onnxprune.report import collect, figures
    from onnxprune.report import render as make_page

    check_output(output)
    facts = collect(folder)
    other = collect(against) if against is not None else None
    form = form or ("md" if Path(output).suffix.lower() in (".md", ".markdown") else "html")
    write_text(output, make_page(facts, form, other))
    drawn = figures(facts) if place is not None else {}
    for name, text in drawn.items():
        write_text(Path(str(place)) / name, text)
    return {"output": output, "format": form, "figures": sorted(drawn), **facts}
