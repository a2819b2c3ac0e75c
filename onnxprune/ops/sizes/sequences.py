"""Sequences of tensors, and optional values."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.algebra.sizes.algebra import Extent, Value, as_extent, ceil_div, minimum
from onnxprune.algebra.sizes.tensors import FLOAT, INT64, Shape, TensorSequence, filled
from onnxprune.ops.sizes.joining import joined
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.sequence_values import UNKNOWN, VARIES, any_element, either
from onnxprune.ops.sizes.table import size_rule

_MANY = 1024
"""Elements up to which each is followed."""


def _put_sequence(node: SizedNode, found: TensorSequence, kind: str = "sequence") -> None:
    tensors = node.walk.tensors
    tensors.kinds[node.outputs[0]] = kind
    tensors.sequences[node.outputs[0]] = found


def _sequence(node: SizedNode, place: int = 0) -> TensorSequence:
    return node.walk.tensors.sequences.get(node.inputs[place], UNKNOWN)


@size_rule("SequenceEmpty")
def empty(node: SizedNode) -> None:
    """No element."""
    _put_sequence(node, TensorSequence([], None, node.attribute("dtype", FLOAT), 0))


@size_rule("SequenceConstruct")
def construct(node: SizedNode) -> None:
    """The operands as elements."""
    shapes = [node.shape(k) for k in range(len(node.inputs))]
    _put_sequence(node, TensorSequence(shapes, None, node.kind(), len(shapes)))


@size_rule("SequenceLength")
def length(node: SizedNode) -> None:
    """The number of elements."""
    count = _sequence(node).count
    node.put(0, [], INT64, None if count is None else filled([], [count]))


@size_rule("SequenceAt")
def at(node: SizedNode) -> None:
    """One of the elements."""
    found, place = _sequence(node), node.numbers(1)
    shape = found.common
    if found.shapes is not None and found.shapes:
        if place and -len(found.shapes) <= place[0] < len(found.shapes):
            shape = found.shapes[place[0]]
        else:
            shape = _common(node, found.shapes)
    elif shape is not None:
        shape = tuple(_own(node, size, k) for k, size in enumerate(shape))
    node.put(0, shape, found.element or 0)


def _common(node: SizedNode, shapes: Sequence[Shape | None]) -> Shape | None:
    """Return the part that all shapes share."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes) or len({len(s) for s in known}) != 1:
        return None
    return tuple(
        sizes[0] if all(s == sizes[0] for s in sizes) else node.fresh(0, k)
        for k, sizes in enumerate(zip(*known, strict=True))
    )


def _own(node: SizedNode, size: Extent, axis: int) -> Extent:
    """Return a size of some element: one that no element is known to have is another for each."""
    return size if size != VARIES else node.fresh(0, axis)


@size_rule("SequenceInsert")
def insert(node: SizedNode) -> None:
    """One element more, at the end or at a place."""
    found, place = _sequence(node), node.numbers(2) if node.has(2) else None
    count = None if found.count is None else found.count + 1
    if found.shapes is None or (node.has(2) and place is None):
        added = TensorSequence([node.shape(1)], None, node.kind(1), 1)
        both = either(found, added, count)
        _put_sequence(node, TensorSequence(None, any_element(both), both.element, count))
        return
    shapes = list(found.shapes)
    where = len(shapes) if place is None else place[0] + (len(shapes) if place[0] < 0 else 0)
    shapes.insert(where, node.shape(1))
    _put_sequence(node, TensorSequence(shapes, None, found.element or node.kind(1), len(shapes)))


@size_rule("SequenceErase")
def erase(node: SizedNode) -> None:
    """One element less."""
    found, place = _sequence(node), node.numbers(1) if node.has(1) else [-1]
    count = None if found.count is None else found.count - 1
    if found.shapes is None or place is None or not found.shapes:
        _put_sequence(node, TensorSequence(None, any_element(found), found.element, count))
        return
    shapes = list(found.shapes)
    del shapes[place[0]]
    _put_sequence(node, TensorSequence(shapes, None, found.element, len(shapes)))


@size_rule("SplitToSequence")
def split(node: SizedNode) -> None:
    """Pieces of an axis: of listed sizes, of one size, or single elements."""
    shape = node.shape()
    if shape is None:
        _put_sequence(node, TensorSequence(None, None, node.kind()))
        return
    axis = node.axis(node.attribute("axis", 0), len(shape))
    if not node.has(1):
        kept = [1] if node.flag("keepdims", default=True) else []
        _put_pieces(node, (*shape[:axis], *kept, *shape[axis + 1 :]), shape[axis])
        return
    listed, single = node.elements(1), node.shape(1) == ()
    if listed is None:
        _put_sequence(node, TensorSequence(None, (*shape[:axis], VARIES, *shape[axis + 1 :]), node.kind()))
    elif single:
        _split_evenly(node, shape, axis, listed[0])
    else:
        node.same(sum(listed, 0), shape[axis], f"the pieces of axis {axis} are all of it")
        pieces = [_with(shape, axis, node.walk.facts.now(size)) for size in listed]
        _put_sequence(node, TensorSequence(pieces, None, node.kind(), len(pieces)))


def _split_evenly(node: SizedNode, shape: Shape, axis: int, size: Value) -> None:
    whole = shape[axis]
    if not isinstance(size, int) or size <= 0:
        _put_sequence(node, TensorSequence(None, _with(shape, axis, VARIES), node.kind()))
        return
    count = ceil_div(whole, size)
    if isinstance(count, int) and count <= _MANY:
        pieces: list[Shape | None] = [
            _with(shape, axis, minimum(size, whole - size * k)) for k in range(count)
        ]
        _put_sequence(node, TensorSequence(pieces, None, node.kind(), count))
        return
    _put_sequence(
        node, TensorSequence(None, _with(shape, axis, size if size == 1 else VARIES), node.kind(), count)
    )


def _put_pieces(node: SizedNode, piece: Shape, count: Extent) -> None:
    if isinstance(count, int) and count <= _MANY:
        _put_sequence(node, TensorSequence([piece] * count, None, node.kind(), count))
    else:
        _put_sequence(node, TensorSequence(None, piece, node.kind(), count))


def _with(shape: Shape, axis: int, size: Value) -> Shape:
    return (*shape[:axis], as_extent(size), *shape[axis + 1 :])


@size_rule("ConcatFromSequence")
def concat(node: SizedNode) -> None:
    """All elements end to end, or stacked along a new axis."""
    found, new = _sequence(node), bool(node.attribute("new_axis", 0))
    kind = found.element or 0
    shapes = None if found.shapes is None else [s for s in found.shapes if s is not None]
    if shapes and found.shapes is not None and len(shapes) == len(found.shapes):
        rank = len(shapes[0])
        axis = node.axis(node.attribute("axis", 0), rank + new)
        if not new:
            node.put(0, joined(node, shapes, axis), kind)
            return
        sizes = list(shapes[0])
        for shape in shapes[1:]:
            sizes = [node.same(a, b, "stacked elements") for a, b in zip(sizes, shape, strict=True)]
        node.put(0, [*sizes[:axis], len(shapes), *sizes[axis:]], kind)
        return
    if found.common is None:
        node.put(0, None, kind)
        return
    axis = node.axis(node.attribute("axis", 0), len(found.common) + new)
    sizes = [_own(node, size, k) for k, size in enumerate(found.common)]
    count = node.fresh(0, axis) if found.count is None else found.count
    if new:
        node.put(0, [*sizes[:axis], count, *sizes[axis:]], kind)
        return
    whole = count * sizes[axis] if found.common[axis] != VARIES else node.fresh(0, axis)
    node.put(0, [*sizes[:axis], whole, *sizes[axis + 1 :]], kind)


@size_rule("Optional", "OptionalGetElement")
def optional(node: SizedNode) -> None:
    """The contained value, unchanged."""
    tensors = node.walk.tensors
    if not node.has(0):
        tensors.kinds[node.outputs[0]] = "optional"
    elif node.operator == "OptionalGetElement" and tensors.kinds.get(node.inputs[0]) == "optional":
        node.put(0, None)
        tensors.unknown[node.outputs[0]] = "it is the element of an optional value"
    elif not node.walk.pass_on(node.inputs[0], node.outputs[0]):
        node.put(0, node.shape(), None, node.known(0))


@size_rule("OptionalHasElement")
def has_element(node: SizedNode) -> None:
    """A boolean."""
    node.put(0, [], 9)
