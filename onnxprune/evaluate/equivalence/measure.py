"""Differences of two tensors over all runs, and evidence that those runs would have shown one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from onnxprune.runtime import Array, Difference, difference
from onnxprune.support.mapped import blocks, parts

Leniency = Literal["none", "near infinity", "not finite"]
"""Elements left out: none, those near infinity on both sides, or those near infinity in the reference."""
_NEAR_INFINITY = 1 / 16
"""Beyond this share of the largest number of a type rounding alone may make it infinite."""


@dataclass
class AxisErrors:
    """The largest error and the largest number at each index of one axis, over all runs.

    Attributes:
        error: Largest ``|a − b|`` at each index.
        scale: Largest ``|a|`` at each index.
    """

    error: Array
    scale: Array

    def joined(self, other: AxisErrors) -> AxisErrors:
        """Return the larger errors and numbers of the two at each index."""
        return AxisErrors(np.maximum(self.error, other.error), np.maximum(self.scale, other.scale))

    def followed_by(self, other: AxisErrors) -> AxisErrors:
        """Return those of this one and, at the indices behind them, of the other."""
        return AxisErrors(np.append(self.error, other.error), np.append(self.scale, other.scale))


@dataclass
class Record:
    """The runs of one tensor of the reference and its counterpart.

    Attributes:
        name: Name of the tensor in the reference.
        width: Size in bytes of the narrowest float type on the way to it.
        rounded: True if it depends on activations that are rounded to a few steps.
        constant: True if it does not depend on the values of inputs.
        runs: Number of runs it was compared in.
        worst: The largest errors over all runs.
        where: The run with the largest error, or with the first that is no number.
        finite: True if a run had no NaN in it, and finite numbers.
        varies: True if it changed from one input to another of the same shape.
        lines: Errors index by index, for each axis whose length is the same in all runs.
        mean_error: Sum of ``|a − b|`` over all runs.
        mean_scale: Sum of ``|a|`` over all runs.
        elements: Number of elements that were compared.
    """

    name: str
    width: int = 4
    rounded: bool = False
    constant: bool = False
    runs: int = 0
    worst: Difference = field(default_factory=Difference)
    where: str = ""
    finite: bool = False
    varies: bool = False
    lines: dict[int, AxisErrors | None] = field(default_factory=dict)
    mean_error: float = 0.0
    mean_scale: float = 0.0
    elements: int = 0
    _digests: dict[tuple[int, ...], int] = field(default_factory=dict, repr=False)

    @property
    def shown(self) -> bool:
        """True if a difference would have been seen."""
        return self.runs > 0 and (self.constant or (self.finite and self.varies))

    def add(self, a: Array, b: Array, where: str, leniency: Leniency = "none") -> None:
        """Take the results of one run.

        Args:
            a: The reference's.
            b: The candidate's.
            where: Description of the inputs, in a few words.
            leniency: Elements to leave out: rounding alone may make numbers near infinity infinite.
        """
        a, b = np.asarray(a), np.asarray(b)
        if a.shape == b.shape and a.size:
            self._note_evidence(a)
        if leniency != "none" and a.shape == b.shape and a.dtype == b.dtype and a.dtype.kind == "f":
            a, b = _without_overflow(a, b, leniency)
        found = self._difference(a, b)
        self.runs += 1
        larger = found.max_rel_error > self.worst.max_rel_error
        if larger or not self.where:
            self.where = where
        self.worst = self.worst.worse(found)
        if a.shape == b.shape and a.size and a.dtype.kind in "fiub" and b.dtype.kind in "fiub":
            self._note_lines(a, b)

    def _difference(self, a: Array, b: Array) -> Difference:
        """Compare; integers that were rounded to count as numbers."""
        if self.rounded and a.dtype == b.dtype and a.dtype.kind in "iu":
            return difference(a.astype(np.float64), b.astype(np.float64))
        return difference(a, b)

    def _note_evidence(self, a: Array) -> None:
        if a.dtype.kind == "f":
            self.finite |= bool(np.isfinite(a).any() and not np.isnan(a).any())
        else:
            self.finite = True
        texts = a.dtype == object
        digest = hash(str(a.tolist())) if texts else hash(tuple(hash(p.tobytes()) for p in blocks(a.ravel())))
        self.varies |= self._digests.setdefault(a.shape, digest) != digest

    def _note_lines(self, a: Array, b: Array) -> None:
        error, scale, lines = _errors_by_axis(a, b)
        self.mean_error += error
        self.mean_scale += scale
        self.elements += a.size
        if self.runs > 1 and len(self.lines) != a.ndim:
            self.lines = dict.fromkeys(range(a.ndim))
        for axis, found in enumerate(lines):
            before = self.lines.setdefault(axis, found)
            if before is None or before.error.shape != found.error.shape:
                self.lines[axis] = None
            elif before is not found:
                self.lines[axis] = before.joined(found)

    @property
    def mean_rel_error(self) -> float:
        """``mean|a − b| / mean|a|`` over all runs."""
        return self.mean_error / self.mean_scale if self.mean_scale else float(self.mean_error > 0)

    def known_lines(self) -> dict[int, AxisErrors]:
        """Return the errors index by index, for axes of one length in all runs that have several."""
        return {k: line for k, line in self.lines.items() if line is not None and len(line.error) > 1}


def _errors_by_axis(a: Array, b: Array) -> tuple[float, float, list[AxisErrors]]:
    """Return ``Σ|a − b|``, ``Σ|a|``, and the errors index by index for each axis; large tensors in parts."""
    longest = next((k for k, size in enumerate(a.shape) if size > 1), 0)
    total, size, lines = 0.0, 0.0, list[AxisErrors]()
    for part in parts(a.reshape(a.shape[longest:])):
        where = part if part is ... else (*(slice(None),) * longest, part)
        error, scale = _errors(a[where], b[where])
        total, size = total + float(error.sum()), size + float(scale.sum())
        found = [
            AxisErrors(error.max(axis=others), scale.max(axis=others))
            for others in (tuple(k for k in range(a.ndim) if k != axis) for axis in range(a.ndim))
        ]
        if lines:
            pairs = enumerate(zip(lines, found, strict=True))
            found = [one.followed_by(two) if k == longest else one.joined(two) for k, (one, two) in pairs]
        lines = found
    return total, size, lines


def _errors(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``|a − b|`` and ``|a|`` in float64, zero where one of the two is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    usable = np.isfinite(a) & np.isfinite(b)
    return np.abs(np.where(usable, b, 0) - np.where(usable, a, 0)), np.abs(np.where(usable, a, 0))


def is_near_infinity(values: Array) -> Array:
    """Return where numbers are NaN, infinite, or so large that rounding alone may make them infinite."""
    limit = np.finfo(values.dtype).max * values.dtype.type(_NEAR_INFINITY)
    return np.asarray(~(np.abs(values) < limit))


def _without_overflow(a: Array, b: Array, leniency: Leniency) -> tuple[Array, Array]:
    """Set to zero the elements that are NaN, infinite or near infinity on both sides, or in the reference."""
    near = is_near_infinity(a)
    if leniency == "near infinity":
        near &= is_near_infinity(b)
    return np.where(near, np.zeros_like(a), a), np.where(near, np.zeros_like(b), b)
