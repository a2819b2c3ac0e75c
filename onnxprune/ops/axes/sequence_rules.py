"""Sequences of tensors: all elements of one have one kind of axes, and the sequence carries them.

Positions may be known at run time only: an axis that one element loses channels of, all lose the same of.
A sequence without elements has no axes yet; they are those of the first tensor that is put in.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.algebra.axes import Dim, nested
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.sequence_elements import DIFFER, is_empty_sequence, known_sequence
from onnxprune.ops.axes.statements import Axes
from onnxprune.ops.axes.table import carriers, first, rule
from onnxprune.ops.sizes.sequence_values import VARIES, any_element

PARTS = "it counts the elements of a sequence"
CUT = "it cuts this axis into the elements of a sequence"


@rule("SequenceEmpty", "SequenceLength")
def no_axes(c: Context) -> None:
    """A sequence without elements, and a number, have no axis of the network."""


@rule("SequenceConstruct", zero=carriers)
def construct(c: Context) -> None:
    """All operands have the same axes."""
    c.define(0, united(c, [c.axes(k) for k in range(len(c.node.input))]))


@rule("SequenceInsert", zero=carriers)
def insert(c: Context) -> None:
    """The tensor has the axes of all other elements."""
    others = [] if is_empty_sequence(c.typing, c.node.input[0]) else [c.axes(0)]
    c.define(0, united(c, [*others, c.axes(1)]))


@rule("SequenceErase", zero=first)
def erase(c: Context) -> None:
    """The other elements stay as they are."""
    if not is_empty_sequence(c.typing, c.node.input[0]):
        c.define(0, c.axes(0))


@rule("SequenceAt", zero=first)
def take(c: Context) -> None:
    """One of the elements."""
    dims, sizes = c.axes(0), c.result_shape()
    if len(dims) != len(sizes):
        raise UnknownOperandError("its elements differ in their number of axes")
    result: list[Dim] = []
    for dim, size in zip(dims, sizes, strict=True):
        if dim.size != size:
            c.block(dim, DIFFER)
        result.append(dim if dim.size == size else c.fixed(size, DIFFER))
    c.define(0, result)


@rule("ConcatFromSequence", zero=first)
def lay_out(c: Context) -> None:
    """Elements side by side along a new axis, or end to end: the same channels of each go."""
    dims, sizes = list(c.axes(0)), c.result_shape()
    new = int(c.attributes.get("new_axis", 0))
    if len(dims) + new != len(sizes):
        raise UnknownOperandError("its elements differ in their number of axes")
    axis = int(c.attributes["axis"]) % len(sizes)
    if new:
        dims.insert(axis, c.fixed(sizes[axis], PARTS))
    else:
        found = known_sequence(c.typing, c.node.input[0])
        count = found.count if found is not None else None
        parts = None if count is None else nested((c.fixed(count, PARTS), dims[axis]))
        if parts is None or parts.size != sizes[axis]:
            c.block(dims[axis], "it joins the elements of a sequence along this axis")
            parts = c.fixed(sizes[axis], PARTS)
        dims[axis] = parts
    c.define(0, dims)


@rule("SplitToSequence", zero=first)
def cut(c: Context) -> None:
    """All axes but the one that is cut."""
    dims = list(c.axes(0))
    axis = int(c.attributes.get("axis", 0)) % len(dims)
    found = known_sequence(c.typing, c.node.output[0])
    shape = any_element(found) if found is not None else None
    if shape is None or len(shape) not in (len(dims), len(dims) - 1):
        raise UnknownOperandError("the shape of its pieces is not known")
    c.block(dims[axis], CUT)
    if c.has(1):
        c.keep_list(1)
    kept = [] if len(shape) < len(dims) else [c.fixed(1 if shape[axis] == VARIES else shape[axis], CUT)]
    c.define(0, [*dims[:axis], *kept, *dims[axis + 1 :]])


def united(c: Context, members: Sequence[Axes]) -> list[Dim]:
    """State that tensors have the same axes, but for those whose sizes differ, which stay.

    Raises:
        UnknownOperandError: They differ in their number of axes.
    """
    if len({len(dims) for dims in members}) != 1:
        raise UnknownOperandError("its elements differ in their number of axes")
    result = []
    for dims in zip(*members, strict=True):
        alike = all(dim.size == dims[0].size for dim in dims)
        for dim in dims[1:] if alike else ():
            c.same(dims[0], dim)
        for dim in () if alike else dims:
            c.block(dim, DIFFER)
        result.append(dims[0] if alike else c.fixed(1, DIFFER))
    return result
