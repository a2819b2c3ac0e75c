"""The trainer's end of the worker: its start, its requests and replies, and the error for its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from onnxprune.errors import TrainingError
from onnxprune.support.lifeline import WorkerMonitor, kill_group, vital_signs
from onnxprune.train.sidecar import training_runtime
from onnxprune.train.wire import Array, WireMessage, read_frame, write_frame

_MODULE = "onnxprune.train.training_worker"
_GRACE_SECONDS = 5.0


class Worker:
    """A training worker, alive for as long as the `with` block.

    Args:
        engine: The name of the engine that it is to hold.

    Raises:
        TrainingError: The training runtime is missing, or the worker refused something or died.
    """

    def __init__(self, engine: str) -> None:
        runtime = training_runtime() if engine == "ort-training" else None
        self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-training-", ignore_cleanup_errors=True)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=self._folder.name,
            env=_environment(runtime),
            start_new_session=True,  # Ctrl-C is for the trainer, which then ends the worker in good order
        )
        self._watch = WorkerMonitor(self._process)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(
        self, kind: str, fields: Mapping[str, Any] | None = None, arrays: Mapping[str, Array] | None = None
    ) -> None:
        """Send a request without waiting for its answer."""
        assert self._process.stdin is not None
        try:
            with self._watch.waiting():
                write_frame(self._process.stdin, WireMessage(kind, fields or {}, arrays or {}))
        except OSError as error:
            raise self._death() from error

    def receive(self, kind: str) -> WireMessage:
        """Wait for the answer to the oldest unanswered request.

        Raises:
            TrainingError: The answer is a refusal, or the worker is dead.
        """
        assert self._process.stdout is not None
        with self._watch.waiting():
            frame = read_frame(self._process.stdout)
        if frame is None:
            raise self._death()
        if frame.kind != kind:
            raise TrainingError(f"the training worker refused: {frame.fields.get('reason', frame.kind)}")
        return frame

    def close(self) -> None:
        """End the worker and its child processes, gently if it still responds, and remove its folder."""
        self._watch.close()
        if vital_signs(self._process.pid)[0]:
            kill_group(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass  # unsent bytes for a dead worker
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def _death(self) -> TrainingError:
        """Return the error for the death of the worker."""
        if self._watch.verdict:
            hint = "its progress is in the checkpoint, if there is one: go on with `resume`"
            return TrainingError(f"the training worker {self._watch.verdict}", hint)
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return TrainingError("the training worker stopped answering")
        if code < 0:
            name = _signal_name(-code)
            return TrainingError(f"the training worker was killed by {name}", _hint_for(name))
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        return TrainingError(f"the training worker ended with exit code {code}{last}")


def _environment(runtime: Path | None) -> dict[str, str]:
    """Return the worker's environment: this import path, with the training build first if needed."""
    paths = [str(Path(entry or ".").absolute()) for entry in sys.path]
    if runtime is not None:
        paths.insert(0, str(runtime))
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        # The optimiser's numpy calls are short; threads of theirs would only fight with onnxruntime's.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    return os.environ | own


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint_for(signal_name: str) -> str:
    untouched = "the model given is untouched"
    if signal_name == "SIGKILL":
        return f"when memory ran out: a smaller batch size needs less; {untouched}"
    if signal_name in ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL"):
        return f"that is a crash in onnxruntime's native code; {untouched}, every other command still works"
    return untouched
