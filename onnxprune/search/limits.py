"""Limits of a plan: rounding, and the channels a group keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.algebra.axes import Factor, Product, factors, resolve
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.errors import PlanError
from onnxprune.support.globs import matching

DEFAULT_ROUND_TO = 8


@dataclass(frozen=True)
class Limits:
    """Limits of a plan.

    Attributes:
        round_to: Step of the number of channels that remain: it is a multiple of this.
        max_ratio: Largest fraction of a group that may go; one channel always stays.
        at_least: Fewest channels that stay, by glob over group names; of several that match the largest.
        at_most: Most channels that stay, likewise, of several that match the smallest.
        exact: True if the rounding holds for small groups too, which are otherwise rounded more finely: a
            group that is no larger than the step then keeps all its channels.
        steps: Steps in which the device computes the channels of a group, by group name: the kept width is
            a multiple of the step, unless the rounding is exact.
    """

    round_to: int = DEFAULT_ROUND_TO
    max_ratio: float = 0.9
    at_least: Mapping[str, int] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    exact: bool = False
    steps: Mapping[str, int] = field(default_factory=dict)

    def check(self, groups: Sequence[Group]) -> None:
        """Refuse limits that name nothing, or contradict each other.

        Raises:
            PlanError: Naming the glob or the group.
        """
        for pattern in (*self.at_least, *self.at_most):
            if not any(matching(pattern, [g.name]) for g in groups):
                raise PlanError(f"a limit for '{pattern}' names no group that is pruned", _NAMES)
        for group in groups:
            if self.fewest(group) > self.most(group):
                raise PlanError(
                    f"group '{group.name}' cannot keep at least {self.fewest(group)} of its {group.size}"
                    f" channels and at most {self.most(group)}",
                    "the largest ratio is a limit too: `max_ratio`",
                )

    def fewest(self, group: Group) -> int:
        """Return how many channels a group keeps in any case."""
        limits = [n for pattern, n in self.at_least.items() if matching(pattern, [group.name])]
        least = int(np.ceil(group.size * (1 - self.max_ratio) - 1e-9))
        return min(group.size, max([1, least, *limits]))

    def most(self, group: Group) -> int:
        """Return how many channels a group keeps at most."""
        limits = [n for pattern, n in self.at_most.items() if matching(pattern, [group.name])]
        return max(1, min([group.size, *limits]))


_NAMES = "`inspect` lists the groups; those that are excluded have no limits"


def kept_counts(channels: Channels, group: Group, limits: Limits, start: int) -> list[int]:
    """Return how many channels a group may keep, descending, all fewer than ``start``.

    All are multiples of the rounding but for the numbers given by limits.
    """
    block = rounding(channels, group, limits)
    fewest, most = limits.fewest(group), limits.most(group)
    counts = set(range(block, group.size, block)) | ({most} if most < group.size else set())
    if any(matching(pattern, [group.name]) for pattern in limits.at_least):
        counts.add(fewest)
    return sorted((n for n in counts if fewest <= n <= most and n < start), reverse=True)


def rounding(channels: Channels, group: Group, limits: Limits) -> int:
    """Return the rounding for one group.

    A small group is rounded more finely, as it would have no choice of widths otherwise, unless the step has
    to hold exactly. Below two steps of the device all widths but one take as long as the whole group.
    """
    needed = multiple_for(channels, group, limits.round_to)
    if limits.exact:
        return needed
    while needed > 1 and group.size < 4 * needed:
        needed //= 2
    step = limits.steps.get(group.name, 1)
    return math.lcm(needed, step) if group.size >= 2 * step else needed


def multiple_for(channels: Channels, group: Group, step: int) -> int:
    """Return the multiple for the channels of a group, so that its axes are multiples of a step.

    An axis that nests the group with others is already a multiple of those.
    """
    needed = 1
    for place in group.places:
        dim = resolve(channels.typing.axes[place.tensor][place.axis])
        multiple = dim.count // group.size if isinstance(dim, Product) and _once(dim, group.factor) else 1
        needed = max(needed, step // math.gcd(step, multiple))
    return needed


def _once(dim: Product, factor: Factor) -> bool:
    return factors(dim).count(factor) == 1
