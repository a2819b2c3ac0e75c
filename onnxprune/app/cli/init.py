"""``init``: a recipe to begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.app.cli.command_options import Reads, model_argument, output_option
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.support.common_options import InexactAxes, InputSizes, OpenInterface

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """State the choices."""
    from onnxprune.app.runner.recipe_template import explained

    chosen = "\n".join(f"  {line}" for line in explained(facts))
    return f"recipe: {facts['output']}\n{chosen}\nlook through it, then: onnxprune run {facts['output']}"


@command("init", render, fields_of=(InexactAxes, InputSizes, OpenInterface))
@model_argument()
@click.option(
    "--data",
    type=Reads(),
    metavar="DATA",
    help="Training data: an .npz or .jsonl file, a folder of samples, or module:callable.",
)
@click.option("--val", type=Reads(), metavar="DATA", help="Held-back data.")
@click.option("--force", is_flag=True, help="Replace the output file.")
@output_option("the recipe")
def init(
    model: str,
    data: str | None,
    val: str | None,
    force: bool,
    input_shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    allow_inexact: bool,
    open_io: Sequence[str],
    output: str,
) -> Facts:
    """Write a recipe for `run` that fits a model, every key explained."""
    from onnxprune.analysis.groups.channels import find_channels
    from onnxprune.analysis.groups.selection import nothing_to_prune
    from onnxprune.app.runner.recipe_template import RecipeRequest, draft
    from onnxprune.errors import UsageError
    from onnxprune.ir import load, opened, sized
    from onnxprune.ir.output import write_text

    place = Path(output)
    if place.exists() and not force:
        raise UsageError(f"{output} is there already", "--force replaces it")
    read = sized(opened(load(model), open_io), input_shapes, dims)
    channels = find_channels(read, allow_inexact=allow_inexact)
    if not channels.groups:
        raise nothing_to_prune(channels)
    given = {n: s for n, s in channels.typing.shapes.inputs.items() if n in read.sizes}
    wish = RecipeRequest(data, val, open_io, allow_inexact)
    text, facts = draft(channels, Path(model), place, wish, given)
    write_text(output, text)
    return {"model": model, "output": output, **facts}
