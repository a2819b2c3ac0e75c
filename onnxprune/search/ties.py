"""As many channels in every layer, where the interface of a network is one and the same throughout.

A decoder's caches are one pair of inputs for each layer, and the programs that run decoders read the number
of heads once for all of them. Plans are made freely first; then the groups of one kind get one number, and
the plan is made again around that.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.ir import open_values


def tied_groups(channels: Channels, groups: Iterable[Group]) -> list[list[Group]]:
    """Return the groups that lie on the same axis, at the same place in it, of inputs or outputs that shrink.

    Args:
        channels: The network.
        groups: Those that may lose channels.
    """
    known = {g.factor: g for g in groups}
    kinds: dict[tuple[int, ...], dict[str, Group]] = defaultdict(dict)
    for value in open_values(channels.model):
        dims = channels.typing.axes.get(value.name, ())
        for axis, dim in enumerate(dims):
            for place, factor in enumerate(factors(dim)):
                if factor in known:
                    group = known[factor]
                    kinds[len(dims), axis, place, group.size][group.name] = group
    return [list(kind.values()) for kind in kinds.values() if len(kind) > 1]


def equal_counts(
    ties: Iterable[Sequence[Group]],
    removed: Mapping[str, Sequence[int]],
    gone: Mapping[str, Sequence[int]],
) -> dict[str, int]:
    """Return the common number of kept channels of tied groups, where a plan keeps different numbers.

    Args:
        ties: Sets of groups that have to keep equal numbers.
        removed: Channels that the plan removes, by group name.
        gone: Channels that an earlier plan has removed already, likewise.

    Returns:
        Of the numbers the plan keeps that nearest to their mean, as a limit for the name of each group.
    """
    found: dict[str, int] = {}
    for tie in ties:
        counts = [g.size - len(removed.get(g.name, ())) for g in tie]
        most = min(g.size - len(gone.get(g.name, ())) for g in tie)
        if len(set(counts)) > 1:
            mean = sum(counts) / len(counts)
            count = min(most, min(counts, key=lambda n: abs(n - mean)))
            found |= {glob.escape(g.name): count for g in tie}
    return found
