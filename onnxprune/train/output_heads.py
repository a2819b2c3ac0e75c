"""Heads: the outputs of a model that a loss is computed on, and their meaning."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.ops.spec import find_spec
from onnxprune.runtime.token_masks import is_mask
from onnxprune.train.emit import Emitter, axes_of

LABELS = "labels"
TEACHER = "teacher:"
"""Prefix of a tensor's name: the target is the teacher's value of that tensor."""
_AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_OTHER_PRODUCTS = ("Einsum", "FusedMatMul")
_BOUNDS = ("Clip", "Relu")
_DEPTH = 12
"""Nodes that are followed backwards from an output."""


@dataclass(frozen=True)
class Head:
    """A tensor of the model that has targets.

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
        part: The part of the targets that belongs to the value, where an output joins several; else ``None``.
        part_shape: Shape of that part for the sample batch.
        mask: Weights of the tokens, an input ``[N, T]`` of the graph, where the output counts them on axis 1.
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
    part: gs.Tensor | None = None
    part_shape: tuple[int, ...] = ()
    mask: gs.Variable | None = None

    @property
    def labelled(self) -> bool:
        """Return whether the targets are integer labels instead of arrays like the output."""
        return self.name == LABELS

    @property
    def targets(self) -> gs.Tensor:
        """The targets of the value."""
        return self.target if self.part is None else self.part

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of the value for the sample batch."""
        return self.part_shape or self.shape

    @property
    def ends_in_product(self) -> bool:
        """True if the value is the result of a layer, as logits are, and not of a normalisation."""
        return _from_product(self.value)

    def parts(self, emit: Emitter, detaches: Collection[str]) -> tuple[Head, ...]:
        """Divide a head whose output joins activations with other values, as the heads of detectors do.

        Args:
            emit: Emitter that appends nodes.
            detaches: Activations that mark a part of its own.

        Returns:
            The parts, each without its activation; the head itself where it has no such parts.
        """
        node = self.value.inputs[0] if self.value.inputs else None
        if self.activation or node is None or node.op != "Concat":
            return (self,)
        axis = int(node.attrs.get("axis", 0)) % len(self.shape)
        known = (operand.shape[axis] for operand in node.inputs if operand.shape is not None)
        sizes = [size for size in known if isinstance(size, int)]
        found = [detached(operand, detaches) for operand in node.inputs]
        whole = len(sizes) == len(found) and sum(sizes) == self.shape[axis]
        if axis == self.batch_axis or not whole or not any(name for name, _, _ in found):
            return (self,)
        parts, start = list[Head](), 0
        for (name, value, own), size in zip(found, sizes, strict=True):
            bounds = [emit.ints([n]) for n in (start, start + size, axis)]
            shape = tuple(size if a == axis else n for a, n in enumerate(self.shape))
            cut = emit("Slice", self.target, *bounds)
            classes = self.axis if own is None else own % len(shape)
            mask = None if axis == 1 else self.mask
            part = replace(self, value=value, activation=name, axis=classes, mask=mask)
            parts.append(replace(part, part=cut, part_shape=shape))
            start += size
        return tuple(parts)


def is_product(operator: str, domain: str = "") -> bool:
    """Return whether an operator is a layer that logits come from: a product with weights."""
    return find_spec(domain, operator).splits or operator in _OTHER_PRODUCTS


def keeps_logits(operator: str, domain: str = "") -> bool:
    """Return whether a table of logits is one still behind an operator."""
    spec = find_spec(domain, operator)
    moves = bool(spec.rearranges) or operator == "Slice"
    return moves or spec.normalises == "stored" or operator in (*_AVERAGES, *_BOUNDS)


def detached(value: gs.Tensor, detaches: Collection[str]) -> tuple[str, gs.Tensor, int | None]:
    """Take the last activation off a tensor.

    Args:
        value: The tensor.
        detaches: Activations that may be taken off.

    Returns:
        The operator, or an empty string; the tensor before it; its axis, ``None`` where it has none.
    """
    while value.inputs and value.inputs[0].op == "Identity":
        value = value.inputs[0].inputs[0]
    if not value.inputs or value.inputs[0].op not in detaches:
        return "", value, None
    last = value.inputs[0]
    return last.op, last.inputs[0], None if last.op == "Sigmoid" else int(last.attrs.get("axis", -1))


def mask_for(graph: gs.Graph, shape: Sequence[int], batch_axis: int) -> gs.Variable | None:
    """Return the input that masks the tokens of an output, ``None`` where there is none.

    It is an input of integers or booleans ``[N, T]`` with the name of an attention mask, for an output
    ``[N, T, …]`` of three axes or more.

    Args:
        graph: The training copy.
        shape: Shape of the output for the sample batch.
        batch_axis: The axis of the output that counts the samples.
    """
    if len(shape) < 3 or batch_axis != 0:
        return None
    for variable in graph.inputs:
        fits = variable.shape is not None and len(variable.shape) == 2 and variable.shape[1] == shape[1]
        if fits and is_mask(variable.name) and np.dtype(variable.dtype).kind in "iub":
            return variable
    return None


def _from_product(value: gs.Tensor) -> bool:
    """Return whether a tensor comes from a product with weights through operators that keep logits logits."""
    for _ in range(_DEPTH):
        if not value.inputs:
            return False
        node = value.inputs[0]
        if is_product(node.op, node.domain or ""):
            return True
        if find_spec(node.domain or "", node.op).arithmetic:
            computed = [operand for operand in node.inputs if not isinstance(operand, gs.Constant)]
            if node.op == "Add" and len(computed) == 2:
                return any(_from_product(operand) for operand in computed)
            if len(computed) != 1:
                return False
            value = computed[0]
        elif keeps_logits(node.op, node.domain or "") and not (node.op == "ReduceMean" and _over_last(node)):
            value = node.inputs[0]
        else:
            return False
    return False


def _over_last(node: gs.Node) -> bool:
    """Return whether a mean is taken over the last axis alone, as a normalisation does."""
    rank = len(node.inputs[0].shape or ())
    return bool(rank) and axes_of(node, rank) == [rank - 1]
