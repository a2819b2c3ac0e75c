"""The processors of this machine: how many there are to be used, and whether others use them."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

_LOAD = Path("/proc/loadavg")
_CPUS = Path("/proc/cpuinfo")
_LOOKS = 10
_BETWEEN_LOOKS_S = 0.01


class ProcessorClock:
    """The seconds since it was made: those that went by, or those the process worked where that is less.

    A budget of seconds so lasts as long on a machine that others use as on one that is idle.
    """

    def __init__(self) -> None:
        self._start = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """The seconds until now."""
        wall, worked = self._start
        return min(time.monotonic() - wall, time.process_time() - worked)


def usable_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Return the model of the processors as the system names it, else their architecture."""
    try:
        lines = _CPUS.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def idle() -> bool:
    """Return whether the processors are free of other programs' work; ``False`` where that is not known.

    A tenth of a second is sampled: the load of the last minute may be this program's own work.
    """
    try:
        others = [_runnable() - 1 for _ in range(_LOOKS)]
    except (OSError, ValueError, IndexError):
        return False
    return sum(others) / _LOOKS < usable_processors() / 4


def _runnable() -> int:
    """Return the runnable threads of the whole machine, this one included (proc(5): loadavg)."""
    time.sleep(_BETWEEN_LOOKS_S)
    return int(_LOAD.read_text().split()[3].split("/")[0])
