"""BatchNormalization put back for training where an exporter has folded it away, and folded again after.

A pruned network trains much better with it than without, and best when it starts from the statistics of the
unpruned network: scale and bias are set to the standard deviation and mean that the unpruned network has at
that place, so that every kept channel has its former distribution for the layers behind it. A repaired
network is near the original already: then its own statistics are better, which change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.evaluate.data import Dataset
from onnxprune.evaluate.data.dataset import Batch
from onnxprune.ir import Model, captured, with_outputs
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import LinearView
from onnxprune.runtime import Array, Session
from onnxprune.scoring.layerwise.layer_recognition import views_of
from onnxprune.scoring.layerwise.moments import ChannelMoments

Unfold: TypeAlias = Literal["auto", "always", "never"]
Statistics: TypeAlias = Mapping[str, ChannelMoments]

EPSILON = 1e-5
MOMENTUM = 0.9
SAMPLES = 512
"""Samples that are enough for the mean and the deviation of a channel."""
NEAR = 0.1
"""Distance from the original below which a network has been repaired, or was never harmed."""
_BATCH = 64


@dataclass(frozen=True)
class Fold:
    """A convolution whose results are normalised for training.

    Attributes:
        result: The tensor it made and the normalisation makes now.
        weight: Its kernel, ``[out, in / group, …]``, for a transposed one ``[in, out / group, …]``.
        bias: Former name of its bias; it has none while it is trained.
        group: Its groups, and 0 for a convolution that is not transposed.
        parts: The normalisation's scale, bias, mean and variance by name.
    """

    result: str
    weight: str
    bias: str
    group: int
    parts: tuple[str, str, str, str]

    def apart(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return kernel and bias of the one convolution that both together are."""
        scale, shift, mean, variance = (values[name].astype(np.float64) for name in self.parts)
        slope = scale / np.sqrt(variance + EPSILON)
        weight = values[self.weight]
        folded = (weight * _spread(slope, weight.shape, self.group)).astype(weight.dtype)
        return {self.weight: folded, self.bias: (shift - mean * slope).astype(weight.dtype)}


@dataclass(frozen=True)
class Unfolded:
    """A network with normalisation put back.

    Attributes:
        model: The network.
        folds: Convolutions that it was put behind.
    """

    model: Model
    folds: tuple[Fold, ...]

    def folded(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Turn trained tensors of this network into those of the one without normalisation.

        Args:
            weights: Trained tensors and statistics by name; missing ones are unchanged.
        """
        own = {name for fold in self.folds for name in (fold.weight, *fold.parts)}
        values = {name: self.model.array(name) for name in own} | dict(weights)
        folded = {name: array for name, array in weights.items() if name not in own}
        for fold in self.folds:
            folded |= fold.apart(values)
        return folded


def unfold(model: Model, own: Statistics, original: Mapping[str, tuple[Array, Array]]) -> Unfolded:
    """Put normalisation behind convolutions.

    Args:
        model: A network; it is not changed.
        own: Moments, in this network, of the results that get a normalisation, by their names.
        original: Means and standard deviations that they get; by default their own, in which case the network
            computes the same function.
    """
    changed = model.copy()
    folds, nodes = [], []
    for node in changed.nodes:
        nodes.append(node)
        if node.output[0] in own:
            moments = own[node.output[0]]
            reference = original.get(node.output[0], (moments.mean, np.sqrt(moments.variance + EPSILON)))
            fold, added = _normalised(changed, node, moments, reference)
            folds.append(fold)
            nodes.append(added)
    del changed.proto.graph.node[:]
    changed.proto.graph.node.extend(nodes)
    changed.edited()
    return Unfolded(changed, tuple(folds))


def foldable(model: Model, choice: Unfold = "auto") -> tuple[str, ...]:
    """Return the results of the convolutions that normalisation can be put behind.

    That are those with a kernel and a bias of their own that are constants, whose results go on to other
    layers with weights and to no normalisation: producers of the network's own outputs stay as they are.

    Args:
        model: A network.
        choice: ``never``: none. ``auto``: none if there is a normalisation anywhere: then layers without
            one are meant to have none.
    """
    if choice == "never":
        return ()
    if choice == "auto" and any(spec_of(node).normalises for node in model.nodes):
        return ()
    readers = _readers(model)
    return tuple(
        node.output[0]
        for node in model.nodes
        if _convolution(model, node) is not None
        and _owns_parameters(model, node, readers)
        and not any(spec_of(reader).normalises for reader in readers[node.output[0]])
        and _feeds_weights_only(node.output[0], readers)
    )


def moments_of(
    model: Model, names: Sequence[str], data: Dataset, *, seed: int = 0, threads: int | None = None
) -> dict[str, ChannelMoments]:
    """Measure activations, channel by channel; those with a single position per sample are left out.

    Args:
        model: A network.
        names: Activations of the layout ``[samples, channels, …]``.
        data: Samples, of which a few are drawn.
        seed: Seed of the draw.
        threads: Threads to compute with.

    Raises:
        DataError: They are not finite.
    """
    session = Session(with_outputs(model.proto, names, TensorProto.FLOAT), threads=threads)
    moments: dict[str, ChannelMoments] = {}
    for batch in _few(data, session.fixed_batch, seed):
        for name, values in session.run(batch.inputs).items():
            if values[0, 0].size > 1:
                found = moments.setdefault(name, ChannelMoments(values.shape[1]))
                found.add(np.moveaxis(values, 1, -1), f"'{name}'")
    return moments


def _few(data: Dataset, fixed_batch: int | None, seed: int) -> Iterator[Batch]:
    """Draw batches of a few samples; where the file fixes the batch, whole ones alone."""
    taken = 0
    for batch in data.batches(fixed_batch or _BATCH, shuffle=True, seed=seed):
        if taken >= SAMPLES or batch.size != (fixed_batch or batch.size):
            return
        taken += batch.size
        yield batch


def distance(
    model: Model, original: Model, data: Dataset, *, seed: int = 0, threads: int | None = None
) -> float:
    """Measure how far a network's outputs are from the original's, on a few samples.

    Args:
        model: A network.
        original: Another one with the same inputs and outputs.
        data: Samples, of which a few are drawn.
        seed: Seed of the draw.
        threads: Threads to compute with.

    Returns:
        The mean of the squared differences relative to the mean square, of the output where that is largest;
        infinity where one is not finite.
    """
    here, there = Session(model.proto, threads=threads), Session(original.proto, threads=threads)
    errors: dict[str, Array] = {}
    for batch in _few(data, here.fixed_batch, seed):
        made, reference = here.run(batch.inputs), there.run(batch.inputs)
        for name in made.keys() & reference.keys():
            a, b = (np.asarray(v, np.float64) for v in (made[name], reference[name]))
            errors[name] = errors.get(name, np.zeros(2)) + np.asarray([((a - b) ** 2).sum(), (b**2).sum()])
    found = [error / max(size, 1e-30) for error, size in errors.values()]
    return float(max(found, default=math.inf)) if np.isfinite(found).all() else math.inf


def _normalised(
    model: Model, node: onnx.NodeProto, moments: ChannelMoments, reference: tuple[Array, Array]
) -> tuple[Fold, onnx.NodeProto]:
    """Take the bias off a convolution, and make the normalisation that follows."""
    result, (weight, bias) = node.output[0], node.input[1:3]
    kind = model.dtype(weight)
    mean, deviation = reference
    values = (deviation, mean, moments.mean - model.array(bias), moments.variance)
    names = ("scale", "bias", "mean", "variance")
    scale, shift, running_mean, variance = (
        model.add_constant(f"{result}__{name}", np.asarray(value, kind))
        for name, value in zip(names, values, strict=True)
    )
    parts = (scale, shift, running_mean, variance)
    view = _convolution(model, node)
    assert view is not None
    fold = Fold(result, weight, bias, view.groups if view.inputs_first else 0, parts)
    del node.input[2]
    node.output[0] = model.fresh(f"{result}__unnormalised")
    normalisation = helper.make_node(
        "BatchNormalization",
        [node.output[0], *parts],
        [result],
        model.fresh(f"{result}__normalisation"),
        epsilon=EPSILON,
        momentum=MOMENTUM,
    )
    return fold, normalisation


def _spread(slope: Array, shape: tuple[int, ...], group: int) -> Array:
    """Bring one factor per output channel into a shape that broadcasts over a kernel."""
    if not group:
        return slope.reshape(-1, *[1] * (len(shape) - 1))
    per_input = np.repeat(slope.reshape(group, 1, -1), shape[0] // group, axis=1)
    return per_input.reshape(shape[0], -1, *[1] * (len(shape) - 2))


def _readers(model: Model) -> dict[str, list[onnx.NodeProto]]:
    """Return the readers of each tensor; a graph output is read by a node of no operator."""
    readers: dict[str, list[onnx.NodeProto]] = {name: [] for node in model.nodes for name in node.output}
    for node in (*model.nodes, *(onnx.NodeProto(input=[output.name]) for output in model.outputs)):
        for name in (*node.input, *captured(node)):
            readers.setdefault(name, []).append(node)
    return readers


def _convolution(model: Model, node: onnx.NodeProto) -> LinearView | None:
    """Return the linear view of a node that is a plain convolution; ``None`` for others."""
    views = [v for v in views_of(model, node) if v.final and (v.data, v.weights, v.bias) == (0, 1, 2)]
    return next((v for v in views if v.layout in ("windows", "transposed windows")), None)


def _owns_parameters(
    model: Model, node: onnx.NodeProto, readers: Mapping[str, Collection[onnx.NodeProto]]
) -> bool:
    """Return whether kernel and bias are 32-bit constants without other consumers."""
    return len(node.input) == 3 and all(
        name in model.constants
        and model.constants[name].data_type == TensorProto.FLOAT
        and len(readers[name]) == 1
        for name in node.input[1:]
    )


def _feeds_weights_only(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    """Return whether every way from a tensor to an output of the network passes a layer with weights."""
    pending, seen = [name], {name}
    while pending:
        for node in readers[pending.pop()]:
            if not node.op_type:
                return False
            if spec_of(node).mixes:
                continue
            fresh = [output for output in node.output if output not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    return True
