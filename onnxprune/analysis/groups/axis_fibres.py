"""The lines of a tensor along the axis of a group."""

from __future__ import annotations

from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.fibres import Fibres
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry


def fibres_of(
    channels: Channels, found: GroupSymmetry, name: str, axis: int, shape: tuple[int, ...]
) -> Fibres:
    """Return the lines of a tensor along an axis of a group."""
    dims = channels.typing.axes[name]
    return Fibres.of(dims, axis, found.group.factor, found.outer, shape)
