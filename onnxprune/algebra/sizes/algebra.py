"""Sizes of axes as expressions: polynomials of the input's symbols, exact for all sizes.

`Extent` is the type of an axis length: an ``int``, or a `Size` where it depends on the input. ``+``, ``-``
and ``*`` give plain numbers where the result is one, so two extents are equal for all sizes if ``==`` holds.
"""

from onnxprune.algebra.sizes.division import (
    as_extent,
    ceil_div,
    common_divisor,
    exact_quotient,
    floor_div,
    trunc_div,
)
from onnxprune.algebra.sizes.functions import choose, equals, less, maximum, minimum, rounded, stretched
from onnxprune.algebra.sizes.polynomial import (
    Algebra,
    Atom,
    Extent,
    NotWholeError,
    Number,
    Size,
    Value,
    atoms_of,
    is_integral,
    single_atom,
    symbol,
)
from onnxprune.algebra.sizes.proofs import is_nonnegative, is_positive
from onnxprune.algebra.sizes.substitution import evaluate, number_of, replaced, substitute

__all__ = [
    "Algebra",
    "Atom",
    "Extent",
    "NotWholeError",
    "Number",
    "Size",
    "Value",
    "as_extent",
    "atoms_of",
    "ceil_div",
    "choose",
    "common_divisor",
    "equals",
    "evaluate",
    "exact_quotient",
    "floor_div",
    "is_integral",
    "is_nonnegative",
    "is_positive",
    "less",
    "maximum",
    "minimum",
    "number_of",
    "replaced",
    "rounded",
    "single_atom",
    "stretched",
    "substitute",
    "symbol",
    "trunc_div",
]
