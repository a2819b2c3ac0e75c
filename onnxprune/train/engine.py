"""Training a model: the one door to the training engine.

The model itself is never changed. A training copy is made and compared with it, a worker process steps on
batches this process streams to it, and trained tensors come back by the names they have in the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import onnx

from onnxprune.errors import DataError
from onnxprune.train.checkpoint import Checkpoints
from onnxprune.train.client import Worker
from onnxprune.train.preparation import Batch, prepare
from onnxprune.train.settings import StepReport, TrainResult, TrainSettings
from onnxprune.train.training_copy import make_training_copy
from onnxprune.train.training_run import TrainingRun
from onnxprune.train.wire import Array

Batches: TypeAlias = Callable[[int], Iterable[Batch]]


def train(
    model: onnx.ModelProto,
    batches: Batches,
    *,
    settings: TrainSettings,
    total_steps: int,
    masks: Mapping[str, Array] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[int, Mapping[str, Array]], bool | None] | None = None,
    checkpoints: Checkpoints | None = None,
    time_gone: Callable[[], float] | None = None,
) -> TrainResult:
    """Train a model.

    BatchNormalization uses the statistics of the batch, and its running statistics follow. Dropout stays
    the identity, as in inference. For the same batches, settings and number of threads the result
    is the same, bit for bit, and so it is if the training was killed and has gone on from a checkpoint.

    Args:
        model: Any valid model with its weights in memory; it is not changed.
        batches: Function from the epoch, counted from 0, to its batches: inputs by name, and targets by name
            (`labels`, or the names of outputs). Samples of several shapes are trained by the engine `stock`,
            one shape a batch; each shape takes a graph of its own.
        settings: Options of the training.
        total_steps: Number of steps the schedule of the learning rate is laid out for.
        masks: From the name of a trained tensor to its elements that may differ from zero, as booleans of a
            shape that broadcasts to the tensor's. All others are exactly zero from the start and after every
            step.
        on_step: Called after every step.
        on_epoch: Called after every epoch with the tensors trained so far, as `TrainResult.weights`; True
            ends the training.
        checkpoints: Checkpoints to write, and to go on from.
        time_gone: Function that returns the fraction of a time limit that is gone. Where the steps lag behind
            it the learning rate follows it, so that it ends low; the result then depends on the clock.

    Returns:
        The trained tensors and the observations of the run.

    Raises:
        DataError: Inputs or targets are missing or do not fit the model.
        OutputError: A checkpoint cannot be written.
        PlanError: A mask does not fit its tensor.
        TrainingError: The model cannot be trained, the training diverged, or the worker died.
        UsageError: The checkpoint to go on from is that of another training.
    """
    state = checkpoints.load() if checkpoints else None
    start = state.progress["epoch"] if state else 0
    stream = iter(batches(start))
    first = next(stream, None)
    if first is None:
        raise DataError("the training data holds no batch")
    job = prepare(model, first, settings, masks or {})
    with Worker(job.engine) as worker:
        worker.send("load", job.fields, job.arrays)
        worker.receive("ready")
        run = TrainingRun(job, worker, settings, total_steps, on_step, checkpoints, time_gone)
        if state is not None:
            run.restore(state)
        for epoch in range(start, settings.epochs):
            run.epoch(epoch, itertools.chain([first], stream) if epoch == start else batches(epoch))
            if on_epoch is not None and on_epoch(epoch, run.weights):
                break
    return run.result()


def trainable_names(model: onnx.ModelProto, sample: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the names of the tensors that training would change, running statistics not among them.

    Args:
        model: Any valid model.
        sample: One batch of inputs.

    Raises:
        TrainingError: The model cannot be trained.
    """
    return make_training_copy(model, sample).trainables
