"""``finetune``: recover what pruning lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.options import (
    Reads,
    ReadsSum,
    Writes,
    data_option,
    model_argument,
    output_option,
    reads_of,
    seed_option,
    size_options,
    threads_option,
    unverified_option,
)
from onnxprune.app.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

LOSSES = ("cross-entropy", "mse", "l1", "bce", "distill", "features")


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Read numbers between commas."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,0.5,2") from error


def render(facts: Facts) -> RenderableType:
    """Show how loss and score went, epoch by epoch; epoch 0 is the model that was given."""
    from rich.console import Group

    from onnxprune.app.figures import table

    scores = facts.get("scores", [])
    columns = ("epoch", ">loss", *([f">{facts['metric']}"] if scores else []))
    given = [("0", "", f"{facts['score_before']:.4f}")] if scores else []
    rows = [
        (str(epoch + 1), f"{loss:.4f}", *([f"{scores[epoch]:.4f}"] if scores else []))
        for epoch, loss in enumerate(facts["losses"])
    ]
    failed = f", {facts['steps_failed']} of them failed" if facts["steps_failed"] else ""
    end = f"\n{facts['steps']} steps{failed} in {facts['training_s']:.1f} s; {_kept(facts)}"
    return Group(table(columns, [*given, *rows]), end, f"tuned model: {facts['output']}")


def _kept(facts: Facts) -> str:
    """Say which weights are kept."""
    if "best_epoch" not in facts:
        return "the weights of the last epoch are kept, unjudged; --val keeps those of the best"
    if not facts["best_epoch"]:
        return "no epoch is better than what was given: its weights are kept"
    return f"the weights of epoch {facts['best_epoch']} are kept"


@command("finetune", render, executes=True)
@model_argument("sparse")
@data_option("Training data", required=True)
@click.option(
    "--loss",
    type=ReadsSum(),
    metavar="TEXT",
    default="cross-entropy",
    show_default=True,
    help=f"One of {', '.join(LOSSES)}; an .onnx file or module:callable; or a sum such as "
    '"0.3*cross-entropy + 0.7*distill".',
)
@click.option("--teacher", type=Reads(), help="Who `distill` and `features` learn from: an ONNX file.")
@click.option("--features", multiple=True, metavar="TENSOR", help="Made like the teacher's; repeatable.")
@click.option("--class-weights", metavar="W,W,…", callback=_numbers, help="A factor for each class.")
@click.option("--ignore-index", type=int, help="The label that cross-entropy does not count.")
@click.option("--epochs", type=int, default=1, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Samples a batch.")
@click.option("--accumulate", type=int, default=1, show_default=True, help="Batches a step.")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="sgd has a momentum of 0.9.",
)
@click.option("--lr", type=float, help="Peak step size; by default 0.02 for sgd, 0.0005 for adamw.")
@click.option(
    "--weight-decay",
    type=float,
    default=0.0,
    show_default=True,
    help="How fast weights shrink by themselves.",
)
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
@click.option(
    "--clip-norm", type=float, help="Largest norm of the gradient, inf for none; by default 1 for sgd."
)
@click.option("--ema", type=float, help="Decay of a running average of the weights, which is then kept.")
@click.option(
    "--val",
    type=Reads(),
    metavar="DATA",
    help="Held-back data; the weights of the best epoch are kept, or those given.",
)
@click.option(
    "--metric",
    type=Reads(),
    metavar="TEXT",
    help="What is measured on it; by default what suits the loss.",
)
@click.option("--patience", type=int, help="Epochs without a better score after which training ends.")
@click.option(
    "--original",
    type=Reads(),
    help="The model before pruning, for its statistics; by default what `prune --data` noted of them.",
)
@click.option(
    "--unfold",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Put folded BatchNormalization back while training.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "stock", "ort-training"]),
    default="auto",
    show_default=True,
    help="What computes the steps: the onnxruntime that is there, or onnxruntime-training.",
)
@click.option("--checkpoint", type=Writes(), help="Where to go on from; by default OUTPUT.checkpoint.")
@click.option("--checkpoint-every", type=int, default=200, show_default=True, help="Steps between them.")
@click.option(
    "--resume", is_flag=True, help="Go on from the checkpoint of a killed training, if there is one."
)
@unverified_option
@seed_option
@threads_option
@size_options
@output_option("the tuned model")
def finetune(
    sparse: str,
    output: str,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    dims: Sequence[tuple[str, int]],
    unverified: bool,
    **options: Any,
) -> Facts:
    """Train a sparse model on data; its zero channels stay zero."""
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.ir import load
    from onnxprune.ir.output import write_model
    from onnxprune.passes.finetune import Finetune
    from onnxprune.support.path_guard import check_places
    from onnxprune.support.progress import task
    from onnxprune.train.checkpoint import check_place, remove

    files = (sparse, options["data"], options["teacher"], options["original"], options["val"])
    inputs = [f for f in files if f]
    options["checkpoint"] = options["checkpoint"] or f"{output}.checkpoint"
    check_places({"-o": output, "--checkpoint": options["checkpoint"]}, reads_of(click.get_current_context()))
    if not options["resume"]:
        check_place(Path(options["checkpoint"]))
    given = load(sparse)
    plan = stored_plan(given)
    result = Finetune(input_shapes=dict(shapes), dims=dict(dims), **options)(given)
    with task("write and try"):
        planned = plan.input_shapes if plan else None
        how: dict[str, Any] = {"shapes": planned, "inputs": inputs, "data": options["data"]}
        size = write_model(result.model, output, unverified=unverified, **how)
    remove(Path(options["checkpoint"]))
    return {"model": sparse, "output": output, "size_bytes": size, **result.facts}
