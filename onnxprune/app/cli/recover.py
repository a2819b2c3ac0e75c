"""``recover``: bring back what pruning lost, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.options import (
    Reads,
    data_option,
    model_argument,
    output_option,
    seed_option,
    size_options,
    threads_option,
    unverified_option,
)
from onnxprune.app.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the error of every repaired node and of the network, before and after."""
    from rich.console import Group

    from onnxprune.app.figures import reduction, table

    def row(name: str, method: str, found: Facts) -> tuple[str, ...]:
        before, after = found["mse_before"], found["mse_after"]
        return name, method, f"{before:.3g}", f"{after:.3g}", reduction(before, after)

    rows = [row(layer["node"], layer["method"], layer) for layer in facts["layers"]]
    rows += [row(name, "(output)", found) for name, found in facts["outputs"].items()]
    ends = [f"left alone: {s['node']} ({s['method']}: {s['reason']})" for s in facts["skipped"]]
    ends += [f"\n{summary(facts)}; repaired model: {facts['output']}"]
    columns = ("node", "method", ">error before", ">after", ">change")
    return Group(table(columns, rows, "mean squared error, against the original"), *ends)


def summary(facts: Facts) -> str:
    """Say in one line what recovery took and brought."""
    samples = f"{facts['samples']} {'drawn inputs' if facts['synthetic'] else 'samples'}"
    said = f"repaired with {', '.join(facts['methods'])} from {samples} in {facts['recovery_s']:.1f} s"
    if "metric" in facts:
        said += f"; {facts['metric']}: {facts['score_before']:.4f} → {facts['score_after']:.4f}"
    return said


@command("recover", render, executes=True)
@model_argument("sparse")
@click.option(
    "--original",
    type=Reads(),
    help="The model before pruning; by default what `prune` noted, if it still lies there.",
)
@data_option("Samples, labels not needed; without any, inputs are drawn at random, which helps less")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="least-squares, bias, scale or batchnorm (repeatable); least-squares by default.",
)
@click.option(
    "--samples", type=int, default=512, show_default=True, help="How many samples, drawn at random."
)
@click.option("--batch-size", type=int, default=32, show_default=True, help="Samples a run.")
@click.option("--metric", type=Reads(), metavar="TEXT", help="What to measure before and after.")
@click.option("--val", type=Reads(), metavar="DATA", help="Data to measure on; by default --data.")
@unverified_option
@seed_option
@threads_option
@size_options
@output_option("the repaired model")
def recover(
    sparse: str,
    output: str,
    methods: Sequence[str],
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    dims: Sequence[tuple[str, int]],
    unverified: bool,
    **options: Any,
) -> Facts:
    """Repair a sparse model without training, layer by layer; its zero channels stay zero."""
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes.recover import DEFAULT_METHODS, Recover
    from onnxprune.support.progress import task
    from onnxprune.train.tuning.origin import original_of

    given = load(sparse)
    options["original"] = original_of(given, sparse, options["original"])
    inputs = [f for f in (sparse, options["original"], options["data"], options["val"]) if f]
    plan = stored_plan(given)
    result = Recover(
        methods=methods or DEFAULT_METHODS, input_shapes=dict(shapes), dims=dict(dims), **options
    )(given)
    with task("write and try"):
        planned = plan.input_shapes if plan else None
        how: dict[str, Any] = {"shapes": planned, "inputs": inputs, "data": options["data"]}
        size = write_model(result.model, output, unverified=unverified, **how)
    return {"model": sparse, "output": output, "size_bytes": size, **result.facts}
