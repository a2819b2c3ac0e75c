"""What is done at one node, so that its result becomes more like the original's.

Every method sees the sparse model as it has become so far: all nodes before this one have been repaired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import DataError
from onnxprune.graph import attributes, label
from onnxprune.recovery.linear import Linear, linear_of
from onnxprune.recovery.moments import ChannelMoments, Moments, check_finite
from onnxprune.recovery.pair import Pair
from onnxprune.recovery.shifts import Shift, find_shift
from onnxprune.recovery.solve import fit
from onnxprune.recovery.trace import Trace
from onnxprune.runtime import Array

GRAM_BYTES = 1 << 29
"""What a Gram matrix may take; a layer holds two of them, and a third while it is solved."""
GRAM_WORK = 3e9
"""Multiplications that a Gram matrix may take: of more rows a random part is used."""
ROW_NUMBERS = 3e7
"""How many numbers all rows together may have, for the same reason."""
ROWS_PER_INPUT = 10
"""So many rows for each input are used in any case, if there are that many."""
HELD_BACK = 5
"""One sample in so many is held back to choose the ridge by."""
ROUNDING = 1e-12
"""A squared error below this part of the squared result is none."""
_CHUNK_BYTES = 1 << 26


class UnfitError(Exception):
    """A method has nothing it could do at a node; the message is the reason."""


@dataclass
class Stage:
    """One node, in both models, and the samples that arrive there.

    Attributes:
        pair: The models.
        sparse: Samples in the one being repaired.
        original: The same samples in the other.
        index: Which node.
        seed: For what is drawn at random.
    """

    pair: Pair
    sparse: Trace
    original: Trace
    index: int
    seed: int = 0

    @property
    def node(self) -> onnx.NodeProto:
        """The sparse model's node."""
        return self.pair.sparse.nodes[self.index]

    @cached_property
    def linear(self) -> Linear:
        """The node as a linear map."""
        found = linear_of(self.pair.sparse, self.node)
        if isinstance(found, str):
            raise UnfitError(found)
        return found

    @property
    def shift(self) -> Shift | None:
        """Where the mean of the result can be moved."""
        return find_shift(self.pair.sparse, self.node, len(self.kept))

    @cached_property
    def kept(self) -> Array:
        """Which channels of the result remain, ``[channels]``."""
        if self.node.op_type == "BatchNormalization":
            return self.pair.mask(self.node.input[1])
        return self.linear.matrices(self.pair.mask(self.linear.weight)).any(-1).ravel()

    @property
    def channel_axis(self) -> int:
        """The axis of the result that counts the channels."""
        return 1 if self.node.op_type == "BatchNormalization" else self.linear.channel_axis

    def results(self) -> Iterator[tuple[Array, Array]]:
        """Yield the sparse and the original result, with what is added right after them."""
        name = self.node.output[0]
        shift = self.shift if self.node.op_type != "BatchNormalization" else None
        more = np.asarray(shift.outside(self.pair.sparse, self.pair.original) if shift else 0.0)
        ours, theirs = (t.tensors(self.index + 1, [name]) for t in (self.sparse, self.original))
        for a, b in zip(ours, theirs, strict=True):
            behind = a[name].ndim - 1 - self.channel_axis % a[name].ndim
            yield (a[name] + more.reshape(-1, *[1] * behind) if more.any() else a[name]), b[name]

    def arrivals(self) -> Iterator[tuple[Array, Array]]:
        """Yield the sparse model's first operand and the original's result."""
        ours = self.sparse.tensors(self.index, [self.node.input[0]])
        theirs = self.original.tensors(self.index + 1, [self.node.output[0]])
        for x, y in zip(ours, theirs, strict=True):
            yield x[self.node.input[0]], y[self.node.output[0]]

    def error(self) -> float:
        """Return the mean squared error of the channels that remain; 0 where it is nothing but rounding."""
        total, power, count = 0.0, 0.0, 0
        for ours, theirs in self.results():
            total += self._sum_of_squares(ours - theirs)
            power += self._sum_of_squares(theirs)
            count += theirs.size // len(self.kept) * int(self.kept.sum())
        check_finite(np.asarray(total), f"the result of node '{label(self.node)}'")
        return total / max(count, 1) if total > ROUNDING * power else 0.0

    def _sum_of_squares(self, values: Array) -> float:
        squares = np.moveaxis(np.square(values), self.channel_axis, -1)
        sums = squares.sum(tuple(range(values.ndim - 1)), dtype=np.float64)
        return float(sums[self.kept].sum())

    def statistics(self) -> tuple[ChannelMoments, ChannelMoments]:
        """Return mean and variance of every channel of the result, in the sparse and the original model."""
        found = ChannelMoments(len(self.kept)), ChannelMoments(len(self.kept))
        for results in self.results():
            for moments, values in zip(found, results, strict=True):
                moments.add(values, self.channel_axis, f"the result of node '{label(self.node)}'")
        return found


def least_squares(stage: Stage) -> dict[str, Any]:
    """Find the weights, and the bias, that come nearest to the original's result.

    The layer-wise reconstruction of Y. He, X. Zhang and J. Sun, "Channel pruning for accelerating very deep
    neural networks", 2017, for any linear map, and with the error of all layers before in sight.
    """
    layer, pair = stage.linear, stage.pair
    mask = layer.matrices(pair.mask(layer.weight))
    axes = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if len(axes[0]) * len(axes[2]) ** 2 * 8 > GRAM_BYTES:
        raise UnfitError(f"its Gram matrix of {len(axes[2])} inputs would take over {GRAM_BYTES >> 20} MiB")
    weights = layer.matrices(pair.sparse.array(layer.weight).astype(np.float64))
    shift = stage.shift
    bias = np.zeros(len(stage.kept)) + (_present(stage, shift) if shift else _fixed_bias(stage))
    bias = bias.reshape(mask.shape[:2])
    seen, held = _moments(stage, *axes)
    whole, vector = np.ix_(*axes), np.ix_(*axes[:2])
    counts = stage.kept.reshape(mask.shape[:2])[vector]
    solved, moved, strength = fit(seen, held, weights[whole], bias[vector], counts, shift is not None)
    if strength is not None:
        weights[whole] = solved
        pair.replace(layer.weight, layer.tensor(weights))
        if shift is not None:
            delta = np.zeros_like(bias)
            delta[vector] = moved - bias[vector]
            shift.add(pair.sparse, np.where(stage.kept, delta.ravel(), 0))
    return {"rows": seen.count + held.count, "inputs": len(axes[2]), "ridge": strength}


def bias(stage: Stage) -> dict[str, Any]:
    """Add to each channel what its mean lacks: the mean of what the removed inputs contributed.

    As M. Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, do
    after quantisation. Afterwards the means are the original's.
    """
    shift = _shift_of(stage)
    ours, theirs = stage.statistics()
    shift.add(stage.pair.sparse, np.where(stage.kept, theirs.mean - ours.mean, 0))
    return {}


def scale(stage: Stage) -> dict[str, Any]:
    """Give each channel the original's standard deviation and mean.

    What re-estimated statistics do where there is a BatchNormalization, for models that have it folded.
    """
    layer, shift = stage.linear, _shift_of(stage)
    ours, theirs = stage.statistics()
    varies = stage.kept & (ours.variance > 1e-12 * theirs.variance) & (theirs.variance > 0)
    factors = np.ones(len(stage.kept))
    np.sqrt(theirs.variance / np.where(varies, ours.variance, 1), out=factors, where=varies)
    present = (
        _present(stage, shift) if shift.inside else shift.outside(stage.pair.sparse, stage.pair.original)
    )
    weights = layer.matrices(stage.pair.sparse.array(layer.weight).astype(np.float64))
    stage.pair.replace(layer.weight, layer.tensor(weights * factors.reshape(*weights.shape[:2], 1)))
    delta = theirs.mean - factors * (ours.mean - present) - present
    shift.add(stage.pair.sparse, np.where(stage.kept, delta, 0))
    return {"largest_factor": float(factors.max()), "smallest_factor": float(factors.min())}


def batchnorm(stage: Stage) -> dict[str, Any]:
    """Set mean and variance to those of what arrives now, the variance biased as the operator has it.

    Where pruning has changed nothing yet the statistics of training stay: they are the better ones.

    "AdaBN": Y. Li et al., "Revisiting batch normalization for practical domain adaptation", 2016.
    """
    found, where = ChannelMoments(len(stage.kept)), f"what node '{label(stage.node)}' reads"
    for x, _ in stage.arrivals():
        found.add(x, 1, where)
    sparse = stage.pair.sparse
    for name, values in zip(stage.node.input[3:5], (found.mean, found.variance), strict=True):
        if sum(name in n.input for n in sparse.nodes) != 1 or name not in sparse.constants:
            raise UnfitError("its statistics are shared with other nodes, or computed")
        before = sparse.array(name)
        sparse.set_array(name, np.where(stage.kept, values, before).astype(before.dtype))
    return {}


METHODS: dict[str, tuple[tuple[str, ...], Callable[[Stage], dict[str, Any]]]] = {
    "least-squares": (("Conv", "Gemm", "MatMul"), least_squares),
    "bias": (("Conv", "Gemm", "MatMul"), bias),
    "scale": (("Conv", "Gemm", "MatMul"), scale),
    "batchnorm": (("BatchNormalization",), batchnorm),
}
"""Operators and function of each method, in the order in which they are applied at a node."""


def _shift_of(stage: Stage) -> Shift:
    shift = stage.shift
    if shift is None:
        raise UnfitError("it has no bias, and neither BatchNormalization nor an addition follows")
    return shift


def _present(stage: Stage, shift: Shift) -> Array | float:
    """Return the bias there is, as the difference to what the original's result holds already."""
    if shift.inside:
        return shift.value(stage.pair.sparse)
    return shift.outside(stage.pair.sparse, stage.pair.original)


def _fixed_bias(stage: Stage) -> Array | float:
    """Return a bias that must not move, as other nodes read it too, or as it is one for all channels."""
    node = stage.node
    if len(node.input) < 3 or not node.input[2]:
        return 0.0
    tensor = stage.pair.sparse.constants.get(node.input[2])
    if tensor is None or math.prod(tensor.dims) not in (1, len(stage.kept)):
        raise UnfitError("its bias is computed, or differs from row to row")
    factor = float(attributes(node).get("beta", 1.0))
    return np.asarray(stage.pair.sparse.array(node.input[2]).astype(np.float64).ravel() * factor)


def _moments(stage: Stage, groups: Array, outputs: Array, columns: Array) -> tuple[Moments, Moments]:
    """Go through the samples; return the moments of most of them, and of those held back."""
    layer, batches = stage.linear, len(stage.sparse.batches)
    sizes = (len(groups), len(columns), len(outputs))
    both = Moments.empty(*sizes), Moments.empty(*sizes)
    random = np.random.default_rng([stage.seed, stage.index])
    samples = 0
    for x, y in stage.arrivals():
        rows = layer.rows_per_sample(x, y)
        picked = _picked(random, rows * len(y), len(groups), len(columns), batches)
        step = max(1, _CHUNK_BYTES // (8 * len(groups) * max(len(columns), 1)))
        is_held = (picked // rows + samples) % HELD_BACK == HELD_BACK - 1
        for moments, chosen in zip(both, (picked[~is_held], picked[is_held]), strict=True):
            for start in range(0, len(chosen), step):
                piece = chosen[start : start + step]
                inputs = layer.inputs(x, y, piece)[groups][:, :, columns]
                wanted = layer.results(y, piece)[groups][:, :, outputs]
                moments.add(inputs.astype(np.float64, "C"), wanted.astype(np.float64, "C"))
        samples += len(y)
    for moments in both:
        check_finite(moments.yy, f"the result of node '{label(stage.node)}'")
        check_finite(np.einsum("gii->g", moments.xx), f"what node '{label(stage.node)}' reads")
    if not both[0].count:
        raise DataError("there are no samples to repair with", "give at least two")
    return both


def _picked(random: np.random.Generator, rows: int, groups: int, inputs: int, batches: int) -> Array:
    """Choose the rows of a batch that are used: all, or so many that the whole takes no more than it may."""
    row = max(groups * inputs, 1)
    wanted = min(GRAM_WORK / (row * max(inputs, 1)), ROW_NUMBERS / row)
    wanted = int(max(wanted, ROWS_PER_INPUT * inputs)) // batches + 1
    if wanted >= rows:
        return np.arange(rows)
    return np.sort(random.choice(rows, wanted, replace=False))
