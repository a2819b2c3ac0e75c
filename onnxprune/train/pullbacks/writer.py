"""Writing the nodes of a step graph."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.train.wire import Array

Operand: TypeAlias = "str | float | Array | None"

OPSET = 21
STEP = 2.0**100
"""Slope of a HardSigmoid that is the step function: 0 up to 0, 1 above, also for subnormal numbers."""
_BACKWARDS = np.iinfo(np.int64).min + 1


class Writer:
    """Appends nodes; arrays and numbers become constants, equal ones the same.

    Attributes:
        nodes: In order of execution.
        constants: By name.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._serial = itertools.count()
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operator: str, *operands: Operand, into: str = "", **attributes: Any) -> str:
        """Append a node with one result.

        Args:
            operator: Operator of the standard domain.
            operands: Names, or numbers and arrays for constants (floats become float32), or None.
            into: Name of the result; empty for a new one.
            attributes: Attributes of the node.

        Returns:
            Name of the result.
        """
        return self.several(operator, *operands, into=[into or self.name(operator)], **attributes)[0]

    def several(
        self, operator: str, *operands: Operand, into: Sequence[str] = (), outputs: int = 0, **attributes: Any
    ) -> list[str]:
        """Append a node with several results; return their names."""
        results = list(into) or [self.name(operator) for _ in range(outputs)]
        domain = attributes.pop("domain", "")
        inputs = [self.tensor(operand) for operand in operands]
        while inputs and not inputs[-1]:
            inputs.pop()
        self.nodes.append(helper.make_node(operator, inputs, results, domain=domain, **attributes))
        return results

    def name(self, operator: str) -> str:
        """Return a new name."""
        return f"step:{operator}_{next(self._serial)}"

    def tensor(self, operand: Operand) -> str:
        """Return the name of an operand."""
        if operand is None or isinstance(operand, str):
            return operand or ""
        array = np.asarray(operand)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = self.name("constant")
            self.constants[name] = array
        return self._known[key]

    def add(self, a: Operand, b: Operand) -> str:
        """A + b."""
        return self("Add", a, b)

    def sub(self, a: Operand, b: Operand) -> str:
        """A − b."""
        return self("Sub", a, b)

    def mul(self, a: Operand, b: Operand) -> str:
        """A · b."""
        return self("Mul", a, b)

    def div(self, a: Operand, b: Operand) -> str:
        """A / b."""
        return self("Div", a, b)

    def reshape(self, x: Operand, shape: Sequence[int]) -> str:
        """Reshape to a shape that may hold one -1."""
        return self("Reshape", x, ints(shape), allowzero=int(0 in shape))

    def transpose(self, x: Operand, order: Sequence[int]) -> str:
        """Permute axes; the identity is left out."""
        if isinstance(x, str) and list(order) == list(range(len(order))):
            return x
        return self("Transpose", x, perm=list(order))

    def reduce(self, operator: str, x: Operand, axes: Sequence[int], keepdims: bool = False) -> str:
        """Reduce over some axes."""
        return self(operator, x, ints(axes), keepdims=int(keepdims))

    def total(self, x: Operand, axes: Sequence[int], keepdims: bool = False) -> str:
        """Sum over some axes; over none return the operand."""
        if isinstance(x, str) and not axes:
            return x
        return self.reduce("ReduceSum", x, axes, keepdims)

    def slice(
        self, x: Operand, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int], step: int = 1
    ) -> str:
        """Cut along some axes."""
        return self("Slice", x, ints(starts), ints(ends), ints(axes), ints([step] * len(axes)))

    def turned(self, x: Operand, axes: Sequence[int]) -> str:
        """Reverse the order along some axes."""
        if isinstance(x, str) and not axes:
            return x
        return self.slice(x, axes, [-1] * len(axes), [_BACKWARDS] * len(axes), -1)

    def zeros(self, shape: Sequence[int]) -> str:
        """Zeros of a shape, made when the graph runs."""
        return self("ConstantOfShape", ints(shape))

    def floats(self, x: Operand) -> str:
        """Cast to float32."""
        return self("Cast", x, to=TensorProto.FLOAT)

    def initializers(self) -> list[TensorProto]:
        """Return the constants as tensors of a graph."""
        return [
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            for name, array in self.constants.items()
        ]


def ints(values: Sequence[int]) -> Array:
    """Return an int64 array."""
    return np.asarray(values, np.int64).reshape(len(values))
