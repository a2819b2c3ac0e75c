"""Axes after channels are removed: the kept elements, their number, and the channel of each element."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from onnxprune.algebra.axes import Dim, Factor, Mirror, Product, Sum, as_count, factors, resolve
from onnxprune.algebra.sizes.algebra import Extent

Kept: TypeAlias = Mapping[Factor, "np.ndarray[Any, np.dtype[np.intp]]"]


def kept_indices(dim: Dim, kept: Kept) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return which elements of an axis remain, ascending, given those that remain of each factor.

    Factors that ``kept`` does not name remain whole. The axis is one of a constant.
    """
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return kept[dim] if dim in kept else np.arange(dim.count)
    if isinstance(dim, Sum):
        starts = np.cumsum([0, *(p.count for p in dim.parts[:-1])])
        return np.concatenate([s + kept_indices(p, kept) for s, p in zip(starts, dim.parts, strict=True)])
    if isinstance(dim, Mirror):
        return dim.count - 1 - kept_indices(dim.of, kept)[::-1]
    remain = np.zeros(1, np.intp)
    for part in dim.parts:
        remain = (remain[:, None] * part.count + kept_indices(part, kept)[None, :]).ravel()
    return remain


def kept_size(dim: Dim, counts: Mapping[Factor, int]) -> Extent:
    """Return the number of elements of an axis that remain, given that of each factor."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return counts.get(dim, dim.size)
    sizes = [kept_size(p, counts) for p in dim.parts]
    return sum(sizes, 0) if isinstance(dim, Sum) else math.prod(sizes, start=1)


def kept_count(dim: Dim, counts: Mapping[Factor, int]) -> int:
    """Return the same of a dim all sizes of which are numbers.

    Raises:
        ValueError: The size follows the input.
    """
    return as_count(kept_size(dim, counts))


def kept_fraction(dim: Dim, counts: Mapping[Factor, int]) -> Fraction | None:
    """Return the fraction of an axis that remains; ``None`` where it depends on the input."""
    dim = resolve(dim)
    new = kept_size(dim, counts)
    if new == dim.size:
        return Fraction(1)
    if isinstance(new, int) and isinstance(dim.size, int):
        return Fraction(new, dim.size)
    if not isinstance(dim, Product):
        return None
    fractions = [kept_fraction(part, counts) for part in dim.parts]
    known = [f for f in fractions if f is not None]
    return math.prod(known, start=Fraction(1)) if len(known) == len(fractions) else None


def is_counted(dim: Dim) -> bool:
    """Return whether the sizes of all parts of an axis are numbers: then the place of each is known."""
    return all(isinstance(factor.size, int) for factor in factors(dim))


def shrinks_evenly(dim: Dim) -> bool:
    """Return whether the fraction of an axis that remains never depends on the input."""
    dim = resolve(dim)
    if isinstance(dim.size, int) or not any(f.free for f in factors(dim)):
        return True
    return isinstance(dim, Product) and all(shrinks_evenly(part) for part in dim.parts)


def at_numbers(dim: Dim, number: Callable[[Extent], int]) -> Dim:
    """Return a dim whose open sizes are numbers; free factors stay the same objects."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return dim if isinstance(dim.size, int) else Factor(number(dim.size))
    parts = tuple(at_numbers(part, number) for part in dim.parts)
    if all(map(operator.is_, parts, dim.parts)):
        return dim
    return Mirror(parts[0]) if isinstance(dim, Mirror) else type(dim)(parts)


def channel_of(dim: Dim, factor: Factor) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return, for each element of an axis, its channel of ``factor``, −1 where it has none.

    Where a factor occurs twice in a product the minor occurrence is reported.
    """
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return np.arange(dim.count) if dim is factor else np.full(dim.count, -1)
    if isinstance(dim, Sum):
        return np.concatenate([channel_of(p, factor) for p in dim.parts])
    if isinstance(dim, Mirror):
        return channel_of(dim.of, factor)[::-1]
    channels = np.full(1, -1)
    for part in dim.parts:
        inner = channel_of(part, factor)[None, :]
        channels = np.where(inner >= 0, inner, channels[:, None]).ravel()
    return channels
