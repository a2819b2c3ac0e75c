"""The tape of a step: forward nodes in order, and the gradients that flow back over them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.registry import ForwardNode
from onnxprune.train.pullbacks.tensor_facts import StaticFacts
from onnxprune.train.pullbacks.writer import Writer
from onnxprune.train.wire import Array


@dataclass(frozen=True)
class Gradient:
    """Gradient of the loss with respect to a tensor: `value`, times `factor` along one axis.

    The factor of a normalisation commutes with all that works channel by channel. It is carried along, until
    a weight can take it, and saves a pass over every activation.

    Attributes:
        value: Name of a tensor of the shape of the differentiated tensor.
        factor: Name of a vector, or empty for ones.
        axis: The axis the vector lies along.
    """

    value: str
    factor: str = ""
    axis: int = 1


class Tape:
    """The tape that pullbacks read and write.

    Args:
        writer: Writer that appends nodes.
        facts: Sizes, types and known values of the forward graph's tensors.
        needed: Names of the tensors whose gradients are needed.
        trained: Tensors that training changes, so that their values are not known.

    Attributes:
        writer: As given.
        statistics: New values of running statistics, by name.
    """

    def __init__(self, writer: Writer, facts: StaticFacts, needed: Collection[str], trained: Collection[str]):
        self.writer, self.statistics = writer, dict[str, str]()
        self._facts, self._needed, self._trained = facts, needed, trained
        self._gradients: dict[str, Gradient] = {}

    def dims(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            Untrainable: A size is known at run time only.
        """
        shape = self._facts.shapes.get(name)
        if shape is None or any(size is None for size in shape):
            raise Untrainable(f"it needs the sizes of {name}, known is {shape}")
        return tuple(int(size) for size in shape if size is not None)

    def rank(self, name: str) -> int:
        """Return the number of axes of a tensor.

        Raises:
            Untrainable: It is not known.
        """
        shape = self._facts.shapes.get(name)
        if shape is None:
            raise Untrainable(f"it needs the number of axes of {name}")
        return len(shape)

    def known(self, name: str) -> Array | None:
        """Return the values of a tensor that does not change in training; None where they are not known."""
        return None if name in self._trained else self._facts.values.get(name)

    def values(self, name: str) -> Array:
        """Return the values of a tensor.

        Raises:
            Untrainable: They are computed at run time.
        """
        array = self.known(name)
        if array is None:
            raise Untrainable(f"{name} is computed at run time")
        return array

    def wants(self, name: str) -> bool:
        """Return whether the gradient of a tensor is needed."""
        return name in self._needed

    def has(self, name: str) -> bool:
        """Return whether a gradient of a tensor has arrived."""
        return name in self._gradients

    def carried(self, name: str) -> Gradient:
        """Return the gradient of a result, with the factor that it carries."""
        return self._gradients[name]

    def gradient(self, name: str) -> str:
        """Return the gradient of a result, its factor multiplied in; zeros where none has arrived."""
        if name not in self._gradients:
            return self.writer.zeros(self.dims(name))
        return self.full(self._gradients[name], self.rank(name))

    def full(self, gradient: Gradient, rank: int) -> str:
        """Multiply the factor in."""
        if not gradient.factor:
            return gradient.value
        shape = [1] * rank
        shape[gradient.axis] = -1
        return self.writer.mul(gradient.value, self.writer.reshape(gradient.factor, shape))

    def give(self, name: str, value: str, factor: str = "", axis: int = 1) -> None:
        """Add to the gradient of an operand, if it is needed."""
        if not name or name not in self._needed:
            return
        given = Gradient(value, factor, axis)
        if name in self._gradients:
            before, rank = self._gradients[name], self.rank(name)
            if (before.factor, before.axis) == (factor, axis):
                given = Gradient(self.writer.add(before.value, value), factor, axis)
            else:
                given = Gradient(self.writer.add(self.full(before, rank), self.full(given, rank)))
        self._gradients[name] = given

    def pass_on(self, name: str, gradient: Gradient) -> None:
        """Give an operand a gradient with its factor."""
        self.give(name, gradient.value, gradient.factor, gradient.axis)

    def give_broadcast(self, name: str, gradient: Gradient, dims: Sequence[int]) -> None:
        """Give an operand a gradient of the shape it was broadcast to."""
        if not name or not self.wants(name):
            return
        own = self.dims(name)
        if tuple(dims) == own:
            self.pass_on(name, gradient)
            return
        lead = len(dims) - len(own)
        stretched = [lead + k for k, size in enumerate(own) if size == 1 and dims[lead + k] != 1]
        axes = [*range(lead), *stretched]
        if gradient.factor and gradient.axis in axes:
            gradient = Gradient(self.full(gradient, len(dims)))
        value = self.writer.total(gradient.value, axes)
        if gradient.factor:
            left = [axis for axis in range(len(dims)) if axis not in axes]
            value = self.full(Gradient(value, gradient.factor, left.index(gradient.axis)), len(left))
        self.give(name, self.writer.reshape(value, own) if stretched else value)

    def keep(self, node: ForwardNode, outputs: Sequence[str] = (), **attributes: object) -> None:
        """Write a node of the forward graph as it is.

        Args:
            node: The node.
            outputs: New names of its results; by default the present ones.
            attributes: Attributes to replace or to add.
        """
        domain, _, operator = node.operator.rpartition(".")
        merged = {**node.attributes, **attributes}
        self.writer.several(operator, *node.inputs, into=outputs or node.outputs, domain=domain, **merged)


def elements(dims: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    return math.prod(dims)


def permutation_back(order: Sequence[int]) -> list[int]:
    """Return the permutation of axes that undoes one."""
    return [int(k) for k in np.argsort(order)]
