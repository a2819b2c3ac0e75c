"""Maps applied to all constants that an axis lies on."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.analysis.groups.axis_fibres import fibres_of
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry
from onnxprune.ir import Model
from onnxprune.ops.symmetry import Vector

Array = np.ndarray[Any, np.dtype[Any]]


def changed(model: Model, channels: Channels, found: GroupSymmetry, maps: Array, inverses: Array) -> None:
    """Put an axis into other coordinates: ``x`` becomes ``T·x`` all along it.

    Weights that make it are multiplied by ``T``, those that read it by ``T⁻ᵀ``; on the other side of a
    pairing the two change places.

    Args:
        model: A copy of the network, whose constants are rewritten in float64 and rounded once.
        channels: Its groups.
        found: The axis and its symmetry.
        maps: ``T``, ``[elements of the outer factors, channels, channels]``.
        inverses: ``T⁻¹``, likewise.
    """
    for vector in found.vectors:
        maker = found.sides[vector.flow] > 0
        forward = maps if maker else inverses.transpose(0, 2, 1)
        backward = inverses.transpose(0, 2, 1) if maker else maps
        _apply(model, channels, found, vector, backward if vector.kind == "read" else forward)


def _apply(model: Model, channels: Channels, found: GroupSymmetry, vector: Vector, maps: Array) -> None:
    values = model.array(vector.constant)
    fibres = fibres_of(channels, found, vector.constant, vector.axis, values.shape)
    wide = values.astype(np.float64)
    lines = maps @ fibres.taken(wide)
    model.set_array(vector.constant, fibres.put(wide, lines).astype(values.dtype))
