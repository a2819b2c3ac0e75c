"""Which groups a command works on."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from onnxprune.errors import NothingToDoError, PlanError
from onnxprune.groups.channels import Channels, Group


def select_groups(channels: Channels, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> list[Group]:
    """Return the groups to prune, in order of execution.

    Args:
        channels: The network.
        exclude: Globs over names of groups, nodes and tensors; a group that any of them touches stays whole.
        only: Likewise; only groups that one of them touches are pruned. An optional group (the number of
            groups of a convolution, the width of attention heads) is pruned when one of them names it.

    Raises:
        PlanError: A glob matches nothing.
        NothingToDoError: No group is left.
    """
    names = {g.name: _names(g) for g in channels.groups}
    for pattern in (*exclude, *only):
        if not any(_touches(pattern, names[g.name]) for g in channels.groups):
            raise PlanError(f"'{pattern}' matches no group, node or tensor", "`inspect` lists the names")
    chosen = [
        g
        for g in channels.groups
        if not any(_touches(p, names[g.name]) for p in exclude)
        and (any(_touches(p, names[g.name]) for p in only) if only else not g.optional)
        and (not g.optional or any(fnmatchcase(g.name, p) for p in only))
    ]
    if not chosen:
        raise NothingToDoError("nothing to prune: no group of channels is left", why_blocked(channels))
    return chosen


def why_blocked(channels: Channels, most: int = 3) -> str:
    """Return the commonest reasons for which axes are blocked, as one sentence."""
    reasons = [f"{b.operator} '{b.node}': {b.reason}" for axis in channels.blocked for b in axis.reasons]
    common = sorted(set(reasons), key=lambda r: (-reasons.count(r), r))[:most]
    return "; ".join(common) if common else "it has no convolution or matrix product with weights of its own"


def _names(group: Group) -> set[str]:
    return {group.name, *group.nodes, *(p.tensor for p in group.places)}


def _touches(pattern: str, names: set[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
