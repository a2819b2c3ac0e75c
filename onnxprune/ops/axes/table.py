"""The table: operator → rule, and the walk that applies it to a graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from onnxprune.algebra.axes import Block, Factor, block, unify
from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, bodies, fixed_axes, label, noted_vocabulary, open_values
from onnxprune.ops.axes.constants import Carry, nothing
from onnxprune.ops.axes.context import Axes, CannotSayError, Context, Typing
from onnxprune.ops.axes.estimates import estimate

Zeros: TypeAlias = "Sequence[bool | None]"
"""For a removed channel, whether each operand is zero there; ``None`` where it does not have that axis."""
Opens: TypeAlias = "Callable[[Typing, onnx.NodeProto], Sequence[Axes | None]]"


def never(_: Zeros) -> bool:
    """Not known to be zero anywhere."""
    return False


def first(zeros: Zeros) -> bool:
    """Zero where the first operand is."""
    return zeros[0] is True


def every(zeros: Zeros) -> bool:
    """Zero where all operands are."""
    return all(z is True for z in zeros)


def some(zeros: Zeros) -> bool:
    """Zero where any operand is."""
    return any(z is True for z in zeros)


def carriers(zeros: Zeros) -> bool:
    """Zero where all operands are that have the axis."""
    return all(z is not False for z in zeros)


def weights_and_bias(zeros: Zeros) -> bool:
    """Zero where the weights and the bias, operands 1 and 2, are: ``W·x + b``."""
    return all(z is True for z in zeros[1:3])


def _nothing(_: Typing, __: onnx.NodeProto) -> Sequence[Axes | None]:
    """No body, or one that is given nothing."""
    return ()


@dataclass(frozen=True)
class Rule:
    """What an operator does to axes.

    Attributes:
        apply: Says it, through a context.
        zero: How zeros travel: whether the result is zero at a removed channel, given the operands.
        constant: How other numbers travel that are the same whatever the network is fed.
        opens: The axes of what its body is given, in order; ``None`` where they are not known.
    """

    apply: Callable[[Context], None]
    zero: Callable[[Zeros], bool]
    constant: Carry = nothing
    opens: Opens = _nothing


MOST_TERMS = 8
"""More terms than any rule says of the work of one node."""
RULES: dict[tuple[str, str], Rule] = {}


def rule(
    *operators: str,
    domain: str = "",
    zero: Callable[[Zeros], bool] = never,
    constant: Carry = nothing,
    opens: Opens = _nothing,
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Enter a function into the table as the rule of some operators."""

    def enter(apply: Callable[[Context], None]) -> Callable[[Context], None]:
        for operator in operators:
            RULES[domain, operator] = Rule(apply, zero, constant, opens)
        return apply

    return enter


def lookup(domain: str, operator: str) -> Rule | None:
    """Return an operator's rule, ``None`` where there is none."""
    return RULES.get(("" if domain == "ai.onnx" else domain, operator))


def infer_axes(model: Model, shapes: Shapes, *, allow_inexact: bool = False) -> Typing:
    """Apply every node's rule: afterwards the dims that are still free factors are the groups.

    Args:
        model: The graph.
        shapes: Its sizes.
        allow_inexact: Open axes over which statistics are taken.
    """
    typing = Typing(model, shapes, allow_inexact)
    vocabulary = noted_vocabulary(model)
    if vocabulary is not None:
        typing.lookups, typing.rows = vocabulary.lookups, Factor(vocabulary.rows)
    open_names = {value.name for value in open_values(model)}
    for value in model.inputs:
        free = fixed_axes(value) if value.name in open_names else set()
        for axis, dim in enumerate(typing.axes_of(value.name) if value.name in shapes.sizes else ()):
            if axis not in free:
                block(dim, Block(value.name, "graph input", "the caller feeds it"))
    _infer(typing, model.proto.graph, itertools.count())
    for value in model.outputs:
        why = Block(value.name, "graph output", "the caller reads it")
        dims = typing.axes.get(value.name, ()) if value.name not in open_names else ()
        for axis, dim in enumerate(dims, 1):
            if typing.rows is not None and axis == len(dims) and dim.size == typing.rows.size:
                unify(dim, typing.rows, why)
            else:
                block(dim, why)
    return typing


def _infer(typing: Typing, graph: onnx.GraphProto, numbers: Iterator[int]) -> None:
    """Apply the rules of a graph's nodes; what a body is given is known before it, what it makes after it."""
    for node in graph.node:
        for body in bodies(node):
            _open(typing, node, body)
            _infer(typing, body, numbers)
        _apply(Context.of(typing, next(numbers), node))


def _open(typing: Typing, node: onnx.NodeProto, body: onnx.GraphProto) -> None:
    """Say what the axes are of what a body is given; where nobody knows they are its own, and stay."""
    found = lookup(node.domain, node.op_type)
    given = found.opens(typing, node) if found is not None else ()
    for value, dims in itertools.zip_longest(body.input, given):
        sizes = typing.shapes.sizes.get(value.name) if value is not None else None
        if sizes is not None and dims is not None and tuple(d.size for d in dims) == sizes:
            typing.axes[value.name] = tuple(dims)
        elif sizes is not None:
            why = Block(label(node), node.op_type, "it hands this to its body")
            typing.axes[value.name] = tuple(Factor(size, [why]) for size in sizes)


def _apply(context: Context) -> None:
    node = context.node
    found = lookup(node.domain, node.op_type)
    if node.op_type == "Constant" and context.node.output[0] in context.typing.model.constants:
        return
    if found is None:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        _refuse(context, f"no rule for operator {operator}: what it does to its axes is not known")
        return
    try:
        found.apply(context)
    except CannotSayError as reason:
        _refuse(context, str(reason))
    except (ArithmeticError, IndexError, StopIteration, ValueError) as error:
        _refuse(context, f"no operator takes such operands: {error}")


def _refuse(context: Context, reason: str) -> None:
    """Block all axes of a node, and count its work by its sizes, if its rule has not counted it."""
    context.refuse(reason)
    if not any(work.node == context.index for work in context.typing.work[-MOST_TERMS:]):
        estimate(context)
