"""``finetune``: recover the accuracy lost by pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import (
    model_argument,
    output_option,
    reads_of,
    unverified_option,
)
from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


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
    """Return a sentence on the weights that are kept."""
    if "best_epoch" not in facts:
        return "the weights of the last epoch are kept, unjudged; --val keeps those of the best"
    if not facts["best_epoch"]:
        return "no epoch is better than the given weights, which are kept"
    return f"the weights of epoch {facts['best_epoch']} are kept"


@command("finetune", render, executes=True, fields_of="onnxprune.passes.finetune:Finetune")
@model_argument("sparse")
@unverified_option
@output_option("the tuned model")
def finetune(sparse: str, output: str, unverified: bool, **options: Any) -> Facts:
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
    result = Finetune(**options)(given)
    with task("write and try"):
        planned = plan.input_shapes if plan else None
        how: dict[str, Any] = {"shapes": planned, "inputs": inputs, "data": options["data"]}
        size = write_model(result.model, output, unverified=unverified, **how)
    remove(Path(options["checkpoint"]))
    return {"model": sparse, "output": output, "size_bytes": size, **result.facts}
