"""The largest reduction whose measured drop is allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from onnxprune.errors import PlanError
from onnxprune.support.progress import task

T = TypeVar("T")
PRECISION = 0.005
"""Precision of the reduction that is found."""


@dataclass(frozen=True)
class FrontierPoint(Generic[T]):
    """The end of the way.

    Attributes:
        reduction: The largest reduction that is allowed.
        drop: Drop measured there.
        plan: Plan with that reduction.
        tried: All reductions that were measured, ascending, and their drops.
    """

    reduction: float
    drop: float
    plan: T
    tried: tuple[tuple[float, float], ...]


def largest_reduction(
    plan_at: Callable[[float], T], drop_of: Callable[[T], float], most: float, allowed: float
) -> FrontierPoint[T]:
    """Find the largest reduction within an allowed drop, by bisection.

    The drop is assumed to rise with the reduction. The drop of the returned plan is measured in any case.

    Args:
        plan_at: From a reduction to a plan.
        drop_of: From a plan to its measured drop.
        most: The largest reduction there is a plan for.
        allowed: The largest drop.

    Raises:
        PlanError: Even the smallest reduction loses more.
    """
    low, high = 0.0, most
    best: tuple[float, float, T] | None = None
    tried: list[tuple[float, float]] = []
    with task("search the largest reduction") as progress:
        reduction = most
        while high - low > PRECISION or not tried:
            plan = plan_at(reduction)
            drop = drop_of(plan)
            tried.append((reduction, drop))
            progress.advance(note=f"{reduction:.1%}: drop {drop:.4g}")
            if drop <= allowed:
                low, best = reduction, (reduction, drop, plan)
            else:
                high = reduction
            if low == most:
                break
            reduction = (low + high) / 2
    if best is None:
        least, drop = min(tried)
        raise PlanError(
            f"removing {least:.1%} costs {drop:.4g} already, more than the {allowed:g} that is allowed",
            "allow a larger drop, use `round_to` 1, or another criterion",
        )
    return FrontierPoint(*best, tuple(sorted(tried)))
