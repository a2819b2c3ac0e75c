"""Sequences of tensors as the sizes have them: the shape of any element, and one of two sequences."""

from __future__ import annotations

from functools import reduce

from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.algebra.sizes.tensors import Shape, TensorSequence

VARIES = -1
"""The size of an axis that differs from element to element."""
UNKNOWN = TensorSequence(None)


def is_empty(sequence: TensorSequence) -> bool:
    """Return whether a sequence is known to have no element."""
    return sequence.shapes is not None and not sequence.shapes


def any_element(sequence: TensorSequence) -> Shape | None:
    """Return the shape of any element; ``None`` where the rank is not known, or there is no element."""
    if sequence.shapes is None:
        return sequence.common
    return reduce(_shared, sequence.shapes) if sequence.shapes else None


def either(one: TensorSequence, other: TensorSequence, count: Extent | None) -> TensorSequence:
    """Return a sequence that is one of two.

    Args:
        one: The first.
        other: The second.
        count: The number of its elements; ``None`` where it is not known.
    """
    if one == other:
        return one
    found = [any_element(sequence) for sequence in (one, other) if not is_empty(sequence)]
    if not found:
        return one
    return TensorSequence(None, reduce(_shared, found), one.element or other.element, count)


def _shared(one: Shape | None, other: Shape | None) -> Shape | None:
    """Return the sizes that two elements share."""
    if one is None or other is None or len(one) != len(other):
        return None
    return tuple(a if a == b else VARIES for a, b in zip(one, other, strict=True))
