"""Likely sizes of open axes, by the kind of input they are of."""

from __future__ import annotations

import onnx

from onnxprune.algebra.sizes.algebra import single_atom
from onnxprune.algebra.sizes.tensors import FLOATS, Shape
from onnxprune.analysis.sizes.inputs import OpenAxis
from onnxprune.analysis.sizes.result import SizeAnalysis
from onnxprune.runtime.usual_sizes import (
    LIKELY_BATCH,
    LIKELY_CACHE,
    LIKELY_CHANNELS,
    LIKELY_FRAMES,
    LIKELY_SEQUENCE,
    LIKELY_SIDE,
    LIKELY_SIGNAL,
)

_PICTURE_CHANNELS = (1, 3, 4)


def likely_size(analysis: SizeAnalysis, axis: OpenAxis) -> int:
    """Return a likely size of an open axis: a batch of 1, a picture's side, a sequence."""
    places = [(name, k) for name, k in axis.places if _stands_alone(analysis, name, k)] or list(axis.places)
    if not axis.lower:
        return LIKELY_CACHE
    if is_batch(axis):
        return LIKELY_BATCH
    return min(_of_place(analysis, name, k) for name, k in places)


def is_batch(axis: OpenAxis) -> bool:
    """Return whether an axis counts samples: by its name, or because it comes first wherever it is."""
    if "batch" in axis.name.lower() or axis.name in ("N", "n"):
        return True
    return all(place == 0 for _, place in axis.places)


def _stands_alone(analysis: SizeAnalysis, name: str, axis: int) -> bool:
    return single_atom(analysis.shapes[name][axis]) is not None


def _of_place(analysis: SizeAnalysis, name: str, axis: int) -> int:
    shape, kind = analysis.shapes[name], analysis.types.get(name)
    if kind not in FLOATS and kind != onnx.TensorProto.UINT8:
        return LIKELY_SEQUENCE
    if len(shape) == 2:
        return LIKELY_SIGNAL
    if len(shape) == 3:
        return LIKELY_FRAMES if axis == 2 and isinstance(shape[1], int) else LIKELY_SEQUENCE
    if len(shape) < 2:
        return LIKELY_SEQUENCE
    return _of_picture(shape, axis)


def _of_picture(shape: Shape, axis: int) -> int:
    """Return a side or the channels of a picture, which come second or last."""
    last = shape[-1] in _PICTURE_CHANNELS and shape[1] not in _PICTURE_CHANNELS
    channels = len(shape) - 1 if last else 1
    return LIKELY_CHANNELS if axis == channels else LIKELY_SIDE if len(shape) == 4 else LIKELY_SIDE // 4
