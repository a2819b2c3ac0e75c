"""Operators on tensors in channel-major layout, ``[channels, pictures, positions]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from onnxprune.ops.spec import find_spec
from onnxprune.train.emit import Emitter, has_known_sizes, optional_input
from onnxprune.train.rewrites import depthwise

Operands = Sequence[gs.Tensor]


@dataclass(frozen=True)
class Carrier:
    """The channel-major form of one operator.

    Attributes:
        fits: Test whether a node of it has that form.
        emit: Function from a node, and its operands with those that flow laid out by channel, to the result.
    """

    fits: Callable[[gs.Node], bool]
    emit: Callable[[gs.Node, Operands, Emitter], Any]


def can_be_carried(node: gs.Node, pictures: int) -> bool:
    """Return whether a node has a channel-major form that is not slower for a number of pictures."""
    carrier = carrier_of(node)
    if carrier is None or len(node.outputs) != 1 or not _is_map(node.outputs[0]):
        return False
    return carrier.fits(node) and (node.op != "Conv" or _pays(node, pictures))


def carrier_of(node: gs.Node) -> Carrier | None:
    """Return the channel-major form of a node's operator, ``None`` where it has none."""
    if node.domain:
        return None
    spec = find_spec("", node.op)
    if spec.arithmetic:
        return _ARITHMETIC
    return CARRIERS.get(node.op) or (_ELEMENTWISE if spec.elementwise and not spec.discrete else None)


def flows_of(node: gs.Node) -> list[gs.Tensor]:
    """Return the operands that are laid out by channel; the others are weights and settings."""
    return [x for x in node.inputs if not isinstance(x, gs.Constant) and _is_map(x)]


def _is_map(x: gs.Tensor) -> bool:
    """Return whether a tensor has pictures, channels and positions, all known but how many pictures."""
    return has_known_sizes(x, 1) and len(x.shape) > 2


def _first_flows(node: gs.Node) -> bool:
    """Return whether the first operand flows, and all others are fixed."""
    first, *others = node.inputs
    fixed = all(isinstance(x, gs.Constant) or x.is_empty() for x in others)
    return fixed and not isinstance(first, gs.Constant) and _is_map(first)


def _keeps_type(node: gs.Node) -> bool:
    """Return whether the first operand alone flows, the others are single numbers, and the type stays."""
    numbers = all(x.values.size == 1 for x in node.inputs[1:] if isinstance(x, gs.Constant))
    return numbers and _first_flows(node) and node.inputs[0].dtype == node.outputs[0].dtype


def _same(node: gs.Node, operands: Operands, emit: Emitter) -> Any:
    return emit(node.op, *operands, **node.attrs)


# --- convolutions ------------------------------------------------------------------------------------------


def _convolves(node: gs.Node) -> bool:
    return _first_flows(node) and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"


def _pays(node: gs.Node, pictures: int) -> bool:
    """Return whether a convolution is of single positions, or depthwise over a small map."""
    many = pictures >= depthwise.MANY
    growth = depthwise.LARGEST_GROWTH_OF_MANY if many else depthwise.LARGEST_GROWTH
    return _of_single_positions(node) or depthwise.pays(node, growth)


def _of_single_positions(node: gs.Node) -> bool:
    """Return whether a convolution looks at one position for each result, and at all channels."""
    x, weight = node.inputs[:2]
    single = math.prod([node.attrs.get("group", 1), *weight.shape[2:]]) == 1
    return single and not any(node.attrs.get("pads") or ()) and x.shape[2:] == node.outputs[0].shape[2:]


def _convolved(node: gs.Node, operands: Operands, emit: Emitter) -> Any:
    x, weight, bias = operands[0], operands[1], optional_input(node, 2)
    if _of_single_positions(node):
        matrix = emit("Reshape", weight, emit.ints(weight.shape[:2]))
        product = emit("MatMul", matrix, emit("Reshape", x, emit.ints([x.shape[0], -1])))
        result = emit("Reshape", product, emit.ints([weight.shape[0], -1, x.shape[2]]))
    else:
        result = emit("MatMul", x, depthwise.matrices_of(node, emit))
    return result if bias is None else emit("Add", result, emit("Reshape", bias, emit.ints([-1, 1, 1])))


# --- operators between them --------------------------------------------------------------------------------


def _normalised(node: gs.Node, operands: Operands, emit: Emitter) -> Any:
    """BatchNormalization, with all pictures in one row."""
    x, *parameters = operands
    channels, _, positions = x.shape
    row = emit("Reshape", x, emit.ints([1, channels, -1]))
    row.dtype, row.shape = x.dtype, [1, channels, None]
    result = emit("BatchNormalization", row, *parameters, **node.attrs)
    return emit("Reshape", result, emit.ints([channels, -1, positions]))


def _combines(node: gs.Node) -> bool:
    """Return whether all activations have equal channels, and constants at most one number each."""
    flows, (result,) = flows_of(node), node.outputs
    fixed = [x for x in node.inputs if isinstance(x, gs.Constant)]
    alike = all(_meets(x, result) for x in flows) and all(_lies_on_channels(x, result) for x in fixed)
    return bool(flows) and alike and len(flows) + len(fixed) == len(node.inputs)


def _meets(x: gs.Tensor, result: gs.Tensor) -> bool:
    """Return whether an operand has the result's channels, and its positions or a single one."""
    axes = len(result.shape) - 2
    return x.shape[1] == result.shape[1] and list(x.shape[2:]) in ([1] * axes, list(result.shape[2:]))


def _lies_on_channels(x: gs.Constant, result: gs.Tensor) -> bool:
    """Return whether a constant is one number, or one for each channel."""
    channels, axes = result.shape[1], len(result.shape) - 2
    return x.values.size == 1 or (
        x.values.size == channels and list(x.shape[-axes - 1 :]) == [channels, *[1] * axes]
    )


def _combined(node: gs.Node, operands: Operands, emit: Emitter) -> Any:
    shaped = [
        emit("Reshape", x, emit.ints([-1, 1, 1])) if isinstance(x, gs.Constant) and x.values.ndim else x
        for x in operands
    ]
    return emit(node.op, *shaped, **node.attrs)


def _joins(node: gs.Node) -> bool:
    """Return whether a Concat is one of channels."""
    flows, axis = flows_of(node), node.attrs["axis"] % len(node.outputs[0].shape)
    return axis == 1 and len(flows) == len(node.inputs)


def _joined(node: gs.Node, operands: Operands, emit: Emitter) -> Any:
    return emit("Concat", *operands, axis=0)


def _averaged(node: gs.Node, operands: Operands, emit: Emitter) -> Any:
    return emit.reduce("ReduceMean", operands[0], [2])


_ARITHMETIC = Carrier(_combines, _combined)
_ELEMENTWISE = Carrier(_keeps_type, _same)
CARRIERS: dict[str, Carrier] = {
    "BatchNormalization": Carrier(_first_flows, _normalised),
    "Concat": Carrier(_joins, _joined),
    "Conv": Carrier(_convolves, _convolved),
    "GlobalAveragePool": Carrier(_first_flows, _averaged),
}
"""Channel-major forms of other operators of the standard domain."""
