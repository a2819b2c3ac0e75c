"""Time limits of the steps of a run that can be cut short."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeLimits:
    """Most seconds of each step; finished steps do not depend on them.

    Attributes:
        basis_s: Comparison of the plans in two bases; beyond it the basis stays.
        ana_s: Measurement of sensitivities; beyond it the run ends with `TimeUpError`.
        train_s: Training of one iteration; no epoch begins that would end beyond it.
    """

    basis_s: float = math.inf
    ana_s: float = math.inf
    train_s: float = math.inf
