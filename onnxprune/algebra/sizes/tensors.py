"""Abstract tensors: shapes, element types and small values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.algebra.sizes.algebra import Extent, Size, Value

Shape: TypeAlias = "tuple[Extent, ...]"
Values: TypeAlias = "np.ndarray[Any, np.dtype[np.object_]]"
"""Elements are ``int``, ``Fraction`` or `Size`; booleans are 0 and 1."""

SMALL = 4096
"""Integers up to which a tensor is followed by value."""
FEW = 64
"""Floats up to which it is, and elements up to which one of unknown integers is."""

BOOL: int = onnx.TensorProto.BOOL
INT32: int = onnx.TensorProto.INT32
INT64: int = onnx.TensorProto.INT64
FLOAT: int = onnx.TensorProto.FLOAT
UINT8: int = onnx.TensorProto.UINT8
STRING: int = onnx.TensorProto.STRING
SIGNED: dict[int, int] = {onnx.TensorProto.INT8: 8, onnx.TensorProto.INT16: 16, INT32: 32, INT64: 64}
UNSIGNED: dict[int, int] = {
    UINT8: 8,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.UINT64: 64,
}
FLOATS: dict[int, int] = {onnx.TensorProto.FLOAT16: 16, FLOAT: 32, onnx.TensorProto.DOUBLE: 64}
INTEGERS: set[int] = {*SIGNED, *UNSIGNED, BOOL}


def fits_type(values: Values, kind: int | None) -> bool:
    """Return true if integers are in the range of their type; beyond it runtimes wrap around.

    Expressions are taken to be in the range of 32 and 64 bits.
    """
    bits = SIGNED.get(kind or 0) or UNSIGNED.get(kind or 0)
    if bits is None:
        return True
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind in SIGNED else (0, (1 << bits) - 1)
    return all(low <= x <= high if isinstance(x, int) else bits >= 32 for x in values.ravel())


@dataclass
class TensorSequence:
    """A sequence of tensors.

    Attributes:
        shapes: The shape of each element, ``None`` for one of unknown rank; ``None`` where their number is
            not known.
        common: Shape of any element, where the number is not known.
        element: The element type of the tensors.
        count: Number of elements.
    """

    shapes: Sequence[Shape | None] | None
    common: Shape | None = None
    element: int | None = None
    count: Extent | None = None


@dataclass
class Tensors:
    """All tensors met, bodies included, by name.

    Attributes:
        shapes: Shapes of those of known rank.
        types: Element types.
        values: Small tensors that are known before the run, and unknown integers as symbols.
        derived: Those that are more than constants of the file.
        invented: Those all of whose elements are symbols for unknown integers.
        sequences: Values that are no tensors but sequences.
        kinds: Kind of each value that is no tensor: ``sequence``, ``map`` or ``optional``.
        unknown: The reason why a rank or an axis is not known, by tensor.
        constants: Tensors of the file.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)
    invented: set[str] = field(default_factory=set)
    sequences: dict[str, TensorSequence] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Enter a tensor of the file; its numbers are read on first use."""
        self.shapes[name] = tuple(tensor.dims)
        self.types[name] = tensor.data_type
        self.constants[name] = tensor

    def known_value(self, name: str) -> Values | None:
        """Return a small tensor's numbers, ``None`` where they are not known."""
        found = self.values.get(name)
        if found is None and name in self.constants:
            found = constant_values(self.constants[name])
            if found is not None:
                self.values[name] = found
            else:
                del self.constants[name]  # too large: not to be read again
        return found


def constant_values(tensor: onnx.TensorProto) -> Values | None:
    """Return the numbers of a small tensor of the file, ``None`` where they are of no use here."""
    size, kind = math.prod(tensor.dims), tensor.data_type
    if size > SMALL or (kind not in INTEGERS and (kind not in FLOATS or size > FEW)):
        return None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return from_array(numpy_helper.to_array(tensor))


def from_array(array: np.ndarray[Any, np.dtype[Any]]) -> Values | None:
    """Return plain numbers as values, ``None`` where some are not finite."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            return None
        return each(lambda x: exact(Fraction(float(x))), array.astype(object))
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    found: Values = array.astype(object)
    return found


def exact(number: Fraction) -> int | Fraction:
    """Return an ``int`` for a fraction that is one."""
    return number.numerator if number.denominator == 1 else number


def filled(shape: Sequence[int], elements: Iterable[Value]) -> Values:
    """Return values of a shape, its elements in order."""
    flat = np.empty(math.prod(shape), object)
    for k, element in enumerate(elements):
        flat[k] = element
    found: Values = flat.reshape(tuple(shape))
    return found


def each(function: Callable[[Any], Value], values: Values) -> Values:
    """Apply a function to each element."""
    return filled(values.shape, map(function, values.ravel()))


def plain(values: Iterable[Value] | None) -> list[int] | None:
    """Return integers if all values are such, else ``None``."""
    if values is None:
        return None
    found = list(values)
    return [v for v in found if isinstance(v, int)] if all(isinstance(v, int) for v in found) else None


def open_values(values: Values) -> bool:
    """Return whether sizes are among some values."""
    return any(isinstance(v, Size) for v in values.ravel())
