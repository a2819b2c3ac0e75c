"""The same work for many items: in this process, in several, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pickle import PicklingError
from typing import TypeVar

from onnxprune.errors import UsageError
from onnxprune.evaluate.sensitivity.clusters import cluster_of, joblib
from onnxprune.evaluate.sensitivity.pool import Pool
from onnxprune.support.processors import usable_processors

T = TypeVar("T")
R = TypeVar("R")

LOCAL = "local"
_GO_ON = "finished groups are kept, and `resume` goes on from there"
_FEWER = f"out of memory? Try fewer workers; {_GO_ON}"


@dataclass(frozen=True)
class Executor:
    """The executor of tasks: this process, worker processes or a cluster.

    Attributes:
        workers: Number of processes. One on this machine is this process itself; on a cluster, ``None``
            stands for as many as it has.
        backend: ``local``, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        threads: Threads of each worker; by default those of one machine share its processors, and those of a
            cluster have one each.
    """

    workers: int | None = None
    backend: str = LOCAL
    threads: int | None = None

    def check(self) -> None:
        """Refuse numbers below 1 and backends whose package is missing.

        Raises:
            UsageError: A number is below 1, or a package is missing.
            WorkerError: The cluster does not answer.
        """
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers do no work", "give 1 for this process alone, or more")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads do no work", "give 1 or more")
        if self.backend != LOCAL:
            cluster_of(self.backend).check()
        elif not self.alone:
            joblib()

    @property
    def alone(self) -> bool:
        """Return whether this process does everything."""
        return self.backend == LOCAL and self.workers in (None, 1)

    @property
    def threads_each(self) -> int:
        """Threads of each worker, such that all workers share the processors."""
        if self.threads is not None:
            return self.threads
        return max(1, usable_processors() // (self.workers or 1)) if self.backend == LOCAL else 1

    @property
    def sharing(self) -> int:
        """The number of workers on this machine."""
        return (self.workers or 1) if self.backend == LOCAL else 1

    def spread(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Do the work of every item and yield the results as they are finished, in no particular order.

        The items are handed out one by one, in their order.

        Args:
            work: Function to run, sent to the workers with all it needs. Large arrays in it are sent once.
            items: Items to run it on.

        Raises:
            UsageError: The work cannot be sent.
            WorkerError: A worker died.
            OnnxpruneError: Any such error of `work`.
        """
        if self.alone:
            yield from ((item, work(item)) for item in items)
            return
        if self.backend == LOCAL:
            yield from self._local(work, items)
            return
        try:
            yield from self._far(work, items)
        except PicklingError as error:
            raise _not_to_be_sent(error) from error

    def _local(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        try:
            pool = Pool(work, min(self.workers or 1, len(items)), self.threads_each, _FEWER)
        except Exception as error:  # objects that cannot be pickled raise many kinds
            raise _not_to_be_sent(error) from error
        with closing(pool):
            yield from pool.results(items)

    def _far(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        cluster = cluster_of(self.backend)
        with cluster.watched(_GO_ON):
            yield from cluster.results(_paired, work, items, self.workers)


def _not_to_be_sent(error: Exception) -> UsageError:
    return UsageError(
        f"the data or the metric cannot be sent to other processes: {error}",
        "name them as module:callable, or use one worker",
    )


def _paired(work: Callable[[T], R], item: T) -> tuple[T, R]:
    return item, work(item)
