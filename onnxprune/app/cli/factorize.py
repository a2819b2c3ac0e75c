"""``factorize``: products with weights as chains of smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.app.cli.command_options import model_argument, output_option, unverified_option
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.app.cli.prune import methods_of

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the layers that were split, why others stay whole, the costs and the errors of the outputs."""
    from rich.console import Group

    from onnxprune.app.figures import before_and_after, table

    if facts.get("unchanged"):
        return f"no layer can be split; the model was copied to {facts['output']}"
    rows = [
        (
            row["node"],
            row["form"],
            " × ".join(map(str, row["ranks"])),
            f"{row['outputs']} × {row['inputs']}" + "".join(f" × {k}" for k in row["kernel"]),
            f"{row['error']:.2%}",
        )
        for row in facts["layers"]
    ]
    whole = [(row["node"], row["operator"], row["reason"]) for row in facts["left"]]
    costs = [
        (name, facts[f"{key}_before"], facts[key])
        for name, key in (("MACs", "macs"), ("parameters", "params"))
    ]
    parts: list[RenderableType] = [
        table(("…layer", "form", ">ranks", ">weights", ">error"), rows),
        "",
        before_and_after(costs),
    ]
    if whole:
        parts += ["", table(("stays whole", "operator", "because"), whole)]
    lines = [
        f"output {name}: mean squared error {error:.3g} to the original's on {facts['samples']} samples"
        for name, error in facts["outputs"].items()
    ]
    if "drop" in facts:
        lines.append(f"{facts['metric']} {facts['score_before']:.4g} → {facts['score']:.4g}")
    lines = lines or ["no samples were given: the error at the outputs is not measured"]
    end = (
        f"approximate, not exact; the file computes its factors to {facts['max_rel_error']:.1e}; "
        f"model: {facts['output']}"
    )
    return Group(*parts, "", *lines, end)


@command("factorize", render, fields_of="onnxprune.passes.factorize:Factorize")
@model_argument()
@unverified_option
@output_option("the model with smaller products")
def factorize(
    model: str, output: str, unverified: bool, recover: Sequence[str] | None, **options: Any
) -> Facts:
    """Split products with weights into chains of smaller ones of lower rank: an approximation."""
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes import Factorize
    from onnxprune.support.progress import task

    with task("factorize"):
        result = Factorize(recover=methods_of(recover), **options)(load(model))
    with task("write and try"):
        inputs = [f for f in (model, options["data"]) if f]
        how: Facts = {"shapes": options["input_shapes"] or None, "inputs": inputs, "data": options["data"]}
        size = write_model(result.model, output, unverified=unverified, **how)
    return {"model": model, "output": output, "size_bytes": size, **result.facts}
