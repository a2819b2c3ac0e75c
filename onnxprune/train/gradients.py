"""Gradients outside training, for the saliency of channels and the analysis of a model.

They come from the same worker as training, and are those of the function the model is: BatchNormalization
uses its running statistics, Dropout does nothing, and no weight changes.

A loss needs a target. The model's own outputs are none: the divergence of a model from itself is zero, and so
is its gradient. Three losses need no labels:

    own-labels      cross-entropy against the class the model itself finds most likely
    sampled-labels  cross-entropy against a class drawn from the model's own probabilities; the mean of the
                    squared gradients of single samples is then the true Fisher information (Kunstner et al.
                    2019, "Limitations of the empirical Fisher approximation")
    output-norm     mean square of every output, summed over the outputs: for models that are no classifiers

Channels of activations get gradients through gates: factors of one that are put behind an activation, one for
each sample and channel. The gradient of a gate is the sum over all positions of activation times gradient,
which is, to first order, the change of the loss when the channel is turned off (Molchanov et al. 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import DataError, TrainingError, UsageError
from onnxprune.runtime import Session
from onnxprune.train.client import Worker
from onnxprune.train.emit import Emitter
from onnxprune.train.output_heads import LABELS, Head
from onnxprune.train.preparation import Batch, Job, checked_inputs, prepare
from onnxprune.train.settings import EngineName, TrainSettings
from onnxprune.train.training_copy import TrainingCopy
from onnxprune.train.wire import Array

LabelFree: TypeAlias = Literal["own-labels", "sampled-labels", "output-norm"]
GradientLoss: TypeAlias = str
"""A loss of training (see `TrainSettings.loss`), or one of the three that need no labels."""
_GATE = "gate:"
_Targets: TypeAlias = Callable[[Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]]


class _Samples(Protocol):
    @property
    def inputs(self) -> Mapping[str, Array]: ...

    @property
    def targets(self) -> Mapping[str, Array]: ...


class Samples(Protocol):
    """The part of `onnxprune.evaluate.data.Dataset` that gradients need."""

    def batches(
        self, batch_size: int, *, shuffle: bool = ..., seed: int = ..., epoch: int = ...
    ) -> Iterator[_Samples]:
        """Go through the samples once."""


def gradients_of(
    model: onnx.ModelProto,
    dataset: Samples,
    loss: GradientLoss = "own-labels",
    *,
    batch_size: int = 32,
    steps: int | None = None,
    seed: int = 0,
    names: Collection[str] | None = None,
    gates: Mapping[str, int] | None = None,
    threads: int | None = None,
    engine: EngineName = "auto",
) -> Iterator[dict[str, Array]]:
    """Yield the gradient of a loss, batch by batch.

    Args:
        model: Any valid model with its weights in memory; it is not changed.
        dataset: Samples; with labels or targets where the loss needs them.
        loss: A loss of training, or one of the three that need no labels (see above).
        batch_size: Samples a batch. With 1 every gradient is that of a single sample.
        steps: Number of batches, over as many shuffled passes as that takes; None takes one pass.
        seed: Order of the samples, and the labels that are drawn.
        names: Only these tensors, of which those that are not trained, or do not reach the loss, are left
            out; None for all. The fewer, the less is computed.
        gates: Axis of the channels by name of an activation that is to have gates; batches of
            another size than the first, such as the last of a pass, are then left out.
        threads: Threads of the worker; None takes the processors this process may use.
        engine: Engine that computes them, see `onnxprune.train.engines`.

    Yields:
        By the name it has in the model, the gradient of the mean loss of the batch with respect to every
        trainable tensor: float32, of the tensor's shape. By the name of an activation, the gradient of the
        same mean loss with respect to its gates: float32 [samples, channels]; times the number of samples it
        is the gradient of each sample's own loss.

    Raises:
        DataError: Inputs or targets are missing or do not fit the model.
        TrainingError: The model has no gradient, or the worker died.
        UsageError: There is no such loss.
    """
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} batches give no gradient", "take one or more")
    settings = TrainSettings(
        loss=_trained_loss(loss), optimizer="sgd", momentum=0.0, threads=threads, engine=engine
    )
    batches = _passes(dataset, batch_size, seed, once=steps is None)
    first = next(batches, None)
    if first is None:
        raise DataError("the data holds no batch")
    samples = _size(first)
    if gates:
        batches = (batch for batch in batches if _size(batch) == samples)
    selection = _Selection(names, gates or {}, samples)
    job, targets = _prepare(model, first, loss, settings, seed, selection)
    with Worker(job.engine) as worker:
        worker.send("load", job.fields, job.arrays)
        worker.receive("ready")
        waiting = False
        for inputs, given in itertools.islice(itertools.chain([first], batches), steps):
            worker.send("gradients", arrays=job.batch((inputs, targets(inputs, given)))[0])
            if waiting:
                yield _named(worker.receive("gradients").arrays)
            waiting = True
        yield _named(worker.receive("gradients").arrays)


def _size(batch: Batch) -> int:
    return next((len(array) for array in batch[0].values()), 1)


def _trained_loss(loss: str) -> str:
    """Return the loss that the worker computes."""
    if loss == "output-norm":
        return "mse"
    if loss == "own-labels" or loss == "sampled-labels":
        return "cross-entropy"
    return loss


def _passes(dataset: Samples, batch_size: int, seed: int, once: bool) -> Iterator[Batch]:
    """Go through the samples again and again, each time in another order."""
    for epoch in itertools.count():
        empty = True
        for batch in dataset.batches(batch_size, shuffle=True, seed=seed, epoch=epoch):
            empty = False
            yield batch.inputs, batch.targets
        if once or empty:
            return


@dataclass(frozen=True)
class _Selection:
    """The tensors whose gradients are requested."""

    names: Collection[str] | None
    gates: Mapping[str, int]
    samples: int

    def __call__(self, copied: TrainingCopy) -> TrainingCopy:
        """Insert the gates, and restrict the trained tensors to the gates and the requested names."""
        for name, axis in self.gates.items():
            _insert_gate(copied.graph, name, axis, self.samples)
        copied.graph.toposort()
        chosen = (name for name in copied.trainables if self.names is None or name in self.names)
        trained = (*chosen, *(_GATE + name for name in self.gates))
        return TrainingCopy(copied.graph, trained, copied.statistics)


def _insert_gate(graph: gs.Graph, name: str, axis: int, samples: int) -> None:
    """Multiply an activation, for all who read it, by ones, one for each sample and channel."""
    tensor = graph.tensors().get(name)
    if tensor is None or isinstance(tensor, gs.Constant) or tensor.shape is None:
        raise TrainingError(f"there is no activation {name!r} of known shape to put gates behind")
    shape = [1] * len(tensor.shape)
    shape[0], shape[axis] = samples, tensor.shape[axis]
    readers = list(tensor.outputs)
    gated = Emitter(graph, f"gate/{name}")(
        "Mul", tensor, gs.Constant(_GATE + name, np.ones(shape, np.float32))
    )
    for reader in readers:
        reader.inputs = [gated if operand is tensor else operand for operand in reader.inputs]


def _named(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Give the gradients of gates the names and shapes they are promised with."""
    return {
        name.removeprefix(_GATE): array.reshape(len(array), -1) if name.startswith(_GATE) else array
        for name, array in arrays.items()
    }


def _prepare(
    model: onnx.ModelProto,
    first: Batch,
    loss: GradientLoss,
    settings: TrainSettings,
    seed: int,
    selection: _Selection,
) -> tuple[Job, _Targets]:
    if loss not in get_args(LabelFree):
        return prepare(model, first, settings, {}, True, selection), lambda inputs, given: given
    promised: dict[str, None] = {LABELS: None}
    if loss == "output-norm":
        promised = dict.fromkeys(output.name for output in model.graph.output)
    given = (first[0], dict.fromkeys(promised, np.empty(0)))
    forward: list[onnx.ModelProto] = []

    def chosen(copied: TrainingCopy) -> TrainingCopy:
        forward[:] = [copied.model()]
        return selection(copied)

    job = prepare(model, given, settings, {}, True, chosen)
    return job, _own_targets(job, Session(forward[0], threads=settings.threads), loss, seed)


def _own_targets(job: Job, session: Session, loss: GradientLoss, seed: int) -> _Targets:
    """Return the function from the model's own answers to targets."""
    random = np.random.default_rng(seed)

    def targets(inputs: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        outputs = session.run(checked_inputs(job.model, inputs))
        if loss == "output-norm":
            return {head.name: np.zeros_like(outputs[head.name]) for head in job.heads}
        (head,) = job.heads
        scores = _log_probabilities(outputs[head.output.name], head)
        if loss == "sampled-labels":
            scores = scores + random.gumbel(size=scores.shape)  # whose largest is a draw (Gumbel 1954)
        likely: Array = scores.argmax(axis=head.axis)
        return {LABELS: likely}

    return targets


def _log_probabilities(output: Array, head: Head) -> Array:
    """Return the logarithms of the class probabilities of an output, up to a constant."""
    if head.activation == "Softmax":
        scores: Array = np.log(np.maximum(output.astype(np.float64), np.finfo(np.float64).tiny))
        return scores
    return output.astype(np.float64)
