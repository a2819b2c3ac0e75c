"""A training in progress: one step in the worker, the next one on its way."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import onnx
from onnx import helper

from onnxprune.errors import DataError, TrainingError
from onnxprune.train.checkpoint import Checkpoints, State
from onnxprune.train.client import Worker
from onnxprune.train.preparation import Batch, Job
from onnxprune.train.settings import StepReport, TrainResult, TrainSettings
from onnxprune.train.wire import Array

_PACES = 1000
"""Durations of steps that are kept for their median."""
PATIENCE = 3
"""Failed steps after which the step size is no longer to blame."""


@dataclass(frozen=True)
class _Step:
    """A step that was sent: its number, and how many samples each of its batches has."""

    number: int
    sizes: list[int]


class TrainingRun:
    """A training in progress.

    Args:
        job: Job to train.
        worker: Worker that trains it, loaded.
        settings: Options of the training.
        total_steps: Steps the schedule is laid out for.
        on_step: Called after every step.
        checkpoints: Checkpoints to write.
        time_gone: Function that returns the fraction of the time that is gone.

    Attributes:
        weights: The tensors trained so far, after every epoch.
    """

    def __init__(
        self,
        job: Job,
        worker: Worker,
        settings: TrainSettings,
        total_steps: int,
        on_step: Callable[[StepReport], None] | None,
        checkpoints: Checkpoints | None,
        time_gone: Callable[[], float] | None = None,
    ) -> None:
        self._job, self._worker, self._settings = job, worker, settings
        self._total_steps, self._on_step, self._checkpoints = total_steps, on_step, checkpoints
        self._time_gone = time_gone or (lambda: 0.0)
        self._sent, self._steps, self._went_back, self._seconds = 0, 0, 0, 0.0
        self._losses: list[float] = []
        self._paces: deque[float] = deque(maxlen=_PACES)
        self._batches, self._samples, self._loss = 0, 0, 0.0  # of this epoch, the loss a sum over samples
        self.weights: Mapping[str, Array] = {}

    def restore(self, state: State) -> None:
        """Go on from a checkpoint."""
        self._worker.send("restore", state.fields, state.arrays)
        self._worker.receive("restored")
        progress = state.progress
        self._sent = self._steps = progress["steps"]
        self._went_back, self._seconds = progress["went_back"], progress["seconds"]
        self._losses = list(progress["losses"])
        self._batches, self._samples, self._loss = (progress[k] for k in ("batches", "samples", "loss"))

    def epoch(self, epoch: int, batches: Iterable[Batch]) -> None:
        """Train on the batches of one epoch without those before a checkpoint; fetch the weights."""
        started = time.perf_counter()
        reported = None
        for report in self._stream(epoch, itertools.islice(batches, self._batches, None)):
            now = time.perf_counter()
            if reported is not None:
                self._paces.append(now - reported)
            reported = now
            if self._on_step is not None:
                self._on_step(report)
            if self._is_checkpoint(report.step):
                self._save(epoch, self._seconds + time.perf_counter() - started)
        if not self._samples:
            raise DataError(f"the training data holds no batch in epoch {epoch}")
        self._losses.append(self._loss / self._samples)
        self._batches, self._samples, self._loss = 0, 0, 0.0
        self._worker.send("weights")
        self.weights = _in_own_types(self._job.model, self._worker.receive("weights").arrays)
        self._seconds += time.perf_counter() - started

    def result(self) -> TrainResult:
        """Return the result of the training."""
        return TrainResult(
            weights=self.weights,
            losses=tuple(self._losses),
            steps=self._steps,
            went_back=self._went_back,
            seconds=self._seconds,
            step_s=median(self._paces) if self._paces else self._seconds / max(self._steps, 1),
            engine=self._job.engine,
        )

    def _stream(self, epoch: int, batches: Iterable[Batch]) -> Iterator[StepReport]:
        """Send steps, one ahead of the awaited one, but none across a checkpoint."""
        waiting: _Step | None = None
        stream = iter(batches)
        while group := list(itertools.islice(stream, self._settings.accumulate)):
            if waiting is not None and self._is_checkpoint(waiting.number):
                yield self._report(epoch, waiting)
                waiting = None
            sent = self._send(group)
            if waiting is not None:
                yield self._report(epoch, waiting)
            waiting = sent
        if waiting is not None:
            yield self._report(epoch, waiting)

    def _is_checkpoint(self, step: int) -> bool:
        return self._checkpoints is not None and step % self._checkpoints.every == 0

    def _send(self, group: list[Batch]) -> _Step:
        """Send the batches of a step, the last one with the step size."""
        sizes = []
        for index, batch in enumerate(group, 1):
            arrays, samples = self._job.batch(batch)
            last = index == len(group)
            rate = self._rate() if last else None
            self._worker.send("step", {"learning_rate": rate}, arrays)
            sizes.append(samples)
        self._sent += 1
        return _Step(self._sent, sizes)

    def _rate(self) -> float:
        """Return the step size: of the steps, or of the time where that is further."""
        due = int(self._time_gone() * self._total_steps)
        return self._settings.learning_rate_at(max(self._sent, due), self._total_steps)

    def _report(self, epoch: int, step: _Step) -> StepReport:
        """Wait for a step to end."""
        replies = [self._worker.receive("stepped").fields for _ in step.sizes]
        samples, outcome = sum(step.sizes), replies[-1]
        total = sum(reply["loss"] * size for reply, size in zip(replies, step.sizes, strict=True))
        rate, norm = outcome["learning_rate"], outcome["gradient_norm"]
        report = StepReport(step.number, epoch, total / samples, rate, norm, samples, outcome["went_back"])
        self._steps = step.number
        self._batches += len(step.sizes)
        if report.went_back:
            self._fail(report)
        else:
            self._samples += samples
            self._loss += total
        return report

    def _fail(self, report: StepReport) -> None:
        """Count a step that the worker undid; raise an error after too many, as smaller steps do not help."""
        self._went_back += 1
        if self._went_back <= PATIENCE:
            return
        fault = "loss diverged" if math.isfinite(report.loss) else "loss is not finite"
        raise TrainingError(
            f"the {fault} at step {report.step} (epoch {report.epoch + 1}, learning rate "
            f"{report.learning_rate:.3g}), again after going back and halving the step size {PATIENCE} times",
            "try a smaller learning rate, gradient clipping, or look for NaN in the data",
        )

    def _save(self, epoch: int, seconds: float) -> None:
        """Write down where the training stands."""
        assert self._checkpoints is not None
        self._worker.send("state")
        state = self._worker.receive("state")
        progress = {
            "epoch": epoch,
            "steps": self._steps,
            "went_back": self._went_back,
            "seconds": seconds,
            "losses": self._losses,
            "batches": self._batches,
            "samples": self._samples,
            "loss": self._loss,
        }
        self._checkpoints.save(State(progress, state.fields, state.arrays))


def _in_own_types(model: onnx.ModelProto, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Turn trained tensors back into the types they have in the model."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            types[node.output[0]] = node.attribute[0].t.data_type
    return {
        name: array.astype(helper.tensor_dtype_to_np_dtype(types[name]), copy=False)
        if name in types
        else array
        for name, array in weights.items()
    }
