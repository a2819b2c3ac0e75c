"""A sparse model and the plan it carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from onnxprune.analysis.groups.blocks import PREFIX
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.masks import check_zero, dead_channels
from onnxprune.decisions.pattern import PATTERN_KEY
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import PlanError
from onnxprune.ir import Model, analysis


@analysis("plan", sized=False)
def stored_plan(model: Model) -> Plan | None:
    """Return the plan a model carries, ``None`` if it carries none.

    The zeros of a model with a sparsity pattern may be the pattern's: without a plan no channel counts as
    removed, and no zero of it is evidence of a removed one.

    Raises:
        PlanError: The plan is damaged.
    """
    notes = model.metadata()
    if PLAN_KEY in notes:
        return Plan.from_json(notes[PLAN_KEY])
    return Plan({}, {}, {}) if PATTERN_KEY in notes else None


def planned_channels(model: Model, plan: Plan | None) -> Channels:
    """Find the groups of a model as they were found when its plan was made.

    Raises:
        PlanError: The model is no longer the one the plan was made for.
    """
    if plan is None:
        return find_channels(model)
    channels = find_channels(model, allow_inexact=plan.allow_inexact, given=plan.input_shapes or None)
    check_plan(channels, plan)
    return channels.without(plan.within)


def removed_channels(model: Model, plan: Plan | None) -> tuple[Channels, Mapping[str, Sequence[int]]]:
    """Return the groups of a sparse model and its removed channels: by its plan, or by its zeros.

    Raises:
        PlanError: The model is no longer the one of the plan, or is not zero at its removed channels.
    """
    channels = planned_channels(model, plan)
    if plan is None:
        return dead_channels(channels)
    check_zero(channels, plan.removed)
    return channels, plan.removed


def check_plan(channels: Channels, plan: Plan) -> None:
    """Refuse a plan that names groups missing in the model.

    Raises:
        PlanError: Naming the group.
    """
    sizes = {g.name: g.size for g in channels.groups}
    blocks = {b.name for b in channels.blocks.removable}
    for name, size in plan.sizes.items():
        if name.startswith(PREFIX) and name not in blocks:
            raise PlanError(
                f"the plan removes '{name}', a block that the model does not have",
                "the graph was changed after pruning: prune the original again",
            )
        if not name.startswith(PREFIX) and sizes.get(name) != size:
            raise PlanError(
                f"the plan names group '{name}' of {size} channels, which the model does not have",
                "the graph was changed after pruning: prune the original again",
            )
    for name, rows in plan.within.items():
        if len(rows) != prod(f.size for f in channels.freedoms.get(name, ())):
            raise PlanError(
                f"the plan removes other channels of group '{name}' in each of {len(rows)} parts, "
                "which the model does not have",
                "the graph was changed after pruning: prune the original again",
            )
