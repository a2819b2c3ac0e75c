"""One node in both models, with its operands and its results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from onnxprune.ir import label
from onnxprune.ops.spec import spec_of
from onnxprune.repair.model_pair import ModelPair
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.layer_recognition import linear_of
from onnxprune.scoring.layerwise.linear_views import Linear
from onnxprune.scoring.layerwise.moments import ChannelMoments, check_finite
from onnxprune.scoring.layerwise.shifts import Shift, find_shift
from onnxprune.scoring.layerwise.trace import Trace

ROUNDING = 1e-12
"""A squared error below this part of the squared result is none."""


class NotRepairableError(Exception):
    """A method does not apply to a node; the message is the reason."""


@dataclass
class RepairSite:
    """One node, in both models, and the samples that arrive there.

    Attributes:
        pair: The models.
        sparse: Samples in the one being repaired.
        original: The same samples in the other.
        index: Number of the node.
        seed: Seed of the draws.
    """

    pair: ModelPair
    sparse: Trace
    original: Trace
    index: int
    seed: int = 0

    @property
    def node(self) -> onnx.NodeProto:
        """The sparse model's node."""
        return self.pair.sparse.main.nodes[self.index]

    @cached_property
    def linear(self) -> Linear:
        """The node as a linear map."""
        found = linear_of(self.pair.sparse, self.node)
        if isinstance(found, str):
            raise NotRepairableError(found)
        return found

    @property
    def shift(self) -> Shift | None:
        """The parameter that moves the mean of the result."""
        return find_shift(self.pair.sparse, self.node, len(self.kept))

    @cached_property
    def kept(self) -> Array:
        """The remaining channels of the result, ``[channels]``."""
        if self.normalises:
            return self.pair.mask(self.node.input[1])
        return self.linear.matrices(self.pair.mask(self.linear.weight)).any(-1).ravel()

    @property
    def normalises(self) -> bool:
        """Return whether the node is a BatchNormalization; otherwise it is a linear map."""
        return bool(spec_of(self.node).statistics)

    def columns(self, y: Array) -> Array:
        """Return a result with its channels on the last axis."""
        return np.moveaxis(y, 1, -1) if self.normalises else self.linear.columns(y)

    def results(self) -> Iterator[tuple[Array, Array]]:
        """Yield the sparse and the original result, channels last, with the bias added right after them."""
        name = self.node.output[0]
        shift = None if self.normalises else self.shift
        more = np.asarray(shift.outside(self.pair.sparse, self.pair.original) if shift else 0.0)
        ours, theirs = (t.tensors(self.index + 1, [name]) for t in (self.sparse, self.original))
        for a, b in zip(ours, theirs, strict=True):
            x, y = self.columns(a[name]), self.columns(b[name])
            yield (x + more if more.any() else x), y

    def arrivals(self) -> Iterator[tuple[Array, Array]]:
        """Yield the operand in the sparse model, and the original's result."""
        arriving = self.node.input[0] if self.normalises else self.linear.flow
        ours = self.sparse.tensors(self.index, [arriving])
        theirs = self.original.tensors(self.index + 1, [self.node.output[0]])
        for x, y in zip(ours, theirs, strict=True):
            yield x[arriving], y[self.node.output[0]]

    def error(self) -> float:
        """Return the mean squared error of the channels that remain; 0 where it is rounding alone."""
        total, power, count = 0.0, 0.0, 0
        for ours, theirs in self.results():
            total += self._sum_of_squares(ours - theirs)
            power += self._sum_of_squares(theirs)
            count += theirs.size // len(self.kept) * int(self.kept.sum())
        check_finite(np.asarray(total), f"the result of node '{label(self.node)}'")
        return total / max(count, 1) if total > ROUNDING * power else 0.0

    def _sum_of_squares(self, values: Array) -> float:
        sums = np.square(values).sum(tuple(range(values.ndim - 1)), dtype=np.float64)
        return float(sums[self.kept].sum())

    def memory(self) -> tuple[list[str], dict[str, Array]]:
        """Return the state that a method may change: operand names, constants, the bias after the node."""
        names = {*self.node.input, *((self.shift.tensor,) if not self.normalises and self.shift else ())}
        sparse = self.pair.sparse
        constants = {n: sparse.array(n) for n in names if n in sparse.constants}  # new values replace them
        return list(self.node.input), constants

    def go_back(self, memory: tuple[list[str], dict[str, Array]]) -> None:
        """Make a change undone."""
        inputs, constants = memory
        self.pair.sparse.rewire(self.index, inputs)
        for name, values in constants.items():
            self.pair.sparse.set_array(name, values)

    def statistics(self) -> tuple[ChannelMoments, ChannelMoments]:
        """Return mean and variance of every channel of the result, in the sparse and the original model."""
        found = ChannelMoments(len(self.kept)), ChannelMoments(len(self.kept))
        for results in self.results():
            for moments, values in zip(found, results, strict=True):
                moments.add(values, f"the result of node '{label(self.node)}'")
        return found
