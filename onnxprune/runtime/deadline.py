"""Runs that end: a loop whose condition never fails is stopped by a watch beside it.

onnxruntime checks the flag ``terminate`` of a run's options between two nodes, in the bodies of loops too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

RUN_S = 120.0
"""Seconds that one run on drawn inputs may take: they are small, and chosen by this program."""

_limit: ContextVar[float | None] = ContextVar("seconds of a run", default=None)


@contextlib.contextmanager
def runs_within(seconds: float | None) -> Iterator[None]:
    """Let each run of the block take so many seconds; ``None`` sets no limit."""
    token = _limit.set(seconds)
    try:
        yield
    finally:
        _limit.reset(token)


class RunDeadline:
    """Stops one run when its time is over.

    Args:
        options: An ``onnxruntime.RunOptions``.

    Attributes:
        seconds: Seconds the run may take, ``None`` for no limit.
        struck: True if it has taken longer.
    """

    def __init__(self, options: Any) -> None:
        self.seconds = _limit.get()
        self.struck = False
        self._options = options
        self._timer: threading.Timer | None = None

    def __enter__(self) -> RunDeadline:
        if self.seconds is not None:
            self._timer = threading.Timer(self.seconds, self._strike)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _strike(self) -> None:
        self.struck = True
        self._options.terminate = True
