"""Operators that pick elements by indices: their pullbacks add every gradient up where its element was."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.registry import ForwardNode, pullback
from onnxprune.train.pullbacks.tape import Tape, elements
from onnxprune.train.pullbacks.writer import Operand, Writer, ints


def scattered(write: Writer, size: int, indices: Operand, rows: str, width: int, count: int) -> str:
    """Add rows up in a table of zeros.

    Args:
        write: Writer that appends nodes.
        size: Rows of the table.
        indices: The row of the table for each row, [count], none of them negative.
        rows: [count, width].
        width: Columns.
        count: Rows to add.

    Returns:
        The table, [size, width].
    """
    places = write.reshape(indices, [count, 1])
    return write("ScatterND", write.zeros([size, width]), places, rows, reduction="add")


@pullback("Gather")
def gather(node: ForwardNode, tape: Tape) -> None:
    """Rows of the gradient added up; where each was picked once, they are picked back."""
    write, (x, indices), y = tape.writer, node.inputs, node.outputs[0]
    own = tape.dims(x)
    axis = node.attributes.get("axis", 0) % len(own)
    picked, made = tape.dims(indices), tape.dims(y)
    arrived, known = tape.gradient(y), tape.known(indices)
    if known is not None and sorted((known.ravel() % own[axis]).tolist()) == list(range(own[axis])):
        flat = write.reshape(arrived, own) if len(picked) != 1 else arrived
        tape.give(x, write("Gather", flat, np.argsort(known.ravel() % own[axis]), axis=axis))
        return
    count, lead = elements(picked), list(range(axis))
    behind = list(range(axis + len(picked), len(made)))
    first = write.transpose(arrived, [*range(axis, axis + len(picked)), *lead, *behind])
    width = elements(own) // own[axis]
    rows = write.reshape(first, [count, width])
    table = scattered(write, own[axis], _positive(tape, indices, own[axis]), rows, width, count)
    moved = [own[axis], *own[:axis], *own[axis + 1 :]]
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(own))]
    tape.give(x, write.transpose(write.reshape(table, moved), order))


def _positive(tape: Tape, indices: str, size: int) -> Operand:
    """Return indices that may be negative as ones that are not, of 64 bits."""
    known = tape.known(indices)
    if known is not None:
        return (known % size).astype(np.int64)
    wide = tape.writer("Cast", indices, to=TensorProto.INT64)
    negative = tape.writer("Less", wide, ints([0]))
    return tape.writer("Where", negative, tape.writer.add(wide, ints([size])), wide)


@pullback("GatherElements")
def gather_elements(node: ForwardNode, tape: Tape) -> None:
    """Elements of the gradient added up."""
    x, indices = node.inputs
    axis = node.attributes.get("axis", 0)
    _scatter_back(tape, x, indices, tape.gradient(node.outputs[0]), axis)


def _scatter_back(tape: Tape, x: str, indices: str, value: str, axis: int) -> None:
    zeros = tape.writer.zeros(tape.dims(x))
    tape.give(x, tape.writer("ScatterElements", zeros, indices, value, axis=axis, reduction="add"))


@pullback("TopK")
def top_k(node: ForwardNode, tape: Tape) -> None:
    """Gradients of the values, where they stood."""
    if not tape.has(node.outputs[0]):
        return
    axis = node.attributes.get("axis", -1)
    _scatter_back(tape, node.inputs[0], node.outputs[1], tape.gradient(node.outputs[0]), axis)


@pullback("GatherND")
def gather_nd(node: ForwardNode, tape: Tape) -> None:
    """Slices of the gradient added up."""
    write, (x, indices) = tape.writer, node.inputs
    batch, own = node.attributes.get("batch_dims", 0), tape.dims(x)
    if batch:
        indices = _with_batch_indices(tape, indices, own, batch)
    zeros = write.zeros(own)
    tape.give(x, write("ScatterND", zeros, indices, tape.gradient(node.outputs[0]), reduction="add"))


def _with_batch_indices(tape: Tape, indices: str, own: tuple[int, ...], batch: int) -> str:
    """Put the indices of the batch axes in front of those given."""
    shape = tape.dims(indices)
    grid = np.indices(shape[:batch]).reshape(batch, *shape[:batch], *[1] * (len(shape) - 1 - batch))
    wide = np.broadcast_to(grid, (batch, *shape[:-1]))
    return tape.writer("Concat", np.moveaxis(wide, 0, -1).astype(np.int64), indices, axis=-1)


@pullback("ScatterND")
def scatter_nd(node: ForwardNode, tape: Tape) -> None:
    """The gradient but where it was written over; and there, that of the updates."""
    write, (x, indices, updates) = tape.writer, node.inputs
    reduction = _reduction(node)
    arrived = tape.gradient(node.outputs[0])
    if tape.wants(x):
        value = arrived
        if reduction == "none":
            value = write("ScatterND", arrived, indices, write.zeros(tape.dims(updates)))
        tape.give(x, value)
    if tape.wants(updates):
        tape.give(updates, write("GatherND", arrived, indices))


@pullback("ScatterElements")
def scatter_elements(node: ForwardNode, tape: Tape) -> None:
    """The same, element by element."""
    write, (x, indices, updates) = tape.writer, node.inputs
    axis, reduction = node.attributes.get("axis", 0), _reduction(node)
    arrived = tape.gradient(node.outputs[0])
    if tape.wants(x):
        value = arrived
        if reduction == "none":
            zeros = write.zeros(tape.dims(updates))
            value = write("ScatterElements", arrived, indices, zeros, axis=axis)
        tape.give(x, value)
    if tape.wants(updates):
        tape.give(updates, write("GatherElements", arrived, indices, axis=axis))


def _reduction(node: ForwardNode) -> str:
    given = node.attributes.get("reduction", b"none")
    name = given.decode() if isinstance(given, bytes) else str(given)
    if name not in ("none", "add"):
        raise Untrainable(f"its reduction is {name}")
    return name
