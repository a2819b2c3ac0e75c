"""Arithmetic of two or more operands, each broadcast to the shape of the result."""

from __future__ import annotations

import numpy as np

from onnxprune.train.pullbacks.registry import ForwardNode, pullback
from onnxprune.train.pullbacks.tape import Gradient, Tape


@pullback("Add", "Sum")
def add(node: ForwardNode, tape: Tape) -> None:
    """The gradient, for every operand."""
    dims = tape.dims(node.outputs[0])
    for name in node.inputs:
        tape.give_broadcast(name, tape.carried(node.outputs[0]), dims)


@pullback("Mean")
def mean(node: ForwardNode, tape: Tape) -> None:
    """The gradient over the number of operands."""
    dims, arrived = tape.dims(node.outputs[0]), tape.carried(node.outputs[0])
    share = Gradient(tape.writer.mul(arrived.value, 1.0 / len(node.inputs)), arrived.factor, arrived.axis)
    for name in node.inputs:
        tape.give_broadcast(name, share, dims)


@pullback("Sub")
def sub(node: ForwardNode, tape: Tape) -> None:
    """The gradient, and its negative."""
    dims, arrived = tape.dims(node.outputs[0]), tape.carried(node.outputs[0])
    tape.give_broadcast(node.inputs[0], arrived, dims)
    if tape.wants(node.inputs[1]):
        negative = Gradient(tape.writer("Neg", arrived.value), arrived.factor, arrived.axis)
        tape.give_broadcast(node.inputs[1], negative, dims)


@pullback("Mul")
def mul(node: ForwardNode, tape: Tape) -> None:
    """The gradient times the other operand."""
    (a, b), arrived = node.inputs, tape.carried(node.outputs[0])
    dims = tape.dims(node.outputs[0])
    for name, other in ((a, b), (b, a)):
        if tape.wants(name):
            value = tape.writer.mul(arrived.value, other)
            tape.give_broadcast(name, Gradient(value, arrived.factor, arrived.axis), dims)


@pullback("Div")
def div(node: ForwardNode, tape: Tape) -> None:
    """Dy / b, and −dy·y / b."""
    write, (a, b), y = tape.writer, node.inputs, node.outputs[0]
    arrived, dims = tape.carried(y), tape.dims(y)
    share = write.div(arrived.value, b)
    tape.give_broadcast(a, Gradient(share, arrived.factor, arrived.axis), dims)
    if tape.wants(b):
        value = write("Neg", write.mul(share, y))
        tape.give_broadcast(b, Gradient(value, arrived.factor, arrived.axis), dims)


@pullback("Pow")
def power(node: ForwardNode, tape: Tape) -> None:
    """dy·b·a^(b − 1), and dy·y·log a where a is positive."""
    write, (a, b), y = tape.writer, node.inputs, node.outputs[0]
    dims = tape.dims(y)
    if tape.wants(a):
        exponent = tape.known(b)
        if exponent is not None and exponent.size == 1 and float(exponent.flat[0]) == 2.0:
            slope = write.mul(a, 2.0)
        else:
            exact = b if exponent is None else write.tensor(exponent.astype(np.float32))
            slope = write.mul(write("Pow", a, write.sub(exact, 1.0)), exact)
        tape.give_broadcast(a, Gradient(write.mul(tape.gradient(y), slope)), dims)
    if tape.wants(b):
        positive = write("Greater", a, 0.0)
        logarithm = write("Where", positive, write("Log", write("Where", positive, a, 1.0)), 0.0)
        tape.give_broadcast(b, Gradient(write.mul(write.mul(tape.gradient(y), y), logarithm)), dims)


@pullback("Max", "Min")
def extreme(node: ForwardNode, tape: Tape) -> None:
    """The gradient goes to the operand that is the result, in equal parts where several are."""
    write, y = tape.writer, node.outputs[0]
    dims, arrived = tape.dims(y), tape.gradient(y)
    chosen = [write.floats(write("Equal", name, y)) for name in node.inputs]
    if len(chosen) > 1:
        arrived = write.div(arrived, write("Sum", *chosen))
    for name, mask in zip(node.inputs, chosen, strict=True):
        if tape.wants(name):
            tape.give_broadcast(name, Gradient(write.mul(arrived, mask)), dims)


@pullback("Where")
def where(node: ForwardNode, tape: Tape) -> None:
    """The gradient where an operand was chosen."""
    write, (condition, a, b), y = tape.writer, node.inputs, node.outputs[0]
    dims, arrived = tape.dims(y), tape.gradient(y)
    tape.give_broadcast(a, Gradient(write("Where", condition, arrived, 0.0)), dims)
    if tape.wants(b):
        tape.give_broadcast(b, Gradient(write("Where", condition, 0.0, arrived)), dims)
