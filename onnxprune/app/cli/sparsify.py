"""``sparsify``: zeros within weights, in a pattern of sparse kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.app.cli.command_options import model_argument, output_option, unverified_option
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.app.cli.prune import methods_of

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the weights with their zeros, why others have none, and the errors of the outputs."""
    from rich.console import Group

    from onnxprune.app.figures import count, table

    if facts.get("unchanged"):
        return f"no weight can follow the pattern; the model was copied to {facts['output']}"
    rows = [
        (
            row["tensor"],
            row["node"],
            row["score"] + (f" ({row['reason']})" if row["reason"] else ""),
            f"{count(row['zeros'])} of {count(row['elements'])}",
        )
        for row in facts["weights"]
    ]
    kept = [(row["node"], row["tensor"], row["reason"]) for row in facts["left"]]
    parts: list[RenderableType] = [table(("weight", "node", "chosen by", ">zeros"), rows)]
    if kept:
        parts += ["", table(("keeps all elements", "weight", "because"), kept)]
    errors = [
        f"output {name}: mean squared error {found['mse_after']:.3g} after the repair"
        for name, found in facts["outputs"].items()
    ]
    if facts["dead_channels"]:
        errors += [f"{facts['dead_channels']} channels are zero: run `transform` first, it removes them"]
    end = (
        f"{count(facts['zeros'])} of {count(facts['elements'])} elements are zero, pattern {facts['pattern']}"
    )
    return Group(*parts, "", *errors, f"{end}; sparse model: {facts['output']}")


@command("sparsify", render, fields_of="onnxprune.passes.sparsify:Sparsify")
@model_argument()
@unverified_option
@output_option("the sparse model")
def sparsify(
    model: str, output: str, unverified: bool, recover: Sequence[str] | None, **options: Any
) -> Facts:
    """Set elements of weights to zero by a pattern such as 2:4, after channels were pruned."""
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes import Sparsify
    from onnxprune.support.progress import task

    given = load(model)
    plan = stored_plan(given)
    with task("sparsify"):
        result = Sparsify(recover=methods_of(recover), **options)(given)
    with task("write and try"):
        planned = (plan.input_shapes if plan else None) or options["input_shapes"] or None
        inputs = [f for f in (model, options["data"]) if f]
        how: Facts = {"shapes": planned, "inputs": inputs, "data": options["data"]}
        size = write_model(result.model, output, unverified=unverified, **how)
    return {"model": model, "output": output, "size_bytes": size, **result.facts}
