"""The solution of a pruning problem, and the choice among solutions whose latency is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune.analysis.groups.cost import Counts
from onnxprune.search.latency_model import CLOSE, REACHED_IN_TIME, Stopwatch


@dataclass(frozen=True)
class PruningSolution:
    """The selected channels and the figures of the plan.

    Attributes:
        removed: Removed channels by group name, ascending.
        within: Channels row by row (see `Plan`), where they differ from part to part.
        baseline: Costs of the model before any pruning, by budget.
        facts: Figures that were predicted and measured, ready for JSON.
    """

    removed: Mapping[str, tuple[int, ...]]
    within: Mapping[str, tuple[tuple[int, ...], ...]]
    baseline: Mapping[str, float]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TimedPlan:
    """A plan with its time in parts of the original's and the channels it keeps, by factor."""

    ratio: float
    counts: Counts
    solution: PruningSolution

    def keeps_all_of(self, other: TimedPlan) -> bool:
        """Return whether no group is narrower than in another plan."""
        return all(n >= other.counts.get(factor, factor.count) for factor, n in self.counts.items())


def best_in_time(timed: Sequence[TimedPlan], reduction: float) -> TimedPlan:
    """Return the plan that reaches a reduction with the least to spare, else the fastest.

    No plan is returned that takes as long as another one that keeps at least as much of every group.
    """
    reached = [t for t in timed if 1 - t.ratio >= reduction - REACHED_IN_TIME]
    best = max(reached, key=lambda t: t.ratio) if reached else min(timed, key=lambda t: t.ratio)
    return min((t for t in timed if t.keeps_all_of(best)), key=lambda t: t.ratio)


def timing(watch: Stopwatch, reduction: float, predicted: float, measured: float) -> dict[str, Any]:
    """Return the figures of a plan's time, ready for JSON.

    Args:
        watch: The device.
        reduction: The demanded reduction.
        predicted: The time in parts of the original's.
        measured: The same, as measured.
    """
    facts: dict[str, Any] = {
        "latency_ms_before": watch.baseline_ms,
        "latency_ms_predicted": predicted * watch.baseline_ms,
        "latency_ms": measured * watch.baseline_ms,
        "latency_measured": watch.backend is not None,
        "latency_reduction": 1 - measured,
        "latency_prediction_error": abs(predicted / measured - 1),
        "latency_input_shapes": watch.input_shapes,
        "latency_backend": watch.table.backend,
        "latency_device": watch.table.device,
        "latency_steps": dict(watch.table.steps),
        "latency_missed": 1 - measured < reduction - CLOSE,
    }
    if facts["latency_missed"]:
        facts["warnings"] = [
            f"the latency falls by {1 - measured:.1%}, less than the {reduction:.1%} that was asked for: "
            "a larger reduction or --max-ratio goes further"
        ]
    return facts
