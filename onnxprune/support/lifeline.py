"""Processes that depend on each other: a worker ends with its parent, and a parent does not wait for ever.

A worker reads its parent's requests from a pipe. The pipe ends with the parent, however that ends, and so
does the worker, with all processes that it has started; on Linux even if it was stopped. The other way round
the parent watches the worker it waits for: one that was stopped, or uses no processor and gives no sign of
life for long, is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

STOPPED_S = 30.0
"""Seconds a worker that is waited for may be stopped."""
SILENT_S = 180.0
"""Seconds such a worker may use no processor and send no signal."""
_PAUSE_S = 0.5
_PR_SET_PDEATHSIG = 1


def follow_parent(at_end: Callable[[], None]) -> None:
    """Call a function when the parent of this process ends, even if this process is stopped then.

    Where other processes hold the parent's end of a pipe, too, it is not closed. On Linux the kernel
    has a stopped process go on, so that it can end itself.

    Args:
        at_end: Function to call, in a thread of its own.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)
    threading.Thread(target=_follow, args=(os.getppid(), at_end), daemon=True).start()


def _follow(parent: int, at_end: Callable[[], None]) -> None:
    while os.getppid() == parent:
        time.sleep(_PAUSE_S)
    at_end()


def end_group() -> NoReturn:
    """End this process and all that it has started, at once."""
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a worker that leads a session of its own, and all that it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.kill()


class WorkerMonitor:
    """Ends a worker that will never answer, so that no caller waits for it without end.

    Args:
        process: The worker, leader of a session of its own.

    Attributes:
        verdict: The reason why the worker was ended; empty where it was not.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._beats = 0
        self._waiting = threading.Event()
        self._closed = threading.Event()
        self.verdict = ""
        threading.Thread(target=self._watch, daemon=True, name="onnxprune-watch").start()

    def beat(self) -> None:
        """Take a sign of life."""
        self._beats += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Watch the worker for as long as the block runs."""
        self._waiting.set()
        try:
            yield
        finally:
            self._waiting.clear()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        self._waiting.set()

    def _watch(self) -> None:
        while not self._closed.is_set():
            self._waiting.wait()
            why = self._silence()
            if why and not self._closed.is_set():
                self.verdict = why
                kill_group(self._process)
                return

    def _silence(self) -> str:
        """Wait until no caller waits; return the reason why the worker is given up, or ``""``."""
        stopped_at = silent_at = time.monotonic()
        seen: tuple[int, float | None] | None = None
        while self._waiting.is_set() and not self._closed.wait(_PAUSE_S):
            stopped, spent = vital_signs(self._process.pid)
            now = time.monotonic()
            if not stopped:
                stopped_at = now
            if seen != (self._beats, spent) or spent is None:
                seen, silent_at = (self._beats, spent), now
            if now - stopped_at > STOPPED_S:
                return f"has been stopped for {STOPPED_S:.0f} s"
            if now - silent_at > SILENT_S and not stopped:
                return f"has given no sign of life for {SILENT_S:.0f} s"
        return ""


def vital_signs(pid: int) -> tuple[bool, float | None]:
    """Return whether a process is stopped, and its processor time in seconds (``None`` if unknown)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return fields[0] in "Tt", (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return (False, None) if os.name != "posix" else _told_by_ps(pid)


def _told_by_ps(pid: int) -> tuple[bool, float | None]:
    """Return the same where there is no /proc."""
    command = ["ps", "-o", "state=,time=", "-p", str(pid)]
    try:
        state, spent = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds = 0.0
        for part in spent.replace("-", ":").split(":"):
            seconds = 60 * seconds + float(part)
        return state.startswith("T"), seconds
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False, None
