"""The memory that a command may allocate for the sizes in a file: a budget, compared with sizes first.

A small file can name sizes that no machine has. `need` is called before each allocation by a number of a
file: it refuses sizes beyond the budget with a sentence that states the size.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from onnxprune.errors import ModelError, OnnxpruneError, UsageError

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SHARE = 0.8
"""Share of the machine's memory that is used where no budget is given."""
_UNKNOWN = 4 << 30
"""Bytes of memory assumed where the system does not report its size."""
_DATA = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup/memory.max")

_limit: ContextVar[int | None] = ContextVar("memory budget", default=None)


def budget() -> int:
    """Return the bytes that one allocation for a file may take."""
    return _limit.get() or int(_SHARE * _machine())


@contextlib.contextmanager
def limited(limit: int | None) -> Iterator[None]:
    """Set the budget for the block.

    Args:
        limit: Bytes; ``None`` leaves it as it is.
    """
    token = _limit.set(limit or _limit.get())
    try:
        yield
    finally:
        _limit.reset(token)


@contextlib.contextmanager
def confined(limit: int | None) -> Iterator[None]:
    """Set the budget for the block, and limit the memory of this process by the operating system on Linux.

    Memory that the process has before comes on top. Threads and libraries below Python are kept to it too:
    an allocation beyond it fails, as on a machine without more memory.

    Args:
        limit: Bytes; ``None`` sets neither.
    """
    with limited(limit):
        if limit is None or sys.platform != "linux":
            yield
            return
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        total = _private_memory() + limit
        total = total if hard == resource.RLIM_INFINITY else min(total, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (total, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_memory() -> int:
    """Return the bytes of this process that `RLIMIT_DATA` counts."""
    lines = _DATA.read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


def need(size: int, subject: str, error: type[OnnxpruneError] = ModelError) -> None:
    """Refuse an allocation beyond the budget.

    Args:
        size: Bytes.
        subject: Name of the allocation, the subject of the sentence ``… needs 3.2 GB of memory``.
        error: The kind of error to raise.

    Raises:
        OnnxpruneError: Of that kind.
    """
    if size > budget():
        raise error(
            f"{subject} needs {in_words(size)} of memory, and {in_words(budget())} are allowed",
            f"if that is meant, allow more: --memory {-(-size // UNITS['G'])}G",
        )


def in_words(size: int) -> str:
    """Return a size in the largest unit that it has one of."""
    unit = next((u for u, s in reversed(UNITS.items()) if size >= s), "")
    return f"{size / UNITS[unit]:.3g} {unit}B" if unit else f"{size} bytes"


def parsed(text: str) -> int:
    """Read a size such as ``512M`` or ``16G``.

    Raises:
        UsageError: It is none, or less than one byte.
    """
    number, unit = text.strip().upper().removesuffix("B"), 1
    if number[-1:] in UNITS:
        number, unit = number[:-1], UNITS[number[-1]]
    try:
        size = float(number) * unit
        if 1 <= size < 1 << 62:
            return int(size)
    except ValueError:
        pass
    raise UsageError(f"'{text}' is no amount of memory", "give a number and a unit, such as 512M or 16G")


def _machine() -> int:
    """Return the most memory that this process may use, in bytes."""
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        found.append(int(_CGROUP.read_text()))
    return min(found, default=_UNKNOWN)
