"""The processors of this machine: how many there are to be used, and whether others use them."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Folder of the kernel with the limits of a container; in a container its own group is the root."""
_OWN_GROUPS = Path("/proc/self/cgroup")
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
    """Return the number of processors that this process may use, at least one."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(seen, processor_quota() or seen)


def processor_quota() -> int | None:
    """Return the processors whose time a container may use, rounded up; ``None`` without a limit.

    ``docker run --cpus 2`` hides no processor: it limits their time in each period (cgroups(7): ``cpu.max``
    of version 2; ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` of version 1).
    """
    limits = [limit for folder in _group_folders() if (limit := _quota_of(folder)) is not None]
    return max(1, math.ceil(min(limits))) if limits else None


def _group_folders() -> Iterator[Path]:
    """Yield the folders of the control groups of this process, each with those above it."""
    yield from (CONTROL_GROUPS, CONTROL_GROUPS / "cpu")
    try:
        lines = _OWN_GROUPS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        group = PurePosixPath(name.strip("/"))
        if "cpu" in controllers.split(","):
            yield from (CONTROL_GROUPS / "cpu" / part for part in (group, *group.parents))
        elif not controllers:
            yield from (CONTROL_GROUPS / part for part in (group, *group.parents))


def _quota_of(folder: Path) -> float | None:
    """Return the processors that one control group allows; ``None`` without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (folder / f"cpu.cfs_{part}_us").read_text("ascii").strip() for part in ("quota", "period")
            )
        except (OSError, ValueError):
            return None
    allowed = quota.isdigit() and period.isdigit() and int(period) > 0  # "max" and -1 are no limits
    return int(quota) / int(period) if allowed else None


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
