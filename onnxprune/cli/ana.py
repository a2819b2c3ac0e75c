"""``ana``: how much each group of channels can lose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli.options import (
    data_option,
    glob_options,
    inexact_option,
    model_argument,
    numbers,
    output_option,
    seed_option,
    shape_option,
    threads_option,
)
from onnxprune.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

_RATIOS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


def render(facts: Facts) -> RenderableType:
    """Show every group's curve, the most fragile groups first."""
    from rich.console import Group

    from onnxprune.figures import table

    curves = sorted(facts["groups"].items(), key=lambda pair: -pair[1]["drop_at_half"])
    rows = [
        (
            name,
            curve["size"],
            f"{curve['drop_at_half']:.4g}",
            "  ".join(f"{r:.0%}: {v:.4g}" for r, v in zip(curve["ratios"], curve["values"], strict=True)),
        )
        for name, curve in curves
    ]
    columns = ("group", ">channels", ">drop at half", f"{facts['metric']} with this share removed")
    better = "more" if facts["higher_is_better"] else "less"
    samples = "" if facts["samples"] is None else f" on {facts['samples']} samples"
    start = (
        f"{facts['metric']} of the model as it is: {facts['baseline']:.4g}{samples} ({better} is better)\n"
    )
    return Group(start, table(columns, rows), f"\nanalysis: {facts['output']}")


@command("ana", render)
@model_argument()
@data_option("Data to measure on", required=True)
@click.option(
    "--metric",
    default="top1",
    show_default=True,
    help="top1, top5, mse, mae with labels or targets; kl, agreement, cosine without; or module:callable.",
)
@click.option("--ratios", type=numbers, default=_RATIOS, show_default=True, help="Fractions to remove.")
@click.option(
    "--criterion",
    metavar="NAME",
    default="l2",
    show_default=True,
    help="What ranks the channels of a group; the names are those of `prune`.",
)
@click.option(
    "--mode",
    type=click.Choice(["exact", "adaptive"]),
    default="exact",
    show_default=True,
    help="adaptive: measure where the curves bend, on as many samples as it takes to be clear.",
)
@click.option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    help="adaptive: how sure an interval is to hold the value over all samples.",
)
@click.option(
    "--precision",
    type=float,
    default=0.2,
    show_default=True,
    help="adaptive: how wide half an interval may be, as a fraction of the drop.",
)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--samples", type=click.IntRange(1), help="Only the first so many samples.")
@click.option("--workers", type=int, help="Processes to measure in: 1 here, or all that a cluster has.")
@click.option(
    "--backend",
    default="local",
    show_default=True,
    metavar="WHERE",
    help="local, or a cluster that runs: dask://HOST:PORT, ray://HOST:PORT.",
)
@threads_option
@click.option(
    "--cache-bytes",
    type=click.IntRange(0),
    default=1 << 30,
    show_default=True,
    help="Most that all workers together keep of tensors computed once.",
)
@click.option("--resume", is_flag=True, help="Go on with what is in the output file.")
@click.option("--force", is_flag=True, help="Replace the output file.")
@glob_options
@inexact_option
@seed_option
@shape_option
@output_option("the analysis")
def ana(
    model: str,
    data: str,
    output: str,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    **options: Any,
) -> Facts:
    """Measure how a metric falls as each group of channels shrinks.

    The output file is an analysis at any time: what was interrupted goes on with --resume.
    """
    from onnxprune.graph import load
    from onnxprune.output import check_output
    from onnxprune.passes.sensitivity import Ana

    check_output(output, [model, data])
    step = Ana(data=data, file=Path(output), input_shapes=dict(shapes), **options)
    return {"model": model, "output": output, **step(load(model)).facts}
