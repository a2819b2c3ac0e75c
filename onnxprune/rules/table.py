"""The table: operator → rule, and the walk that applies it to a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxprune.dims import Block, block
from onnxprune.graph import Model
from onnxprune.rules.context import CannotSayError, Context, Typing
from onnxprune.shapes import Shapes

Zeros: TypeAlias = "Sequence[bool | None]"
"""For a removed channel, whether each operand is zero there; ``None`` where it does not have that axis."""


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


@dataclass(frozen=True)
class Rule:
    """What an operator does to axes.

    Attributes:
        apply: Says it, through a context.
        zero: How zeros travel: whether the result is zero at a removed channel, given the operands.
    """

    apply: Callable[[Context], None]
    zero: Callable[[Zeros], bool]


RULES: dict[tuple[str, str], Rule] = {}


def rule(
    *operators: str, domain: str = "", zero: Callable[[Zeros], bool] = never
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Enter a function into the table as the rule of some operators."""

    def enter(apply: Callable[[Context], None]) -> Callable[[Context], None]:
        for operator in operators:
            RULES[domain, operator] = Rule(apply, zero)
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
    for value in model.inputs:
        for dim in typing.axes_of(value.name) if value.name in shapes.sizes else ():
            block(dim, Block(value.name, "graph input", "the caller feeds it"))
    for index, node in enumerate(model.proto.graph.node):
        _apply(Context.of(typing, index, node))
    for value in model.outputs:
        for dim in typing.axes.get(value.name, ()):
            block(dim, Block(value.name, "graph output", "the caller reads it"))
    return typing


def _apply(context: Context) -> None:
    node = context.node
    found = lookup(node.domain, node.op_type)
    if node.op_type == "Constant" and context.node.output[0] in context.typing.model.constants:
        return
    if found is None:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        context.refuse(f"no rule for operator {operator}: what it does to its axes is not known")
        return
    try:
        found.apply(context)
    except CannotSayError as reason:
        context.refuse(str(reason))
