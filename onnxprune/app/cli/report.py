"""``report``: a page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.app.cli.command_options import Reads, output_option, reads_of
from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Return a line with the path of the page."""
    return f"report: {facts['output']}"


@command("report", render)
@click.argument("folder", metavar="WORKDIR", type=Reads(path_type=Path))
@click.option("--format", "form", type=click.Choice(["html", "md"]), help="By default the name's ending.")
@click.option("--against", type=Reads(path_type=Path), help="Another run, to be set beside this one.")
@click.option(
    "--figures", "place", type=click.Path(path_type=Path), help="A folder for the figures as files."
)
@click.option(
    "--figure-format",
    "image",
    type=click.Choice(["svg", "png", "pdf"]),
    default="svg",
    show_default=True,
    help="svg: those of the page. png and pdf: drawn by matplotlib, for slides and papers.",
)
@output_option("the page")
def report(
    folder: Path, form: str | None, against: Path | None, place: Path | None, image: str, output: str
) -> Facts:
    """Make a page of the results of a run: one file that loads nothing from a network."""
    from onnxprune.app.report import collect
    from onnxprune.app.report import render as make_page
    from onnxprune.ir.output import write_bytes, write_text
    from onnxprune.support.path_guard import check_places

    facts = collect(folder)
    other = collect(against) if against is not None else None
    form = form or ("md" if Path(output).suffix.lower() in (".md", ".markdown") else "html")
    drawn = _drawn(facts, image) if place is not None else {}
    page = make_page(facts, form, other)
    if place is not None:
        _make_folder(place)
        figures = {f"figure {name}": str(place / name) for name in drawn}
        check_places({"-o": output, **figures}, reads_of(click.get_current_context()))
    write_text(output, page)
    for name, content in drawn.items():
        write_bytes(Path(str(place)) / name, content)
    return {"output": output, "format": form, "figures": sorted(drawn), **facts}


def _drawn(facts: Facts, image: str) -> dict[str, bytes]:
    from onnxprune.app.report import figures, plots

    if image == "svg":
        return {name: text.encode() for name, text in figures(facts).items()}
    return plots(facts, image)


def _make_folder(folder: Path) -> None:
    from onnxprune.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}", "name another") from error
