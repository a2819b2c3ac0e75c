"""Writing nodes into the training copy: the small language its rewrites and losses are spelled in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.wire import Array

Operand: TypeAlias = Any  # a gs.Tensor, or a number or array that becomes a float32 constant


class Untrainable(Exception):  # noqa: N818 - a verdict on a node, turned into a TrainingError that names it
    """A node cannot be put into the dialect; the message is the reason."""


class Emitter:
    """Appends nodes to a graph under names of their own.

    Args:
        graph: The graph that grows.
        prefix: Prefix of the new names.
        known: Values of tensors that follow from the sizes of the inputs, for the batch of the sample.
    """

    _serial = itertools.count()

    def __init__(self, graph: gs.Graph, prefix: str, known: Mapping[str, Array] | None = None) -> None:
        self.graph = graph
        self._prefix = prefix
        self._known = known or {}

    def __call__(self, operator: str, *operands: Operand, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node.

        Args:
            operator: Its operator, of the standard domain.
            operands: Tensors, or numbers for float32 constants.
            outputs: Number of its outputs.
            attributes: Its attributes.

        Returns:
            The output, or the list of them when there are several.
        """
        name = self._name(operator)
        results = [gs.Variable(f"{name}:{index}") for index in range(outputs)]
        inputs = [self._tensor(operand) for operand in operands]
        self.graph.nodes.append(gs.Node(operator, name, attributes, inputs, results))
        return results[0] if outputs == 1 else results

    def values_of(self, tensor: gs.Tensor) -> Array:
        """Return the values of a constant, or of numbers that follow from the sizes of the sample.

        The batch of a run may be another: only elements that do not count samples hold for all batches.

        Raises:
            Untrainable: They depend on the values of the inputs.
        """
        return self._known[tensor.name] if tensor.name in self._known else values_of(tensor)

    def ints(self, values: int | Sequence[int]) -> gs.Constant:
        """Return an int64 constant."""
        return gs.Constant(self._name("ints"), np.asarray(values, np.int64))

    def floats(self, values: float | Array) -> gs.Constant:
        """Return a float32 constant."""
        return gs.Constant(self._name("floats"), np.asarray(values, np.float32))

    def reduce(self, operator: str, operand: Operand, axes: Sequence[int], keepdims: bool = True) -> Any:
        """Append ReduceMean or ReduceSum, whose axes became an input in different operator sets."""
        since = {"ReduceSum": 13, "ReduceMean": 18}[operator]
        if self.graph.opset >= since:
            return self(operator, operand, self.ints(axes), keepdims=int(keepdims))
        return self(operator, operand, axes=list(axes), keepdims=int(keepdims))

    def assign(self, value: gs.Tensor, target: gs.Variable) -> None:
        """Make an existing variable hold a value."""
        self.graph.nodes.append(gs.Node("Identity", self._name("Identity"), {}, [value], [target]))

    def _tensor(self, operand: Operand) -> gs.Tensor:
        return operand if isinstance(operand, gs.Tensor) else self.floats(operand)

    def _name(self, stem: str) -> str:
        return f"{self._prefix}/{stem}_{next(self._serial)}"


def rank_of(tensor: gs.Tensor) -> int:
    """Return the number of axes.

    Raises:
        Untrainable: Shape inference does not find it.
    """
    if tensor.shape is None:
        raise Untrainable(f"the shape of {tensor.name} is not known")
    return len(tensor.shape)


def sizes_of(tensor: gs.Tensor, first: int = 0) -> list[int]:
    """Return the sizes of the axes from `first` on.

    Raises:
        Untrainable: One of them is not known before the model runs.
    """
    rank_of(tensor)
    if not has_known_sizes(tensor, first):
        raise Untrainable(f"it needs the sizes of {tensor.name}, known is {list(tensor.shape)}")
    return list(tensor.shape[first:])


def has_known_sizes(tensor: gs.Tensor, first: int = 0) -> bool:
    """Return whether the sizes of the axes from `first` on are known before the model runs."""
    return tensor.shape is not None and all(isinstance(size, int) for size in tensor.shape[first:])


def values_of(tensor: gs.Tensor) -> Array:
    """Return the values of a constant.

    Raises:
        Untrainable: It is computed at run time.
    """
    if not isinstance(tensor, gs.Constant):
        raise Untrainable(f"{tensor.name} is computed at run time")
    return np.asarray(tensor.values)


def optional_input(node: gs.Node, index: int) -> gs.Tensor | None:
    """Return an input, or None where it is left out."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def axes_of(node: gs.Node, rank: int, index: int = 1) -> list[int]:
    """Return the non-negative axes of a reduction, from attribute or input; by default all of them."""
    given = node.attrs.get("axes")
    tensor = optional_input(node, index)
    if given is None and tensor is not None:
        given = values_of(tensor).tolist()
    if not given:
        return [] if node.attrs.get("noop_with_empty_axes") else list(range(rank))
    return sorted(int(axis) % rank for axis in given)
