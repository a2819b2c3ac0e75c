"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.train.pullbacks.registry import ForwardNode, pullback
from onnxprune.train.pullbacks.tape import Gradient, Tape, elements
from onnxprune.train.pullbacks.writer import ints


@pullback("Gemm")
def gemm(node: ForwardNode, tape: Tape) -> None:
    """Y = α·A·B + β·C; both operands may be given transposed."""
    write, (a, b), y = tape.writer, node.inputs[:2], node.outputs[0]
    arrived, alpha = tape.gradient(y), float(node.attributes.get("alpha", 1.0))
    trans_a, trans_b = (int(node.attributes.get(name, 0)) for name in ("transA", "transB"))
    if tape.wants(a):
        operands = (b, arrived) if trans_a else (arrived, b)
        flags = (trans_b, 1) if trans_a else (0, 1 - trans_b)
        tape.give(a, write("Gemm", *operands, alpha=alpha, transA=flags[0], transB=flags[1]))
    if tape.wants(b):
        operands = (arrived, a) if trans_b else (a, arrived)
        flags = (1, trans_a) if trans_b else (1 - trans_a, 0)
        tape.give(b, write("Gemm", *operands, alpha=alpha, transA=flags[0], transB=flags[1]))
    if tape.wants(node.input(2)):
        beta = float(node.attributes.get("beta", 1.0))
        value = arrived if beta == 1.0 else write.mul(arrived, beta)
        tape.give_broadcast(node.inputs[2], Gradient(value), tape.dims(y))


@pullback("MatMul")
def matmul(node: ForwardNode, tape: Tape) -> None:
    """dy·Bᵀ and Aᵀ·dy, summed over the axes an operand was broadcast along."""
    a, b = node.inputs
    dims_a, dims_b, dims_y = tape.dims(a), tape.dims(b), tape.dims(node.outputs[0])
    if len(dims_a) == 1 or len(dims_b) == 1:
        _vector(node, tape, dims_a, dims_b)
    elif len(dims_b) == 2:
        _by_matrix(node, tape, dims_a, dims_b)
    else:
        _stacked(node, tape, dims_a, dims_b, dims_y)


def _by_matrix(node: ForwardNode, tape: Tape, dims_a: Sequence[int], dims_b: Sequence[int]) -> None:
    """All leading axes of A are rows of one product."""
    write, (a, b) = tape.writer, node.inputs
    rows = tape.gradient(node.outputs[0])
    if len(dims_a) != 2:
        rows = write.reshape(rows, [elements(dims_a[:-1]), dims_b[1]])
    if tape.wants(a):
        value = write("Gemm", rows, b, transB=1)
        tape.give(a, value if len(dims_a) == 2 else write.reshape(value, dims_a))
    if tape.wants(b):
        flat = a if len(dims_a) == 2 else write.reshape(a, [elements(dims_a[:-1]), dims_a[-1]])
        tape.give(b, write("Gemm", flat, rows, transA=1))


def _stacked(
    node: ForwardNode, tape: Tape, dims_a: Sequence[int], dims_b: Sequence[int], dims_y: Sequence[int]
) -> None:
    """A product for every index of the leading axes."""
    write, (a, b) = tape.writer, node.inputs
    arrived = tape.carried(node.outputs[0])
    if arrived.factor and arrived.axis >= len(dims_y) - 2:
        arrived = Gradient(tape.full(arrived, len(dims_y)))
    if tape.wants(a):
        value = write("MatMul", arrived.value, write.transpose(b, _swapped(len(dims_b))))
        dims = (*dims_y[:-1], dims_a[-1])
        tape.give_broadcast(a, Gradient(value, arrived.factor, arrived.axis), dims)
    if tape.wants(b):
        value = write("MatMul", write.transpose(a, _swapped(len(dims_a))), arrived.value)
        dims = (*dims_y[:-2], *dims_b[-2:])
        tape.give_broadcast(b, Gradient(value, arrived.factor, arrived.axis), dims)


def _vector(node: ForwardNode, tape: Tape, dims_a: Sequence[int], dims_b: Sequence[int]) -> None:
    """A vector is a matrix of one row on the left and of one column on the right."""
    write, (a, b) = tape.writer, node.inputs
    arrived = tape.gradient(node.outputs[0])
    if len(dims_b) == 1:
        column = write("Unsqueeze", arrived, ints([-1]))
        tape.give_broadcast(a, Gradient(write.mul(column, b)), dims_a)
        if tape.wants(b):
            tape.give_broadcast(b, Gradient(write.mul(column, a)), dims_a)
        return
    row = write("Unsqueeze", arrived, ints([-2]))
    if tape.wants(a):
        summed = write.total(write.mul(row, b), [-1])
        tape.give_broadcast(a, Gradient(summed), dims_b[:-1])
    if tape.wants(b):
        value = write.mul(write("Unsqueeze", a, ints([-1])), row)
        tape.give_broadcast(b, Gradient(value), dims_b)


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]
