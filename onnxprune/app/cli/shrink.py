"""``shrink``: the whole job in one command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.options import (
    Reads,
    data_option,
    equal_option,
    glob_options,
    inexact_option,
    latency_options,
    model_argument,
    open_option,
    output_option,
    seed_option,
    size_options,
    threads_option,
)
from onnxprune.app.cli.program import Facts, command
from onnxprune.app.cli.prune import reduction_option
from onnxprune.app.cli.streams import tell

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the models side by side, and what there is to know of them."""
    from rich.console import Group

    from onnxprune.app.figures import before_and_after, count, file_size, table

    end = [f"\nwarning: {said}" for said in facts["warnings"]]
    end += [f"\ndense model: {facts['output']}"]
    if "rows" not in facts:
        costs = [(n, facts[f"{k}_before"], facts[k]) for n, k in (("MACs", "macs"), ("parameters", "params"))]
        return Group(before_and_after(costs), *end)
    first = facts["rows"][0]

    def part(row: Facts, key: str, show: Any) -> str:
        return f"{show(row[key])} ({row[key] / max(first[key], 1e-12):.0%})" if key in row else ""

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
    how = (
        f"\nlatency of {facts['batch_size']} sample, threads: {facts['threads'] or 'all'}; {facts['reason']}"
    )
    end += [f"int8 model: {facts['int8']}"] if "int8" in facts else []
    end += [f"report: {facts['report']}"] if facts.get("report") else []
    end += [f"work folder: {facts['folder']} (start again to go on from there; delete it when done)"]
    return Group(table(columns, rows), how, *end)


@command("shrink", render, shows_progress=True)
@model_argument()
@data_option("What to train and calibrate on, with labels or without; without any data a weaker way is taken")
@click.option(
    "--val",
    type=Reads(),
    metavar="DATA",
    help="What to judge by; by default a fifth of --data, which is then not trained on.",
)
@reduction_option("macs", "MACs")
@reduction_option("params", "parameters")
@reduction_option("size", "file's bytes")
@reduction_option("latency", "time one run takes, measured (see --latency-backend)")
@click.option(
    "--max-drop", type=float, metavar="D", help="Remove as much as costs no more than this of the metric."
)
@click.option(
    "--minutes", type=click.FloatRange(0), default=10.0, show_default=True, help="How long it may take."
)
@click.option("--metric", type=Reads(), metavar="TEXT", help="By default what suits model and data.")
@click.option(
    "--quantize", type=click.Choice(["int8"]), help="Also quantise the result, on the same samples."
)
@glob_options
@inexact_option
@threads_option
@latency_options
@seed_option
@size_options
@open_option
@equal_option
@output_option("the dense model")
def shrink(
    model: str,
    output: str,
    data: str | None,
    quantize: str | None,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    dims: Sequence[tuple[str, int]],
    **options: Any,
) -> Facts:
    """Make a model smaller, all in one: analyse, prune, repair, train, make dense, prove, measure.

    Killed and started again it goes on from its work folder, OUTPUT.work.
    """
    from onnxprune.app.shrink import Wanted, shrink_without_data
    from onnxprune.app.shrink import shrink as run_shrink
    from onnxprune.app.shrink.job import page_of
    from onnxprune.errors import MissedError, UsageError
    from onnxprune.runtime.backends import find_backend
    from onnxprune.support.path_guard import check_output

    kinds = ("macs", "params", "size", "latency")
    reductions = {kind: options.pop(f"reduce_{kind}") for kind in kinds}
    reductions = {kind: amount for kind, amount in reductions.items() if amount is not None}
    if len(reductions) + (options["max_drop"] is not None and not reductions) != 1:
        named = ", ".join(f"--reduce-{kind}" for kind in kinds)
        raise UsageError("say how much to remove, once", f"give one of {named}, or --max-drop with --data")
    check_output(output, [model])
    find_backend(options["latency_backend"], options["latency_timeout"])  # refused before the work
    if data is None:
        if options["max_drop"] is not None or quantize or options["val"]:
            raise UsageError("quality and ranges are measured on samples", "give them with --data")
        names = ("exclude", "only", "allow_inexact", "equal_layers", "open_io", "threads", "seed")
        kept = {name: options[name] for name in names}
        if "latency" in reductions:
            kept |= {name: options[name] for name in ("latency_backend", "latency_timeout")}
        return shrink_without_data(
            model, output, reductions, **kept, input_shapes=dict(shapes), dims=dict(dims)
        )
    wanted = Wanted(
        model, output, data, reductions=reductions, shapes=dict(shapes), dims=dict(dims), **options
    )
    missed: MissedError | None = None
    try:
        facts = run_shrink(wanted, _say, tell)
    except MissedError as error:
        facts, missed = error.facts, error
    if quantize:
        facts = _quantised(facts, wanted)
    facts["report"] = page_of(wanted.folder)
    if missed is not None:
        missed.facts = facts
        raise missed
    return facts


def _quantised(facts: Facts, wanted: Any) -> Facts:
    """Add the quantised models; where they cannot be made, say why."""
    from onnxprune.app.shrink.int8 import with_int8
    from onnxprune.app.shrink.job import judged_data
    from onnxprune.errors import ModelError

    try:
        return with_int8(facts, wanted, judged_data(wanted))
    except ModelError as error:
        return facts | {"warnings": [*facts["warnings"], f"not quantised: {error.message}"]}


def _say(event: Facts) -> None:
    """Tell of a step that is done."""
    from onnxprune.app.cli.run import say

    say(event)
