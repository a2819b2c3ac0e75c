"""Selection of groups by name."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.groups.blocks import PREFIX, ResidualBlock
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.openings import openings
from onnxprune.analysis.groups.reach import reach_of, staying_axes
from onnxprune.errors import NothingToDoError, PlanError
from onnxprune.support.globs import matching


def select_groups(
    channels: Channels, exclude: Sequence[str] = (), only: Sequence[str] = (), *, optional: bool = False
) -> list[Group]:
    """Return the groups to prune, in order of execution.

    Args:
        channels: The network.
        exclude: Names of groups, nodes and tensors, or globs over them; a group that any of them touches
            stays whole.
        only: Likewise; only groups that one of them touches are pruned. An optional group (the number of
            groups of a convolution, the width of attention heads) is pruned when one of them names it.
        optional: Choose optional groups too.

    Raises:
        PlanError: A glob has no match.
        NothingToDoError: No group is left.
    """
    chosen = chosen_groups(channels, exclude, only, optional=optional)
    if not chosen:
        raise nothing_to_prune(channels, [*exclude, *only])
    return chosen


def chosen_groups(
    channels: Channels, exclude: Sequence[str] = (), only: Sequence[str] = (), *, optional: bool = False
) -> list[Group]:
    """Return the groups that `select_groups` returns; an empty list where none is left.

    Args:
        channels: The network.
        exclude: As for `select_groups`.
        only: Likewise.
        optional: Likewise.

    Raises:
        PlanError: A glob has no match.
    """
    names = {g.name: _names(g) for g in channels.groups}
    excluded, named = _meant(channels, exclude), _meant(channels, only)
    return [
        g
        for g in channels.groups
        if not names[g.name] & excluded
        and (names[g.name] & named if only else optional or not g.optional)
        and (optional or not g.optional or g.name in named)
    ]


def nothing_to_prune(channels: Channels, patterns: Sequence[str] = ()) -> NothingToDoError:
    """Return the error of a network without a group to prune: why that is, and the options that open one.

    Args:
        channels: The network.
        patterns: The globs that groups were chosen with.
    """
    message, count = "nothing to prune: no group of channels is left", len(channels.groups)
    if count and patterns:
        listed = ", ".join(repr(pattern) for pattern in patterns)
        return NothingToDoError(message, f"`exclude` and `only` leave none of its groups: {listed}")
    if count:
        return NothingToDoError(message, f"`only` names optional groups; there are {count}")
    found = [opening.statement for opening in openings(channels, reach_of(channels))]
    return NothingToDoError(message, "; ".join([why_blocked(channels), *found]))


def select_blocks(
    channels: Channels, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> list[ResidualBlock]:
    """Return the residual blocks that may be removed, in order of execution.

    Args:
        channels: The network.
        exclude: Names of blocks, groups, nodes and tensors, or globs over them; a block that any of them
            touches stays.
        only: Likewise; only blocks that one of them touches may be removed.

    Raises:
        PlanError: A glob matches nothing.
    """
    excluded, named = _meant(channels, exclude), _meant(channels, only)
    names = {b: {b.name, *b.nodes, *b.weights} for b in channels.blocks.removable}
    return [b for b, own in names.items() if not own & excluded and (not only or own & named)]


def select_prunable(
    channels: Channels, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[list[Group], list[ResidualBlock]]:
    """Return the groups and the blocks that a plan may choose from; see `select_groups`, `select_blocks`.

    Raises:
        PlanError: A glob matches nothing.
        NothingToDoError: Neither a group nor a block is left.
    """
    blocks = select_blocks(channels, exclude, only)
    return (chosen_groups if blocks else select_groups)(channels, exclude, only), blocks


EVERY_BLOCK = PREFIX + "*"
"""The glob of all blocks, which may be excluded from networks without any too."""


def _meant(channels: Channels, patterns: Sequence[str]) -> set[str]:
    """Return the names that some globs match.

    Raises:
        PlanError: A glob matches nothing.
    """
    if not patterns:
        return set()
    everything = set().union(*map(_names, channels.groups)) | {b.name for b in channels.blocks.removable}
    found: set[str] = set()
    for pattern in patterns:
        matched = matching(pattern, everything)
        if not matched and pattern != EVERY_BLOCK:
            raise PlanError(f"'{pattern}' matches no group, node or tensor", "`inspect` lists the names")
        found.update(matched)
    return found


def why_blocked(channels: Channels, most: int = 3) -> str:
    """Return the commonest reasons for which axes are blocked, as one sentence."""
    reasons = [
        f"{b.operator} '{b.node}': {b.reason}" for axis in staying_axes(channels) for b in axis.reasons
    ]
    common = sorted(set(reasons), key=lambda r: (-reasons.count(r), r))[:most]
    return "; ".join(common) if common else "it has no convolution or matrix product with weights of its own"


def _names(group: Group) -> set[str]:
    return {group.name, *group.nodes, *(p.tensor for p in group.places)}
