"""Scores of low ranks: moments of the operands of layers, and the effect of layers' errors on the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from onnxprune.decisions.ranks.split_forms import (
    FormName,
    RankOption,
    at_full_ranks,
    factors_of,
    forms_of,
    options_of,
)
from onnxprune.decisions.ranks.splittable_layers import RankLayer
from onnxprune.errors import DataError
from onnxprune.ir import Model
from onnxprune.runtime import Array, Session
from onnxprune.scoring.layerwise.low_rank_kernels import Kernels, composed, damped, power
from onnxprune.scoring.layerwise.moments import centred
from onnxprune.scoring.layerwise.row_moments import GRAM_BYTES, gather, gram_bytes
from onnxprune.scoring.layerwise.trace import Trace
from onnxprune.support.progress import task

_TRIED_ERROR = 0.05
"""The error of a layer at which its weight is measured."""
MEASURED_SAMPLES = 128
"""Samples on which the errors of single layers are measured at the outputs."""


@dataclass(frozen=True)
class InputMoments:
    """Moments of the inputs of a layer at all places of its kernel.

    Attributes:
        gram: E[x xᵀ], about the mean where a bias can make up for that; ``[groups, inputs, inputs]``.
        mean: The mean where it is taken off, else zero; ``[groups, inputs]``.
        apart: E[x xᵀ] about the mean in any case, to measure the variance of results by.
    """

    gram: Array
    mean: Array
    apart: Array


def unseen(layer: RankLayer) -> InputMoments:
    """Return moments that take all inputs as independent and alike: the plain singular values."""
    groups, _, inputs = layer.shape[:3]
    size = inputs * int(np.prod(layer.kernel_shape, dtype=int))
    gram = np.broadcast_to(np.eye(size), (groups, size, size))
    return InputMoments(gram, np.zeros((groups, size)), gram)


def is_seen(layer: RankLayer) -> bool:
    """Return whether the Gram matrices of a layer take no more memory than they may."""
    return gram_bytes(layer.shape[0], layer.linear_inputs) <= GRAM_BYTES


def moments_of(
    layer: RankLayer, arrivals: Iterable[tuple[Array, Array]], batches: int, seed: tuple[int, int]
) -> InputMoments:
    """Return the moments of the operand of a layer.

    Args:
        layer: The layer.
        arrivals: For each batch the operand and the result.
        batches: Number of batches.
        seed: Seed of the rows that are drawn where there are too many.
    """
    axes = np.arange(layer.shape[0]), np.arange(1), np.arange(layer.linear_inputs)
    seen, held = gather(layer.linear, arrivals, axes, batches, seed)
    both = seen + held
    apart = np.stack([centred(xx, x, both.count)[0] for xx, x in zip(both.xx, both.x, strict=True)])
    shifts = layer.shift is not None
    gram = apart if shifts else both.xx
    mean = both.x / both.count if shifts else np.zeros_like(both.x)
    return InputMoments(damped(gram / both.count), mean, apart / both.count)


def observed(
    model: Model,
    layers: Sequence[RankLayer],
    feeds: Sequence[Mapping[str, Array]],
    threads: int | None,
    seed: int,
) -> Iterator[tuple[RankLayer, InputMoments]]:
    """Yield layers with the moments of their operands, in order of execution.

    Raises:
        DataError: The samples make values that are not finite, or there are none.
    """
    trace = Trace(model, [dict(feed) for feed in feeds], 0, threads)
    if not trace.batches:
        raise DataError("there are no samples to look at", "give at least two")
    with task("look at samples", total=len(layers)) as progress:
        for layer in layers:
            if not is_seen(layer):
                yield layer, unseen(layer)
                continue
            trace.advance(layer.index)
            names = [layer.linear.flow, model.main.nodes[layer.index].output[0]]
            made = trace.tensors(layer.index + 1, names)
            arrivals = ((values[names[0]], values[names[1]]) for values in made)
            yield layer, moments_of(layer, arrivals, len(trace.batches), (seed, layer.index))
            progress.advance(1, note=layer.name)


@dataclass(frozen=True)
class RankOffer:
    """The splits of one layer.

    Attributes:
        layer: The layer.
        options: The splits that cost less than it, the smallest error first.
        weight: Loss at the outputs for each unit of error of the layer.
    """

    layer: RankLayer
    options: tuple[RankOption, ...]
    weight: float = 1.0

    def losses(self) -> list[float]:
        """Return the loss of each split: the squared error of the outputs, divided by their variance."""
        return [self.weight * option.error for option in self.options]


def offers_of(
    model: Model,
    layers: Sequence[RankLayer],
    forms: Sequence[FormName] = (),
    feeds: Sequence[Mapping[str, Array]] = (),
    ranks: Mapping[str, int] = MappingProxyType({}),
    threads: int | None = None,
    seed: int = 0,
) -> list[RankOffer]:
    """Return the splits of layers that pay, with costs and losses.

    Without samples all layers weigh alike, and an error is that of the weights. With samples an error is that
    of the result on them, and its weight is measured: one split of the layer, the outputs of the network.

    Args:
        model: The network in canonical form.
        layers: Layers of it, in order of execution.
        forms: Names of the forms that are tried; by default all.
        feeds: Samples, arrays for every input.
        ranks: The only rank that is wanted, by the name of the layer.
        threads: Threads of the sessions.
        seed: Seed of the rows that are drawn where there are too many.

    Raises:
        DataError: The samples make values that are not finite.
    """
    seen = observed(model, layers, feeds, threads, seed) if feeds else ((n, unseen(n)) for n in layers)
    meter = _Meter.on(model, feeds, threads) if feeds else None
    found = []
    for layer, moments in seen:
        kernel = layer.kernel(model.array(layer.linear.weight))
        variance = power(kernel, moments.apart)
        if variance <= 0:
            continue  # its result does not vary
        tried, rank = forms_of(layer, forms), ranks.get(layer.name)
        options = options_of(layer, kernel, moments.gram, variance, tried, rank)
        if options:
            weight = _weight(meter, layer, kernel, moments, options) if meter else 1.0
            found.append(RankOffer(layer, tuple(options), weight))
    return found


def exact_kernels(
    model: Model,
    chosen: Sequence[tuple[RankLayer, RankOption]],
    feeds: Sequence[Mapping[str, Array]],
    threads: int | None = None,
    seed: int = 0,
) -> list[Kernels]:
    """Return the kernels of splits at the full rank, with which nothing is lost.

    The directions between the products are ordered by their part in the result on the samples, the largest
    first.

    Args:
        model: The network in canonical form.
        chosen: Layers of it, in order of execution, with a split each; its ranks are not used.
        feeds: Samples, arrays for every input.
        threads: Threads of the sessions.
        seed: Seed of the rows that are drawn where there are too many.

    Raises:
        DataError: The samples make values that are not finite.
    """
    layers, found = [layer for layer, _ in chosen], []
    moments = observed(model, layers, feeds, threads, seed)
    for (layer, option), (_, seen) in zip(chosen, moments, strict=True):
        kernel = layer.kernel(model.array(layer.linear.weight))
        found.append(factors_of(kernel, seen.gram, at_full_ranks(layer, option)).kernels)
    return found


def _weight(
    meter: _Meter, layer: RankLayer, kernel: Array, moments: InputMoments, options: Sequence[RankOption]
) -> float:
    """Measure the loss at the outputs for each unit of error of a layer: one split of middling error."""
    tried = min(options, key=lambda o: abs(o.error - _TRIED_ERROR))
    low = composed(factors_of(kernel, moments.gram, tried).kernels)
    lost = (kernel - low).reshape(*kernel.shape[:2], -1)
    error = power(kernel - low, moments.gram) / power(kernel, moments.apart)
    if error <= 0:
        return 1.0
    matrices = low.reshape(*low.shape[:2], -1)
    shift = np.einsum("goi,gi->go", lost, moments.mean).ravel()
    return meter.loss(layer, matrices, shift) / error


@dataclass(frozen=True)
class _Meter:
    """The outputs of a network on some samples, and their distance from those of a changed one.

    Attributes:
        trace: The samples in front of the layer that is measured; nodes before it run once for all layers.
        outputs: The outputs of the network, batch by batch.
        variances: The sum of squares about the mean of each output that varies.
    """

    trace: Trace
    outputs: Sequence[Mapping[str, Array]]
    variances: Mapping[str, float]

    @classmethod
    def on(cls, model: Model, feeds: Sequence[Mapping[str, Array]], threads: int | None) -> _Meter:
        few, count = [], 0
        for feed in feeds:
            if count < MEASURED_SAMPLES:
                few.append(feed)
                count += len(next(iter(feed.values())))
        session = Session(model.proto, threads=threads)
        outputs = [session.run(feed) for feed in few]
        names = [name for name, values in outputs[0].items() if values.dtype.kind == "f"]
        whole = {n: np.concatenate([o[n].astype(np.float64).ravel() for o in outputs]) for n in names}
        variances = {name: float(values.var()) * values.size for name, values in whole.items()}
        trace = Trace(model, [dict(feed) for feed in few], 0, threads)
        return cls(trace, outputs, {n: v for n, v in variances.items() if v > 0})

    def loss(self, layer: RankLayer, matrices: Array, shift: Array) -> float:
        """Return the squared error of the outputs, over their variance, with other weights of a layer.

        Layers are measured in order of execution.
        """
        self.trace.advance(layer.index)
        changed = self.trace.model.copy()
        before = changed.array(layer.linear.weight)
        changed.set_array(layer.linear.weight, layer.linear.tensor(matrices).astype(before.dtype))
        if layer.shift is not None and shift.any():
            layer.shift.add(changed, shift)
        sums = dict.fromkeys(self.variances, 0.0)
        runs = replace(self.trace, model=changed).tensors(len(changed.main.nodes), list(sums))
        for made, expected in zip(runs, self.outputs, strict=True):
            for name in sums:
                if made[name].shape == expected[name].shape:
                    sums[name] += float(np.square(made[name].astype(np.float64) - expected[name]).sum())
        parts = [value / self.variances[name] for name, value in sums.items()]
        return float(np.mean(parts)) if parts else 0.0
