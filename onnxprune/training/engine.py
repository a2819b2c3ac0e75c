"""Training a model: the one door to the training engine.

The model itself is never changed. A training copy is made and compared with it, a worker process steps on
batches this process streams to it, and trained tensors come back by the names they have in the model.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import onnx
from onnx import helper

from onnxprune.errors import DataError, TrainingError
from onnxprune.training.client import Worker
from onnxprune.training.job import Batch, Job, prepare
from onnxprune.training.settings import StepReport, TrainResult, TrainSettings
from onnxprune.training.training_copy import make_training_copy
from onnxprune.training.wire import Array

Batches: TypeAlias = Callable[[int], Iterable[Batch]]


def train(
    model: onnx.ModelProto,
    batches: Batches,
    *,
    settings: TrainSettings,
    total_steps: int,
    masks: Mapping[str, Array] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[int, Mapping[str, Array]], None] | None = None,
) -> TrainResult:
    """Train a model.

    BatchNormalization uses the statistics of the batch, and its running statistics follow. Dropout stays
    what it is in inference, the identity. For the same batches, settings and number of threads the result
    is the same, bit for bit.

    Args:
        model: Any valid model with its weights in memory; it is not changed.
        batches: From the epoch, counted from 0, to its batches: inputs by name, and targets by name
            (`labels`, or the names of outputs). Every axis but the first keeps its size from batch to batch.
        settings: How to train.
        total_steps: Number of steps the schedule of the learning rate is laid out for.
        masks: From the name of a trained tensor to what may be other than zero, as booleans of a shape
            that broadcasts to the tensor's. All else is exactly zero from the start and after every step.
        on_step: Called after every step.
        on_epoch: Called after every epoch with the tensors trained so far, as `TrainResult.weights`.

    Returns:
        The trained tensors and what was observed.

    Raises:
        DataError: Inputs or targets are missing or do not fit the model.
        PlanError: A mask does not fit its tensor.
        TrainingError: The model cannot be trained, the training diverged, or the worker died.
    """
    stream = iter(batches(0))
    first = next(stream, None)
    if first is None:
        raise DataError("the training data holds no batch")
    job = prepare(model, first, settings, masks or {})
    with Worker() as worker:
        worker.send("load", job.fields, job.arrays)
        worker.receive("ready")
        run = _Run(job, worker, settings, total_steps, on_step)
        for epoch in range(settings.epochs):
            run.epoch(epoch, itertools.chain([first], stream) if epoch == 0 else batches(epoch))
            if on_epoch is not None:
                on_epoch(epoch, run.weights)
    return TrainResult(run.weights, tuple(run.losses), run.steps, run.seconds)


def trainable_names(model: onnx.ModelProto, sample: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the names of the tensors that training would change, running statistics not among them.

    Args:
        model: Any valid model.
        sample: One batch of inputs.

    Raises:
        TrainingError: The model cannot be trained.
    """
    return make_training_copy(model, sample).trainables


class _Run:
    """A training in progress: one batch in the worker, the next one on its way."""

    def __init__(
        self,
        job: Job,
        worker: Worker,
        settings: TrainSettings,
        total_steps: int,
        on_step: Callable[[StepReport], None] | None,
    ) -> None:
        self._job, self._worker, self._settings = job, worker, settings
        self._total_steps, self._on_step = total_steps, on_step
        self.steps, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.weights: Mapping[str, Array] = {}

    def epoch(self, epoch: int, batches: Iterable[Batch]) -> None:
        """Train on the batches of one epoch and fetch the weights."""
        started = time.perf_counter()
        reports = list(self._stream(epoch, batches))
        if not reports:
            raise DataError(f"the training data holds no batch in epoch {epoch}")
        samples = sum(report.samples for report in reports)
        self.losses.append(sum(report.loss * report.samples for report in reports) / samples)
        self._worker.send("weights")
        self.weights = _in_own_types(self._job.model, self._worker.receive("weights").arrays)
        self.seconds += time.perf_counter() - started

    def _stream(self, epoch: int, batches: Iterable[Batch]) -> Iterator[StepReport]:
        waiting: tuple[int, float, int] | None = None
        for batch in batches:
            arrays, samples = self._job.batch(batch)
            rate = self._settings.learning_rate_at(self.steps, self._total_steps)
            self._worker.send("step", {"learning_rate": rate}, arrays)
            self.steps += 1
            if waiting is not None:
                yield self._report(epoch, *waiting)
            waiting = (self.steps, rate, samples)
        if waiting is not None:
            yield self._report(epoch, *waiting)

    def _report(self, epoch: int, step: int, rate: float, samples: int) -> StepReport:
        fields = self._worker.receive("stepped").fields
        report = StepReport(step, epoch, fields["loss"], rate, fields["gradient_norm"], samples)
        if not math.isfinite(report.loss + report.gradient_norm):
            what = "gradient" if math.isfinite(report.loss) else "loss"
            raise TrainingError(
                f"the {what} is not finite at step {step} (epoch {epoch + 1}, learning rate {rate:.3g})",
                "try a smaller learning rate, gradient clipping, or look for NaN in the data",
            )
        if self._on_step is not None:
            self._on_step(report)
        return report


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
