"""Time limit of training, checked between epochs, and followed by the step size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from onnxprune.runtime import Array

AfterEpoch = Callable[[int, Mapping[str, Array]], bool | None]


class EpochLimit:
    """End of a training before the first epoch that would take too long.

    Args:
        judge: Function called after every epoch with its number and weights; true to stop.
        minutes: Time limit from now on; ``None`` for none.
    """

    def __init__(self, judge: AfterEpoch | None, minutes: float | None) -> None:
        self._judge = judge
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._start, self._done = time.monotonic(), 0
        self._began: float | None = None

    def part(self) -> float:
        """Return the fraction of the time that is gone since the first call; 0 without a limit."""
        now, end = time.monotonic(), self._start + self._seconds
        self._began = now if self._began is None else self._began
        return (now - self._began) / max(end - self._began, 1e-9)

    def __call__(self, epoch: int, weights: Mapping[str, Array]) -> bool:
        """Judge the weights of an epoch; return whether to stop.

        Args:
            epoch: Counted from 0.
            weights: The tensors trained so far.
        """
        enough = self._judge is not None and bool(self._judge(epoch, weights))
        self._done += 1
        now, began = time.monotonic(), self._start if self._began is None else self._began
        return enough or now + (now - began) / self._done > self._start + self._seconds
