"""The choice between a plan of channels and blocks, and one of channels alone.

Losses of blocks and groups add up in the prediction only. Both plans meet the same budgets, each with its
repair, and are judged by the same metric on the same samples.
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune.passes.base import PassResult
from onnxprune.passes.plan_order import rank_of, score_of


def better_by_blocks(
    joint: PassResult, whole: PassResult, higher_is_better: bool, by_reduction: bool
) -> PassResult:
    """Return the better of two prunings of a model, with both scores in its report.

    Args:
        joint: The pruning whose plan removes blocks.
        whole: The pruning by channels alone.
        higher_is_better: Direction of the metric.
        by_reduction: True where the budget is a loss, so that the plan that removes more is the better.
    """
    with_blocks, without = (rank_of(r, higher_is_better, by_reduction) for r in (joint, whole))
    kept = with_blocks < without
    result = joint if kept else whole
    choice = {"kept": kept, "score_with": score_of(joint), "score_without": score_of(whole)}
    return replace(result, report=result.report.with_keys(block_choice=choice))
