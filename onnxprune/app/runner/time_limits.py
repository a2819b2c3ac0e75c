"""Time limits of the steps of a run that can be cut short."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeLimits:
    """Most seconds of each step; finished steps do not depend on them.

    Attributes:
        train_s: Training of one iteration; no epoch begins that would end beyond it.
    """

    train_s: float = math.inf
