"""Time limits of optional work: a block is left at its first report of progress after the limit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end: ContextVar[float] = ContextVar("end", default=math.inf)


class TimeUpError(Exception):
    """The time of a block is up, and its work is given up; caught by the code that set the limit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the time of a block; a limit around it holds too.

    Args:
        seconds: Seconds from now on.

    Raises:
        TimeUpError: At the first call of `check_time` after them, in the thread of the block.
    """
    token = _end.set(min(_end.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _end.reset(token)


def check_time() -> None:
    """Leave the block whose time is up; progress reports call it.

    Raises:
        TimeUpError: The time of a block around the call is up.
    """
    if time.monotonic() > _end.get():
        raise TimeUpError
