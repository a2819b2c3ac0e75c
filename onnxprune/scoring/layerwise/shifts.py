"""Shifts: parameters that move the mean of a node's result (bias, BatchNormalization, addition).

A node with none of these is given a bias if it can have one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.ir import Model, label
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import WINDOWS, LinearView
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.layer_recognition import views_of


@dataclass(frozen=True)
class Shift:
    """A constant vector that is added to a node's result: a bias, a mean or an operand of an addition.

    Attributes:
        node: The node.
        tensor: The constant; empty where the node has to be given one, as its operand ``operand``.
        factor: Factor it is multiplied by before it is added.
        inside: True if the node adds it itself; otherwise the next one does.
    """

    node: onnx.NodeProto
    tensor: str
    factor: float = 1.0
    inside: bool = True
    operand: int = 2

    def value(self, model: Model) -> Array | float:
        """Return the vector that is added to every channel, ``[channels]`` or 0."""
        if not self.tensor or self.tensor not in model.constants:
            return 0.0
        return model.array(self.tensor).astype(np.float64).ravel() * self.factor

    def outside(self, sparse: Model, original: Model) -> Array | float:
        """Return the difference between the next node's addend and that in the original."""
        return 0.0 if self.inside else self.value(sparse) - self.value(original)

    def add(self, model: Model, delta: Array) -> None:
        """Add to every channel of the result.

        Args:
            model: The model that holds the node.
            delta: ``[channels]``.
        """
        if not self.tensor:
            weight = next(i for i in self.node.input if i in model.constants)
            kind = model.dtype(weight)
            name = model.add_constant(f"{label(self.node)}__bias", delta.astype(kind))
            operands = [*self.node.input, *[""] * (self.operand + 1 - len(self.node.input))]
            operands[self.operand] = name
            model.rewire(model.main.producers[self.node.output[0]], operands)
            return
        values = model.array(self.tensor)
        moved = values.astype(np.float64) + delta.reshape(values.shape) / self.factor
        model.set_array(self.tensor, moved.astype(values.dtype))


def find_shift(model: Model, node: onnx.NodeProto, channels: int) -> Shift | None:
    """Find the constant that shifts the mean of a node's result.

    Args:
        model: The model.
        node: One of its nodes, with one result.
        channels: Number of channels of the result.

    Returns:
        The place; ``None`` where there is none.
    """
    view = _view_of(model, node)
    bias = view.bias if view is not None else None
    if view is not None and bias is not None and bias < len(node.input) and node.input[bias]:
        fits = view.beta and _movable(model, node.input[bias], channels)
        return Shift(node, node.input[bias], view.beta, operand=bias) if fits else None
    after = _shift_after(model, node, channels, view)
    if after is None and view is not None and bias is not None:
        return Shift(node, "", operand=bias)
    return after


def _view_of(model: Model, node: onnx.NodeProto) -> LinearView | None:
    """Return how a node is linear in its data, where product and bias are all of its result."""
    views = [v for v in views_of(model, node) if v.final and not v.integers]
    fixed = [v for v in views if node.input[v.weights] in model.constants]
    return next(iter(fixed or views), None)


def _shift_after(model: Model, node: onnx.NodeProto, channels: int, view: LinearView | None) -> Shift | None:
    """Find it in the only node that reads the result."""
    result = node.output[0]
    readers = model.main.readers(result)
    if len(readers) != 1 or result in model.main.returned:
        return None
    reader = model.main.nodes[readers[0]]
    spec = spec_of(reader)
    if spec.statistics and reader.input[0] == result:
        mean = reader.input[spec.statistics[0]]
        return Shift(node, mean, -1.0, inside=False) if _movable(model, mean, channels) else None
    if spec.arithmetic == "sum" and len(set(reader.input)) == len(reader.input) == 2:
        other = next(i for i in reader.input if i != result)
        fits = _movable(model, other, channels) and _lies_on_channels(model, other, node, view)
        return Shift(node, other, inside=False) if fits else None
    return None


def _movable(model: Model, name: str, channels: int) -> bool:
    """Return whether a tensor is a constant with one number a channel, read at a single place."""
    tensor = model.constants.get(name)
    if tensor is None or math.prod(tensor.dims) != channels:
        return False
    return model.main.count(name) == 1


def _lies_on_channels(model: Model, name: str, node: onnx.NodeProto, view: LinearView | None) -> bool:
    """Return whether an added constant has its elements on the channel axis."""
    dims = list(model.constants[name].dims)
    if view is None or view.layout not in WINDOWS:
        return dims[-1:] == [math.prod(dims)]
    spatial = len(model.constants[node.input[view.weights]].dims) - 2
    return len(dims) in (spatial + 1, spatial + 2) and dims[-spatial - 1] == math.prod(dims)
