"""The order of prunings of one model that meet the same budgets, by the metric of their repaired results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxprune.evaluate.metrics import Metric
from onnxprune.ir import Model
from onnxprune.passes.base import PassResult


@dataclass(frozen=True)
class PlanOrder:
    """The order of prunings, measured on the same samples.

    Attributes:
        metric: The metric of the samples.
        by_reduction: True where the budget is a loss, so that the plan that removes more is the better.
        judge: Function from a pruned model to its metric on samples that no repair has seen. By default the
            order is that of the samples of the repair, on which a plan with more to fit is ahead.
    """

    metric: Metric
    by_reduction: bool = False
    judge: Callable[[Model], float] | None = None

    def rank(self, pruned: PassResult) -> tuple[float, float]:
        """Return the figures that prunings are compared by; the smaller are the better."""
        score = self.score(pruned)
        reduction = float(pruned.facts["macs_reduction"]) if self.by_reduction else 0.0
        return -reduction, -score if self.metric.higher_is_better else score

    def score(self, pruned: PassResult) -> float:
        """Return the metric that a pruning is compared by."""
        return score_of(pruned) if self.judge is None else self.judge(pruned.model)


def score_of(pruned: PassResult) -> float:
    """Return the metric of the repaired model, or of the masked one where nothing is repaired."""
    facts = pruned.facts
    return float(facts["recovery"]["score"] if "recovery" in facts else facts["score"])
