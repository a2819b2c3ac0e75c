"""What can be minimised: each loss is a few ONNX nodes behind the model's outputs.

A model that ends in Softmax, LogSoftmax or Sigmoid is trained on what goes into it, where the same loss is
stable; its targets stay what the model's own outputs would be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import DataError, TrainingError
from onnxprune.training.emit import Emitter
from onnxprune.training.settings import TrainSettings
from onnxprune.training.wire import Array

LABELS = "labels"
_TINY = 1e-12


@dataclass(frozen=True)
class Head:
    """An output of the model that has targets.

    Attributes:
        output: The model's output.
        value: What the loss is computed on; before the final activation where that is taken off.
        activation: The operator taken off, or an empty string.
        axis: Class axis of a Softmax, otherwise 1.
        target: The graph input that holds the targets.
        shape: Shape of the output for the sample batch.
    """

    output: gs.Variable
    value: gs.Tensor
    activation: str
    axis: int
    target: gs.Variable
    shape: tuple[int, ...]


LossFunction: TypeAlias = Callable[[Head, Emitter, TrainSettings], Any]


def cross_entropy(head: Head, emit: Emitter, settings: TrainSettings) -> Any:
    """Mean negative log-likelihood of integer labels."""
    logits = head.value
    rank = len(head.shape)
    if head.axis != 1:
        others = [axis for axis in range(1, rank) if axis != head.axis]
        logits = emit("Transpose", logits, perm=[0, head.axis, *others])
    # Its gradient reads the logarithm of the probabilities, an output that is otherwise optional.
    return emit("SoftmaxCrossEntropyLoss", logits, head.target, outputs=2, reduction="mean")[0]


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
    """T² KL(teacher ‖ student) at temperature T (Hinton et al. 2015), up to the teacher's entropy."""
    teacher = head.target
    if (
        head.activation == "Softmax"
    ):  # probabilities; their logarithm is the teacher's logits up to a constant
        teacher = emit("Log", emit("Max", teacher, _TINY))
    cooling = 1.0 / settings.temperature
    wanted = emit("Softmax", emit("Mul", teacher, cooling), axis=head.axis)
    given = emit("LogSoftmax", emit("Mul", head.value, cooling), axis=head.axis)
    crossed = emit.reduce("ReduceSum", emit("Mul", wanted, given), [head.axis])
    return emit("Mul", _mean(crossed, emit, head), -(settings.temperature**2))


def _mean(x: gs.Tensor, emit: Emitter, head: Head) -> Any:
    return emit.reduce("ReduceMean", x, list(range(len(head.shape))), keepdims=False)


@dataclass(frozen=True)
class LossEntry:
    """How a loss is attached.

    Attributes:
        function: Appends its nodes for one head.
        detaches: Final activations it is computed in front of.
        labelled: Whether its targets are integer labels instead of arrays like the outputs.
    """

    function: LossFunction
    detaches: Collection[str] = ()
    labelled: bool = False


LOSSES: Mapping[str, LossEntry] = {
    "cross-entropy": LossEntry(cross_entropy, ("Softmax", "LogSoftmax"), labelled=True),
    "mse": LossEntry(mean_squared_error),
    "l1": LossEntry(mean_absolute_error),
    "bce": LossEntry(binary_cross_entropy, ("Sigmoid",)),
    "distill": LossEntry(distillation, ("Softmax", "LogSoftmax")),
}


def attach_loss(
    graph: gs.Graph, settings: TrainSettings, targets: Collection[str], outputs: Mapping[str, Array]
) -> dict[str, Head]:
    """Append the loss, which becomes the graph's only output.

    Args:
        graph: The training copy; it is changed.
        settings: Which loss, and its options.
        targets: The names the data has targets for: `labels`, or names of outputs.
        outputs: Outputs of the model for a sample batch.

    Returns:
        The heads by the name of their targets.

    Raises:
        DataError: There are no targets for this loss.
    """
    entry = LOSSES[settings.loss]
    emit = Emitter(graph, "loss")
    heads: dict[str, Head] = {}
    for output in graph.outputs:
        name = LABELS if entry.labelled else output.name
        if name in targets and name not in heads:
            heads[name] = _head(output, entry, outputs[output.name])
    if not heads:
        expected = LABELS if entry.labelled else " or ".join(output.name for output in graph.outputs)
        found = ", ".join(sorted(targets)) or "none"
        raise DataError(f"the {settings.loss} loss needs targets named {expected}; the data has {found}")
    parts = [entry.function(head, emit, settings) for head in heads.values()]
    loss = gs.Variable("loss:total", np.float32, ())
    emit.assign(_total(parts, emit), loss)
    graph.inputs.extend(head.target for head in heads.values())
    graph.outputs = [loss]
    graph.cleanup(remove_unused_graph_inputs=True).toposort()
    return heads


def _total(parts: Sequence[gs.Tensor], emit: Emitter) -> gs.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = emit("Add", total, part)
    return total


def _head(output: gs.Variable, entry: LossEntry, sample: Array) -> Head:
    """Take off the final activation, if the loss wants that, and make the input for the targets."""
    value: gs.Tensor = output
    while value.inputs and value.inputs[0].op == "Identity":
        value = value.inputs[0].inputs[0]
    activation, axis = "", min(1, sample.ndim - 1)
    if value.inputs and value.inputs[0].op in entry.detaches:
        last = value.inputs[0]
        activation, axis = last.op, last.attrs.get("axis", -1) % sample.ndim
        value = last.inputs[0]
    if entry.labelled and sample.ndim < 2:
        raise TrainingError(f"output {output.name!r} of shape {sample.shape} has no axis of classes")
    return Head(output, value, activation, axis, _target(output, entry, sample, axis), sample.shape)


def _target(output: gs.Variable, entry: LossEntry, sample: Array, axis: int) -> gs.Variable:
    sizes = ["batch", *sample.shape[1:]]
    if entry.labelled:
        del sizes[axis]
        return gs.Variable(f"loss:{LABELS}", np.int64, sizes)
    return gs.Variable(f"loss:target:{output.name}", np.float32, sizes)


def check_targets(
    heads: Mapping[str, Head], loss: str, targets: Mapping[str, Array], batch: int
) -> dict[str, Array]:
    """Validate one batch of targets and bring it into the types of the graph.

    Args:
        heads: From `attach_loss`.
        loss: Name of the loss.
        targets: Arrays by name; others than those with a head are ignored.
        batch: Number of samples in the batch.

    Returns:
        Arrays by the names of the graph's inputs.

    Raises:
        DataError: Something is missing, of the wrong shape or type, or out of range.
    """
    checked = {}
    for name, head in heads.items():
        if name not in targets:
            raise DataError(f"a batch has no targets named {name!r}")
        array = np.asarray(targets[name])
        if LOSSES[loss].labelled:
            array = _checked_labels(array, name, head, batch)
        else:
            array = _checked_values(array, name, head, batch, loss)
        checked[head.target.name] = array
    return checked


def _checked_labels(labels: Array, name: str, head: Head, batch: int) -> Array:
    classes = head.shape[head.axis]
    expected = (batch, *(size for axis, size in enumerate(head.shape) if axis not in (0, head.axis)))
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name} must be integers, they are {labels.dtype}")
    if labels.shape != expected:
        raise DataError(f"{name} have shape {labels.shape}, expected {expected}")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"{name} range from {labels.min()} to {labels.max()}; the model has {classes} classes"
        )
    return labels.astype(np.int64)


def _checked_values(values: Array, name: str, head: Head, batch: int, loss: str) -> Array:
    expected = (batch, *head.shape[1:])
    if values.dtype.kind not in "fiub":
        raise DataError(f"targets {name!r} must be numbers, they are {values.dtype}")
    if values.shape != expected:
        raise DataError(f"targets {name!r} have shape {values.shape}, expected {expected}")
    if not np.isfinite(values).all():
        raise DataError(f"targets {name!r} hold NaN or infinite values")
    if loss == "bce" and values.size and not (values.min() >= 0 and values.max() <= 1):
        raise DataError(f"targets {name!r} range from {values.min()} to {values.max()}; bce needs 0 to 1")
    return values.astype(np.float32)
