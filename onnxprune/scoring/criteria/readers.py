"""Where the channels of a group are read: the columns of the weights that multiply them.

What a channel adds to the layers behind it is what its removal takes away. The weights that make it do not
tell that: a normalisation or a scale may come between.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxprune.analysis.groups.channels import Channels, Group, Place
from onnxprune.ir import attributes
from onnxprune.scoring.criteria.shares import matrices


def reading_places(channels: Channels, group: Group) -> list[Place]:
    """Return the places of a group whose axis is summed over; all matrices where there is none."""
    summed = _summed_axes(channels)
    return [p for p in group.places if p.weight and summed.get(p.tensor) == p.axis] or matrices(
        channels, group
    )


def _summed_axes(channels: Channels) -> Mapping[str, int]:
    """Return the axis that is summed over, of every weight of which that is known."""
    constants, found = channels.model.constants, dict[str, int]()
    for node in channels.typing.nodes:
        for operand, name in enumerate(node.input[:2]):
            if name in constants:
                axis = _summed_axis(node, operand, len(constants[name].dims))
                if axis is not None:
                    found[name] = axis
    return found


def _summed_axis(node: onnx.NodeProto, operand: int, rank: int) -> int | None:
    if rank < 2:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return int(node.op_type == "Conv") if operand == 1 else None
    if node.op_type == "Gemm":
        swapped = bool(attributes(node).get("transA" if operand == 0 else "transB", 0))
        return int((operand == 0) != swapped)
    if node.op_type == "MatMul":
        return rank - 1 if operand == 0 else rank - 2
    return None
