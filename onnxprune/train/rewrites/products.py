"""Sums and products over axes: Einsum as matrix products, running sums as a product with a triangle."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, Untrainable, axes_of, rank_of, values_of
from onnxprune.train.rewrites.registry import rewrites
from onnxprune.train.rewrites.resize import apply_along

_LONGEST = 128


@rewrites("Einsum")
def einsum(node: gs.Node, emit: Emitter) -> Any:
    """Contract two operands at a time."""
    terms, result = _equation(node.attrs["equation"])
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, node.inputs, strict=True):
        if rank_of(operand) != len(term):
            raise Untrainable(f"its equation names {len(term)} axes of {operand.name}")
        sizes |= {a: n if isinstance(n, int) else -1 for a, n in zip(term, operand.shape, strict=True)}
    value, term = node.inputs[0], terms[0]
    for index, (operand, other) in enumerate(zip(node.inputs[1:], terms[1:], strict=True), 2):
        needed = set(result).union(*terms[index:])
        value, term = _contract(emit, (value, term), (operand, other), needed, sizes)
    value, term = _summed(emit, value, term, set(result))
    return value if term == result else emit("Transpose", value, perm=[term.index(a) for a in result])


def _equation(text: str) -> tuple[list[str], str]:
    """Parse an equation; without a named result, its axes are those that occur once, in alphabetic order."""
    left, arrow, result = text.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in text or any(len(set(term)) < len(term) for term in terms):
        raise Untrainable(f"its equation {text} has an ellipsis or an axis twice in one operand")
    if not arrow:
        result = "".join(sorted(a for a in set(left) - {","} if left.count(a) == 1))
    return terms, result


def _summed(emit: Emitter, value: Any, term: str, needed: set[str]) -> tuple[Any, str]:
    """Sum over the axes that are not needed."""
    gone = [position for position, axis in enumerate(term) if axis not in needed]
    if not gone:
        return value, term
    return emit.reduce("ReduceSum", value, gone, keepdims=False), "".join(a for a in term if a in needed)


def _contract(
    emit: Emitter, left: tuple[Any, str], right: tuple[Any, str], needed: set[str], sizes: dict[str, int]
) -> tuple[Any, str]:
    """Multiply two operands and sum over their shared axes that are not needed, as one matrix product."""
    (a, first), (b, second) = _summed(emit, *left, needed | set(right[1])), right
    b, second = _summed(emit, b, second, needed | set(first))
    batch = "".join(x for x in first if x in second and x in needed)
    inner = "".join(x for x in first if x in second and x not in needed)
    rows = "".join(x for x in first if x not in second)
    columns = "".join(x for x in second if x not in first)
    a = _matrices(emit, a, first, (batch, rows, inner), sizes)
    b = _matrices(emit, b, second, (batch, inner, columns), sizes)
    term = batch + rows + columns
    return emit("Reshape", emit("MatMul", a, b), emit.ints([sizes[x] for x in term])), term


def _matrices(
    emit: Emitter, value: Any, term: str, groups: tuple[str, str, str], sizes: dict[str, int]
) -> Any:
    """Bring an operand into the form [batch, rows, columns]."""
    order = "".join(groups)
    if order != term:
        value = emit("Transpose", value, perm=[term.index(a) for a in order])
    if sum(sizes[a] < 0 for a in order) > 1:
        raise Untrainable("several of its sizes are not known")
    target = [-1 if any(sizes[a] < 0 for a in g) else int(np.prod([sizes[a] for a in g])) for g in groups]
    return emit("Reshape", value, emit.ints(target))


@rewrites("CumSum")
def running_sum(node: gs.Node, emit: Emitter) -> Any:
    """A product with a triangle of ones along the axis."""
    x, rank = node.inputs[0], rank_of(node.inputs[0])
    axis = int(values_of(node.inputs[1]).ravel()[0]) % rank
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Untrainable("it runs along an axis whose size is not known")
    triangle = np.triu(np.ones((size, size), np.float32), 1 if node.attrs.get("exclusive") else 0)
    return apply_along(x, emit, triangle.T if node.attrs.get("reverse") else triangle, axis, rank)


@rewrites("ReduceProd")
def product(node: gs.Node, emit: Emitter) -> Any:
    """A chain of Mul along each axis."""
    value, axes = node.inputs[0], axes_of(node, rank_of(node.inputs[0]))
    for axis in axes:
        size = node.inputs[0].shape[axis]
        if not isinstance(size, int) or size > _LONGEST:
            raise Untrainable(f"it multiplies {size} numbers; up to {_LONGEST} are followed")
        bounds = [(emit.ints([k]), emit.ints([k + 1]), emit.ints([axis])) for k in range(size)]
        slices = [emit("Slice", value, *bound) for bound in bounds]
        value = functools.reduce(lambda product, x: emit("Mul", product, x), slices)
    if node.attrs.get("keepdims", 1) or not axes:
        return emit("Identity", value)
    return emit("Squeeze", value, emit.ints(axes))
