"""The order of prunings of one model that meet the same budgets, by the metric of their repaired results."""

from __future__ import annotations

from onnxprune.passes.base import PassResult


def score_of(pruned: PassResult) -> float:
    """Return the metric of the repaired model, or of the masked one where nothing is repaired."""
    facts = pruned.facts
    return float(facts["recovery"]["score"] if "recovery" in facts else facts["score"])


def rank_of(pruned: PassResult, higher_is_better: bool, by_reduction: bool) -> tuple[float, float]:
    """Return the figures that prunings are compared by; the smaller are the better.

    Args:
        pruned: The result of a pruning, measured on the samples.
        higher_is_better: Direction of the metric.
        by_reduction: True where the budget is a loss, so that the plan that removes more is the better.
    """
    score = score_of(pruned)
    reduction = float(pruned.facts["macs_reduction"]) if by_reduction else 0.0
    return -reduction, -score if higher_is_better else score
