"""``run``: the whole loop, resumable."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.app.cli.command_options import Reads
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.app.cli.streams import tell
from onnxprune.support.wording import sentence

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.app.recipe import Recipe

_FIGURES = {
    "score": "score {:.4f}",
    "macs_reduction": "MACs −{:.1%}",
    "params_reduction": "parameters −{:.1%}",
    "training_s": "{:.1f} s of training",
    "max_rel_error": "max_rel_error {:.1e}",
}
"""Formats of a step's figures in the progress line, by key."""


def render(facts: Facts) -> RenderableType:
    """Show the iterations with their reductions and scores."""
    from rich.console import Group

    from onnxprune.app.figures import table

    of = next((k for i in facts["iterations"] for k in i if k.endswith("_reduction")), "reduction")
    rows = [
        (i["number"], f"{i[of]:.1%}", f"{i['score']:.4f}", _remark(i, facts["best_iteration"]))
        for i in facts["iterations"]
    ]
    columns = ("iteration", f">{of.replace('_', ' ')}", ">score", "")
    done = "nothing to do: the run was finished before" if facts["unchanged"] else facts["reason"]
    dense = Path(facts["folder"]) / facts["dense"]
    page = facts["report"] or f"none: onnxprune report {facts['folder']} -o report.html makes one"
    end = f"\n{done}\ndense model: {dense}\nreport: {page}"
    return Group(table(columns, rows), end)


def _remark(iteration: Facts, best: int) -> str:
    if iteration["number"] == best:
        return "best, within noise of the floor" if iteration["noise"] else "best"
    return "" if iteration["good"] else "below the floor"


@command("run", render, executes=True, shows_progress=False)
@click.argument("recipe", type=Reads(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the recipe, such as finetune.epochs=3 (repeatable).",
)
@click.option("--folder", type=click.Path(path_type=Path), help="The work folder, instead of the recipe's.")
def run(recipe: Path, overrides: Sequence[str], folder: Path | None) -> Facts:
    """Prune and train in turn by a recipe, and go on where an earlier run has stopped.

    With --json every step, and how far it is, is a JSON object on a line of standard error.
    """
    from onnxprune.app.recipe import read_recipe
    from onnxprune.app.runner import run as run_recipe
    from onnxprune.errors import MissedError
    from onnxprune.support.path_guard import check_folder

    read = read_recipe(recipe, overrides)
    if folder is not None:
        read = read.model_copy(update={"folder": str(folder.resolve())})
    beside = str(recipe.resolve().parent)  # where paths count from, modules are looked for too
    if beside not in sys.path:
        sys.path.append(beside)
    check_folder(Path(str(read.folder)), [recipe])
    with watching(read, bool(click.get_current_context().params["as_json"])) as listen:
        try:
            facts = run_recipe(read, listen)
        except MissedError as error:
            error.facts["report"] = _report(Path(str(read.folder)), bool(error.facts["unchanged"]))
            raise
    return {**facts, "report": _report(Path(facts["folder"]), facts["unchanged"])}


@contextlib.contextmanager
def watching(recipe: Recipe, as_json: bool) -> Iterator[Callable[[Facts], None]]:
    """Show how a run goes on: as JSON lines, as a board in a terminal, as lines elsewhere.

    Yields:
        Listener for the events of the run.
    """
    from onnxprune.app.cli.live_status import LiveStatus, on_display
    from onnxprune.app.console import JsonLines, show_progress
    from onnxprune.support.progress import reporting

    if as_json:
        with reporting(JsonLines()):
            yield _say_json
    elif sys.stderr.isatty():
        board = LiveStatus(recipe)
        with on_display(board):
            yield board.receive
    else:
        with show_progress():
            yield show_event


def _report(folder: Path, unchanged: bool) -> str | None:
    """Put a page beside the result; ``None`` where the package for it is not installed."""
    from importlib.util import find_spec

    from onnxprune.app.report import collect, render
    from onnxprune.ir.output import write_text

    page = folder / "report.html"
    if find_spec("jinja2") is None:
        return None
    if not (unchanged and page.exists()):
        write_text(page, render(collect(folder)))
    return str(page)


def show_event(event: Facts) -> None:
    """Write the message of an event to standard error."""
    from onnxprune.app.figures import duration

    step, facts = event["step"], event.get("facts", {})
    if event["event"] == "start":
        for why in event.get("because", ()):
            tell(sentence(f"{step}: again, because {why}"))
        return
    if event["event"] == "untracked":
        tell(sentence(f"nothing more goes to {step}: {event['because'][0]}"))
        return
    shown = [name for name in _FIGURES if name != "score" or not step.endswith("-prune")]  # of no repair
    numbers = {name: facts[name] for name in shown if isinstance(facts.get(name), int | float)}
    figures = [_FIGURES[name].format(value) for name, value in numbers.items()]
    took = "as before" if event["event"] == "kept" else duration(event["duration_s"])
    left = event.get("remaining_s")
    end = f"; about {duration(left)} to go" if left else ""
    tell(sentence(f"{step}: {', '.join((took, *figures))}{end}"))


def _say_json(event: Facts) -> None:
    tell(json.dumps(event))
