"""Progress display on standard error; standard output carries results only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onnxprune.support.progress import reporting
from onnxprune.support.wording import shown

_PATIENCE_S = 5.0
"""Seconds a step may be silent where there are no bars."""


@contextmanager
def show_progress(level: int = 0) -> Iterator[None]:
    """Show all steps within the block: as bars in a terminal, as a line now and then elsewhere.

    Args:
        level: −1 for warnings only, 1 for a line at the start and the end of every step.
    """
    if level:
        with reporting(QuietLines() if level < 0 else StepLines()):
            yield
        return
    if not sys.stderr.isatty():
        with reporting(ProgressLines()):
            yield
        return
    bars = progress_bars(Console(stderr=True))
    with bars, reporting(Bars(bars)):
        yield


def progress_bars(console: Console) -> Progress:
    """Return the bars that all commands show, none drawn yet."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True, refresh_per_second=5)


class Bars:
    """One bar a step, gone when the step has ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, name: str, total: int | None) -> TaskID:
        """Draw a bar; one that only moves to and fro if the total is unknown."""
        return self._progress.add_task(escape(shown(name)), total=total, note="")

    def advance(self, key: TaskID, steps: int, note: str) -> None:
        """Move the bar on."""
        if note:
            self._progress.update(key, advance=steps, note=escape(shown(note)))
        else:
            self._progress.advance(key, steps)

    def tell(self, text: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(shown(text), markup=False, highlight=False)

    def finish(self, key: TaskID) -> None:
        """Take the bar away."""
        self._progress.remove_task(key)


@dataclass
class _Step:
    name: str
    total: int | None
    written: float
    done: int = 0
    note: str = ""
    begun: float = 0.0


class ProgressLines:
    """A line when a step has been silent for some seconds; short steps have none."""

    def start(self, name: str, total: int | None) -> _Step:
        """Remember the step."""
        now = time.monotonic()
        return _Step(name, total, now, begun=now)

    def advance(self, key: _Step, steps: int, note: str) -> None:
        """Count, and write a line if the last one is some seconds old."""
        key.done += steps
        key.note = note or key.note
        if time.monotonic() - key.written >= _PATIENCE_S:
            key.written = time.monotonic()
            self.write(key)

    def write(self, key: _Step) -> None:
        """Write the progress of a step."""
        count = f"{key.done}/{key.total}" if key.total else str(key.done)
        _write_line(shown(f"{key.name}: {count} {key.note}".rstrip()))

    def tell(self, text: str) -> None:
        """Write a line."""
        _write_line(shown(text))

    def finish(self, key: _Step) -> None:
        """Write nothing: the command shows the result."""


class QuietLines(ProgressLines):
    """No progress; messages of commands are written."""

    def write(self, key: _Step) -> None:
        """Write nothing."""


class StepLines(ProgressLines):
    """As `ProgressLines`, and a line at the start and the end of every step, with its seconds."""

    def start(self, name: str, total: int | None) -> _Step:
        """Write the name of the step."""
        _write_line(shown(name))
        return super().start(name, total)

    def finish(self, key: _Step) -> None:
        """Write the name of the step and its duration."""
        _write_line(shown(f"{key.name}: {time.monotonic() - key.begun:.1f} s"))


class JsonLines(ProgressLines):
    """As `ProgressLines`, but for programs: every line is a JSON object."""

    def write(self, key: _Step) -> None:
        """Write the line."""
        facts = {"event": "progress", "task": key.name, "done": key.done, "total": key.total}
        _write_line(json.dumps(facts | {"note": key.note}))

    def tell(self, text: str) -> None:
        """Write an object with the text."""
        _write_line(json.dumps({"event": "note", "text": text}))


def _write_line(line: str) -> None:
    """Write a line, if it can be written: a step does not fail because standard error is closed."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
