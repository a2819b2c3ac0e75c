"""Readers of a group: the weight columns that multiply its channels.

The contribution of a channel to the layers behind it is lost by its removal. The weights that make it do not
determine that contribution: a normalisation or a scale may come between.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.analysis.groups.channels import AxisRef, Channels, Group
from onnxprune.ops.views import LinearView
from onnxprune.scoring.criteria.shares import matrices


def reading_places(channels: Channels, group: Group) -> list[AxisRef]:
    """Return the places of a group whose axis is summed over; all matrices where there is none."""
    reading = [p for p in group.places if p.weight and p.axis in _summed_axes(channels, p.tensor)]
    return reading or matrices(channels, group)


def _summed_axes(channels: Channels, name: str) -> set[int]:
    """Return the axes of a constant that the linear views of its consumers contract."""
    typing, found = channels.typing, set[int]()
    for number in channels.model.index.readers(name):
        for view in typing.linear.get(number, ()):
            summed = _summed(channels, view, list(typing.nodes[number].input))
            found.update(axis for constant, axis in summed if constant == name)
    return found


def _summed(channels: Channels, view: LinearView, operands: list[str]) -> Iterator[tuple[str, int]]:
    """Yield the contracted axis of the weights of a view, and of their scales."""
    sizes, constants = channels.typing.shapes.sizes, channels.model.constants
    weights = operands[view.weights]
    if weights not in sizes:
        return
    axis = view.summed_axis(len(sizes[weights]))
    scales = operands[view.scales] if view.scales is not None else ""
    for name in (weights, scales):
        if name in constants and len(constants[name].dims) > max(axis, 1):
            yield name, axis
