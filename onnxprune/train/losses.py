"""Losses: each is a few ONNX nodes behind an output of the model.

A model that ends in Softmax, LogSoftmax or Sigmoid is trained on the input of that node, where the same loss
is stable; its targets stay in the form of the model's own outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import UsageError
from onnxprune.train.emit import Emitter
from onnxprune.train.settings import TrainSettings, parse_loss

LABELS = "labels"
TEACHER = "teacher:"
"""Prefix of a tensor's name: the target is the teacher's value of that tensor."""
_TINY = 1e-12


@dataclass(frozen=True)
class Head:
    """Something the model computes that has targets.

    Attributes:
        name: Name of the targets in the data.
        output: The tensor of the model, an output or, for features, any other.
        value: Tensor the loss is computed on; before the final activation where that is taken off.
        activation: The operator taken off, or an empty string.
        axis: Class axis of a Softmax, otherwise 1.
        target: The graph input that holds the targets.
        shape: Shape of the output for the sample batch.
        bounds: Values the targets may have, if not any.
        batch_axis: The axis that counts the samples.
    """

    name: str
    output: gs.Variable
    value: gs.Tensor
    activation: str
    axis: int
    target: gs.Variable
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None = None
    batch_axis: int = 0

    @property
    def labelled(self) -> bool:
        """Return whether the targets are integer labels instead of arrays like the output."""
        return self.name == LABELS


LossFunction: TypeAlias = Callable[[Head, Emitter, TrainSettings], Any]


def cross_entropy(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean negative log-likelihood of integer labels, weighted by class where weights are given."""
    logits = head.value
    rank = len(head.shape)
    if head.axis != 1:
        others = [axis for axis in range(1, rank) if axis != head.axis]
        logits = emit("Transpose", logits, perm=[0, head.axis, *others])
    operands = [logits, head.target]
    if settings.class_weights is not None:
        operands.append(emit.floats(_class_weights(head, settings.class_weights)))
    attributes = {} if settings.ignore_index is None else {"ignore_index": settings.ignore_index}
    # Its gradient reads the logarithm of the probabilities, an output that is otherwise optional.
    return emit("SoftmaxCrossEntropyLoss", *operands, outputs=2, reduction="mean", **attributes)[0]


def _class_weights(head: Head, weights: tuple[float, ...]) -> Any:
    classes = head.shape[head.axis]
    if len(weights) != classes:
        raise UsageError(f"there are {len(weights)} class weights and {classes} classes", "give one a class")
    return np.array(weights, np.float32)


def mean_squared_error(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean over all elements of the squared difference."""
    difference = emit("Sub", head.value, head.target)
    return _mean(emit("Mul", difference, difference), emit, head)


def mean_absolute_error(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean over all elements of the magnitude of the difference."""
    return _mean(emit("Abs", emit("Sub", head.value, head.target)), emit, head)


def binary_cross_entropy(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean over all elements of max(z, 0) − z·t + log(1 + exp(−|z|)), with targets t in [0, 1]."""
    z = head.value
    bounded = emit("Sub", emit("Relu", z), emit("Mul", z, head.target))
    tail = emit("Log", emit("Add", emit("Exp", emit("Neg", emit("Abs", z))), 1.0))
    return _mean(emit("Add", bounded, tail), emit, head)


def distillation(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """The distillation loss for an output: divergence, cross-entropy or relative error.

    An output has classes if it ends in Softmax or LogSoftmax, or if it is a table [samples, 2 or more] that
    does not end in Sigmoid.
    """
    if head.activation == "Sigmoid":
        return binary_cross_entropy(head, emit, settings)
    if head.activation or (len(head.shape) == 2 and head.shape[1] > 1):
        return _divergence(head, emit, settings.temperature)
    return relative_error(head, emit, settings)


def _divergence(head: Head, emit: Emitter, temperature: float) -> Any:
    """T² KL(teacher ‖ student) at temperature T (Hinton et al. 2015)."""
    teacher = head.target
    if head.activation == "Softmax":  # probabilities, whose logarithms are the logits up to a constant
        teacher = emit("Log", emit("Max", teacher, _TINY))
    cooling = 1.0 / temperature
    wanted = emit("LogSoftmax", emit("Mul", teacher, cooling), axis=head.axis)
    given = emit("LogSoftmax", emit("Mul", head.value, cooling), axis=head.axis)
    apart = emit("Mul", emit("Exp", wanted), emit("Sub", wanted, given))
    return emit("Mul", _mean(emit.reduce("ReduceSum", apart, [head.axis]), emit, head), temperature**2)


def relative_error(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean squared difference over the mean square of the targets, so that tensors of any scale add up."""
    size = _mean(emit("Mul", head.target, head.target), emit, head)
    return emit("Div", mean_squared_error(head, emit, settings), emit("Add", size, _TINY))


def _mean(x: gs.Tensor, emit: Emitter, head: Head) -> Any:
    return emit.reduce("ReduceMean", x, list(range(len(head.shape))), keepdims=False)


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
