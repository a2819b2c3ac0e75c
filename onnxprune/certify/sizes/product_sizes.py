"""Sizes of products and recurrences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx

from onnxprune.certify.refusal import can_be
from onnxprune.certify.sizes.size_rules import Sizes, broadcast, operands, rule, spread

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph


@rule("MatMul")
def matmul(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``A[… m k] B[… k n] → Y[… m n]``."""
    x, y = (graph.sizes[i] for i in node.input[:2])
    if min(len(x), len(y)) < 2:
        return []
    numbers = [s for s in (x[-1], y[-2]) if isinstance(s, int)]
    can_be(len(set(numbers)) < 2, "matrices whose sizes do not fit")
    return [[*broadcast([x[:-2], y[:-2]]), x[-2], y[-1]] if len(x) > 2 or len(y) > 2 else [x[-2], y[-1]]]


@rule("Gemm")
def gemm(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``A[m k] B[k n] → Y[m n]``, either turned."""
    x, y = (graph.sizes[i] for i in node.input[:2])
    given = graph.attributes(node)
    return [[x[1] if given.get("transA") else x[0], y[0] if given.get("transB") else y[1]]]


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Return the labels of the axes of each operand of an Einsum, and those of its result.

    Args:
        equation: The equation, as ONNX has it.
        ranks: The ranks of the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = [term.partition("...") for term in left.split(",")]
    hidden = [rank - len(a + b) if dots else 0 for (a, dots, b), rank in zip(operands, ranks, strict=True)]
    most = max(hidden)
    every = [str(k) for k in range(most)]  # labels of the axes that an ellipsis stands for
    labels = [[*a, *every[most - n :], *b] for (a, _, b), n in zip(operands, hidden, strict=True)]
    if arrow:
        a, dots, b = right.partition("...")
        return labels, [*a, *(every if dots else []), *b]
    used = [label for mine in labels for label in mine]
    return labels, [*every, *sorted(x for x in set(used) if used.count(x) == 1 and x not in every)]


@rule("Einsum")
def einsum(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The size of each label; axes of one label are equal, or of one element."""
    shapes = operands(graph, node)
    labels, made = einsum_labels(graph.attributes(node)["equation"].decode(), [len(s) for s in shapes])
    sizes: dict[str, Sizes] = {}
    for mine, shape_ in zip(labels, shapes, strict=True):
        for label, size_ in zip(mine, shape_, strict=True):
            sizes.setdefault(label, []).append(size_)
    return [[spread(sizes[label]) for label in made]]


@rule("LSTM", "GRU", "RNN")
def recurrent(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[t n i] → Y[t d n h] Y_h[d n h] Y_c[d n h]``; with layout one the batch comes first."""
    x, w = (graph.sizes[i] for i in node.input[:2])
    given = graph.attributes(node)
    states = [graph.sizes.get(i) for i in node.input[5:7] if i]
    can_be(all(s is None or len(s) == 3 for s in (x, *states)), "an operand that is not of rank 3")
    directions, hidden = w[0], given["hidden_size"]
    if given.get("layout"):
        return [[x[0], x[1], directions, hidden], *[[x[0], directions, hidden]] * 2]
    return [[x[0], directions, x[1], hidden], *[[directions, x[1], hidden]] * 2]
