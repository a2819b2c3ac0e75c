"""Processes that are found again by a mark in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from places import python_path


class Marked:
    """Processes that carry a mark in their environment, as do all that they start.

    Args:
        temporary: Folder for their temporary files, which is made.
        folders: Folders that they import from, beside the shared modules of tests.
    """

    def __init__(self, temporary: Path, *folders: Path) -> None:
        self.temporary = temporary
        temporary.mkdir()
        self.mark = f"ONNXPRUNE_TEST={uuid4().hex}"
        name, _, value = self.mark.partition("=")
        path = python_path(*folders)
        self.environment = {**os.environ, name: value, "PYTHONPATH": path, "TMPDIR": str(temporary)}

    def start(self, *words: object, cwd: Path) -> subprocess.Popen[bytes]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, *map(str, words)], cwd=cwd, env=self.environment, **quiet)

    def left(self) -> list[str]:
        """Return the present temporary files, and those in shared memory with the program's name."""
        shared = Path("/dev/shm").glob("*onnxprune*")
        own = (path for path in self.temporary.rglob("*") if path.name != ".ses")  # of onnxruntime
        return [str(path) for path in (*own, *shared)]

    def alive(self) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                held = self.mark.encode() in (place / "environ").read_bytes().split(b"\0")
                state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if held and state != "Z":
                found.append(int(place.name))
        return found

    def wait_for(self, count: Callable[[int], bool], seconds: float = 60.0) -> list[int]:
        end = time.monotonic() + seconds
        while not count(len(found := self.alive())):
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found
