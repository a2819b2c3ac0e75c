"""The table: operator → rule, and the walk that applies it to a graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypedDict

import onnx

from onnxprune.algebra.axes import Block, Dim, Factor, block, factors, unify
from onnxprune.analysis.shapes import Shapes
from onnxprune.errors import UNEXPECTED, DefectError
from onnxprune.ir import (
    Model,
    bodies,
    captured,
    fixed_axes,
    label,
    noted_vocabulary,
    open_values,
    pickable_rows,
)
from onnxprune.ops.axes.axis_typing import Typing, UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.estimates import estimate
from onnxprune.ops.axes.sequence_elements import open_element
from onnxprune.ops.spec import (
    Arithmetic,
    AxesRule,
    Normalisation,
    Opens,
    Randomness,
    Rearrangement,
    ZeroRule,
    Zeros,
    carriers,
    entry,
    every,
    first,
    never,
    some,
    spec_of,
    weights_and_bias,
)
from onnxprune.ops.views import LinearRule
from onnxprune.runtime import Known, objection

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from onnxprune.ops.axes.constant_rules import Carry

__all__ = ["Zeros", "carriers", "every", "first", "infer_axes", "never", "rule", "some", "weights_and_bias"]

OPEN_IO = " (--open-io opens it)"
MOST_TERMS = 8
"""Limit of the terms of a sum of work that a rule states for one node."""


class RuleFacts(TypedDict, total=False):
    """Facts of an operator beside its axis rule; see `OpSpec`."""

    zero: ZeroRule
    constant: Carry
    opens: Opens
    linear: LinearRule
    parameters: tuple[int, ...]
    trainable: bool
    statistics: tuple[int, ...]
    elementwise: bool
    copies: bool
    rearranges: Rearrangement
    sizes_only: bool
    random: Randomness
    arithmetic: Arithmetic
    normalises: Normalisation


def rule(*operators: str, domain: str = "", **facts: Unpack[RuleFacts]) -> Callable[[AxesRule], AxesRule]:
    """Enter a function into the table as the axes rule of some operators, with further facts about them."""
    return entry("axes", *operators, domain=domain, **facts)


def infer_axes(
    model: Model, shapes: Shapes, *, allow_inexact: bool = False, open_io: Iterable[str] = ()
) -> Typing:
    """Apply every node's rule: afterwards the dims that are still free factors are the groups.

    Args:
        model: The graph.
        shapes: Its sizes.
        allow_inexact: Open axes over which statistics are taken.
        open_io: Patterns over inputs and outputs whose axes may shrink, beside those noted in the model.
    """
    typing = Typing(model, shapes, allow_inexact)
    vocabulary = noted_vocabulary(model)
    if vocabulary is not None:
        typing.lookups, typing.rows = vocabulary.lookups, Factor(vocabulary.rows)
    else:
        typing.pickable = pickable_rows(model)
    open_names = {v.name for v in open_values(model, open_io) if v.type.HasField("tensor_type")}
    for value in model.inputs:
        free = fixed_axes(value) if value.name in open_names else set()
        for axis, dim in enumerate(typing.axes_of(value.name) if value.name in shapes.sizes else ()):
            if axis not in free:
                hint = OPEN_IO if axis in fixed_axes(value) else ""
                block(dim, Block(value.name, "graph input", f"the caller feeds it{hint}"))
    _infer(typing, model.proto.graph, itertools.count())
    for value in model.outputs:
        dims = typing.axes.get(value.name, ()) if value.name not in open_names else ()
        for axis, dim in enumerate(dims, 1):
            hint = OPEN_IO if isinstance(dim.size, int) else ""
            why = Block(value.name, "graph output", f"the caller reads it{hint}")
            if typing.rows is not None and axis == len(dims) and _is_one_score_a_row(typing, dim):
                unify(dim, typing.rows, why)
            else:
                block(dim, why)
    return typing


def _is_one_score_a_row(typing: Typing, dim: Dim) -> bool:
    """Return whether the last axis of an output has an element for each row of the vocabulary.

    An axis of as many elements that the network sums over is one of features, such as a hidden state.
    """
    if typing.rows is None or dim.size != typing.rows.size:
        return False
    summed = {f for contraction in typing.contractions for f in factors(contraction.dim)}
    return summed.isdisjoint(set(factors(dim)) - set(factors(typing.rows)))


def _infer(typing: Typing, graph: onnx.GraphProto, numbers: Iterator[int]) -> None:
    """Apply the rules of a graph's nodes: a body after the axes of its inputs, before those of results."""
    for node in graph.node:
        for body in bodies(node):
            _open(typing, node, body)
            _infer(typing, body, numbers)
        _apply(Context.of(typing, next(numbers), node))


def _open(typing: Typing, node: onnx.NodeProto, body: onnx.GraphProto) -> None:
    """Define the axes of a body's inputs; unknown ones are its own, and stay."""
    given = spec_of(node).opens(typing, node)
    for value, dims in itertools.zip_longest(body.input, given):
        sizes = typing.shapes.sizes.get(value.name) if value is not None else None
        if sizes is not None and dims is not None and tuple(d.size for d in dims) == sizes:
            typing.axes[value.name] = tuple(dims)
        elif sizes is not None:
            why = Block(label(node), node.op_type, "it hands this to its body")
            typing.axes[value.name] = tuple(Factor(size, [why]) for size in sizes)
        elif value is not None:
            open_element(typing, value.name)


def _apply(context: Context) -> None:
    node = context.node
    spec = spec_of(node)
    if node.op_type == "Constant" and context.node.output[0] in context.typing.model.constants:
        return
    if spec.axes is None:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        _refuse(context, f"no rule for operator {operator}: its effect on axes is not known")
        return
    try:
        spec.axes(context)
        context.multiplies(spec)
    except UnknownOperandError as reason:
        _refuse(context, str(reason))
    except UNEXPECTED as error:
        objection = objection_to(context.typing, context.node, "its rule", error)
        _refuse(context, f"no operator takes such operands: {objection}")


def objection_to(typing: Typing, node: onnx.NodeProto, rule: str, failure: Exception) -> str:
    """Return the runtime's error for a node on which a rule has failed.

    Raises:
        DefectError: The runtime takes the node: the rule is wrong.
    """
    if not (objection := objection_of(typing, node)):
        raise DefectError.of(f"node '{label(node)}' ({node.op_type})", rule, failure) from failure
    return objection


def objection_of(typing: Typing, node: onnx.NodeProto) -> str:
    """Return the runtime's error for a node and its operands, at the reference sizes; empty where it runs."""
    shapes, constants = typing.shapes, typing.model.constants
    read = [i for i in (*node.input, *sorted(captured(node))) if i]
    known = {
        name: Known(shapes.types[name], shapes.numbers(name), constants.get(name))
        for name in dict.fromkeys(read)
        if name in shapes.sizes and name in shapes.types
    }
    return objection(node, known, typing.model.proto.opset_import)


def _refuse(context: Context, reason: str) -> None:
    """Block all axes of a node, and count its work by its sizes, if its rule has not counted it."""
    context.refuse(reason)
    if not any(work.node == context.index for work in context.typing.work[-MOST_TERMS:]):
        estimate(context)
