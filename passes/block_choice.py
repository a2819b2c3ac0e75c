"""The choice between a plan of channels and blocks, and one of channels alone.

Losses of blocks and groups add up in the prediction only. Both plans meet the same budgets, each with its
repair, and are judged by the same metric on the same samples.
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune.passes.base import PassResult


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
    scores = [_score(result) for result in (joint, whole)]
    ranks = [
        (-float(r.facts["macs_reduction"]) if by_reduction else 0.0, -s if higher_is_better else s)
        for r, s in zip((joint, whole), scores, strict=True)
    ]
    kept = ranks[0] < ranks[1]
    result = joint if kept else whole
    choice = {"kept": kept, "score_with": scores[0], "score_without": scores[1]}
    return replace(result, report=result.report.with_keys(block_choice=choice))


def _score(result: PassResult) -> float:
    """Return the metric of the repaired model, or of the masked one where nothing is repaired."""
    facts = result.facts
    return float(facts["recovery"]["score"] if "recovery" in facts else facts["score"])
