"""The weights whose single elements may be removed, and their layout.

Blocks of a pattern run along the axis that is summed over, the input channels within a group, at each place
of a kernel and for each output on its own. TensorRT requires it so of convolutions ("for each output channel
and for each spatial pixel in the kernel weights, every four input channels must have at least two zeros"),
and sparse matrix products (cuSPARSELt) along the rows of the sparse operand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.pattern import Array, Pattern
from onnxprune.ir import Model, label
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import INNER, WINDOWS, LinearView, WeightLayout

_LAYOUTS: frozenset[WeightLayout] = WINDOWS | {"matrix", "stack", "gates"}
_REFUSED: dict[WeightLayout, str] = {
    "blocks": "its weights are packed",
    "letters": "its weights have axes that an equation names",
}


@dataclass(frozen=True)
class ElementWeight:
    """A constant that linear operators multiply by.

    Attributes:
        tensor: Its name.
        node: The number, among all nodes, of the first node that multiplies by it.
        view: View of the constant in that node.
        order: The axes of the constant in the order in which they arrive at the node.
        readers: Number of nodes that multiply by it.
    """

    tensor: str
    node: int
    view: LinearView
    order: tuple[int, ...]
    readers: int = 1

    def rows(self, values: Array) -> Array:
        """Return a tensor shaped like the constant with its inputs last, ``[rows, inputs]``."""
        values = values.transpose(self.order)
        if self.view.groups > 1 and self.view.inputs_first:
            values = values.reshape(self.view.groups, -1, *values.shape[1:])
            axis = 1
        else:
            axis = self.view.summed_axis(values.ndim)
        moved = np.moveaxis(values, axis, -1)
        return np.asarray(moved.reshape(-1, moved.shape[-1]))

    def numbered(self, shape: tuple[int, ...], length: int) -> Array:
        """Return the number of the block of each element, from 1, shaped like the constant.

        Args:
            shape: The constant's shape.
            length: The elements of a block.
        """
        elements = self.rows(np.arange(int(np.prod(shape))).reshape(shape)).reshape(-1, length)
        numbers = np.empty(int(np.prod(shape)), np.int64)
        numbers[elements] = np.arange(1, len(elements) + 1)[:, None]
        return numbers.reshape(shape)


@dataclass(frozen=True)
class Unfit:
    """A weight that keeps all its elements.

    Attributes:
        tensor: The constant, or the operand where it is computed.
        node: The name of the node that multiplies by it.
        operator: Its operator.
        reason: The reason, in words.
    """

    tensor: str
    node: str
    operator: str
    reason: str


def find_weights(
    channels: Channels, pattern: Pattern | None = None
) -> tuple[list[ElementWeight], list[Unfit]]:
    """Find the constants that linear operators multiply by, in order of execution.

    Args:
        channels: The network.
        pattern: The pattern they are to follow; weights of other sizes are unfit.

    Returns:
        The weights, and those that are left alone, with the reasons.
    """
    model, found, unfit = channels.model, dict[str, list[ElementWeight]](), list[Unfit]()
    origins = _Origins(model)
    for index, view in _views(channels, origins):
        node = channels.typing.nodes[index]
        operand = node.input[view.weights]
        traced = _traced(model, operand) if origins.constant(operand) else None
        if traced is None:
            continue
        tensor, order, reason = traced
        reason = reason or _REFUSED.get(
            view.layout, "" if view.layout in _LAYOUTS else "its layout is not known"
        )
        if reason:
            unfit.append(Unfit(tensor, label(node), node.op_type, reason))
            continue
        found.setdefault(tensor, []).append(ElementWeight(tensor, index, view, order))
    weights = []
    for tensor, readings in found.items():
        first, node = readings[0], channels.typing.nodes[readings[0].node]
        reason = _conflict(channels, readings) or _misfit(channels, first, pattern)
        if reason:
            unfit.append(Unfit(tensor, label(node), node.op_type, reason))
        else:
            weights.append(ElementWeight(tensor, first.node, first.view, first.order, len(readings)))
    return weights, unfit


class _Origins:
    """The values that a chain of nodes derives from a constant, each value followed once.

    Every node of the chain reads constants besides its first operand.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._known = model, dict[str, bool]()

    def constant(self, name: str) -> bool:
        """Return whether a value derives from a constant alone."""
        constants, chain = self._model.constants, list[str]()
        while name not in constants and name not in self._known:
            chain.append(name)
            node = self._model.index.producer(name)
            if node is None or not node.input or any(i not in constants for i in node.input[1:] if i):
                self._known[name] = False
            else:
                name = node.input[0]
        found = self._known.get(name, True)
        self._known.update(dict.fromkeys(chain, found))
        return found


def _views(channels: Channels, origins: _Origins) -> Iterator[tuple[int, LinearView]]:
    """Yield the nodes that multiply data by weights, and how: each operand of weights once."""
    for index, views in sorted(channels.typing.linear.items()):
        node, seen = channels.typing.nodes[index], set[int]()
        for view in views:
            is_fed = view.data == INNER or not origins.constant(node.input[view.data])
            if is_fed and view.weights < len(node.input) and view.weights not in seen:
                seen.add(view.weights)
                yield index, view


def _traced(model: Model, name: str) -> tuple[str, tuple[int, ...], str]:
    """Return the constant that an operand derives from, the order of its axes, and why it is not followed."""
    order: tuple[int, ...] | None = None
    reason = ""
    while name not in model.constants:
        node = model.index.producer(name)
        assert node is not None
        if reason:
            pass  # how its axes lie does not matter any more
        elif node.op_type == "Transpose":
            perm = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
            reason = "" if perm else "it is turned around without a list of axes"
            order = perm if order is None or perm is None else tuple(perm[k] for k in order)
        elif not _keeps_places(node):
            reason = f"{node.op_type} '{label(node)}' changes its shape or its numbers first"
        elif node.op_type == "DequantizeLinear" and not _reads_constant(model, node):
            reason = "it is quantised and moved about"
        name = node.input[0]
    rank = len(model.constants[name].dims)
    return name, tuple(range(rank)) if order is None or reason else order, reason


def _keeps_places(node: onnx.NodeProto) -> bool:
    """Return whether a node leaves every element in its place, zero as zero."""
    return node.op_type in ("Identity", "Cast") or bool(spec_of(node).quantises)


def _reads_constant(model: Model, node: onnx.NodeProto) -> bool:
    """Return whether the dequantised tensor is a constant, or was quantised from one right before."""
    before = model.index.producer(node.input[0])
    return node.input[0] in model.constants or (
        before is not None and before.op_type == "QuantizeLinear" and before.input[0] in model.constants
    )


def _conflict(channels: Channels, readings: list[ElementWeight]) -> str:
    """Return why the nodes that read a constant do not agree on its blocks; empty where they do."""
    first = readings[0]
    how = {(r.order, r.view.layout, r.view.groups, r.view.inputs_first, r.view.summed) for r in readings}
    if len(how) > 1:
        return "the nodes that share it sum over different axes"
    model, waiting, known = channels.model, [first.tensor], {r.node for r in readings}
    while waiting:
        name = waiting.pop()
        if name in model.index.returned:
            return "it is an output of the network"
        for number in model.index.readers(name):
            node = model.index.nodes[number]
            if number in known:
                continue
            if not (_keeps_places(node) or node.op_type == "Transpose") or name != node.input[0]:
                return f"{node.op_type} '{label(node)}' reads it too, and does not sum over its inputs"
            waiting.extend(node.output)
    return ""


def _misfit(channels: Channels, weight: ElementWeight, pattern: Pattern | None) -> str:
    """Return why a constant cannot follow a pattern; empty where it can."""
    tensor = channels.model.constants[weight.tensor]
    if weight.tensor in channels.typing.unread:
        return "the numbers that its integers stand for are not known"
    shape = tuple(tensor.dims)
    if len(weight.order) != len(shape) or not all(shape):
        return "it has no elements"
    inputs = weight.rows(np.broadcast_to(np.int8(0), shape)).shape[1]
    if pattern is not None and pattern.block and inputs % pattern.block:
        return f"the number of its inputs, {inputs}, is no multiple of {pattern.block}"
    if pattern is not None and not pattern.stay(int(np.prod(shape))):
        return "nothing would stay of so few elements"
    return ""
