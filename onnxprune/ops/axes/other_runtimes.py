"""Operators of other runtimes whose semantics are published, so that nodes behind them can be pruned."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.pointwise import elementwise
from onnxprune.ops.axes.table import first, rule

OPENVINO = "org.openvinotoolkit"
Array = np.ndarray[Any, np.dtype[Any]]


@rule("FakeQuantize", domain=OPENVINO, zero=first)
def fake_quantize(c: Context) -> None:
    """Round to one of ``levels`` numbers between two bounds, and map those between two others.

    Zero stays zero where it is one of those numbers; bounds for each channel are cut with it.
    """
    elementwise(c)
    if _of_zero(c):
        c.moves()
    else:
        c.makes_no_zeros()


def _of_zero(c: Context) -> bool:
    """Return whether zero becomes zero in every channel."""
    bounds = [c.value(k) for k in range(1, 5)]
    if any(b is None for b in bounds):
        return False
    low, high, least, most = (np.asarray(b, np.float64) for b in bounds)
    steps = int(c.attributes.get("levels", 256)) - 1
    place = np.round(-low / (high - low) * steps) / steps
    made = np.where(low >= 0, least, np.where(high <= 0, most, place * (most - least) + least))
    return bool(np.all(np.abs(made) <= 0))
