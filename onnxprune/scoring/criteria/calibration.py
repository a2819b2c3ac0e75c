"""Calibration statistics: facts from data for the criteria."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxprune.runtime import Array


@dataclass(frozen=True)
class CalibrationStatistics:
    """Statistics over calibration samples, collected in one streaming pass.

    Attributes:
        norms: For each weight of a product, the root mean square of the activations that each of its elements
            multiplies; broadcasts against the weight.
        slopes: By group name, the mean over the batches of |Σ w · ∂L/∂w|, the sum running over the weights
            that read a channel; ``[channels]``, counted as `Channels.apart` does.
        curvatures: Likewise, the mean of (Σ w · ∂L/∂w)².
        eliminations: By group name, the rise of the squared error of the layers that read each channel when
            it is removed, ``[channels]``.
    """

    norms: Mapping[str, Array] = field(default_factory=dict)
    slopes: Mapping[str, Array] = field(default_factory=dict)
    curvatures: Mapping[str, Array] = field(default_factory=dict)
    eliminations: Mapping[str, Array] = field(default_factory=dict)
