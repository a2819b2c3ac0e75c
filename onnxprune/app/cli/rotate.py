"""``rotate``: put axes into the basis in which they are best cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.options import (
    data_option,
    glob_options,
    model_argument,
    output_option,
    seed_option,
    size_options,
    threads_option,
    unchanged_option,
    unverified_option,
)
from onnxprune.app.cli.program import Facts, command

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
    parts: list[RenderableType] = [table(("axis", ">channels", "symmetry", ">condition"), rows)]
    if kept:
        parts += ["", table(("keeps its basis", "because"), kept)]
    return Group(*parts, end)


@command("rotate", render)
@model_argument()
@data_option("Samples, labels not needed, to choose the bases by; without any the weights alone are asked")
@click.option("--samples", type=int, default=512, show_default=True, help="How many samples.")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Samples a run.")
@glob_options
@unchanged_option
@unverified_option
@threads_option
@seed_option
@size_options
@output_option("the rotated model")
def rotate(
    model: str,
    output: str,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    dims: Sequence[tuple[str, int]],
    unverified: bool,
    **options: Any,
) -> Facts:
    """Change the basis of every axis that allows it, exactly, so that pruning costs less."""
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes import Rotate
    from onnxprune.support.progress import task

    with task("rotate"):
        result = Rotate(input_shapes=dict(shapes), dims=dict(dims), **options)(load(model))
    with task("write and try"):
        inputs = [f for f in (model, options["data"]) if f]
        size = write_model(
            result.model,
            output,
            inputs=inputs,
            shapes=dict(shapes) or None,
            data=options["data"],
            unverified=unverified,
        )
    return {"model": model, "output": output, "size_bytes": size, **result.facts}
