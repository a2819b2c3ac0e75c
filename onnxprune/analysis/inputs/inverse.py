"""Conditions on the results of an operator, as conditions on its operands.

Only operators that move elements, or compute element by element, are followed; elsewhere a condition ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import onnx

from onnxprune.analysis.inputs.consumers import Found
from onnxprune.analysis.inputs.demand import NOTHING, ValueDemand
from onnxprune.analysis.inputs.value_facts import ValueFacts
from onnxprune.ir import attributes
from onnxprune.ops.spec import entry, spec_of

Inverse: TypeAlias = Callable[[onnx.NodeProto, ValueDemand, ValueFacts], Found]


def pulled(node: onnx.NodeProto, results: Sequence[ValueDemand], facts: ValueFacts) -> Found:
    """Yield conditions on the operands of a node that follow from those on its results.

    Args:
        node: The node.
        results: The conditions on each of its results.
        facts: Facts about the model's tensors.
    """
    demand = NOTHING
    for result in results if node.op_type == "Split" else results[:1]:
        demand = demand.meet(result)
    spec = spec_of(node)
    inverse = spec.inverse or (_moved if spec.moves else None)
    if inverse is not None and (demand != NOTHING or node.op_type in _ALWAYS):
        yield from inverse(node, demand, facts)


def _of(*operators: str) -> Callable[[Inverse], Inverse]:
    return entry("inverse", *operators)


_ALWAYS = frozenset({"Where", "Mul"})
"""Operators whose operands have conditions of their own, for any use of the result."""


@_of("ReduceMax", "ReduceMin", "ReduceMean", "Round", "Floor", "Ceil", "MaxPool", "Relu")
def _moved(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    if node.op_type == "Relu":
        demand = replace(demand, least=None)
    yield 0, demand


@_of("Concat")
def _joined(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    for operand in range(len(node.input)):
        yield operand, demand


@_of("Max", "Min")
def _extremes(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    for operand, name in enumerate(node.input):
        held = [n for other in node.input if other != name and (n := facts.number(other)) is not None]
        low = max(held) if held and node.op_type == "Max" else None
        high = min(held) if held and node.op_type == "Min" else None
        yield operand, _clipped(demand, low, high)


@_of("Sum", "Mean")
def _terms(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    for operand in range(len(node.input)):
        yield operand, _summed(demand, len(node.input) if node.op_type == "Sum" else 1)


@_of("Clip")
def _clip(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    named = attributes(node)
    ends = [facts.number(name) if name else None for name in (*node.input[1:3], "", "")[:2]]
    low, high = (e if e is not None else named.get(n) for e, n in zip(ends, ("min", "max"), strict=True))
    yield 0, _clipped(demand, low, high)


def _clipped(demand: ValueDemand, low: float | None, high: float | None) -> ValueDemand:
    """Leave out the bounds that clipping ensures."""
    least, most = demand.least, demand.most
    return replace(
        demand,
        least=None if least is not None and low is not None and low >= least else least,
        most=None if most is not None and high is not None and high <= most else most,
    )


@_of("Add")
def _add(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    for one, other in (node.input, node.input[::-1]):
        operand = 0 if one == node.input[0] else 1
        span = facts.span(other) or _positions(other, facts)
        if span is not None:
            yield operand, demand.shifted(*span)
        elif demand.adds and one in facts.plain and other not in facts.plain:
            yield operand, ValueDemand(wish=0)
        else:
            yield operand, demand if other in facts.fixed else _summed(demand, 2)


def _summed(demand: ValueDemand, terms: int) -> ValueDemand:
    """Return the conditions on one of several terms; terms of a mask that is added are 0, all of them."""
    return replace(demand.bounds(terms), wish=0 if demand.wish == 0 else None, adds=demand.adds)


def _positions(name: str, facts: ValueFacts) -> tuple[float, float] | None:
    """Return the bounds of numbers that count the steps of an axis."""
    if name not in facts.fixed or not facts.counts(name):
        return None
    size = facts.size(name)
    return (0, max(size, default=1) - 1) if size is not None else None


@_of("Sub")
def _sub(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    first, second = (facts.span(name) for name in node.input)
    if second is not None:
        yield 0, demand.shifted(-second[1], -second[0])
    elif first is not None:
        yield 1, demand.scaled(-1).shifted(-first[1], -first[0])
    else:
        yield 0, _summed(demand, 1)


@_of("Mul")
def _mul(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    for one, other in ((0, 1), (1, 0)):
        factor = facts.number(node.input[other])
        if factor is not None:
            yield one, demand.scaled(factor)
        elif facts.span(node.input[other]) is None:
            marked = _source(node.input[one], facts) == _source(node.input[other], facts)
            yield one, replace(demand.bounds(), index=demand.index and not marked)
            if _masks(node.input[one], facts):
                multiplies = node.input[other] not in facts.plain or demand.wish == 1
                yield one, ValueDemand(wish=1) if multiplies else NOTHING


def _source(name: str, facts: ValueFacts) -> str:
    """Return where the elements of a tensor come from, if they are only moved and summed up along an axis.

    A product of whole numbers with their own sums, such as ``CumSum(mask) · mask``, numbers the elements that
    are 1: the factor is a mask, not a number of a row.
    """
    while (node := facts.index.producer(name)) is not None and (
        spec_of(node).moves or node.op_type == "CumSum"
    ):
        name = node.input[0]
    return facts.outer(name)


def _masks(name: str, facts: ValueFacts) -> bool:
    """Return whether a tensor comes from whole numbers or booleans of the input by casts and moves alone."""
    while (node := facts.index.producer(name)) is not None:
        spec = spec_of(node)
        if not spec.moves and not (spec.discrete and spec.elementwise):
            return False
        name = node.input[0]
    kind = facts.types.get(facts.outer(name))
    return kind is not None and kind not in _FLOATS


@_of("Div")
def _div(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    divisor = facts.number(node.input[1])
    if divisor:
        yield 0, demand.scaled(1 / divisor)
    elif divisor is None:
        yield 0, demand.bounds()


@_of("Neg")
def _neg(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    yield 0, demand.scaled(-1)


@_of("Abs", "Sign")
def _unsigned(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    yield 0, replace(demand, least=None) if node.op_type == "Abs" else ValueDemand(wish=demand.wish)


@_of("CumSum", "ReduceSum")
def _sums(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    size = facts.size(node.input[0])
    yield 0, replace(demand.bounds(max((1, *(size or ())))), index=False)


@_of("Not")
def _not(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    yield 0, demand if demand.wish is None else replace(demand, wish=1 - demand.wish)


@_of("And", "Or", "Xor")
def _logic(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    """A condition on a whole result is one on every operand: all true, or all false."""
    for operand in (0, 1):
        yield operand, demand if node.op_type != "Xor" else ValueDemand(chooses=demand.chooses)


@_of("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _compared(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    for one, other in ((0, 1), (1, 0)):
        value = facts.number(node.input[other])
        if value is None or not math.isfinite(value):
            continue
        holds = _HOLDS[node.op_type]
        outcomes = [holds(x, value) if one == 0 else holds(value, x) for x in (0.0, 1.0)]
        if demand.chooses:
            near = (value,) if node.op_type == "Equal" else (value, value + 1, value - 1)
            yield one, ValueDemand(choices=near)
        if demand.wish is not None and outcomes.count(bool(demand.wish)) == 1:
            yield one, ValueDemand(wish=float(outcomes.index(bool(demand.wish))))
        elif demand.wish == 0 and node.op_type == "Equal":
            yield one, ValueDemand(avoided=frozenset({value}))


@_of("Where")
def _where(node: onnx.NodeProto, demand: ValueDemand, facts: ValueFacts) -> Found:
    """The condition passes the branch that is computed, or of two constants the one that is wished for."""
    then, other = (facts.number(name) for name in node.input[1:3])
    if then is not None and other is not None:
        if demand.wish is not None and then != other:
            wish = demand.wish
            yield 0, ValueDemand(wish=float(abs(then - wish) < abs(other - wish)), chooses=demand.chooses)
    elif then is not None or other is not None:
        passed = 1 if other is not None else 2
        if node.input[passed] not in facts.plain:
            yield 0, ValueDemand(wish=float(other is not None))
        yield passed, demand
    else:
        yield 1, demand
        yield 2, demand


_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
}
_FLOATS = frozenset(
    getattr(onnx.TensorProto, n) for n in "FLOAT FLOAT16 BFLOAT16 DOUBLE STRING COMPLEX64 COMPLEX128".split()
)
