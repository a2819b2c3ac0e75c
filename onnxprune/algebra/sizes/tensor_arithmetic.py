"""Small tensors computed element by element: integers exactly, floats as their type rounds them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from onnxprune.algebra.sizes.algebra import (
    Size,
    Value,
    ceil_div,
    choose,
    equals,
    floor_div,
    is_integral,
    is_nonnegative,
    less,
    maximum,
    minimum,
    rounded,
    trunc_div,
)
from onnxprune.algebra.sizes.tensors import BOOL, FLOATS, SIGNED, UNSIGNED, Values, exact

Function: TypeAlias = "Callable[..., Value | None]"
_SMALL_POWERS = 4


def _truncated(a: Value, b: Value) -> Value | None:
    return None if not isinstance(b, Size) and b == 0 else trunc_div(a, b)


def _modulo(a: Value, b: Value) -> Value | None:
    if not isinstance(b, Size) and b == 0:
        return None
    found: Value = a - floor_div(a, b) * b
    return found


def _remainder(a: Value, b: Value) -> Value | None:
    quotient = _truncated(a, b)
    return None if quotient is None else a - quotient * b


def _power(a: Value, b: Value) -> Value | None:
    if not isinstance(b, int) or not 0 <= b <= _SMALL_POWERS:
        return None
    found: Value = 1
    for _ in range(b):
        found = found * a
    return found


def _sign(a: Value) -> Value:
    return less(0, a) - less(a, 0)


def _absolute(a: Value) -> Value:
    return a if is_nonnegative(a) else maximum(a, -a)


def _round(a: Value) -> Value | None:
    if isinstance(a, Size):
        return a if is_integral(a) else None
    return round(a)


def _bits(function: Callable[[int, int], int]) -> Function:
    def apply(a: Value, b: Value) -> Value | None:
        return function(a, b) if isinstance(a, int) and isinstance(b, int) and b >= 0 else None

    return apply


COMPARISONS: dict[str, Function] = {
    "Equal": equals,
    "Less": less,
    "Greater": lambda a, b: less(b, a),
    "LessOrEqual": lambda a, b: 1 - less(b, a),
    "GreaterOrEqual": lambda a, b: 1 - less(a, b),
    "And": operator.mul,
    "Or": lambda a, b: a + b - a * b,
    "Xor": lambda a, b: a + b - 2 * (a * b),
    "Not": lambda a: 1 - a,
}
"""Functions of operators whose result is boolean, by operator."""
EXACT: dict[str, Function] = {
    "Identity": lambda a: a,
    "Neg": operator.neg,
    "Abs": _absolute,
    "Sign": _sign,
    "Max": maximum,
    "Min": minimum,
    "Where": choose,
    "Relu": lambda a: maximum(a, 0),
    "Floor": lambda a: floor_div(a, 1),
    "Ceil": lambda a: ceil_div(a, 1),
    "Round": _round,
}
"""Functions of operators whose result is exact in every type, by operator."""
ARITHMETIC: dict[str, Function] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Sum": lambda *values: sum(values, 0),
    "Pow": _power,
}
INTEGER: dict[str, Function] = {
    "Div": _truncated,
    "Mod": _modulo,
    "BitwiseAnd": _bits(operator.and_),
    "BitwiseOr": _bits(operator.or_),
    "BitwiseXor": _bits(operator.xor),
}


def function_of(name: str, kind: int | None, *, fmod: bool = False) -> Function | None:
    """Return the function of an operator on each element, ``None`` where it is not followed.

    Args:
        name: The operator.
        kind: The element type of its operands.
        fmod: True if Mod takes the sign of the dividend.
    """
    if name in COMPARISONS:
        return COMPARISONS[name]
    if name in EXACT:
        return EXACT[name]
    if kind in FLOATS:
        return _in_floats(name, FLOATS[kind])
    if fmod and name == "Mod":
        return _remainder
    found = ARITHMETIC.get(name) or INTEGER.get(name)
    return found if found is None or kind not in (*SIGNED, *UNSIGNED) else _in_integers(found, kind)


def _in_integers(function: Function, kind: int) -> Function:
    """Wrap plain numbers as the type does; sizes are taken to fit, but for signs that it does not have."""
    bits = SIGNED.get(kind) or UNSIGNED[kind]

    def apply(*operands: Value) -> Value | None:
        found = function(*operands)
        if isinstance(found, int):
            return as_integer(found, bits, signed=kind in SIGNED)
        if isinstance(found, Size) and kind in UNSIGNED and not is_nonnegative(found):
            return None
        return found

    return apply


def _in_floats(name: str, bits: int) -> Function | None:
    if name == "Div":
        return lambda a, b: None if not isinstance(b, Size) and b == 0 else rounded(a, bits, b)
    if name == "Sqrt":
        return lambda a: _root(a, bits)
    function = ARITHMETIC.get(name)
    if function is None:
        return None

    def apply(*operands: Value) -> Value | None:
        if len(operands) > 2:
            return None  # rounded after each step
        found = function(*operands)
        return None if found is None else rounded(found, bits)

    return apply


def _root(a: Value, bits: int) -> Value | None:
    if isinstance(a, Size) or a < 0:
        return None
    return exact(Fraction(float(np.sqrt(np.array(float(a), f"float{bits}")))))


def as_integer(number: int, bits: int, *, signed: bool) -> int:
    """Return a number as a type of some bits holds it."""
    number %= 2**bits
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def cast(value: Value, source: int | None, target: int | None) -> Value | None:
    """Return an element in another type, ``None`` where it is not followed."""
    if target == BOOL:
        return 1 - equals(value, 0)
    if target in FLOATS:
        return rounded(value, FLOATS[target])
    if target not in (*SIGNED, *UNSIGNED):
        return None
    if source in FLOATS:
        value = trunc_div(value, 1)
    if isinstance(value, int):
        return as_integer(value, SIGNED.get(target) or UNSIGNED[target], signed=target in SIGNED)
    return value if target in SIGNED or is_nonnegative(value) else None


def elementwise(
    function: Function, operands: Sequence[Values], unknown: Callable[[int], Value | None]
) -> Values | None:
    """Apply a function to operands that broadcast.

    Args:
        function: Function to apply.
        operands: Its operands.
        unknown: Function that gives the value of an element that is not followed; ``None`` gives up.
    """
    arrays = np.broadcast_arrays(*operands)
    found = np.empty(arrays[0].shape, object)
    flat = found.reshape(-1)
    for k, elements in enumerate(zip(*(array.ravel() for array in arrays), strict=True)):
        try:
            value = function(*elements)
        except OverflowError:  # infinity, which is no size
            value = None
        if value is None:
            value = unknown(k)
            if value is None:
                return None
        flat[k] = exact(value) if isinstance(value, Fraction) else value
    return found


def total(values: Sequence[Value]) -> Value:
    """Return the product of some values."""
    found: Value = math.prod(values, start=1)
    return found
