"""Reductions: the gradient is broadcast along the reduced axes."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.train.pullbacks.registry import ForwardNode, pullback
from onnxprune.train.pullbacks.tape import Tape, elements
from onnxprune.train.pullbacks.writer import ints


def axes_of(node: ForwardNode, tape: Tape) -> list[int]:
    """Return the axes of a reduction, none of them negative; by default all."""
    rank = tape.rank(node.inputs[0])
    given = node.attributes.get("axes")
    if given is None and node.input(1):
        given = tape.values(node.inputs[1]).tolist()
    if not given:
        return [] if node.attributes.get("noop_with_empty_axes") else list(range(rank))
    return sorted(int(axis) % rank for axis in given)


def kept(tape: Tape, node: ForwardNode, value: str, axes: Sequence[int]) -> str:
    """Bring a reduced tensor into a shape that broadcasts to the operand's."""
    if node.attributes.get("keepdims", 1):
        return value
    dims = tape.dims(node.inputs[0])
    return tape.writer.reshape(value, [1 if k in axes else size for k, size in enumerate(dims)])


@pullback("ReduceSum")
def summed(node: ForwardNode, tape: Tape) -> None:
    """The gradient, repeated."""
    _repeated(node, tape, 1.0)


@pullback("ReduceMean")
def averaged(node: ForwardNode, tape: Tape) -> None:
    """The gradient over the number of elements, repeated."""
    dims = tape.dims(node.inputs[0])
    _repeated(node, tape, 1.0 / max(1, elements([dims[axis] for axis in axes_of(node, tape)])))


def _repeated(node: ForwardNode, tape: Tape, factor: float) -> None:
    x, axes = node.inputs[0], axes_of(node, tape)
    value = kept(tape, node, tape.gradient(node.outputs[0]), axes)
    if factor != 1.0:
        value = tape.writer.mul(value, factor)
    tape.give(x, tape.writer("Expand", value, ints(tape.dims(x))) if axes else value)


@pullback("ReduceL2")
def euclidean(node: ForwardNode, tape: Tape) -> None:
    """x·dy / y, zero where the norm is."""
    write, axes = tape.writer, axes_of(node, tape)
    size = kept(tape, node, node.outputs[0], axes)
    nothing = write.floats(write("Equal", size, 0.0))
    share = write.div(kept(tape, node, tape.gradient(node.outputs[0]), axes), write.add(size, nothing))
    tape.give(node.inputs[0], write.mul(node.inputs[0], share))


@pullback("ReduceLogSumExp")
def log_sum_exp(node: ForwardNode, tape: Tape) -> None:
    """exp(x − y)·dy."""
    write, axes = tape.writer, axes_of(node, tape)
    y = kept(tape, node, node.outputs[0], axes)
    arrived = kept(tape, node, tape.gradient(node.outputs[0]), axes)
    tape.give(node.inputs[0], write.mul(write("Exp", write.sub(node.inputs[0], y)), arrived))


@pullback("CumSum")
def running_sum(node: ForwardNode, tape: Tape) -> None:
    """The running sum of the gradient from the other end."""
    backwards = 1 - node.attributes.get("reverse", 0)
    exclusive = node.attributes.get("exclusive", 0)
    arrived = tape.gradient(node.outputs[0])
    tape.give(
        node.inputs[0],
        tape.writer("CumSum", arrived, node.inputs[1], reverse=backwards, exclusive=exclusive),
    )
