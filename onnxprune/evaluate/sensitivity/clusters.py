"""Running Dask and Ray clusters of the user, through the back ends that they register with joblib."""

from __future__ import annotations

import importlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from onnxprune.errors import OnnxpruneError, UsageError, WorkerError

ANSWER_S = 5.0
"""Seconds a cluster may take to answer."""

Call = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Cluster(ABC):
    """A cluster at an address.

    Attributes:
        host: The machine its scheduler runs on.
        port: Port it listens on.
        kind: Name of the kind of cluster.
        extra: The extra of this package that brings its client.
        modules: Modules that have to be importable.
    """

    host: str
    port: int

    kind: ClassVar[str]
    extra: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]

    def check(self) -> None:
        """Check that the client is installed, and that the address accepts connections.

        Raises:
            UsageError: A package is missing.
            WorkerError: No connection is accepted.
        """
        joblib()
        for name in self.modules:
            _imported(name, self.extra)
        try:
            socket.create_connection((self.host, self.port), ANSWER_S).close()
        except OSError as error:
            raise self._no_answer(error) from error

    @abstractmethod
    def connected(self) -> AbstractContextManager[Any]:
        """Return a connection, to be closed when it is no longer needed.

        Raises:
            WorkerError: No cluster of this kind answers.
        """

    @abstractmethod
    def results(self, call: Call, work: Any, items: Sequence[Any], workers: int | None) -> Iterator[Any]:
        """Yield the result of the work on each item, as it is finished."""

    @contextmanager
    def watched(self, hint: str) -> Iterator[None]:
        """Turn failures of a cluster into errors of one sentence; errors of the work itself pass unchanged.

        Raises:
            WorkerError: Something went wrong.
        """
        try:
            yield
        except (OnnxpruneError, GeneratorExit):
            raise
        except Exception as error:  # every client has exceptions of its own
            message = _first_line(error)
            raise WorkerError(
                f"the {self.kind} cluster at {self.host}:{self.port} failed: {message}", hint
            ) from error

    def _no_answer(self, error: Exception) -> WorkerError:
        return WorkerError(
            f"no {self.kind} cluster answers at {self.host}:{self.port}: {_first_line(error)}",
            "look whether it runs, and whether host and port are right",
        )


class Dask(Cluster):
    """A Dask cluster: the address is that of its scheduler."""

    kind = "Dask"
    extra = "dask"
    modules = ("distributed",)

    def results(self, call: Call, work: Any, items: Sequence[Any], workers: int | None) -> Iterator[Any]:
        """Yield the results as they come; the work is sent to every worker once."""
        with self.connected() as client:
            with joblib().parallel_config(backend="dask", n_jobs=-1, client=client, scatter=[work]):
                pool = joblib().Parallel(
                    return_as="generator_unordered", pre_dispatch=workers or "all", batch_size=1
                )
            yield from pool(joblib().delayed(call)(work, item) for item in items)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Return a client of its own."""
        distributed = _imported("distributed", self.extra)
        try:
            client = distributed.Client(
                f"tcp://{self.host}:{self.port}", timeout=ANSWER_S, set_as_default=False
            )
        except Exception as error:  # the client raises many kinds
            raise self._no_answer(error) from error
        with client:
            yield client


class Ray(Cluster):
    """A Ray cluster: the address is that of its client server."""

    kind = "Ray"
    extra = "ray"
    modules = ("ray", "ray.util.joblib")

    def results(self, call: Call, work: Any, items: Sequence[Any], workers: int | None) -> Iterator[Any]:
        """Yield the results round by round, as many at once as there are workers.

        Ray's joblib back end hands nothing over before all it was given is done.
        """
        with self.connected() as ray:
            _imported("ray.util.joblib", self.extra).register_ray()
            count = min(len(items), workers or int(ray.cluster_resources()["CPU"]))
            sent = ray.put(work)
            with joblib().parallel_config(backend="ray", n_jobs=count):
                pool = joblib().Parallel(batch_size=1)
            with pool:
                for start in range(0, len(items), count):
                    yield from pool(
                        joblib().delayed(_fetched)(call, sent, item) for item in items[start : start + count]
                    )

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Return the module, connected: there can be one connection only."""
        ray = _imported("ray", self.extra)
        try:
            self._connect(ray)
        except Exception as error:  # as above
            raise self._no_answer(error) from error
        try:
            yield ray
        finally:
            ray.shutdown()

    def _connect(self, ray: Any, attempts: int = 3) -> None:
        """Connect, in several attempts: a busy head gives up on the server it starts for a client."""
        try:
            ray.init(f"ray://{self.host}:{self.port}", logging_level="ERROR", log_to_driver=False)
        except ConnectionAbortedError:
            ray.shutdown()
            if attempts == 1:
                raise
            self._connect(ray, attempts - 1)


def _fetched(call: Call, sent: Any, item: Any) -> Any:
    """Fetch the work from the store of the cluster, and do it."""
    return call(importlib.import_module("ray").get(sent), item)


def cluster_of(address: str) -> Cluster:
    """Return the cluster at an address.

    Args:
        address: ``dask://HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        UsageError: It is no such address.
    """
    kinds: dict[str, type[Cluster]] = {"dask": Dask, "ray": Ray}
    try:
        parts = urlsplit(address)
        if parts.hostname and parts.port and not parts.path.strip("/"):
            return kinds[parts.scheme](parts.hostname, parts.port)
    except (ValueError, KeyError):
        pass
    raise UsageError(
        f"'{address}' is no back end", "give local, dask://HOST:PORT or ray://HOST:PORT"
    ) from None


def joblib() -> Any:
    """Return joblib, with its process executor imported.

    Raises:
        UsageError: It is not installed.
    """
    _imported("joblib.externals.loky.process_executor", "parallel")
    return _imported("joblib", "parallel")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _imported(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"several workers need {module.partition('.')[0]}: {error}",
            f'install it with: pip install "onnxprune[{extra}]"',
        ) from error
