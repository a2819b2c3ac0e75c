"""Comparison of the outputs of two models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime.session import Array, Feeds, TensorSpec
from onnxprune.support.mapped import parts

ONE_SIDE = "NaN or infinity on one side only"
"""The reason of a difference that is no number."""


class Runnable(Protocol):
    """A runnable model: a session, or a wrapper of one."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs."""

    def run(self, feeds: Feeds, outputs: Iterable[str] | None = None) -> dict[str, Array]:
        """Run it once."""


@dataclass(frozen=True)
class Difference:
    """The difference of one output.

    Attributes:
        max_rel_error: ``max|a − b| / max|a|`` over a whole tensor, the worst over all runs.
        max_abs_error: ``max|a − b|``, the worst over all runs.
        reason: The reason why an error is infinite; empty where it is a number.
        unequal: The fraction of unequal elements of a tensor that holds no floats, the largest over all runs.
    """

    max_rel_error: float = 0.0
    max_abs_error: float = 0.0
    reason: str = ""
    unequal: float = 0.0

    def worse(self, other: Difference) -> Difference:
        """Return the larger errors of the two, and the first reason."""
        return Difference(
            max(self.max_rel_error, other.max_rel_error),
            max(self.max_abs_error, other.max_abs_error),
            self.reason or other.reason,
            max(self.unequal, other.unequal),
        )


@dataclass(frozen=True)
class Agreement:
    """The difference of a candidate from a reference.

    Attributes:
        max_rel_error: The worst of all outputs, see `Difference`.
        max_abs_error: The worst of all outputs.
        per_output: The difference of each output by name.
        samples: Number of feeds that the two were compared on.
    """

    max_rel_error: float
    max_abs_error: float
    per_output: dict[str, Difference]
    samples: int

    @property
    def reason(self) -> str:
        """Why the error is infinite, naming the output; empty where it is a number."""
        return next((f"output {n!r}: {d.reason}" for n, d in self.per_output.items() if d.reason), "")


def compare(reference: Runnable, candidate: Runnable, feeds: Iterable[Feeds]) -> Agreement:
    """Run two models on the same inputs and measure how far their outputs differ.

    Outputs are matched by name. The relative error of an output in one run is ``max|a − b| / max|a|`` over
    the whole tensor, `a` being the reference's. Reference and candidate both zero: error 0; the reference
    alone all zero: infinite. Positions where both are NaN, or the same infinity, agree and are left out of
    both maxima; where only one is, the error is infinite. Integers, booleans and strings must be equal, else
    the relative error is infinite. A different shape or type, or a missing output: infinite, with a reason.

    Args:
        reference: The model that is right by definition.
        candidate: The model to be compared.
        feeds: Inputs; one run of each model apiece.

    Returns:
        The worst errors over all feeds.

    Raises:
        DataError: There are no feeds, or no outputs.
        ModelError: One of the models cannot be run.
    """
    names = [o.name for o in reference.outputs]
    shared = [o.name for o in candidate.outputs if o.name in names]
    worst = {n: Difference() if n in shared else _infinite("the candidate has no such output") for n in names}
    samples = 0
    for feed in feeds:
        expected, actual = reference.run(feed), candidate.run(feed, shared) if shared else {}
        worst.update({n: worst[n].worse(difference(expected[n], actual[n])) for n in shared})
        samples += 1
    if not samples or not names:
        fault = "the models were compared on no samples" if names else "the model has no outputs"
        raise DataError(fault, "compare models with outputs on at least one sample")
    return Agreement(
        max(d.max_rel_error for d in worst.values()),
        max(d.max_abs_error for d in worst.values()),
        worst,
        samples,
    )


def difference(a: Array, b: Array) -> Difference:
    """Return the difference of `b` from `a`, as `compare` defines it.

    Args:
        a: The reference's output, any shape.
        b: The candidate's.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return _infinite(f"shape {list(b.shape)} instead of {list(a.shape)}")
    if a.dtype != b.dtype:
        return _infinite(f"type {b.dtype} instead of {a.dtype}")
    if a.dtype.kind not in "fc":
        return _exact(a, b)
    a, b = a.ravel(), b.ravel()
    found = [_extremes(a[part], b[part]) for part in parts(a)]
    if None in found:
        return _infinite(ONE_SIDE)
    absolute, scale = (max(column) for column in zip(*filter(None, found), strict=True))
    if absolute == 0:
        return Difference()
    if scale:
        return Difference(absolute / scale, absolute)
    return _infinite("the reference is zero", absolute)


def _extremes(a: Array, b: Array) -> tuple[float, float] | None:
    """Return ``max|a − b|`` and ``max|a|``; ``None`` where only one side is no number."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not (np.isfinite(a) & np.isfinite(b) | same).all():
        return None
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    return _largest(np.where(same, 0, b) - np.where(same, 0, a)), _largest(a[np.isfinite(a)])


def _exact(a: Array, b: Array) -> Difference:
    wrong = int(np.count_nonzero(a != b))
    if not wrong:
        return Difference()
    numbers = a.dtype.kind in "iub"
    absolute = _largest(a.astype(np.float64) - b.astype(np.float64)) if numbers else np.inf
    reason = f"{wrong} of {a.size} values of type {a.dtype} are not equal"
    return Difference(float(np.inf), absolute, reason, wrong / a.size)


def _infinite(reason: str, absolute: float = np.inf) -> Difference:
    return Difference(float(np.inf), absolute, reason)


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0))
