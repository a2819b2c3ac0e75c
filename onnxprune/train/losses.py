"""Losses: each is a few ONNX nodes behind an output of the model.

A model that ends in Softmax, LogSoftmax or Sigmoid is trained on the input of that node, where the same loss
is stable; its targets stay in the form of the model's own outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxprune.errors import UsageError
from onnxprune.train.emit import Emitter
from onnxprune.train.output_heads import Head
from onnxprune.train.settings import Meaning, TrainSettings, parse_loss

_TINY = 1e-12
_FLOOR = 1e-3
"""Least mean square of a channel that divides its error, as a fraction of the mean over all channels and at
most in its own unit: a channel that is almost always zero, such as a rare class, does not decide a loss."""

LossFunction: TypeAlias = Callable[[Head, Emitter, TrainSettings], Any]


def cross_entropy(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean negative log-likelihood of integer labels, weighted by class where weights are given."""
    logits = head.value
    rank = len(head.shape)
    if head.axis != 1:
        others = [axis for axis in range(1, rank) if axis != head.axis]
        logits = emit("Transpose", logits, perm=[0, head.axis, *others])
    ignored, labels = settings.ignore_index, head.target
    if head.mask is not None and len(head.target.shape) == 2:
        ignored = -100 if ignored is None else ignored
        counted = emit("Cast", head.mask, to=int(TensorProto.BOOL))
        labels = emit("Where", counted, labels, emit.ints(ignored))
    operands = [logits, labels]
    if settings.class_weights is not None:
        operands.append(emit.floats(_class_weights(head, settings.class_weights)))
    attributes = {} if ignored is None else {"ignore_index": ignored}
    # Its gradient reads the logarithm of the probabilities, an output that is otherwise optional.
    return emit("SoftmaxCrossEntropyLoss", *operands, outputs=2, reduction="mean", **attributes)[0]


def _class_weights(head: Head, weights: tuple[float, ...]) -> Any:
    classes = head.shape[head.axis]
    if len(weights) != classes:
        raise UsageError(f"there are {len(weights)} class weights and {classes} classes", "give one a class")
    return np.array(weights, np.float32)


def mean_squared_error(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean over all elements of the squared difference."""
    difference = emit("Sub", head.value, head.targets)
    return _mean(emit("Mul", difference, difference), emit, head)


def mean_absolute_error(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean over all elements of the magnitude of the difference."""
    return _mean(emit("Abs", emit("Sub", head.value, head.targets)), emit, head)


def binary_cross_entropy(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean over all elements of max(z, 0) − z·t + log(1 + exp(−|z|)), with targets t in [0, 1]."""
    z = head.value
    bounded = emit("Sub", emit("Relu", z), emit("Mul", z, head.targets))
    tail = emit("Log", emit("Add", emit("Exp", emit("Neg", emit("Abs", z))), 1.0))
    return _mean(emit("Add", bounded, tail), emit, head)


def distillation(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """The distillation loss for an output: divergence, cross-entropy or relative error.

    An output that joins Sigmoid or Softmax with other values, as the heads of detectors do, is the mean over
    its parts.
    """
    parts = head.parts(emit, LOSSES["distill"].detaches)
    losses = [_distilled(part, emit, settings) for part in parts]
    total = losses[0]
    for loss in losses[1:]:
        total = emit("Add", total, loss)
    return total if len(parts) == 1 else emit("Mul", total, 1.0 / len(parts))


def _distilled(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    if head.activation == "Sigmoid":
        return binary_cross_entropy(head, emit, settings)
    if head.activation:
        return _divergence(head, emit, settings.temperature)
    if _holds_classes(head, settings.meaning):
        axis = 2 if len(head.sizes) == 3 else 1
        return _divergence(replace(head, axis=axis), emit, settings.temperature)
    return channel_error(head, emit)


def _holds_classes(head: Head, meaning: Meaning) -> bool:
    """Return whether values without a final activation are logits.

    The metric decides. Without one, logits are tables [samples, 2 or more] that are the result of a product
    with weights, while embeddings are the result of a normalisation.
    """
    shape = head.sizes
    if len(shape) < 2 or shape[2 if len(shape) == 3 else 1] < 2 or meaning == "numbers":
        return False
    return meaning == "classes" or (len(shape) == 2 and head.ends_in_product)


def _divergence(head: Head, emit: Emitter, temperature: float) -> Any:
    """T² KL(teacher ‖ student) at temperature T (Hinton et al. 2015)."""
    teacher = head.targets
    if head.activation == "Softmax":  # probabilities, whose logarithms are the logits up to a constant
        teacher = emit("Log", emit("Max", teacher, _TINY))
    cooling = 1.0 / temperature
    log_target = emit("LogSoftmax", emit("Mul", teacher, cooling), axis=head.axis)
    given = emit("LogSoftmax", emit("Mul", head.value, cooling), axis=head.axis)
    apart = emit("Mul", emit("Exp", log_target), emit("Sub", log_target, given))
    return emit("Mul", _mean(emit.reduce("ReduceSum", apart, [head.axis]), emit, head), temperature**2)


def channel_error(head: Head, emit: Emitter) -> Any:
    """Mean over the channels of the squared difference over the mean square of the channel's targets.

    Channels lie on axis 1; of three axes on the shorter one, and where tokens are masked on the last.
    """
    rank = len(head.sizes)
    if rank < 2:
        return relative_error(head, emit, TrainSettings())
    channel = 1 if rank != 3 else (2 if head.mask is not None or head.sizes[2] < head.sizes[1] else 1)
    others = [axis for axis in range(rank) if axis != channel]
    difference = emit("Sub", head.value, head.targets)
    squares = emit("Mul", head.targets, head.targets)
    error, size = (_weighted(x, emit, head, others) for x in (emit("Mul", difference, difference), squares))
    floor = emit("Min", emit("Mul", emit.reduce("ReduceMean", size, list(range(rank))), _FLOOR), _FLOOR)
    relative = emit("Div", error, emit("Add", emit("Add", size, floor), _TINY))
    return emit.reduce("ReduceMean", relative, list(range(rank)), keepdims=False)


def cosine_distance(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean of 1 − cos to the teacher: along the last axis of [N, D] and [N, T, D], else over all axes."""
    axes = [len(head.shape) - 1] if len(head.shape) in (2, 3) else list(range(1, len(head.shape)))
    sums = [
        emit.reduce("ReduceSum", emit("Mul", a, b), axes)
        for a, b in ((head.value, head.targets), (head.value, head.value), (head.targets, head.targets))
    ]
    cosine = emit("Div", sums[0], emit("Sqrt", emit("Add", emit("Mul", sums[1], sums[2]), _TINY)))
    return _mean(emit("Sub", emit.floats(1.0), cosine), emit, head)


def relative_error(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean squared difference over the mean square of the targets, so that tensors of any scale add up."""
    size = _mean(emit("Mul", head.targets, head.targets), emit, head)
    return emit("Div", mean_squared_error(head, emit, settings), emit("Add", size, _TINY))


def _mean(x: gs.Tensor, emit: Emitter, head: Head) -> Any:
    """Return the mean over all axes, padded tokens left out."""
    rank = len(head.shape)
    if head.mask is None:
        return emit.reduce("ReduceMean", x, list(range(rank)), keepdims=False)
    return emit("Reshape", _weighted(x, emit, head, list(range(rank))), emit.ints([]))


def _weighted(x: gs.Tensor, emit: Emitter, head: Head, axes: Sequence[int]) -> Any:
    """Return the mean over some axes, tokens weighted by the mask; the axes stay with size 1."""
    if head.mask is None:
        return emit.reduce("ReduceMean", x, axes)
    rank = len(head.shape)
    weights = emit("Cast", head.mask, to=int(TensorProto.FLOAT))
    weights = emit("Unsqueeze", weights, emit.ints(list(range(2, rank))))
    inner = [axis for axis in axes if axis > 1]
    values = emit.reduce("ReduceMean", x, inner) if inner else x
    total = emit.reduce("ReduceSum", emit("Mul", values, weights), [0, 1])
    count = emit.reduce("ReduceSum", weights, list(range(rank)))
    return emit("Div", total, emit("Max", count, 1.0))


@dataclass(frozen=True)
class LossEntry:
    """A loss and its attachment to an output.

    Attributes:
        function: Appends its nodes for one head.
        detaches: Final activations it is computed in front of.
        targets: `labels`; `outputs` for arrays named like outputs; `teacher` for the outputs of a teacher;
            `features` for a teacher's values of the tensors named in the settings.
        bounds: Values targets may have, if not any.
    """

    function: LossFunction
    detaches: Collection[str] = ()
    targets: str = "outputs"
    bounds: tuple[float, float] | None = None


LOSSES: Mapping[str, LossEntry] = {
    "cross-entropy": LossEntry(cross_entropy, ("Softmax", "LogSoftmax"), "labels"),
    "mse": LossEntry(mean_squared_error),
    "l1": LossEntry(mean_absolute_error),
    "bce": LossEntry(binary_cross_entropy, ("Sigmoid",), bounds=(0.0, 1.0)),
    "distill": LossEntry(distillation, ("Softmax", "LogSoftmax", "Sigmoid"), "teacher"),
    "cosine": LossEntry(cosine_distance, targets="teacher"),
    "features": LossEntry(relative_error, targets="features"),
}


def asks_teacher(loss: str) -> bool | None:
    """Return whether a loss needs a teacher; None for one with a term of the user's own, which may need one.

    Raises:
        UsageError: It is no loss.
    """
    names = {term.name for term in parse_loss(loss)}
    if any(LOSSES[name].targets in ("teacher", "features") for name in names & set(LOSSES)):
        return True
    return False if names <= set(LOSSES) else None
