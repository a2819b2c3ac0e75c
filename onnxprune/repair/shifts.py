"""Where the mean of a node's result can be moved: its bias, the BatchNormalization or the addition after it.

A node with none of these is given a bias if it can have one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.ir import Model, attributes, captured, label
from onnxprune.runtime import Array

_BIASED = ("Conv", "ConvTranspose", "Gemm")
"""Operators whose third operand is an optional bias."""


@dataclass(frozen=True)
class Shift:
    """A constant vector that is added to a node's result, whatever holds it.

    Attributes:
        node: The node.
        tensor: The constant; empty where the node has to be given one.
        factor: What it is multiplied by before it is added.
        inside: Whether the node adds it itself; otherwise the next one does.
    """

    node: onnx.NodeProto
    tensor: str
    factor: float = 1.0
    inside: bool = True

    def value(self, model: Model) -> Array | float:
        """Return what is added to every channel, ``[channels]`` or 0."""
        if not self.tensor or self.tensor not in model.constants:
            return 0.0
        return model.array(self.tensor).astype(np.float64).ravel() * self.factor

    def outside(self, sparse: Model, original: Model) -> Array | float:
        """Return what the next node adds beyond what it adds in the original."""
        return 0.0 if self.inside else self.value(sparse) - self.value(original)

    def add(self, model: Model, delta: Array) -> None:
        """Add to every channel of the result.

        Args:
            model: The model that holds the node.
            delta: ``[channels]``.
        """
        if not self.tensor:
            weight = model.array(self.node.input[1])
            name = model.add_constant(f"{label(self.node)}__bias", delta.astype(weight.dtype))
            del self.node.input[2:]
            self.node.input.append(name)
            return
        values = model.array(self.tensor)
        moved = values.astype(np.float64) + delta.reshape(values.shape) / self.factor
        model.set_array(self.tensor, moved.astype(values.dtype))


def find_shift(model: Model, node: onnx.NodeProto, channels: int) -> Shift | None:
    """Find what moves the mean of a node's result.

    Args:
        model: The model.
        node: One of its nodes, with one result.
        channels: How many channels the result has.

    Returns:
        The place; ``None`` where there is none.
    """
    if node.op_type in _BIASED and len(node.input) > 2 and node.input[2]:
        factor = float(attributes(node).get("beta", 1.0)) if node.op_type == "Gemm" else 1.0
        return (
            Shift(node, node.input[2], factor)
            if factor and _movable(model, node.input[2], channels)
            else None
        )
    after = _shift_after(model, node, channels)
    if after is None and node.op_type in _BIASED:
        return Shift(node, "")
    return after


def _shift_after(model: Model, node: onnx.NodeProto, channels: int) -> Shift | None:
    """Find it in the only node that reads the result."""
    result = node.output[0]
    readers = [n for n in model.nodes if result in n.input or result in captured(n)]
    if len(readers) != 1 or any(o.name == result for o in model.outputs):
        return None
    reader = readers[0]
    if reader.op_type == "BatchNormalization" and reader.input[0] == result:
        mean = reader.input[3]
        return Shift(node, mean, -1.0, inside=False) if _movable(model, mean, channels) else None
    if reader.op_type == "Add" and len(set(reader.input)) == 2:
        other = next(i for i in reader.input if i != result)
        fits = _movable(model, other, channels) and _lies_on_channels(model, other, node)
        return Shift(node, other, inside=False) if fits else None
    return None


def _movable(model: Model, name: str, channels: int) -> bool:
    """Whether a tensor is a constant with one number a channel, read at a single place."""
    tensor = model.constants.get(name)
    if tensor is None or math.prod(tensor.dims) != channels:
        return False
    return sum(list(n.input).count(name) for n in model.nodes) == 1


def _lies_on_channels(model: Model, name: str, node: onnx.NodeProto) -> bool:
    """Whether a constant that is added to a node's result has its numbers on the axis of the channels."""
    dims = list(model.constants[name].dims)
    if node.op_type in ("Gemm", "MatMul"):
        return dims[-1:] == [math.prod(dims)]
    spatial = len(model.constants[node.input[1]].dims) - 2
    return len(dims) in (spatial + 1, spatial + 2) and dims[-spatial - 1] == math.prod(dims)
