"""Progress of long steps, for registered listeners.

A step reports its position, without any knowledge of bars or terminals; an installed `Reporter` shows it.
Without one, no progress is shown.

    for batch in track(batches, "evaluate", total=len(batches)):
        ...

    with task("finetune", total=steps) as t:
        t.advance(note=f"loss {loss:.3f}")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from onnxprune.support.time_limit import check_time

T = TypeVar("T")


class Reporter(Protocol):
    """Display of the progress of steps; steps may lie within one another."""

    def start(self, name: str, total: int | None) -> Any:
        """A step begins. Return the key that identifies it from now on.

        Args:
            name: Name of the step for people.
            total: Units of work it has, ``None`` where their number is not known.
        """

    def advance(self, key: Any, steps: int, note: str) -> None:
        """A step has done some more of its work.

        Args:
            key: Key that `start` returned.
            steps: Units of work; 0 where only the note is new.
            note: Text to show about it now; empty to leave the note as it was.
        """

    def finish(self, key: Any) -> None:
        """A step has ended, done or not."""


def tell(text: str) -> None:
    """Show people a message that is no error and no result."""
    teller = getattr(_reporter.get(), "tell", None)
    if teller is not None:
        teller(text)


def tell_once(text: str) -> None:
    """Show a message, unless this process has shown it before: data are opened by several steps."""
    if text not in _told:
        _told.add(text)
        tell(text)


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)
_told: set[str] = set()


class Task:
    """A step under way. It keeps its listener, and so may be advanced from any thread."""

    def __init__(self, reporter: Reporter | None, key: Any) -> None:
        self._reporter, self._key = reporter, key

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report that more of the work is done.

        Args:
            steps: Units of work.
            note: Text to show beside it, such as the loss.

        Raises:
            TimeUpError: The time of the work is up.
        """
        check_time()
        if self._reporter is not None:
            self._reporter.advance(self._key, steps, note)


@contextmanager
def task(name: str, total: int | None = None) -> Iterator[Task]:
    """Report a step for as long as the block runs.

    Args:
        name: Name of the step for people.
        total: Units of work it has, ``None`` where their number is not known.

    Raises:
        TimeUpError: The time of the work is up.
    """
    check_time()
    reporter = _reporter.get()
    if reporter is None:
        yield Task(None, None)
        return
    key = reporter.start(name, total)
    try:
        yield Task(reporter, key)
    finally:
        reporter.finish(key)


def track(items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, and report each as done when the next is taken.

    Args:
        items: Items that are worked on.
        name: Name of the work for people.
        total: Number of items; their length where they have one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with task(name, total) as step:
        for item in items:
            yield item
            step.advance()


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Report every step that starts within the block to a reporter."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
