"""Reports of plans: the reductions, by kind of decision, and the widths that stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from onnxprune.algebra.axes import Factor
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.plan import Plan
from onnxprune.passes.reports import PruneReport, costs


def plan_report(channels: Channels, plan: Plan, **more: Any) -> PruneReport:
    """Return the report of a plan.

    Args:
        channels: The groups of the model.
        plan: The plan.
        more: Other fields of the report.
    """
    counts = {factor: len(kept) for factor, kept in channels.kept(plan.removed).items()}
    known = costs(plan.baseline, cost_of(channels).figures(counts))
    widths = widths_of(channels, plan.removed) | by_kind(channels, plan)
    return PruneReport(**known, **widths, settings=dict(plan.settings), **more)


def by_kind(channels: Channels, plan: Plan, ranks: Collection[str] = ()) -> dict[str, Any]:
    """Return the parts of lower ranks, removed blocks and removed channels in the reductions.

    Args:
        channels: The groups of the model.
        plan: The plan.
        ranks: Names of the groups of channels within chains of products.
    """
    counts = {factor: len(kept) for factor, kept in channels.kept(plan.removed).items()}
    low = {g.factor: counts[g.factor] for g in channels.groups if g.name in ranks and g.factor in counts}
    blocks = {block.factor: 0 for block in channels.removed_blocks(plan.removed)}
    if not low and not blocks:
        return {}
    cost, found, done = cost_of(channels), dict[str, dict[str, float]](), dict[Factor, int]()
    before: Mapping[str, float] = plan.baseline if low else cost.figures({})
    for kind, own in {"ranks": low, "blocks": blocks, "channels": counts}.items():
        done |= own
        if own:
            after = cost.figures(done)
            parts = {n: (before[n] - after[n]) / max(plan.baseline[n], 1) for n in ("macs", "params")}
            found[kind], before = parts, after
    return {"by_kind": found}


def widths_of(channels: Channels, removed: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the fields of a `CostReport` that name the groups that lose channels, and the removed blocks.

    Args:
        channels: The groups of the model.
        removed: Removed channels by group name.
    """
    sizes = {g.name: g.size for g in channels.groups}
    widths = {n: {"before": sizes[n], "after": sizes[n] - len(r)} for n, r in removed.items() if n in sizes}
    blocks = [block.name for block in channels.removed_blocks(removed)]
    return {"groups": widths} | ({"blocks": blocks} if blocks else {})
