"""The loss of a training: terms of a sum, each behind the outputs it has targets for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import DataError, TrainingError, UsageError
from onnxprune.train.emit import Emitter
from onnxprune.train.losses import LOSSES, LossEntry
from onnxprune.train.output_heads import LABELS, TEACHER, Head, detached, mask_for
from onnxprune.train.own_loss import OwnLoss
from onnxprune.train.settings import TrainSettings
from onnxprune.train.wire import Array


def attach_loss(
    graph: gs.Graph,
    settings: TrainSettings,
    targets: Mapping[str, Array],
    outputs: Mapping[str, Array],
    axes: Mapping[str, int] | None = None,
) -> tuple[Head, ...]:
    """Append the loss, which becomes the graph's only output.

    Args:
        graph: The training copy; it is changed.
        settings: Name and options of the loss.
        targets: A batch of targets: `labels`, arrays named like outputs, and the teacher's tensors, with
            `teacher:` in front of their names.
        outputs: Outputs of the model for a sample batch.
        axes: The axis of each output that counts the samples; the first by default.

    Returns:
        Heads, which are the tensors that have targets.

    Raises:
        DataError: There are no targets for a term.
        UsageError: A term does not fit the model.
    """
    emit = Emitter(graph, "loss")
    building = _Building(graph, settings, targets, outputs, axes or {})
    total: gs.Tensor | None = None
    for term in settings.terms:
        for part in building.parts(term.name, emit):
            weighted = part if term.weight == 1.0 else emit("Mul", part, term.weight)
            total = weighted if total is None else emit("Add", total, weighted)
    loss = gs.Variable("loss:total", np.float32, ())
    emit.assign(total, loss)
    graph.inputs.extend({id(head.target): head.target for head in building.heads}.values())
    graph.outputs = [loss]
    graph.cleanup(remove_unused_graph_inputs=True).toposort()
    return tuple(building.heads)


@dataclass
class _Building:
    """A loss being attached."""

    graph: gs.Graph
    settings: TrainSettings
    targets: Mapping[str, Array]
    outputs: Mapping[str, Array]
    axes: Mapping[str, int]
    heads: list[Head] = field(default_factory=list)

    def parts(self, name: str, emit: Emitter) -> Iterator[gs.Tensor]:
        """Append one term; yield its values, one for each head."""
        if name not in LOSSES:
            own = OwnLoss.open(name, self.graph, self.outputs)
            variables = {target: self._own_target(target, own) for target in own.targets}
            yield own.attach(self.graph, emit, variables)
            return
        entry = LOSSES[name]
        heads = list(self._heads(entry))
        if not heads:
            found = ", ".join(sorted(self.targets)) or "none"
            raise DataError(
                f"the {name} loss needs targets named {self._expected(entry)}; the data has {found}",
                "name them so, or learn from the model before pruning: --loss distill --original MODEL",
            )
        self.heads.extend(heads)
        for head in heads:
            yield entry.function(head, emit, self.settings)

    def _heads(self, entry: LossEntry) -> Iterator[Head]:
        if entry.targets == "features":
            yield from (self._feature(name) for name in self.settings.features)
            return
        for output in self.graph.outputs:
            name = LABELS if entry.targets == "labels" else output.name
            if entry.targets == "teacher" and TEACHER + name in self.targets:
                name = TEACHER + name
            if name in self.targets and np.dtype(output.dtype).kind == "f":
                yield self._head(name, output, entry)
                if entry.targets == "labels":
                    return

    def _head(self, name: str, output: gs.Variable, entry: LossEntry) -> Head:
        """Detach the final activation, if the loss works before it, and find the input for the targets."""
        sample = self.outputs[output.name]
        batch = 0 if name == LABELS else self.axes.get(output.name, 0)
        activation, value, own = detached(output, entry.detaches)
        axis = min(1, sample.ndim - 1) if not batch else sample.ndim - 1
        axis = axis if own is None else own % sample.ndim
        if name == LABELS and own is None and _counts_last(self.targets[LABELS].shape, sample.shape):
            axis = sample.ndim - 1
        if name == LABELS and sample.ndim < 2:
            raise TrainingError(f"output {output.name!r} of shape {sample.shape} has no axis of classes")
        sizes = [n for a, n in enumerate(sample.shape) if a != batch]
        if name == LABELS:
            del sizes[axis - 1]
        target = self._target(name, np.int64 if name == LABELS else np.float32, sizes, batch)
        mask = mask_for(self.graph, sample.shape, batch)
        found = (name, output, value, activation, axis, target, sample.shape, entry.bounds, batch)
        return Head(*found, mask=mask)

    def _feature(self, name: str) -> Head:
        """Find a tensor whose like the teacher has."""
        tensor = self.graph.tensors().get(name)
        if tensor is None or isinstance(tensor, gs.Constant) or TEACHER + name not in self.targets:
            raise UsageError(
                f"there is no tensor {name!r} in both models to learn features from",
                "name results of nodes that both models have",
            )
        shape = self.targets[TEACHER + name].shape
        target = self._target(TEACHER + name, np.float32, shape[1:])
        return Head(TEACHER + name, tensor, tensor, "", min(1, len(shape) - 1), target, shape)

    def _own_target(self, name: str, own: OwnLoss) -> gs.Variable:
        if name not in self.targets:
            found = ", ".join(sorted(self.targets)) or "none"
            raise DataError(f"the loss {own.name} needs targets named {name!r}; the data has {found}")
        shape, like = self.targets[name].shape, self.graph.outputs[0]
        target = self._target(name, own.targets[name], shape[1:])
        if all(head.target is not target for head in self.heads):
            self.heads.append(Head(name, like, like, "", min(1, len(shape) - 1), target, shape))
        return target

    def _target(self, name: str, kind: type, sizes: Sequence[int], batch: int = 0) -> gs.Variable:
        """Return the graph input for some targets, the same for all terms that use them."""
        known = next((head.target for head in self.heads if head.name == name), None)
        return known or gs.Variable(f"loss:target:{name}", kind, [*sizes[:batch], "batch", *sizes[batch:]])

    def _expected(self, entry: LossEntry) -> str:
        if entry.targets == "labels":
            return LABELS
        return " or ".join(output.name for output in self.graph.outputs)


def _counts_last(labels: Sequence[int], output: Sequence[int]) -> bool:
    """Return whether labels [N, …] fit an output [N, …, C] and not one [N, C, …]."""
    return tuple(labels[1:]) == tuple(output[1:-1]) != tuple(output[2:])


def check_targets(
    heads: Collection[Head], targets: Mapping[str, Array], batch: int, ignored: int | None = None
) -> dict[str, Array]:
    """Validate one batch of targets and bring it into the types of the graph.

    Args:
        heads: From `attach_loss`.
        targets: Arrays by name; others than those of heads are left out.
        batch: Number of samples in the batch.
        ignored: The label of positions that do not count; ``None`` for none.

    Returns:
        Arrays by the names of the graph's inputs.

    Raises:
        DataError: A target is missing, of the wrong shape or type, or out of range.
    """
    checked = {}
    for head in heads:
        if head.name not in targets:
            raise DataError(f"a batch has no targets named {head.name!r}")
        array = np.asarray(targets[head.name])
        if head.labelled and len(head.target.shape) == len(head.shape) - 1:
            array = _checked_labels(array, head, batch, ignored)
        else:
            array = _checked_values(array, head, batch)
        checked[head.target.name] = array
    return checked


def _checked_labels(labels: Array, head: Head, batch: int, ignored: int | None) -> Array:
    classes = head.shape[head.axis]
    expected = (batch, *(size for axis, size in enumerate(head.shape) if axis not in (0, head.axis)))
    if labels.dtype.kind not in "iu":
        raise DataError(f"{head.name} must be integers, they are {labels.dtype}")
    if labels.shape != expected:
        raise DataError(f"{head.name} have shape {labels.shape}, expected {expected}")
    counted = labels if ignored is None else labels[labels != ignored]
    if labels.size and not counted.size:
        raise DataError(f"all {head.name} of a batch are {ignored}, the one that is ignored")
    if counted.size and not (counted.min() >= 0 and counted.max() < classes):
        raise DataError(
            f"{head.name} range from {counted.min()} to {counted.max()}; the model has {classes} classes"
        )
    return labels.astype(np.int64)


def _checked_values(values: Array, head: Head, batch: int) -> Array:
    name = head.name
    expected = tuple(batch if a == head.batch_axis else n for a, n in enumerate(head.shape))
    if values.dtype.kind not in "fiub":
        raise DataError(f"targets {name!r} must be numbers, they are {values.dtype}")
    if values.shape != expected:
        raise DataError(f"targets {name!r} have shape {values.shape}, expected {expected}")
    if not np.isfinite(values).all():
        raise DataError(f"targets {name!r} hold NaN or infinite values")
    if (
        head.bounds
        and values.size
        and not (head.bounds[0] <= values.min() and values.max() <= head.bounds[1])
    ):
        low, high = head.bounds
        found = f"range from {values.min()} to {values.max()}"
        raise DataError(f"targets {name!r} {found}; the loss needs {low:g} to {high:g}")
    return values.astype(head.target.dtype)
