"""``prune``: zero the least useful channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli.options import (
    glob_options,
    inexact_option,
    model_argument,
    output_option,
    seed_option,
    shape_option,
    unchanged_option,
)
from onnxprune.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.plan import Analysis


def render(facts: Facts) -> RenderableType:
    """Show what is removed from which group, and what the network costs then."""
    from rich.console import Group

    from onnxprune.figures import before_and_after, widths

    if facts["unchanged"]:
        return f"nothing to prune; the model was copied to {facts['output']}"
    costs = [
        (name, facts[f"{key}_baseline"], facts[key])
        for name, key in (("MACs", "macs"), ("parameters", "params"), ("channels", "channels"))
    ]
    return Group(widths(facts["groups"]), "", before_and_after(costs), f"\nsparse model: {facts['output']}")


@command("prune", render)
@model_argument()
@click.option("--reduce-macs", type=float, metavar="R", help="Remove this fraction of the MACs.")
@click.option("--reduce-params", type=float, metavar="R", help="Remove this fraction of the parameters.")
@click.option("--reduce-channels", type=float, metavar="R", help="Remove this fraction of the channels.")
@click.option("--analysis", type=click.Path(), help="What `ana` found.")
@click.option(
    "--strategy",
    metavar="NAME",
    help="uniform, global or sensitivity; by default the last with an analysis, else global.",
)
@click.option("--criterion", metavar="NAME", default="l2", show_default=True, help="l1, l2, bn or random.")
@click.option("--round-to", type=int, default=8, show_default=True, help="Keep multiples of this.")
@click.option(
    "--max-ratio", type=float, default=0.9, show_default=True, help="Largest fraction of a group that may go."
)
@glob_options
@inexact_option
@unchanged_option
@seed_option
@shape_option
@output_option("the sparse model")
def prune(
    model: str,
    output: str,
    analysis: str | None,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    **options: Any,
) -> Facts:
    """Set the least useful channels to zero until a budget is met.

    All reductions are fractions removed, of what the model cost before any pruning.
    """
    from onnxprune.graph import load
    from onnxprune.output import check_output, write_model
    from onnxprune.passes.mask import Prune
    from onnxprune.planned import stored_plan
    from onnxprune.progress import task

    inputs = [model, *([analysis] if analysis else [])]
    check_output(output, inputs)
    step = Prune(analysis=_read_analysis(analysis), input_shapes=dict(shapes), **options)
    with task("prune"):
        result = step(load(model))
    plan = stored_plan(result.model)
    with task("write and try"):
        size = write_model(result.model, output, shapes=plan.input_shapes if plan else None, inputs=inputs)
    written = {"model": model, "output": output, "unchanged": not result.modified, "size_bytes": size}
    return {**written, **result.facts}


def _read_analysis(path: str | None) -> Analysis | None:
    if path is None:
        return None
    from pathlib import Path

    from onnxprune.errors import PlanError
    from onnxprune.plan import Analysis

    try:
        return Analysis.from_json(Path(path).read_text("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"cannot read {path}: {error}", "give the file that `ana` wrote") from error
