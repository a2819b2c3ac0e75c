"""``verify``: whether two models compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxprune.app.cli.options import (
    data_option,
    model_argument,
    open_option,
    samples_option,
    seed_option,
    size_options,
)
from onnxprune.app.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Say how well they agree."""
    from onnxprune.app.figures import agreement

    return agreement(facts, "the models")


@command("verify", render, executes=True)
@model_argument("sparse")
@model_argument("dense")
@data_option("What to compare on, beside random inputs")
@samples_option
@seed_option
@size_options
@open_option
def verify(
    sparse: str,
    dense: str,
    data: str | None,
    samples: int,
    seed: int,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    dims: Sequence[tuple[str, int]],
    open_io: Sequence[str],
) -> Facts:
    """Compare two models on the same inputs; exit with 1 if they differ."""
    from onnxprune.decisions.channels.planned import planned_channels, stored_plan
    from onnxprune.decisions.channels.vocabulary import kept_rows, with_common_numbers
    from onnxprune.evaluate import equivalence
    from onnxprune.ir import load, noted_vocabulary, opened, sized
    from onnxprune.support.progress import task

    first, second = (sized(load(path), dict(shapes), dict(dims)) for path in (sparse, dense))
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
