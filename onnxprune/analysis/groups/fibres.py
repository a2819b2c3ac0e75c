"""The elements of a tensor along a factor, so that a linear map can be applied to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnxprune.algebra.axes import Dim, Factor, factors
from onnxprune.algebra.kept_axes import at_numbers
from onnxprune.analysis.groups.arrangement import members
from onnxprune.analysis.groups.freedom import Outer

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Fibres:
    """The lines along a factor in a tensor of one shape, apart for each element of its outer factors.

    Attributes:
        shape: The tensor's shape.
        order: The axes of the tensor, those that identify the elements of the outer factors first.
        first: Number of those.
        places: Positions along those, ``[elements of the outer factors, channels, places]``.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    first: int
    places: Array

    @classmethod
    def of(cls, dims: Sequence[Dim], axis: int, factor: Factor, outer: Outer, shape: Sequence[int]) -> Fibres:
        """Find the lines.

        Args:
            dims: The axes of the tensor.
            axis: The one the factor lies on.
            factor: The factor.
            outer: Factors it is free within; every tensor that carries it carries those.
            shape: The sizes of the tensor.
        """
        involved = [k for k, d in enumerate(dims) if k == axis or any(o in factors(d) for o in outer)]
        known = [_with_size(dims[k], shape[k]) for k in involved]
        member = members(known, involved.index(axis), factor, outer)
        sizes = [shape[k] for k in involved]
        flat = np.broadcast_to(member, sizes).ravel()
        order = np.argsort(flat, kind="stable")
        places = order[np.count_nonzero(flat < 0) :]
        places = places.reshape(prod(o.count for o in outer), factor.count, -1)
        rest = [k for k in range(len(dims)) if k not in involved]
        return cls(tuple(shape), (*involved, *rest), len(involved), places)

    def taken(self, values: Array) -> Array:
        """Return the lines of a tensor, ``[outer elements, channels, others]``."""
        lines = self._laid(values)[self.places]
        return lines.reshape(*self.places.shape[:2], -1)

    def put(self, values: Array, lines: Array) -> Array:
        """Return a tensor with other lines, those of `taken`; elements off the channels stay."""
        laid = self._laid(values).copy()
        laid[self.places] = lines.reshape(*self.places.shape, -1)
        moved = [values.shape[k] for k in self.order]
        return np.asarray(laid.reshape(moved).transpose(np.argsort(self.order)))

    def _laid(self, values: Array) -> Array:
        moved = values.transpose(self.order)
        count = prod(moved.shape[: self.first])
        return moved.reshape(count, prod(moved.shape[self.first :]))


def _with_size(dim: Dim, size: int) -> Dim:
    """Return a dim whose open size, if it has one, is a number."""
    return at_numbers(dim, lambda _: size)
