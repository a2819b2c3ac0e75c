"""Readers of a group: the weight columns that multiply its channels.

What a channel adds to the layers behind it is what its removal takes away. The weights that make it do not
tell that: a normalisation or a scale may come between.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.analysis.groups.channels import AxisRef, Channels, Group
from onnxprune.ops.views import LinearView
from onnxprune.scoring.criteria.shares import matrices


def reading_places(channels: Channels, group: Group) -> list[AxisRef]:
    """Return the places of a group whose axis is summed over; all matrices where there is none."""
    summed = set(_summed_axes(channels))
    return [p for p in group.places if p.weight and (p.tensor, p.axis) in summed] or matrices(channels, group)


def _summed_axes(channels: Channels) -> Iterator[tuple[str, int]]:
    """Yield the axes that are summed over, of all constants that some node is known to multiply with."""
    typing = channels.typing
    for index, views in typing.linear.items():
        for view in views:
            yield from _summed(channels, view, list(typing.nodes[index].input))


def _summed(channels: Channels, view: LinearView, operands: list[str]) -> Iterator[tuple[str, int]]:
    """Yield the axis that a view sums over, of its weights and of their scales."""
    sizes, constants = channels.typing.shapes.sizes, channels.model.constants
    weights = operands[view.weights]
    if weights not in sizes:
        return
    axis = view.summed_axis(len(sizes[weights]))
    scales = operands[view.scales] if view.scales is not None else ""
    for name in (weights, scales):
        if name in constants and len(constants[name].dims) > max(axis, 1):
            yield name, axis
