"""Training a model: the one door to the training engine.

The model itself is never changed. A training copy is made and compared with it, a worker process steps on
batches this process streams to it, and trained tensors come back by the names they have in the model.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxprune.errors import DataError, PlanError, TrainingError
from onnxprune.training.client import Worker
from onnxprune.training.forward import check_forward
from onnxprune.training.losses import Head, attach_loss, check_targets
from onnxprune.training.settings import StepReport, TrainResult, TrainSettings
from onnxprune.training.support import check_gradient_path
from onnxprune.training.training_copy import make_training_copy
from onnxprune.training.wire import MASK_PREFIX, Array

Batch: TypeAlias = tuple[Mapping[str, Array], Mapping[str, Array]]
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
    job = _prepare(model, first, settings, masks or {})
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


@dataclass(frozen=True)
class _Job:
    """Everything decided before the worker starts."""

    model: onnx.ModelProto
    sample: Mapping[str, Array]
    heads: Mapping[str, Head]
    inputs: tuple[str, ...]
    fields: Mapping[str, object]
    arrays: Mapping[str, Array]
    loss: str

    def batch(self, batch: Batch) -> tuple[dict[str, Array], int]:
        """Validate a batch; returns the arrays of the training graph's inputs and the number of samples."""
        inputs = _checked_inputs(self.model, batch[0])
        for name, array in inputs.items():
            if array.shape[1:] != self.sample[name].shape[1:]:
                expected = self.sample[name].shape[1:]
                raise DataError(
                    f"input {name!r} has samples of shape {array.shape[1:]}, the first had {expected}"
                )
        samples = _batch_size(inputs)
        targets = check_targets(self.heads, self.loss, batch[1], samples)
        return {name: (targets | inputs)[name] for name in self.inputs}, samples


class _Run:
    """A training in progress: one batch in the worker, the next one on its way."""

    def __init__(
        self,
        job: _Job,
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


def _prepare(
    model: onnx.ModelProto, first: Batch, settings: TrainSettings, masks: Mapping[str, Array]
) -> _Job:
    """Make the copy, compare it with the model, attach the loss, and follow the gradient."""
    sample = _checked_inputs(model, first[0], own_types=True)
    copied = make_training_copy(model, sample)
    outputs = check_forward(model, copied.model(), sample)
    heads = attach_loss(copied.graph, settings, tuple(first[1]), outputs)
    trainables = check_gradient_path(copied.graph, copied.trainables)
    kept = {tensor.name for node in copied.graph.nodes for tensor in node.inputs}
    statistics = [name for name in copied.statistics if name in kept]
    inputs = tuple(tensor.name for tensor in copied.graph.inputs)
    fields = {
        "trainable": trainables,
        "frozen": statistics,
        "threads": settings.threads or _processors(),
        "optimizer": settings.optimizer,
        "options": {
            "weight_decay": settings.weight_decay,
            "clip_norm": settings.clip_norm,
            "momentum": settings.momentum,
        },
    }
    shapes = {
        name: tuple(tensor.shape) for name, tensor in copied.graph.tensors().items() if name in trainables
    }
    arrays = {"model": np.frombuffer(copied.model().SerializeToString(), np.uint8)}
    arrays |= {
        MASK_PREFIX + name: _checked_mask(name, masks[name], shapes[name]) for name in masks if name in shapes
    }
    return _Job(model, sample, heads, inputs, fields, arrays, settings.loss)


def _checked_mask(name: str, mask: Array, shape: tuple[int, ...]) -> Array:
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits or mask.dtype != np.bool_:
        raise PlanError(
            f"the mask of {name} is {mask.dtype} of shape {mask.shape}; the tensor has shape {shape}"
        )
    return mask


def _checked_inputs(
    model: onnx.ModelProto, inputs: Mapping[str, Array], own_types: bool = False
) -> dict[str, Array]:
    """Bring inputs into the types of the model, or of its training copy, which has only 32-bit floats."""
    constant = {tensor.name for tensor in model.graph.initializer}
    checked = {}
    for info in model.graph.input:
        if info.name in constant:
            continue
        if info.name not in inputs:
            raise DataError(f"a batch has no input {info.name!r}; it has {', '.join(inputs) or 'none'}")
        array = np.asarray(inputs[info.name])
        wanted = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        floating = np.issubdtype(wanted, np.floating) or wanted.kind == "V"
        if not (array.dtype.kind == "f" if floating else np.can_cast(array.dtype, wanted)):
            raise DataError(f"input {info.name!r} must be {wanted}, it is {array.dtype}")
        checked[info.name] = array.astype(np.float32 if floating and not own_types else wanted, copy=False)
    return checked


def _batch_size(inputs: Mapping[str, Array]) -> int:
    return next((array.shape[0] for array in inputs.values() if array.ndim), 1)


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


def _processors() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
