"""Two graphs walked backwards at once from an output: operands it picks from, and the common last part.

Beyond an operator that saturates (Sigmoid, Clip) or picks (ArgMax, TopK) a real difference can vanish and
rounding can look large, so its operands are compared as well. And as far as the nodes of both graphs are the
same, with the same constants, they compute the same function: if its operands agree, so do its results,
although a tie may be decided by the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx

from onnxprune.evaluate.equivalence.paths import ComputationGraph
from onnxprune.ir import GraphIndex, anonymous, bodies
from onnxprune.ops.spec import spec_of

Pair = tuple[str, str]
"""The name of a tensor in the reference, and that of its counterpart in the candidate."""

_MOST_POINTS = 16


@dataclass(frozen=True)
class Tail:
    """The last part of two graphs that is the same in both.

    Attributes:
        ends: Tensors that go into it, in the reference and in the candidate.
        jumping: Its operators whose results jump, by node.
    """

    ends: tuple[Pair, ...]
    jumping: tuple[str, ...]


def picked_from(reference: ComputationGraph, candidate: ComputationGraph, output: str) -> list[Pair]:
    """Return the operands of operators that saturate or pick, right before an output, in both graphs."""
    points: dict[Pair, None] = {}
    pending, seen = [(output, output)], set()
    while pending and len(points) < _MOST_POINTS:
        pair = (_source(reference, pending[-1][0]), _source(candidate, pending[-1][1]))
        pending.pop()
        one, two = reference.makers.get(pair[0]), candidate.makers.get(pair[1])
        if pair in seen or one is None or two is None or not _alike(one, two, pair):
            continue
        seen.add(pair)
        spec = spec_of(one)
        decides = spec.jumps or spec.saturates
        if not (decides or spec.elementwise or spec.moves or spec.carries or spec.sums):
            continue
        operands = [p for p in zip(one.input, two.input, strict=True) if _made(reference, candidate, p)]
        if decides:
            points.update(dict.fromkeys(operands))
        pending += operands
    return [p for p in points if p[0] in reference.dependent or p[1] in candidate.dependent]


def other_choice(reference: ComputationGraph, candidate: ComputationGraph, output: str) -> str:
    """Return a node before an output that picks by other settings than its counterpart; empty if none does.

    Such attributes and numbers may matter for few inputs: boxes that overlap, numbers that are equal.
    """
    pending, seen = [(output, output)], set[Pair]()
    while pending:
        pair = pending.pop()
        one, two = reference.makers.get(pair[0]), candidate.makers.get(pair[1])
        if pair in seen or one is None or two is None or not _alike(one, two, pair):
            continue
        seen.add(pair)
        if spec_of(one).jumps and _chooses_otherwise(reference, candidate, one, two):
            return f"{one.op_type} '{one.name or pair[0]}'"
        pending += zip(one.input, two.input, strict=True)
    return ""


def _chooses_otherwise(
    reference: ComputationGraph, candidate: ComputationGraph, one: onnx.NodeProto, two: onnx.NodeProto
) -> bool:
    """Return whether two nodes that pick differ in an attribute, or in a single number that they pick by."""
    if reference.ways(one) != candidate.ways(two):
        return True
    if spec_of(one).elementwise:
        return False
    return any(
        a in reference.constants
        and b in candidate.constants
        and math.prod(reference.constants[a].dims) == 1
        and not reference.same_constant(a, candidate, b)
        for a, b in zip(one.input, two.input, strict=True)
    )


def common_tail(
    reference: ComputationGraph,
    candidate: ComputationGraph,
    output: str,
    known: Collection[Pair] = (),
) -> Tail:
    """Return the last part of both graphs, before an output, that is the same node by node.

    Args:
        reference: The first graph.
        candidate: The second.
        output: The output.
        known: Tensors that are compared in any case: nothing before them is part of the tail.
    """
    ends: dict[Pair, None] = {}
    jumping: dict[str, None] = {}
    pending, seen = [(output, output)], set()
    while pending:
        pair = pending.pop()
        if pair in seen or pair in known:
            continue
        seen.add(pair)
        one, two = reference.makers.get(pair[0]), candidate.makers.get(pair[1])
        if one is None or two is None:
            if not _same_source(reference, candidate, pair):
                ends[pair] = None
        elif (operands := _same_operands(reference, candidate, one, two, pair)) is not None:
            pending += (p for p in operands if p[0])
            if spec_of(one).jumps or _casts_to_integer(one):
                jumping[f"{one.op_type} '{one.name or pair[0]}'"] = None
        else:
            ends[pair] = None
    return Tail(tuple(ends), tuple(jumping))


def _source(graph: ComputationGraph, name: str) -> str:
    """Follow a tensor back through nodes that only change its form, and through an If of such branches."""
    while (node := graph.makers.get(name)) is not None:
        if spec_of(node).rearranges:
            name = node.input[0]
            continue
        passed = {_passed_on(branch) for branch in bodies(node)} if node.op_type == "If" else set()
        if len(node.output) != 1 or len(passed) != 1 or "" in passed:
            return name
        name = passed.pop()
    return name


def _passed_on(branch: onnx.GraphProto) -> str:
    """Return the outer tensor that a branch only shows in another shape, empty where it does more."""
    index = GraphIndex.of(branch)
    name = branch.output[0].name
    while (node := index.producer(name)) is not None and spec_of(node).rearranges:
        name = node.input[0]
    return "" if name in index.producers or any(t.name == name for t in branch.initializer) else name


def _alike(one: onnx.NodeProto, two: onnx.NodeProto, pair: Pair) -> bool:
    """Return true if two nodes are of the same operator and make the two tensors as the same result."""
    return (
        (one.op_type, one.domain) == (two.op_type, two.domain)
        and len(one.input) == len(two.input)
        and list(one.output).index(pair[0]) == list(two.output).index(pair[1])
    )


def _same_operands(
    reference: ComputationGraph,
    candidate: ComputationGraph,
    one: onnx.NodeProto,
    two: onnx.NodeProto,
    pair: Pair,
) -> list[Pair] | None:
    """Return the operands of two nodes and the outer tensors of their bodies, if the nodes are the same.

    They are if they compute the same function of their non-constant operands: in other versions of ONNX an
    operator of the same name may be another one, and so may a local function.
    """
    if not _alike(one, two, pair):
        return None
    (bare, outer), (other_bare, other_outer) = anonymous(one), anonymous(two)
    if bare != other_bare or reference.meanings(one) != candidate.meanings(two):
        return None
    operands = [*zip(one.input, two.input, strict=True), *zip(outer, other_outer, strict=True)]
    return operands if all(_fits(reference, candidate, p) for p in operands) else None


def _fits(reference: ComputationGraph, candidate: ComputationGraph, pair: Pair) -> bool:
    """Return true if two operands can stand for each other: equal constants, one input, or results."""
    known = pair[0] in reference.constants, pair[1] in candidate.constants
    if any(known):
        return all(known) and reference.same_constant(pair[0], candidate, pair[1])
    fed = pair[0] in reference.inputs, pair[1] in candidate.inputs
    if any(fed):
        return pair[0] == pair[1]
    return bool(pair[0]) == bool(pair[1])


def _same_source(reference: ComputationGraph, candidate: ComputationGraph, pair: Pair) -> bool:
    """Return true if two tensors that no nodes make are the same input or equal constants."""
    made = pair[0] in reference.makers or pair[1] in candidate.makers
    return not made and _fits(reference, candidate, pair)


def _made(reference: ComputationGraph, candidate: ComputationGraph, pair: Pair) -> bool:
    return pair[0] in reference.makers and pair[1] in candidate.makers


def _casts_to_integer(node: onnx.NodeProto) -> bool:
    integers = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return node.op_type == "Cast" and all(a.i not in integers for a in node.attribute if a.name == "to")
