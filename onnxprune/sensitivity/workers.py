"""The same work for many items: in this process, in several, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pickle import PicklingError
from typing import TypeVar

from onnxprune.errors import UsageError, WorkerError
from onnxprune.processors import usable_processors
from onnxprune.sensitivity.clusters import cluster_of, joblib

T = TypeVar("T")
R = TypeVar("R")

LOCAL = "local"
_GO_ON = "what was finished is kept, and --resume goes on from there"


@dataclass(frozen=True)
class Crew:
    """Who does the work.

    Attributes:
        workers: How many processes. One on this machine is this process itself; on a cluster, ``None`` stands
            for as many as it has.
        backend: ``local``, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        threads: Threads of each worker; by default those of one machine share its processors, and those of a
            cluster have one each.
    """

    workers: int | None = None
    backend: str = LOCAL
    threads: int | None = None

    def check(self) -> None:
        """Refuse what makes no sense or needs a package that is not there.

        Raises:
            UsageError: As said.
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
        """Whether this process does everything."""
        return self.backend == LOCAL and self.workers in (None, 1)

    @property
    def threads_each(self) -> int:
        """How many threads a worker has, so that they do not fight for processors."""
        if self.threads is not None:
            return self.threads
        return max(1, usable_processors() // (self.workers or 1)) if self.backend == LOCAL else 1

    @property
    def sharing(self) -> int:
        """How many workers share the memory of this machine."""
        return (self.workers or 1) if self.backend == LOCAL else 1

    def spread(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Do the work of every item and yield the results as they are finished, in no particular order.

        The items are handed out one by one, in their order.

        Args:
            work: What to do, and all it needs; it is sent to the workers. Large arrays in it are sent once.
            items: What to do it with.

        Raises:
            UsageError: The work cannot be sent.
            WorkerError: A worker died.
            OnnxpruneError: Whatever `work` raises.
        """
        if self.alone:
            yield from ((item, work(item)) for item in items)
            return
        try:
            yield from self._local(work, items) if self.backend == LOCAL else self._far(work, items)
        except PicklingError as error:
            raise UsageError(
                f"the data or the metric cannot be sent to other processes: {error}",
                "name them as module:callable, or use one worker",
            ) from error

    def _local(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        pool = joblib().Parallel(
            n_jobs=self.workers, return_as="generator_unordered", pre_dispatch="all", batch_size=1
        )
        broken = joblib().externals.loky.process_executor.BrokenProcessPool
        try:
            yield from pool(joblib().delayed(_paired)(work, item) for item in items)
        except broken as error:
            raise WorkerError(
                f"a worker process died: {str(error).splitlines()[0]}",
                f"out of memory? Try fewer workers; {_GO_ON}",
            ) from error

    def _far(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        cluster = cluster_of(self.backend)
        with cluster.watched(_GO_ON):
            yield from cluster.results(_paired, work, items, self.workers)


def _paired(work: Callable[[T], R], item: T) -> tuple[T, R]:
    return item, work(item)
