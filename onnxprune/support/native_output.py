"""The standard output of compiled libraries, kept out of that of a command.

A command's standard output is read by other programs. HiGHS, called by scipy, prints a line by ``printf``
whenever it solves again for an integer solution that its presolve made infeasible; no option stops that.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_STDOUT = 1
_lock = RLock()
"""One block at a time: the descriptor belongs to the process."""


@contextmanager
def discard_native_output() -> Iterator[None]:
    """Discard the text that compiled code writes to the standard output within a block.

    Text that Python has buffered is written first. The block must not write to the standard output itself.
    """
    with _lock:
        _flush()
        try:
            saved = os.dup(_STDOUT)
        except OSError:  # the process has none
            saved = None
        if saved is None:
            yield
            return
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, _STDOUT)
            os.close(nothing)
            yield
        finally:
            _flush_native()
            os.dup2(saved, _STDOUT)
            os.close(saved)


def _flush() -> None:
    """Write the buffered text of Python and of the C library."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
    _flush_native()


def _flush_native() -> None:
    ctypes.CDLL("ucrtbase" if os.name == "nt" else None).fflush(None)
