"""``rotate``: put axes into the basis in which they are best cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxprune.app.cli.command_options import (
    model_argument,
    output_option,
    unverified_option,
)
from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the axes in their new bases, and why others keep theirs."""
    from rich.console import Group

    from onnxprune.app.figures import table

    if facts.get("unchanged"):
        return f"no axis can be rotated; the model was copied to {facts['output']}"
    rows = [
        (
            axis["group"],
            f"{axis['parts']} × {axis['size']}" if axis["parts"] > 1 else str(axis["size"]),
            axis["symmetry"],
            f"{axis['condition']:.3g}",
        )
        for axis in facts["axes"]
    ]
    kept = [(entry["group"], entry["reason"]) for entry in facts["refused"]]
    end = f"\nlargest relative error {facts['max_rel_error']:.1e}; rotated model: {facts['output']}"
    parts: list[RenderableType] = [table(("…axis", ">channels", "symmetry", ">condition"), rows)]
    if kept:
        parts += ["", table(("keeps its basis", "because"), kept)]
    return Group(*parts, end)


@command("rotate", render, fields_of="onnxprune.passes.rotate:Rotate")
@model_argument()
@unverified_option
@output_option("the rotated model")
def rotate(model: str, output: str, unverified: bool, **options: Any) -> Facts:
    """Change the basis of every axis that allows it, exactly, so that pruning costs less."""
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes import Rotate
    from onnxprune.support.progress import task

    with task("rotate"):
        result = Rotate(**options)(load(model))
    with task("write and try"):
        inputs = [f for f in (model, options["data"]) if f]
        size = write_model(
            result.model,
            output,
            inputs=inputs,
            shapes=options["input_shapes"] or None,
            data=options["data"],
            unverified=unverified,
        )
    return {"model": model, "output": output, "size_bytes": size, **result.facts}
