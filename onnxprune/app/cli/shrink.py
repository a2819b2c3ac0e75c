"""``shrink``: the whole job in one command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import (
    data_option,
    model_argument,
    output_option,
)
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.app.cli.streams import tell

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the models side by side, with warnings and the path of the result."""
    from rich.console import Group

    from onnxprune.app.figures import before_and_after, count, file_size, table

    end = [f"\nwarning: {text}" for text in facts["warnings"]]
    end += [f"\ndense model: {facts['output']}"]
    if "rows" not in facts:
        costs = [(n, facts[f"{k}_before"], facts[k]) for n, k in (("MACs", "macs"), ("parameters", "params"))]
        return Group(before_and_after(costs), *end)
    first = facts["rows"][0]

    def part(row: Facts, key: str, show: Any) -> str:
        share = "" if row is first else f" {row[key] / max(first[key], 1e-12):.0%}" if key in row else ""
        return f"{show(row[key])}{share}" if key in row else ""

    rows = [
        (
            row["model"],
            f"{row['score']:.4f}",
            part(row, "latency_ms", lambda v: f"{v:.3g} ms"),
            part(row, "size_bytes", file_size),
            part(row, "macs", count),
            part(row, "params", count),
        )
        for row in facts["rows"]
    ]
    columns = ("", f">{facts['metric']}", ">latency", ">size", ">MACs", ">parameters")
    size = f"{facts['batch_size']} sample{'s' if facts['batch_size'] > 1 else ''}"
    how = f"\n% of the original's; latency of {size}, threads: {facts['threads'] or 'all'}; {facts['reason']}"
    end += [f"int8 model: {facts['int8']}"] if "int8" in facts else []
    end += [f"report: {facts['report']}"] if facts.get("report") else []
    end += [f"work folder: {facts['folder']} (start again to go on from there; delete it when done)"]
    return Group(table(columns, rows), how, *end)


@command("shrink", render, executes=True, fields_of="onnxprune.app.shrink.recipe_choice:ShrinkOptions")
@model_argument()
@data_option(
    "Samples to train and calibrate on, with or without labels",
    without="Without samples the result is weaker.",
)
@click.option(
    "--quantize", type=click.Choice(["int8"]), help="Also quantise the result, on the same samples."
)
@output_option("the dense model")
def shrink(model: str, output: str, data: str | None, quantize: str | None, **options: Any) -> Facts:
    """Make a model smaller, all in one: analyse, prune, repair, train, make dense, prove, measure.

    Killed and started again it goes on from its work folder, OUTPUT.work.
    """
    from onnxprune.app.shrink import ShrinkOptions, shrink_without_data
    from onnxprune.app.shrink import shrink as run_shrink
    from onnxprune.app.shrink.delivery import page_of
    from onnxprune.errors import MissedError, UsageError
    from onnxprune.runtime.backends import find_backend
    from onnxprune.support.common_options import Reductions
    from onnxprune.support.option_fields import one_of
    from onnxprune.support.path_guard import check_output

    job = ShrinkOptions(model=model, output=output, data=data or "", **options)
    reductions = job.reductions()
    if len(reductions) + (job.max_drop is not None and not reductions) != 1:
        raise UsageError(
            "`shrink` takes one budget", f"give one of {one_of(Reductions)}, or `max_drop` with `data`"
        )
    check_output(output, [model])
    find_backend(options["latency_backend"], options["latency_timeout"])  # refused before the work
    if data is None:
        if job.max_drop is not None or quantize or job.val:
            raise UsageError("quality and ranges are measured on samples", "give them with `data`")
        names = ("open_io", "threads", "seed", "input_shapes", "dims")
        kept = {name: options[name] for name in names}
        if "latency" in reductions:
            kept |= {name: options[name] for name in ("latency_backend", "latency_timeout", "latency_table")}
        return shrink_without_data(model, output, reductions, **job.groups, **kept)
    missed: MissedError | None = None
    try:
        facts = run_shrink(job, _show_event, tell, int8=quantize is not None)
    except MissedError as error:
        facts, missed = error.facts, error
    if quantize:
        facts = _quantised(facts, job)
    facts["report"] = page_of(job.folder)
    if missed is not None:
        missed.facts = facts
        raise missed
    return facts


def _quantised(facts: Facts, job: Any) -> Facts:
    """Add the quantised models; where they cannot be made, add a warning with the reason."""
    from onnxprune.app.shrink.delivery import judged_data
    from onnxprune.app.shrink.int8_comparison import with_int8
    from onnxprune.errors import ModelError

    try:
        return with_int8(facts, job, judged_data(job))
    except ModelError as error:
        return facts | {"warnings": [*facts["warnings"], f"not quantised: {error.message}"]}


def _show_event(event: Facts) -> None:
    """Write the message of an event."""
    from onnxprune.app.cli.run import show_event

    show_event(event)
