"""Worker processes on this machine: each is handed one item after the other; all end with this process."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxprune.errors import WorkerError
from onnxprune.evaluate.sensitivity.worker_process import pickled, read_frame, write_frame
from onnxprune.support.lifeline import WorkerMonitor, kill_group

_WORKER = "from onnxprune.evaluate.sensitivity.worker_process import main; main()"
_GRACE_S = 5.0


class Pool:
    """Workers that all do the same work.

    Args:
        work: Function to run, and all it needs.
        count: Number of workers.
        threads: Threads of each.
        hint: Advice where one dies.

    Raises:
        Exception: The work cannot be pickled.
    """

    def __init__(self, work: Any, count: int, threads: int, hint: str) -> None:
        self._work, self._hint = pickled(work), hint
        self._outcomes: queue.Queue[tuple[Any, bool, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._workers = [_start(threads) for _ in range(count)]
        self._watches = [WorkerMonitor(process) for process in self._workers]

    def results(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield every item with its result, as they are finished, in no particular order.

        Raises:
            WorkerError: A worker died, or was ended as it gave no sign of life.
            Exception: Any exception of the work.
        """
        pending = iter(items)
        for process, watch in zip(self._workers, self._watches, strict=True):
            threading.Thread(target=self._serve, args=(process, watch, pending), daemon=True).start()
        for _ in items:
            item, done, value = self._outcomes.get()
            if not done:
                raise value
            yield item, value

    def close(self) -> None:
        """End all workers, and all processes that they have started."""
        for process, watch in zip(self._workers, self._watches, strict=True):
            watch.close()
            kill_group(process)
            process.wait()
        for process in self._workers:
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError, ValueError):
                    assert stream is not None
                    stream.close()

    def _serve(self, process: subprocess.Popen[bytes], watch: WorkerMonitor, pending: Iterator[Any]) -> None:
        """Hand a worker one item after the other."""
        assert process.stdin is not None
        item: Any = None
        try:
            with watch.waiting():
                write_frame(process.stdin, self._work)
            while True:
                with self._lock:
                    item = next(pending, _END)
                if item is _END:
                    return
                with watch.waiting():
                    write_frame(process.stdin, pickled(item))
                    self._outcomes.put((item, *self._answer(process, watch)))
        except (OSError, ValueError):
            self._outcomes.put((item, False, self._death(process, watch)))
        except Exception as error:  # an answer that cannot be read
            self._outcomes.put((item, False, error))

    def _answer(self, process: subprocess.Popen[bytes], watch: WorkerMonitor) -> tuple[bool, Any]:
        """Wait for the answer of a worker."""
        assert process.stdout is not None
        while (frame := read_frame(process.stdout)) == b"":
            watch.beat()
        if frame is None:
            return False, self._death(process, watch)
        done, value = pickle.loads(frame)
        return done, value

    def _death(self, process: subprocess.Popen[bytes], watch: WorkerMonitor) -> WorkerError:
        """Return the error for a worker that has ended."""
        if watch.verdict:
            return WorkerError(f"a worker process {watch.verdict}", self._hint)
        try:
            code = process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return WorkerError("a worker process answers no more", self._hint)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerError(f"a worker process died: {how}", self._hint)


_END = object()


def _start(threads: int) -> subprocess.Popen[bytes]:
    """Start a worker with the import path of this process."""
    path = os.pathsep.join(str(Path(entry or ".").absolute()) for entry in sys.path)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **dict.fromkeys(names, str(threads))},
        start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
    )
