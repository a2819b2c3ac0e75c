"""Operators that work element by element, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.algebra.axes import Dim
from onnxprune.algebra.sizes.algebra import Extent, stretched
from onnxprune.ops.axes.constant_rules import by_itself, same
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import every, first, never, rule, some
from onnxprune.ops.axes.variables import from_the_right

ZERO_AT_ZERO = (
    "Abs Asin Asinh Atan Atanh Ceil Celu Elu Erf Floor Gelu HardSwish LeakyRelu Mish Neg Relu "
    "Round Selu Sign Sin Sinh Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
).split()
NOT_ZERO_AT_ZERO = "Acos BitwiseNot Cos Cosh Exp HardSigmoid IsInf IsNaN Not Sigmoid Softplus".split()
UNDECIDED = "it depends on the input which of its operands is stretched along this axis"
COMPARISONS = (
    "And BitwiseAnd BitwiseOr BitwiseXor BitShift Equal Greater GreaterOrEqual Less LessOrEqual Or Xor"
)


def broadcast(c: Context, operands: Sequence[Sequence[Dim]]) -> list[Dim]:
    """Line axes up from the right; those that are not stretched are the same.

    Returns:
        The dims of the result. An axis of one element that others stretch adds no equation. Axes whose
        sizes leave open which of them is stretched must stay.
    """
    rank = max((len(o) for o in operands), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        present = [o[axis] for o in operands if len(o) >= -axis]
        whole = [d for d in present if d.size != 1] or present
        sizes = dict.fromkeys(d.size for d in whole)
        if len(sizes) > 1:
            result.append(_stretched(c, whole, list(sizes)))
            continue
        for other in whole[1:]:
            c.same(whole[0], other)
        result.append(whole[0])
    return result


def _stretched(c: Context, dims: Sequence[Dim], sizes: Sequence[Extent]) -> Dim:
    """Block axes of different sizes, which fit only where one of them is 1."""
    for dim in dims:
        c.block(dim, UNDECIDED)
    return c.fixed(stretched(*sizes), UNDECIDED)


def elementwise(c: Context) -> None:
    """Give the result the axes of the operands, broadcast."""
    operands = {k: c.axes(k) for k in range(len(c.node.input)) if c.has(k)}
    axes = broadcast(c, list(operands.values()))
    c.runs_along(from_the_right(axes, operands, range(len(c.node.output))))
    for result in range(len(c.node.output)):
        c.define(result, axes)


rule(*ZERO_AT_ZERO, zero=first, constant=by_itself, elementwise=True)(elementwise)
rule(*NOT_ZERO_AT_ZERO, *COMPARISONS.split(), zero=never, constant=by_itself, elementwise=True)(elementwise)


@rule("Shrink", zero=first, constant=by_itself, elementwise=True)
def shrink(c: Context) -> None:
    """Zero lies within the threshold, unless that is below zero."""
    elementwise(c)
    if c.attributes.get("lambd", 0.5) < 0:
        c.makes_no_zeros()


@rule("Identity", zero=first, constant=by_itself, elementwise=True, rearranges="shape")
@rule("Cast", zero=first, constant=by_itself, elementwise=True)
def moved(c: Context) -> None:
    """The same numbers."""
    elementwise(c)
    c.moves()


@rule("Log", "Reciprocal", "Acosh", constant=by_itself, elementwise=True)
def singular(c: Context) -> None:
    """No number at zero."""
    elementwise(c)
    c.divides_by(0, above=c.node.op_type != "Reciprocal")


@rule("Pow", zero=first, constant=by_itself, elementwise=True)
def power(c: Context) -> None:
    """Zero to a positive power is zero, to a negative one infinite."""
    elementwise(c)
    exponents = c.value(1)
    if exponents is None or not np.all(exponents > 0):
        c.makes_no_zeros()
    if exponents is None or np.any(exponents < 0):
        whole = exponents is not None and np.all(exponents == np.round(exponents))
        c.divides_by(0, above=not whole)


@rule("CastLike", zero=first, constant=same, elementwise=True)
def cast_like(c: Context) -> None:
    """The same numbers; of the second operand only the type counts."""
    c.define(0, c.axes(0))


@rule("Mod", constant=by_itself, elementwise=True)
def modulo(c: Context) -> None:
    """The second operand may not become zero."""
    elementwise(c)
    c.divides_by(1)


@rule("Mean", "Max", "Min", zero=every, constant=by_itself, elementwise=True)
def chosen(c: Context) -> None:
    """Means and extremes: a removed channel of every operand is zero, constants included."""
    elementwise(c)


@rule("Add", "Sum", zero=every, constant=by_itself, elementwise=True, arithmetic="sum")
@rule("Sub", zero=every, constant=by_itself, elementwise=True, arithmetic="difference")
def additive(c: Context) -> None:
    """Sums: a removed channel of every operand is zero, constants included."""
    elementwise(c)
    c.weights(*range(len(c.node.input)))


@rule("Mul", zero=some, constant=by_itself, elementwise=True, arithmetic="product")
def mul(c: Context) -> None:
    """Products: one zero is enough, unless the other number is infinite."""
    elementwise(c)
    c.weights(0, 1)
    for operand in (0, 1):
        numbers = c.constant(operand)
        if numbers is not None and not np.all(np.isfinite(numbers)):
            for dim in c.axes(1 - operand):
                c.block(dim, f"'{c.node.input[operand]}' is not finite, and zero times it is no number")


@rule("Div", zero=first, constant=by_itself, elementwise=True, arithmetic="quotient")
def div(c: Context) -> None:
    """Zero where the first operand is; the second one may not become zero."""
    elementwise(c)
    c.weights(0)
    c.divides_by(1)
    divisor = c.constant(1)
    if divisor is not None and (not np.all(divisor) or np.any(np.isnan(divisor))):
        c.divides_by(1, *c.axes(0))


@rule("PRelu", zero=first, constant=by_itself, elementwise=True, parameters=(1,))
def prelu(c: Context) -> None:
    """Zero at zero for any slopes, which are stretched to the data and never the other way round."""
    dims = c.axes(0)
    for dim, slope in zip(reversed(dims), reversed(c.axes(1)), strict=False):
        if slope.size != 1:
            c.same(dim, slope)
    c.define(0, dims)


@rule("Clip", zero=first, constant=by_itself, elementwise=True)
def clip(c: Context) -> None:
    """Bounds are single numbers; zero stays zero if it lies between them."""
    c.define(0, c.axes(0))
    low, high = (c.attributes[k] if k in c.attributes else c.value(o) for k, o in (("min", 1), ("max", 2)))
    known = all(v is not None or not c.has(o) for v, o in ((low, 1), (high, 2)))
    if not known or (low is not None and np.any(low > 0)) or (high is not None and np.any(high < 0)):
        c.makes_no_zeros()


@rule("Dropout", zero=first, constant=same, elementwise=True, random="training")
def dropout(c: Context) -> None:
    """Identity at inference; the mask has the same axes."""
    for result in range(len(c.node.output)):
        c.define(result, c.axes(0))


@rule("Where", zero=lambda zeros: every(zeros[1:]), constant=by_itself, elementwise=True)
def where(c: Context) -> None:
    """Choose between two operands, all three broadcast."""
    elementwise(c)
