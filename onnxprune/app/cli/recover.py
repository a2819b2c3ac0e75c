"""``recover``: reduce the error of pruning without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import (
    Reads,
    model_argument,
    output_option,
    unverified_option,
)
from onnxprune.app.cli.conventions import Facts, command

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
    ends = [f"not repaired: {s['node']} ({s['method']}: {s['reason']})" for s in facts["skipped"]]
    ends += [f"\n{summary(facts)}; repaired model: {facts['output']}"]
    columns = ("…node", "method", ">error before", ">after", ">change")
    return Group(table(columns, rows, "mean squared error, against the original"), *ends)


def summary(facts: Facts) -> str:
    """Return a line with the samples, the time and the gain of recovery."""
    kind = "drawn input" if facts["synthetic"] else "sample"
    samples = f"{facts['samples']} {kind}{'s' * (facts['samples'] != 1)}"
    text = f"repaired with {', '.join(facts['methods'])} from {samples} in {facts['recovery_s']:.1f} s"
    if "metric" in facts:
        text += f"; {facts['metric']}: {facts['score_before']:.4g} → {facts['score']:.4g}"
    return text


@command("recover", render, executes=True, fields_of="onnxprune.passes.recover:Recover")
@model_argument("sparse")
@click.option(
    "--original",
    type=Reads(),
    help="The model before pruning; by default the file noted by `prune`, if it still lies there.",
)
@unverified_option
@output_option("the repaired model")
def recover(sparse: str, output: str, original: str | None, unverified: bool, **options: Any) -> Facts:
    """Repair a sparse model without training, layer by layer; its zero channels stay zero."""
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes.recover import Recover
    from onnxprune.support.progress import task
    from onnxprune.train.tuning.original_statistics import original_of

    given = load(sparse, mapped=True)
    original = original_of(given, sparse, original)
    inputs = [f for f in (sparse, original, options["data"], options["val"]) if f]
    plan = stored_plan(given)
    result = Recover(original, **options)(given)
    with task("write and try"):
        planned = plan.input_shapes if plan else None
        how: dict[str, Any] = {"shapes": planned, "inputs": inputs, "data": options["data"]}
        size = write_model(result.model, output, unverified=unverified, **how)
    return {"model": sparse, "output": output, "size_bytes": size, **result.facts}
