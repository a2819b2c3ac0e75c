"""The choice between a plan of channels and blocks, and one of channels alone.

Losses of blocks and groups add up in the prediction only. Both plans meet the same budgets, each with its
repair, and are judged by the same metric on the same samples.
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune.passes.base import PassResult
from onnxprune.passes.plan_order import PlanOrder, score_of


def better_by_blocks(joint: PassResult, whole: PassResult, order: PlanOrder) -> PassResult:
    """Return the better of two prunings of a model, with both scores in its report.

    Args:
        joint: The pruning whose plan removes blocks.
        whole: The pruning by channels alone.
        order: The order of the two.
    """
    kept = order.rank(joint) < order.rank(whole)
    result = joint if kept else whole
    choice = {"kept": kept, "score_with": score_of(joint), "score_without": score_of(whole)}
    return replace(result, report=result.report.with_keys(block_choice=choice))
