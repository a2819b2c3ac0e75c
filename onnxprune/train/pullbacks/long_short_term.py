"""LSTM of one direction, unrolled, samples along the last axis.

A step is one product: the matrices of state and data, and the bias as a column, stand side by side, and the
state, the data and ones are stacked below one another. The weights are the left operand, which the runtime
reads as they lie; parts of a step are cut and joined as whole pieces of memory. The factors of the gates are
computed step by step, while their operands are in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.train.pullbacks import few_sequences
from onnxprune.train.pullbacks.recurrent import Sizes, joined, parts, sum_of
from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Tape
from onnxprune.train.pullbacks.writer import Writer, ints

FEWEST = 16
"""Sequences from which samples lie along the last axis: fewer leave the lanes of a processor empty."""


@dataclass(frozen=True)
class _Step:
    """Tensors of a step, features first.

    Attributes:
        fed: State, data and ones, [hidden + inputs (+ 1), samples].
        gates: The sigmoids i, o and f below one another.
        i: Input gate.
        o: Output gate.
        f: Forget gate.
        candidate: The hyperbolic tangent g.
        added: i · g.
        kept: f times the cell before.
        bent: Hyperbolic tangent of the cell.
        hidden: The new state, o times that.
    """

    fed: str
    gates: str
    i: str
    o: str
    f: str
    candidate: str
    added: str
    kept: str
    bent: str
    hidden: str


@forward("LSTM")
def long_short_term(node: ForwardNode, tape: Tape) -> None:
    """Gates in the order i, o, f and c: three sigmoids, one hyperbolic tangent."""
    write, size = tape.writer, Sizes.of(node, tape, 4)
    if size.samples < FEWEST:
        few_sequences.unrolled(node, tape)
        return
    r = write.reshape(node.inputs[2], [size.rows, size.hidden])
    w = write.reshape(node.inputs[1], [size.rows, size.inputs])
    columns = [r, w]
    if node.input(3):
        bias = write.total(write.reshape(node.inputs[3], [2, size.rows]), [0])
        columns.append(write.reshape(bias, [size.rows, 1]))
    matrix = write("Concat", *columns, axis=1)
    data = _data(node, write, size)
    hidden, cell = _begin(node, tape, 5, size), _begin(node, tape, 6, size)
    steps = []
    for number in range(size.steps):
        fed = write("Concat", hidden, data[number], axis=0)
        z = write("MatMul", matrix, fed)
        three, one = write.several("Split", z, ints([3 * size.hidden, size.hidden]), outputs=2, axis=0)
        gates, candidate = write("Sigmoid", three), write("Tanh", one)
        i, o, f = parts(write, gates, 3, 0)
        added, kept = write.mul(i, candidate), write.mul(f, cell)
        cell = write.add(kept, added)
        bent = write("Tanh", cell)
        hidden = write.mul(o, bent)
        steps.append(_Step(fed, gates, i, o, f, candidate, added, kept, bent, hidden))
    if node.output(0):
        shape = [size.steps, size.hidden, size.samples]
        every = write.transpose(write.reshape(joined(write, [s.hidden for s in steps]), shape), [0, 2, 1])
        write("Reshape", every, ints([size.steps, 1, size.samples, size.hidden]), into=node.outputs[0])
    for index, last in ((1, hidden), (2, cell)):
        if node.output(index):
            shape = [1, size.samples, size.hidden]
            write("Reshape", write.transpose(last, [1, 0]), ints(shape), into=node.outputs[index])
    node.saved.update(size=size, steps=steps)


def _data(node: ForwardNode, write: Writer, size: Sizes) -> list[str]:
    """Return the data of each step, ones below them where there is a bias."""
    data, rows = write.transpose(node.inputs[0], [0, 2, 1]), size.inputs
    if node.input(3):
        ones = np.ones((size.steps, 1, size.samples), np.float32)
        data, rows = write("Concat", data, ones, axis=1), rows + 1
    return parts(write, write.reshape(data, [size.steps * rows, size.samples]), size.steps, 0)


def _begin(node: ForwardNode, tape: Tape, index: int, size: Sizes) -> str:
    """Return the state to begin from, [hidden, samples]."""
    if not node.input(index):
        return tape.writer.zeros([size.hidden, size.samples])
    state = tape.writer.reshape(node.inputs[index], [size.samples, size.hidden])
    return tape.writer.transpose(state, [1, 0])


@pullback("LSTM")
def long_short_term_back(node: ForwardNode, tape: Tape) -> None:
    """Back through time: one product a step."""
    write, saved = tape.writer, node.saved
    size: Sizes = saved["size"]
    if "steps" not in saved:
        few_sequences.unrolled_back(node, tape)
        return
    through_data = tape.wants(node.inputs[0])
    back = _turned(node, write, size, through_data)
    arrived = _arrived(node, tape, size)
    state, cell = _last(node, tape, 1, size), _last(node, tape, 2, size)
    found: list[str] = [""] * size.steps
    data: list[str] = [""] * size.steps
    for number in reversed(range(size.steps)):
        step: _Step = saved["steps"][number]
        state = sum_of(write, state, arrived[number]) or write.zeros([size.hidden, size.samples])
        through = write.sub(step.o, write.mul(step.hidden, step.bent))  # o · (1 − bent²)
        cell = sum_of(write, cell, write.mul(state, through))
        spread = write("Concat", cell, state, cell, cell, axis=0)
        found[number] = write.mul(spread, _slopes(write, step))
        moved = write("MatMul", back, found[number])
        if through_data:
            sizes = ints([size.hidden, size.inputs])
            state, data[number] = write.several("Split", moved, sizes, outputs=2, axis=0)
        else:
            state = moved
        cell = write.mul(cell, step.f)
    _give_weights(node, tape, found)
    if through_data:
        shape = [size.steps, size.inputs, size.samples]
        whole = write.transpose(write.reshape(joined(write, data), shape), [0, 2, 1])
        tape.give(node.inputs[0], whole)
    for index, value in ((5, state), (6, cell)):
        if tape.wants(node.input(index)):
            turned = write.transpose(value, [1, 0])
            tape.give(node.inputs[index], write.reshape(turned, tape.dims(node.inputs[index])))


def _turned(node: ForwardNode, write: Writer, size: Sizes, data: bool) -> str:
    """Return the matrix of the states, that of the data below it if asked for, [hidden (+ inputs), rows].

    A reshape follows the transposition: the runtime would put it into every product that reads it.
    """
    operands = node.inputs[2:0:-1] if data else node.inputs[2:3]
    whole = joined(write, [write.transpose(operand, [0, 2, 1]) for operand in operands], 1)
    return write.reshape(whole, [size.hidden + data * size.inputs, size.rows])


def _slopes(write: Writer, step: _Step) -> str:
    """Return the factors of i, o, f and c: g·i·(1 − i), bent·o·(1 − o), before·f·(1 − f), i·(1 − g²)."""
    rising = write("Concat", step.added, step.hidden, step.kept, step.i, axis=0)
    falling = write("Concat", step.added, step.hidden, step.kept, step.added, axis=0)
    values = write("Concat", step.gates, step.candidate, axis=0)
    return write.sub(rising, write.mul(falling, values))


def _give_weights(node: ForwardNode, tape: Tape, found: list[str]) -> None:
    """Give both matrices and the bias the columns of one product over all steps and samples."""
    if not any(tape.wants(node.input(index)) for index in (1, 2, 3)):
        return
    write, size = tape.writer, node.saved["size"]
    widths = [size.hidden, size.inputs] + [1] * bool(node.input(3))
    fed = [step.fed for step in node.saved["steps"]]
    product = write("Gemm", joined(write, found, 1), joined(write, fed, 1), transB=1)
    recurrent, driven, *bias = write.several("Split", product, ints(widths), outputs=len(widths), axis=1)
    tape.give(node.inputs[1], write.reshape(driven, [1, size.rows, size.inputs]))
    tape.give(node.inputs[2], write.reshape(recurrent, [1, size.rows, size.hidden]))
    if bias:
        tape.give(node.inputs[3], write.reshape(write("Concat", *bias, *bias, axis=0), [1, 2 * size.rows]))


def _arrived(node: ForwardNode, tape: Tape, size: Sizes) -> list[str]:
    """Return the gradient of each state of the sequence, features first; empty names where it is unread."""
    if not node.output(0) or not tape.has(node.outputs[0]):
        return [""] * size.steps
    write, shape = tape.writer, [size.steps, size.samples, size.hidden]
    whole = write.transpose(write.reshape(tape.gradient(node.outputs[0]), shape), [0, 2, 1])
    return parts(write, write.reshape(whole, [size.steps * size.hidden, size.samples]), size.steps, 0)


def _last(node: ForwardNode, tape: Tape, index: int, size: Sizes) -> str:
    """Return the gradient of a last state, features first; an empty name where it is unread."""
    if not node.output(index) or not tape.has(node.output(index)):
        return ""
    value = tape.writer.reshape(tape.gradient(node.outputs[index]), [size.samples, size.hidden])
    return tape.writer.transpose(value, [1, 0])
