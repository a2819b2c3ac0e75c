"""``finetune``: recover what pruning lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli.options import data_option, model_argument, output_option, seed_option, threads_option
from onnxprune.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOSSES = ("cross-entropy", "mse", "l1", "bce", "distill")


def render(facts: Facts) -> RenderableType:
    """Show how loss and score went, epoch by epoch."""
    from rich.console import Group

    from onnxprune.figures import table

    scores = facts.get("scores", [])
    columns = ("epoch", ">loss", *([f">{facts['metric']}"] if scores else []))
    rows = [
        (epoch + 1, f"{loss:.4f}", *([f"{scores[epoch]:.4f}"] if scores else []))
        for epoch, loss in enumerate(facts["losses"])
    ]
    end = f"\n{facts['steps']} steps in {facts['training_s']:.1f} s; tuned model: {facts['output']}"
    return Group(table(columns, rows), end)


@command("finetune", render)
@model_argument("sparse")
@data_option("Training data", required=True)
@click.option("--loss", type=click.Choice(_LOSSES), default="cross-entropy", show_default=True)
@click.option("--teacher", type=click.Path(), help="Teacher of the loss `distill`: an ONNX file.")
@click.option("--epochs", type=int, default=1, show_default=True)
@click.option("--batch-size", type=int, default=32, show_default=True)
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--lr", type=float, help="Peak step size; by default one that suits the optimizer.")
@click.option("--weight-decay", type=float, default=0.0, show_default=True)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear", "step", "constant"]),
    default="cosine",
    show_default=True,
    help="How the step size falls.",
)
@click.option(
    "--warmup", type=float, default=0.0, show_default=True, help="Fraction of the steps over which it rises."
)
@click.option("--clip-norm", type=float, help="Largest norm of the gradient.")
@click.option("--val", metavar="DATA", help="Held-back data; the weights of the best epoch are kept.")
@click.option("--metric", help="What is measured on it; by default what suits the loss.")
@seed_option
@threads_option
@output_option("the tuned model")
def finetune(sparse: str, output: str, **options: Any) -> Facts:
    """Train a sparse model on data; its zero channels stay zero."""
    from onnxprune.graph import load
    from onnxprune.output import check_output, write_model
    from onnxprune.passes.finetune import Finetune
    from onnxprune.planned import stored_plan
    from onnxprune.progress import task

    files = (sparse, options["data"], options["teacher"], options["val"])
    inputs = [f for f in files if f]
    check_output(output, inputs)
    given = load(sparse)
    plan = stored_plan(given)
    result = Finetune(**options)(given)
    with task("write and try"):
        size = write_model(result.model, output, shapes=plan.input_shapes if plan else None, inputs=inputs)
    return {"model": sparse, "output": output, "size_bytes": size, **result.facts}
