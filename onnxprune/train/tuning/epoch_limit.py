"""Time limit of training, checked between epochs."""

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

    def __call__(self, epoch: int, weights: Mapping[str, Array]) -> bool:
        """Judge the weights of an epoch; return whether to stop.

        Args:
            epoch: Counted from 0.
            weights: The tensors trained so far.
        """
        enough = self._judge is not None and bool(self._judge(epoch, weights))
        self._done += 1
        taken = time.monotonic() - self._start
        return enough or taken * (1 + 1 / self._done) > self._seconds
