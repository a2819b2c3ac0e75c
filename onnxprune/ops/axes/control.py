"""Graphs inside nodes: their nodes are read like all others, and axes are kept across the boundary.

Operands and results of the specification: a Loop gives its body the number of the turn, the condition and the
states, and receives the condition, the states and the parts of scan outputs; a Scan gives states and slices
of sequences along one axis, and receives states and slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import onnx

from onnxprune.algebra.axes import Dim
from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.ir import attributes, bodies, captured, flat
from onnxprune.ops.axes.axis_typing import Typing, UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.sequence_elements import is_empty_sequence, known_sequence
from onnxprune.ops.axes.statements import Axes
from onnxprune.ops.axes.table import rule

REPEATED = "its number of turns depends on the data: the work of its body is counted once"
TURNS = "it goes through this axis turn by turn"
BATCHED = "before opset 9 it goes through each sample of a batch on its own"
_WITHOUT_BATCH = 9
UNKNOWN = "the result of its body there is not known"


@rule("If")
def branches(c: Context) -> None:
    """Either branch makes the results, so both have the same axes."""
    made = [[v.name for v in body.output] for body in bodies(c.node)]
    for result, names in enumerate(zip(*made, strict=True)):
        _unite(c, result, _typed(c.typing, names))
    _keep_one_cost(c)


def _loop_given(typing: Typing, node: onnx.NodeProto) -> Sequence[Axes | None]:
    return [(), (), *(_axes(typing, name) for name in node.input[2:])]


@rule("Loop", opens=_loop_given)
def loop(c: Context) -> None:
    """A state has the same axes in every turn, before the first and after the last."""
    (body,) = bodies(c.node)
    made = [_axes(c.typing, value.name) for value in body.output[1:]]
    given = list(c.node.input[2:])
    for state, before in enumerate(given):
        inner, after = body.input[2 + state].name, body.output[1 + state].name
        held = [inner] if known_sequence(c.typing, inner) else []
        _unite(c, state, _typed(c.typing, [before, *held, after]))
    for result in range(len(given), len(c.node.output)):
        _lay_out(c, result, made[result], 0)
    _repeat_cost(c, _turns(c, len(given)))


def _scan_given(typing: Typing, node: onnx.NodeProto) -> Sequence[Axes | None]:
    if typing.model.opset() < _WITHOUT_BATCH:
        return ()
    given = [_axes(typing, name) for name in node.input]
    states, axes = _scanned(node)
    slices = [
        d and (*d[: a % len(d)], *d[a % len(d) + 1 :]) for d, a in zip(given[states:], axes, strict=True)
    ]
    return [*given[:states], *slices]


@rule("Scan", opens=_scan_given)
def scan(c: Context) -> None:
    """As Loop, over slices of sequences."""
    (body,) = bodies(c.node)
    if c.opset < _WITHOUT_BATCH:
        for value in body.output:
            for dim in _axes(c.typing, value.name) or ():
                c.block(dim, BATCHED)
        raise UnknownOperandError(BATCHED)
    states, axes = _scanned(c.node)
    for operand, axis in enumerate(axes, states):
        if dims := _axes(c.typing, c.node.input[operand]):
            c.block(dims[axis], TURNS)
    made = [_axes(c.typing, value.name) for value in body.output]
    for state in range(states):
        _unite(c, state, [_axes(c.typing, c.node.input[state]), made[state]])
    dims = _axes(c.typing, c.node.input[states])
    _repeat_cost(c, dims[axes[0]] if dims else None)
    along = c.attributes.get("scan_output_axes") or [0] * (len(made) - states)
    for result, axis in enumerate(along, states):
        _lay_out(c, result, made[result], axis)


@rule("SequenceMap")
def sequence_map(c: Context) -> None:
    """The parts of a sequence are not followed."""
    for name in sorted({i for i in c.node.input if i} | captured(c.node)):
        if name in c.typing.shapes.sizes or name in c.typing.axes:
            for dim in c.typing.axes_of(name):
                c.block(dim, f"its body reads '{name}'")


def _scanned(node: onnx.NodeProto) -> tuple[int, list[int]]:
    """Return the number of states of a Scan, and the axis along which it goes through each sequence."""
    count = int(attributes(node)["num_scan_inputs"])
    return len(node.input) - count, attributes(node).get("scan_input_axes") or [0] * count


def _typed(typing: Typing, names: Iterable[str]) -> list[Axes | None]:
    """Return the axes of values; sequences without elements have none yet, and are left out."""
    return [_axes(typing, name) for name in names if not is_empty_sequence(typing, name)]


def _axes(typing: Typing, name: str) -> Axes | None:
    return typing.axes_of(name) if name in typing.axes or name in typing.shapes.sizes else None


def _unite(c: Context, result: int, same: Sequence[Axes | None]) -> None:
    """State that a result and tensors of bodies are one; axes of other sizes stay, and all of other ranks."""
    if not same:
        return
    known = [dims for dims in same if dims is not None]
    sizes = c.typing.shapes.sizes.get(c.node.output[result]) if c.makes(result) else None
    ranks = {len(dims) for dims in known} | ({len(sizes)} if sizes is not None else set())
    if len(known) < len(same) or len(ranks) > 1:
        for dim in (d for dims in known for d in dims):
            c.block(dim, UNKNOWN)
        _keep(c, result)
        return
    axes = list(zip(*known, strict=True))
    expected = sizes or [dims[0].size for dims in axes]
    c.define(result, [_one_axis(c, dims, size) for dims, size in zip(axes, expected, strict=True)])


def _one_axis(c: Context, dims: Sequence[Dim], size: Extent) -> Dim:
    """Unite an axis of several tensors, which stays where its size is not one and the same."""
    if all(dim.size == size for dim in dims):
        for dim in dims[1:]:
            c.same(dims[0], dim)
        return dims[0]
    for dim in dims:
        c.block(dim, UNKNOWN)
    return c.fixed(size, UNKNOWN)


def _lay_out(c: Context, result: int, made: Axes | None, axis: int) -> None:
    """State that a result is the output of a body in all turns, laid out along a new axis."""
    if not c.makes(result):
        return
    sizes = c.typing.shapes.sizes.get(c.node.output[result])
    if made is None or sizes is None or len(sizes) != len(made) + 1:
        for dim in made or ():
            c.block(dim, UNKNOWN)
        _keep(c, result)
        return
    axis %= len(sizes)
    dims: list[Dim] = list(made)
    dims.insert(axis, c.fixed(sizes[axis], TURNS))
    c.define(result, dims)


def _keep(c: Context, result: int) -> None:
    if c.makes(result) and c.node.output[result] in c.typing.shapes.sizes:
        c.define(result, [c.fixed(size, UNKNOWN) for size in c.result_shape(result)])


def _turns(c: Context, states: int) -> Dim | None:
    """Return the number of turns of a loop: where it is known, or as the first axis of a scan output."""
    known = c.typing.shapes.analysis.turns.get(next(filter(None, c.node.output)))
    if known is not None:
        return c.fixed(known, TURNS)
    laid = [name for name in c.node.output[states:] if c.typing.axes.get(name)]
    return c.typing.axes[laid[0]][0] if laid else None


def _repeat_cost(c: Context, turns: Dim | None) -> None:
    """Count the work of a body once for each turn; once, with a note, where their number is not known."""
    first = c.index - sum(1 for body in bodies(c.node) for _ in flat(body))
    if turns is None:
        if any(first <= work.node < c.index for work in c.typing.work):
            c.typing.uncounted[c.index] = REPEATED
        return
    c.typing.work[:] = [
        replace(work, dims=(*work.dims, turns)) if first <= work.node < c.index else work
        for work in c.typing.work
    ]


def _keep_one_cost(c: Context) -> None:
    """Count the work of the branch that has more of it: only one of them is run."""
    counts = [sum(1 for _ in flat(body)) for body in bodies(c.node)]
    ends = [c.index - sum(counts[k + 1 :]) for k in range(len(counts))]
    owners = {
        k: branch
        for branch, (end, n) in enumerate(zip(ends, counts, strict=True))
        for k in range(end - n, end)
    }
    totals = [0.0] * len(counts)
    for work in c.typing.work:
        if work.node in owners:
            totals[owners[work.node]] += math.prod(c.typing.shapes.number(dim.size) for dim in work.dims)
    most = totals.index(max(totals))
    c.typing.work[:] = [w for w in c.typing.work if owners.get(w.node, most) == most]
