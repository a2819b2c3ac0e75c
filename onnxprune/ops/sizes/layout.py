"""Operators that move elements, or only rename axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.algebra.sizes.algebra import (
    Extent,
    Value,
    as_extent,
    exact_quotient,
    floor_div,
    is_nonnegative,
    single_atom,
)
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensor_arithmetic import total
from onnxprune.algebra.sizes.tensors import SMALL, Shape, Values, plain
from onnxprune.ops.sizes.node import SizedNode, moved
from onnxprune.ops.sizes.table import size_rule


@size_rule("Reshape")
def reshape(node: SizedNode) -> None:
    """A target in which -1 is the rest, and 0 the operand's own axis unless ``allowzero`` is set."""
    shape = node.shape()
    target = node.target(1) if len(node.inputs) > 1 else list(node.attribute("shape", ()))
    if target is None:
        node.put_rank(node.length(1))
        return
    sizes, hole = _target(node, shape, target)
    if hole is not None:
        sizes[hole] = _left_over(node, shape, sizes, hole)
    elif shape is not None:
        _keep_elements(node, shape, sizes)
    node.put(0, sizes, None, moved(node.known(0), sizes))


def _target(node: SizedNode, shape: Shape | None, target: Sequence[Value]) -> tuple[list[Extent], int | None]:
    """Return the sizes of a target, with 1 in the place of -1, and the axis of the -1, or ``None``."""
    sizes: list[Extent] = []
    hole = None
    for axis, size in enumerate(target):
        own = shape[axis] if shape is not None and axis < len(shape) else None
        if size == -1:
            hole = axis
            sizes.append(1)
        elif size == 0 and not node.flag("allowzero"):
            if shape is not None and own is None:
                raise ContradictionError(f"a 0 for axis {axis} stands for an axis that the operand has not")
            sizes.append(node.fresh(0, axis) if own is None else own)
        elif not node.is_nonnegative(size):
            sizes.append(node.fresh(0, axis))  # may be -1
        else:
            sizes.append(as_extent(size))
            if not node.flag("allowzero") and size != own and not is_nonnegative(size - 1):
                node.need_nonnegative(size - 1, f"a 0 for axis {axis} would mean the operand's own")
    return sizes, hole


def _left_over(node: SizedNode, shape: Shape | None, sizes: Sequence[Extent], hole: int) -> Extent:
    """Return the size of the axis that takes the elements not covered by the other axes."""
    if shape is None:
        return node.fresh(0, hole)
    have, others = without_common(shape, [s for k, s in enumerate(sizes) if k != hole])
    if others == 0:
        return node.fresh(0, hole)
    exact = exact_quotient(have, others)
    if exact is not None:
        return exact
    if isinstance(have, int) and isinstance(others, int):
        raise ContradictionError(f"{have} elements cannot be laid out in rows of {others}")
    quotient = floor_div(have, others)
    node.same(quotient * others, have, f"axis {hole} takes all elements")
    return node.walk.facts.size_now(quotient)


def _keep_elements(node: SizedNode, shape: Shape, sizes: list[Extent]) -> None:
    """The number of elements stays: an equation, which may determine an unknown axis."""
    before, after = without_common(shape, sizes)
    if before == after or before == 0 or after == 0:
        return
    unknown = [
        k for k, s in enumerate(sizes) if (atom := single_atom(s)) is not None and atom.fresh and s in sizes
    ]
    if len(unknown) == 1:
        found = exact_quotient(before * sizes[unknown[0]], after)
        if found is not None:
            sizes[unknown[0]] = found
            return
    node.same(before, after, "the number of elements stays")


def without_common(left: Sequence[Extent], right: Sequence[Extent]) -> tuple[Extent, Extent]:
    """Return the products of two lists without the factors they share."""
    others, kept = list(right), []
    for size in left:
        if size != 0 and size in others:
            others.remove(size)
        else:
            kept.append(size)
    return as_extent(total(kept)), as_extent(total(others))


@size_rule("Flatten")
def flatten(node: SizedNode) -> None:
    """Two axes."""
    shape = node.shape()
    if shape is None:
        node.put_rank(2)
        return
    axis = node.attribute("axis", 1)
    axis += len(shape) if axis < 0 else 0
    node.put(0, [total(shape[:axis]), total(shape[axis:])])


@size_rule("Transpose")
def transpose(node: SizedNode) -> None:
    """The axes in another order, reversed by default."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    listed = node.attribute("perm")
    order = list(range(len(shape) - 1, -1, -1) if listed is None else listed)
    if sorted(order) != list(range(len(shape))):
        raise ContradictionError(f"the order {order} is not one of {len(shape)} axes")
    value = node.known(0)
    node.put(0, [shape[k] for k in order], None, None if value is None else value.transpose(order))


def listed_axes(node: SizedNode, place: int = 1) -> list[int] | None:
    """Return the axes that an attribute or an operand lists; ``None`` where the operand is not known."""
    axes = node.attribute("axes")
    if axes is not None:
        return list(axes)
    return node.numbers(place)


@size_rule("Unsqueeze")
def unsqueeze(node: SizedNode) -> None:
    """New axes of 1 at places counted in the result."""
    shape, axes = node.shape(), listed_axes(node)
    if shape is None or axes is None:
        more = len(axes) if axes is not None else node.length(1)
        rank = None if shape is None or more is None else len(shape) + more
        node.put_rank(rank)
        return
    rank = len(shape) + len(axes)
    new = sorted({node.axis(axis, rank) for axis in axes})
    sizes: list[Value] = list(shape)
    for axis in new:
        sizes.insert(axis, 1)
    value = node.known(0)
    node.put(0, sizes, None, None if value is None else np.expand_dims(value, tuple(new)))


@size_rule("Squeeze")
def squeeze(node: SizedNode) -> None:
    """Without the listed axes, which are 1; without all axes of 1 if none is listed."""
    shape = node.shape()
    given = node.attribute("axes") is not None or node.has(1)
    axes = listed_axes(node) if given else None
    if shape is None or (given and axes is None):
        fewer = node.length(1) if given else None
        node.put_rank(None if shape is None or fewer is None else len(shape) - fewer)
        return
    if axes is None:
        if not all(isinstance(s, int) or is_nonnegative(s - 2) for s in shape):
            node.put(0, None)
            node.walk.tensors.unknown[node.outputs[0]] = "its rank depends on an open axis, which may be 1"
            return
        axes = [k for k, size in enumerate(shape) if size == 1]
    gone = {node.axis(axis, len(shape)) for axis in axes}
    for axis in gone:
        node.same(shape[axis], 1, f"axis {axis} is squeezed away")
    sizes = [size for k, size in enumerate(shape) if k not in gone]
    node.put(0, sizes, None, moved(node.known(0), sizes))


@size_rule("Expand")
def expand(node: SizedNode) -> None:
    """The broadcast of the operand and a target shape."""
    shape, target = node.shape(), node.target(1)
    if shape is None or target is None:
        length = node.length(1)
        node.put_rank(None if shape is None or length is None else max(len(shape), length))
        return
    sizes = node.broadcast([shape, [node.nonnegative(x, 0, k) for k, x in enumerate(target)]])
    node.put(0, sizes, None, _stretched(node.known(0), sizes))


def _stretched(value: Values | None, sizes: Sequence[Value] | None) -> Values | None:
    shape = plain(sizes)
    if value is None or shape is None or math.prod(shape) > SMALL:
        return None
    return np.broadcast_to(value, tuple(shape))


@size_rule("Tile")
def tile(node: SizedNode) -> None:
    """Each axis repeated."""
    shape, repeats = node.shape(), node.target(1)
    if shape is None or repeats is None or len(repeats) != len(shape):
        node.put_rank(None if shape is None else len(shape))
        return
    sizes = [size * node.nonnegative(r, 0, k) for k, (size, r) in enumerate(zip(shape, repeats, strict=True))]
    value, times = node.known(0), plain(repeats)
    made = plain(sizes)
    small = value is not None and times is not None and made is not None and math.prod(made) <= SMALL
    node.put(0, sizes, None, np.tile(value, times) if small else None)  # type: ignore[arg-type]


@size_rule("DepthToSpace", "SpaceToDepth")
def depth_to_space(node: SizedNode) -> None:
    """Blocks of pixels as channels, or back."""
    shape, block = node.shape(), int(node.attribute("blocksize", 1))
    if shape is None or len(shape) != 4:
        node.put_rank(4)
        return
    n, c, h, w = shape
    if node.operator == "DepthToSpace":
        node.put(0, [n, _part(node, c, block * block, "channels"), h * block, w * block])
    else:
        parts = [_part(node, x, block, f"axis {k}") for k, x in ((2, h), (3, w))]
        node.put(0, [n, c * (block * block), *parts])


def _part(node: SizedNode, size: Extent, number: int, what: str) -> Extent:
    """Return a size over a number that divides it."""
    part = floor_div(size, number)
    node.same(part * number, size, f"{what} in blocks")
    return node.walk.facts.size_now(part)
