"""The same work for many items, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pickle import PicklingError
from typing import Any, TypeVar

from onnxprune.errors import ModelError, UsageError

T = TypeVar("T")
R = TypeVar("R")


def check_workers(workers: int) -> None:
    """Refuse a number of workers that makes no sense or needs a package that is not there.

    Raises:
        UsageError: As said.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers do no work", "give 1 for this process alone, or more")
    if workers > 1:
        _joblib()


def spread(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """Do the work of every item and yield the results as they are finished, in no particular order.

    Args:
        work: What to do, and all it needs; with more than one worker it is sent to them. Large arrays in it
            are sent once, through files mapped into memory.
        items: What to do it with.
        workers: How many processes; with one, everything happens in this process.

    Raises:
        UsageError: The work cannot be sent.
        ModelError: A worker died.
        OnnxpruneError: Whatever `work` raises.
    """
    if workers == 1 or len(items) < 2:
        yield from ((item, work(item)) for item in items)
        return
    joblib = _joblib()
    pool = joblib.Parallel(
        n_jobs=min(workers, len(items)), return_as="generator_unordered", pre_dispatch="all"
    )
    try:
        yield from pool(joblib.delayed(_paired)(work, item) for item in items)
    except PicklingError as error:
        raise UsageError(
            f"the data or the metric cannot be sent to other processes: {error}",
            "name them as module:callable, or use one worker",
        ) from error
    except joblib.externals.loky.process_executor.BrokenProcessPool as error:
        raise ModelError(
            f"a worker process died: {str(error).splitlines()[0]}",
            "out of memory? Try fewer workers; what was finished is kept, and --resume goes on from there",
        ) from error


def _paired(work: Callable[[T], R], item: T) -> tuple[T, R]:
    return item, work(item)


def _joblib() -> Any:
    try:
        import joblib
        import joblib.externals.loky.process_executor
    except ImportError as error:
        raise UsageError(
            f"several workers need joblib: {error}", 'install it with: pip install "onnxprune[parallel]"'
        ) from error
    return joblib
