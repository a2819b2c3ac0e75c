"""Detours of an activation: each ends in an equal tensor."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from spellings.speller import Speller, move


@move
def identity(s: Speller, x: str) -> str:
    return s.op("Identity", x)


@move
def transposed_twice(s: Speller, x: str) -> str:
    order = s.random.permutation(s.rank(x) or 0)
    there = s.op("Transpose", x, perm=order.tolist())
    return s.op("Transpose", there, perm=np.argsort(order).tolist())


@move
def one_axis_more(s: Speller, x: str) -> str | None:
    if s.opset < 13:
        return None
    place = int(s.random.integers((s.rank(x) or 0) + 1))
    return s.op("Squeeze", s.op("Unsqueeze", x, s.ints(place)), s.ints(place))


@move
def reshaped_to_its_shape(s: Speller, x: str) -> str:
    return s.op("Reshape", x, s.op("Shape", x))


@move
def merged_and_split(s: Speller, x: str) -> str | None:
    """Two axes in a row merged and split again."""
    rank = s.rank(x) or 0
    if rank < 2:
        return None
    first = int(s.random.integers(rank - 1))
    shape = s.op("Shape", x)
    parts = []
    if first:
        parts.append(s.op("Slice", shape, s.ints(0), s.ints(first)))
    parts.append(s.ints(-1))
    if first + 2 < rank:
        parts.append(s.op("Slice", shape, s.ints(first + 2), s.ints(rank)))
    target = s.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    return s.op("Reshape", s.op("Reshape", x, target), shape)


@move
def cut_and_joined(s: Speller, x: str) -> str | None:
    rank = s.rank(x) or 0
    axis = int(s.random.integers(rank))
    size = s.size(x, axis)
    if size is None or size < 2:
        return None
    at = int(s.random.integers(1, size))
    one = s.op("Slice", x, s.ints(0), s.ints(at), s.ints(axis))
    two = s.op("Slice", x, s.ints(at), s.ints(size), s.ints(axis))
    return s.op("Concat", one, two, axis=axis)


@move
def cast_there_and_back(s: Speller, x: str) -> str:
    return s.op("Cast", s.op("Cast", x, to=TensorProto.DOUBLE), to=s.kind(x))


@move
def negated_twice(s: Speller, x: str) -> str:
    return s.op("Neg", s.op("Neg", x))


@move
def plus_zero(s: Speller, x: str) -> str:
    return s.op("Add", x, s.const(0.0, x))


@move
def scaled_there_and_back(s: Speller, x: str) -> str:
    return s.op("Mul", s.op("Mul", x, s.const(4.0, x)), s.const(0.25, x))


@move
def padded_and_cropped(s: Speller, x: str) -> str | None:
    rank = s.rank(x) or 0
    axis = int(s.random.integers(rank))
    size = s.size(x, axis)
    if size is None:
        return None
    pads = [0] * (2 * rank)
    pads[axis + rank] = 2
    return s.op("Slice", s.op("Pad", x, s.ints(*pads)), s.ints(0), s.ints(size), s.ints(axis))


@move
def repeated_and_cropped(s: Speller, x: str) -> str | None:
    """Two copies along an axis, of which the first is taken."""
    rank = s.rank(x) or 0
    axis = int(s.random.integers(rank))
    size = s.size(x, axis)
    if size is None:
        return None
    return s.op("Slice", s.op("Concat", x, x, axis=axis), s.ints(0), s.ints(size), s.ints(axis))


@move
def in_a_branch(s: Speller, x: str) -> str:
    """An If whose condition is a constant."""
    results = [s.fresh("branch") for _ in range(2)]
    bodies = [
        helper.make_graph(
            [helper.make_node("Identity" if k == 0 else "Neg", [x], [r])],
            "body",
            [],
            [helper.make_tensor_value_info(r, s.kind(x), None)],
        )
        for k, r in enumerate(results)
    ]
    return s.op("If", s.const(np.asarray(True)), then_branch=bodies[0], else_branch=bodies[1])


@move
def dropout(s: Speller, x: str) -> str:
    return s.op("Dropout", x)


@move
def expanded_to_its_shape(s: Speller, x: str) -> str:
    return s.op("Expand", x, s.op("Shape", x))
