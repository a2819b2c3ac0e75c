"""Operators that move elements: their pullbacks move gradients back, and add those of one element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.registry import ForwardNode, pullback
from onnxprune.train.pullbacks.tape import Gradient, Tape, elements, permutation_back
from onnxprune.train.pullbacks.writer import Writer, ints


@pullback("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshaped(node: ForwardNode, tape: Tape) -> None:
    """The gradient in the operand's shape; a factor goes on where its axis stays one."""
    (x, y) = node.inputs[0], node.outputs[0]
    if not tape.wants(x):
        return
    arrived, own, made = tape.carried(y), tape.dims(x), tape.dims(y)
    axis = _same_axis(arrived.axis, made, own) if arrived.factor else None
    if arrived.factor and axis is None:
        arrived = Gradient(tape.full(arrived, len(made)))
    tape.give(x, tape.writer.reshape(arrived.value, own), arrived.factor, axis or 0)


def _same_axis(axis: int, dims: Sequence[int], others: Sequence[int]) -> int | None:
    """Find an axis in another shape of the same elements, by its size and the elements before it."""
    before = elements(dims[:axis])
    for other, size in enumerate(others):
        if size == dims[axis] and elements(others[:other]) == before:
            return other
    return None


@pullback("Transpose")
def transpose(node: ForwardNode, tape: Tape) -> None:
    """Axes back in their order."""
    arrived = tape.carried(node.outputs[0])
    order = list(node.attributes.get("perm") or reversed(range(tape.rank(node.inputs[0]))))
    value = tape.writer.transpose(arrived.value, permutation_back(order))
    tape.give(node.inputs[0], value, arrived.factor, order[arrived.axis] if arrived.factor else 0)


@pullback("Concat")
def concat(node: ForwardNode, tape: Tape) -> None:
    """A part for each operand, and its part of the factor."""
    arrived, rank = tape.carried(node.outputs[0]), tape.rank(node.outputs[0])
    axis = node.attributes["axis"] % rank
    sizes = ints([tape.dims(name)[axis] for name in node.inputs])
    parts = _parts(tape.writer, arrived.value, sizes, axis)
    factors = [arrived.factor] * len(parts)
    if arrived.factor and arrived.axis == axis:
        factors = _parts(tape.writer, arrived.factor, sizes, 0)
    for name, part, factor in zip(node.inputs, parts, factors, strict=True):
        tape.give(name, part, factor, arrived.axis)


def _parts(write: Writer, value: str, sizes: np.ndarray, axis: int) -> list[str]:
    if len(sizes) == 1:
        return [value]
    return write.several("Split", value, sizes, outputs=len(sizes), axis=axis)


@pullback("Split")
def split(node: ForwardNode, tape: Tape) -> None:
    """The gradients side by side, zeros for unread results."""
    x = node.inputs[0]
    axis = node.attributes.get("axis", 0) % tape.rank(x)
    parts = [tape.gradient(name) for name in node.outputs]
    tape.give(x, tape.writer("Concat", *parts, axis=axis))


@pullback("Slice")
def cut(node: ForwardNode, tape: Tape) -> None:
    """The gradient with zeros around it, and between its elements where the slice has steps."""
    x, y = node.inputs[0], node.outputs[0]
    own, write = tape.dims(x), tape.writer
    starts, ends = (tape.values(name).tolist() for name in node.inputs[1:3])
    axes = tape.values(node.input(3)).tolist() if node.input(3) else list(range(len(starts)))
    steps = tape.values(node.input(4)).tolist() if node.input(4) else [1] * len(starts)
    value, turned = tape.gradient(y), []
    pads, dims = np.zeros((2, len(own)), np.int64), list(tape.dims(y))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= len(own)
        taken = range(*slice(start, _end(end, step, own[axis]), step).indices(own[axis]))
        if not taken:
            tape.give(x, write.zeros(own))
            return
        low, high = min(taken), max(taken)
        if step < 0:
            turned.append(axis)
        if abs(step) > 1:
            value = _spread(write, value, dims, axis, abs(step))
            dims[axis] = high - low + 1
        pads[:, axis] = low, own[axis] - 1 - high
    value = write.turned(value, turned)
    tape.give(x, write("Pad", value, pads.ravel()) if pads.any() else value)


def _end(end: int, step: int, size: int) -> int | None:
    """Read an end as Python does: one far below zero stands for the beginning, when going backwards."""
    return None if step < 0 and end < -size else end


def _spread(write: Writer, value: str, dims: Sequence[int], axis: int, step: int) -> str:
    """Put step − 1 zeros between neighbours along an axis."""
    apart = write.reshape(value, [*dims[: axis + 1], 1, *dims[axis + 1 :]])
    pads = np.zeros((2, len(dims) + 1), np.int64)
    pads[1, axis + 1] = step - 1
    long = [*dims[:axis], dims[axis] * step, *dims[axis + 1 :]]
    merged = write.reshape(write("Pad", apart, pads.ravel()), long)
    return write.slice(merged, [axis], [0], [(dims[axis] - 1) * step + 1])


@pullback("Pad")
def pad(node: ForwardNode, tape: Tape) -> None:
    """The gradient with negated pads: padding is cropped, and cropped elements get zeros."""
    if node.attributes.get("mode", b"constant") not in (b"constant", "constant"):
        raise Untrainable("it does not pad with a constant")
    if tape.wants(node.input(2)):
        raise Untrainable("its padding value is trained")
    given = tape.values(node.inputs[1])
    rank = tape.rank(node.inputs[0])
    axes = tape.values(node.input(3)).tolist() if node.input(3) else list(range(rank))
    pads = np.zeros((2, rank), np.int64)
    pads[:, [axis % rank for axis in axes]] = given.reshape(2, len(axes))
    tape.give(node.inputs[0], tape.writer("Pad", tape.gradient(node.outputs[0]), -pads.ravel()))


@pullback("Expand")
def expand(node: ForwardNode, tape: Tape) -> None:
    """Summed over the axes it was repeated along."""
    arrived = tape.carried(node.outputs[0])
    tape.give_broadcast(node.inputs[0], arrived, tape.dims(node.outputs[0]))


@pullback("Tile")
def tile(node: ForwardNode, tape: Tape) -> None:
    """Summed over the copies."""
    own = tape.dims(node.inputs[0])
    repeats = [m // n if n else 1 for n, m in zip(own, tape.dims(node.outputs[0]), strict=True)]
    apart = [size for pair in zip(repeats, own, strict=True) for size in pair]
    value = tape.writer.reshape(tape.gradient(node.outputs[0]), apart)
    tape.give(node.inputs[0], tape.writer.total(value, list(range(0, 2 * len(own), 2))))


@pullback("Trilu")
def triangle(node: ForwardNode, tape: Tape) -> None:
    """The same triangle of the gradient."""
    arrived = tape.gradient(node.outputs[0])
    kept = {"upper": node.attributes.get("upper", 1)}
    tape.give(node.inputs[0], tape.writer("Trilu", arrived, node.input(1) or None, **kept))


@pullback("DepthToSpace")
def depth_to_space(node: ForwardNode, tape: Tape) -> None:
    """Squares of pixels back into blocks of channels."""
    block, arrived = node.attributes["blocksize"], tape.gradient(node.outputs[0])
    samples, channels, height, width = tape.dims(node.inputs[0])
    apart = [samples, channels // block**2, height, block, width, block]
    order = [0, 3, 5, 1, 2, 4]
    if node.attributes.get("mode", b"DCR") in (b"CRD", "CRD"):
        order = [0, 1, 3, 5, 2, 4]
    value = tape.writer.transpose(tape.writer.reshape(arrived, apart), order)
    tape.give(node.inputs[0], tape.writer.reshape(value, [samples, channels, height, width]))


@pullback("SpaceToDepth")
def space_to_depth(node: ForwardNode, tape: Tape) -> None:
    """Blocks of channels back into squares of pixels."""
    block = node.attributes["blocksize"]
    tape.give(node.inputs[0], tape.writer("DepthToSpace", tape.gradient(node.outputs[0]), blocksize=block))
