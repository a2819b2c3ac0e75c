"""A shift of each channel that the operators between a normalisation and its readers hand on.

A reader takes over the shift of a normalisation only if that reaches it as it is: moved, or averaged with
itself. Sums, products with other numbers and padding change it. The rules of constants decide which do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.axes import Factor
from onnxprune.algebra.kept_axes import channel_of, is_counted
from onnxprune.analysis.evidence.constant_propagation import numbers_of
from onnxprune.ops.axes import Typing
from onnxprune.ops.axes.constant_rules import aligned
from onnxprune.ops.spec import spec_of
from onnxprune.ops.symmetry.passage import Passage

Array = np.ndarray[Any, np.dtype[Any]]


def hands_on(typing: Typing, factor: Factor, number: int) -> bool:
    """Return whether a node leaves a constant of each channel of a factor as it is.

    Args:
        typing: The network.
        factor: The factor.
        number: The number of the node, whose operands that are no constants of the file all have the shift.
    """
    passage = Passage(typing, number, factor)
    spec, outputs = spec_of(passage.node), passage.outputs
    if not outputs:
        return False
    if spec.moves in ("whole", "parts") or (spec.copies and not spec.arithmetic):
        return passage.flows == [passage.node.input[0]]
    operands = tuple(_operand(passage, name) for name in passage.node.input)
    made = spec.constant(numbers_of(typing, passage.node, operands))
    results = dict(zip(passage.node.output, made, strict=False))
    return all(_is_the_shift(passage, name, results.get(name)) for name in outputs)


def _operand(passage: Passage, name: str) -> Array | None:
    """Return the known values of an operand: the shift, or those of a constant."""
    if passage.carries(name) and not passage.is_constant(name):
        return _shift(passage, name)
    if not passage.is_constant(name):
        return None
    tensor = passage.typing.model.constants[name]
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    return passage.typing.model.array(name).astype(np.float64)


def _shift(passage: Passage, name: str) -> Array | None:
    """Return a number of its own for each channel, along the axis of a tensor that has them."""
    dims, axes = passage.typing.axes[name], passage.axes(name)
    if len(axes) != 1 or not is_counted(dims[axes[0]]):
        return None
    channels = channel_of(dims[axes[0]], passage.factor)
    return aligned(np.where(channels >= 0, channels + 0.5, np.nan), axes[0], len(dims))


def _is_the_shift(passage: Passage, name: str, known: Array | None) -> bool:
    """Return whether known values of a result are the same number for each channel again."""
    expected = _shift(passage, name)
    if known is None or expected is None:
        return False
    known = known.reshape(_in_front(known.shape, expected.ndim))
    wide = np.broadcast_shapes(known.shape, expected.shape)
    return bool(np.all((known == expected) | np.isnan(np.broadcast_to(expected, wide))))


def _in_front(shape: Sequence[int], rank: int) -> list[int]:
    return [1] * (rank - len(shape)) + list(shape)
