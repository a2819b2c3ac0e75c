"""``separate``: a matrix for each part of a product that is read in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxprune.app.cli.command_options import model_argument, output_option, unverified_option
from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the products that were split."""
    from rich.console import Group

    from onnxprune.app.figures import table

    if facts.get("unchanged"):
        return f"no product is read in parts of one layout; the model was copied to {facts['output']}"
    if facts.get("outputs"):
        names = ", ".join(entry["output"] for entry in facts["outputs"])
        error = f"largest relative error {facts['max_rel_error']:.1e}"
        return f"width of {names} opened; {error}; opened model: {facts['output']}"
    rows = [(f"{p['operator']} '{p['node']}'", p["parts"]) for p in facts["products"]]
    end = f"\nlargest relative error {facts['max_rel_error']:.1e}; separated model: {facts['output']}"
    return Group(table(("product", ">parts"), rows), end)


@command("separate", render, fields_of="onnxprune.passes.separate:Separate")
@model_argument()
@unverified_option
@output_option("the separated model")
def separate(model: str, output: str, unverified: bool, **options: Any) -> Facts:
    """Split matrices that an exporter merged, exactly, so that their parts are pruned apart."""
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes import Separate
    from onnxprune.support.progress import task

    with task("separate"):
        result = Separate(**options)(load(model))
    with task("write and try"):
        shapes = options["input_shapes"] or None
        size = write_model(result.model, output, inputs=[model], shapes=shapes, unverified=unverified)
    return {"model": model, "output": output, "size_bytes": size, **result.facts}
