"""``verify``: whether two models compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onnxprune.app.cli.command_options import data_option, model_argument, samples_option
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.support.common_options import InputSizes, OpenInterface, Seeded

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Show the agreement of the two models."""
    from onnxprune.app.figures import agreement

    return agreement(facts, "the models")


@command("verify", render, executes=True, fields_of=(Seeded, InputSizes, OpenInterface))
@model_argument("sparse")
@model_argument("dense")
@data_option("Data to compare on, beside random inputs")
@samples_option
def verify(
    sparse: str,
    dense: str,
    data: str | None,
    samples: int,
    seed: int,
    input_shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    open_io: Sequence[str],
) -> Facts:
    """Compare two models on the same inputs; exit with 1 if they differ."""
    from onnxprune.decisions.channels.kept_rows import kept_rows, with_common_numbers
    from onnxprune.decisions.channels.planned import planned_channels, stored_plan
    from onnxprune.evaluate import equivalence
    from onnxprune.ir import load, noted_vocabulary, opened, sized
    from onnxprune.support.progress import task

    first, second = (sized(load(path, mapped=True), input_shapes, dims) for path in (sparse, dense))
    opened(first, open_io)
    with task("compare"):
        plan = stored_plan(first)
        channels = None
        if plan is not None and noted_vocabulary(first) is not None:
            channels = planned_channels(first, plan)
            rows = kept_rows(channels, plan.removed)
            if rows is not None:
                first, second = with_common_numbers(first, second, rows)
        verdict = equivalence.verify(first, second, data=data, samples=samples, seed=seed, channels=channels)
    return verdict.facts()
