"""Least squares of one layer: its Gram matrix, and its outputs a block at a time.

The Gram matrix is that of the inputs, one for all outputs. The products of inputs and outputs, the right
sides of the equations, take as much memory as the layer in float64; of a large layer they are gathered, and
the equations solved, for a block of outputs at a time, and the ridge is chosen on a block that is spread over
all outputs. So E. Frantar and D. Alistarh, "SparseGPT", ICML 2023, hold one layer and one Hessian at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.repair.model_pair import ModelPair
from onnxprune.repair.stage import NotRepairableError, RepairSite
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.layer_recognition import linear_of
from onnxprune.scoring.layerwise.linear_views import Linear, MatrixProduct
from onnxprune.scoring.layerwise.moments import Moments
from onnxprune.scoring.layerwise.ridge import NormalEquations, best_strength, fit
from onnxprune.scoring.layerwise.row_moments import CHUNK_BYTES, GRAM_BYTES, gather, gram_bytes
from onnxprune.scoring.layerwise.shifts import Shift
from onnxprune.support.mapped import byte_count

OUTPUT_BYTES = 1 << 24
"""Bytes in float64 of the weights of a block of outputs."""
_GRAMS = 3
"""Gram matrices held at once: two, and a factored one."""
_BLOCKS = 8
"""Arrays of the size of a block of outputs held at once: products, weights, solutions and errors."""
_LAYERS = 3
"""Arrays of the size of the layer, in its own type, held at once."""


def fit_bytes(pair: ModelPair) -> tuple[int, str]:
    """Return the private memory that the fit of a layer takes, in bytes, and the name of that layer.

    Args:
        pair: The models. The layer with the largest need counts, of those that are fitted.
    """
    found = [(0, "")]
    for node in pair.sparse.nodes:
        layer = linear_of(pair.sparse, node)
        if isinstance(layer, str):
            continue
        groups, outputs, columns = map(len, _remaining(pair, layer))
        gram = gram_bytes(groups, columns)
        if gram > GRAM_BYTES:
            continue
        whole = 8 * groups * outputs * columns
        block = min(whole, max(OUTPUT_BYTES, 8 * columns)) if isinstance(layer, MatrixProduct) else whole
        own = byte_count(pair.sparse.constants[layer.weight])
        size = _GRAMS * gram + _BLOCKS * block + _LAYERS * own + 2 * min(CHUNK_BYTES, whole)
        found.append((size, layer.name))
    return max(found)


def _remaining(pair: ModelPair, layer: Linear) -> tuple[Array, Array, Array]:
    """Return the maps, outputs and inputs of a layer that have remaining elements."""
    mask = layer.matrices(pair.mask(layer.weight))
    groups, outputs, columns = (np.flatnonzero(mask.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    return groups, outputs, columns


@dataclass
class LayerFit:
    """A layer that is to be fitted to the original's result.

    Attributes:
        stage: The node in both models.
        layer: The node as a linear map.
        groups: Maps with remaining elements.
        outputs: Remaining outputs of these.
        columns: Remaining inputs.
        shift: The parameter that moves the mean of the result.
        bias: The present bias, as the difference to that in the original's result, ``[maps, outputs]``.
    """

    stage: RepairSite
    layer: Linear
    groups: Array
    outputs: Array
    columns: Array
    shift: Shift | None
    bias: Array

    @classmethod
    def of(cls, stage: RepairSite) -> LayerFit:
        """Look at a node.

        Raises:
            NotRepairableError: It is no linear map, or its Gram matrix takes too much memory.
        """
        layer, shift = stage.linear, stage.shift
        groups, outputs, columns = _remaining(stage.pair, layer)
        if gram_bytes(len(groups), len(columns)) > GRAM_BYTES:
            raise NotRepairableError(
                f"its Gram matrix of {len(columns)} inputs would take over {GRAM_BYTES >> 20} MiB"
            )
        bias = np.zeros(len(stage.kept)) + (present_bias(stage, shift) if shift else _fixed_bias(stage))
        return cls(stage, layer, groups, outputs, columns, shift, bias.reshape(-1, layer.outputs))

    def solve(self) -> dict[str, Any]:
        """Replace the weights, and the bias, by those of the best fit; return facts for the report."""
        many = max(1, OUTPUT_BYTES // (8 * len(self.groups) * max(1, len(self.columns))))
        raw = self.layer.lines(self.stage.pair.sparse.array(self.layer.weight))
        if len(self.outputs) <= many or raw is None:
            count, strength = self._at_once()
        else:
            parts = range(0, len(self.outputs), many)
            count, strength = self._in_blocks([self.outputs[k : k + many] for k in parts])
        return {"rows": count, "inputs": len(self.columns), "ridge": strength}

    def _at_once(self) -> tuple[int, float | None]:
        """Fit all outputs; return the number of rows, and the strength of the ridge."""
        weights = self.layer.matrices(self.stage.pair.sparse.array(self.layer.weight).astype(np.float64))
        seen, held = self._moments(self.outputs)
        count, whole = seen.count + held.count, np.ix_(self.groups, self.outputs, self.columns)
        vector = whole[0][:, :, 0], whole[1][:, :, 0]
        start = weights[whole], self.bias[vector]
        counts, allowed = self._counts[vector], self._allowed(self.outputs)
        solved, moved, strength = fit(seen, held, *start, counts, self.shift is not None, allowed)
        if strength is not None:
            weights[whole] = solved
            self.stage.pair.replace(self.layer.weight, self.layer.tensor(weights))
            delta = np.zeros_like(self.bias)
            delta[vector] = moved - start[1]
            self._move(delta)
        return count, strength

    def _in_blocks(self, blocks: Sequence[Array]) -> tuple[int, float | None]:
        """Fit blocks of outputs one after another; return the same."""
        tried = self.outputs[np.unique(np.linspace(0, len(self.outputs) - 1, len(blocks[0])).astype(int))]
        seen, held = self._moments(tried)
        count, free = seen.count + held.count, self.shift is not None
        values = np.array(self.stage.pair.sparse.array(self.layer.weight))
        target = self.layer.lines(values)
        assert target is not None

        def start(outputs: Array) -> tuple[Array, Array]:
            rows = target[np.ix_(self.groups, outputs, self.columns)]
            return rows.astype(np.float64) * self.layer.factor, self.bias[np.ix_(self.groups, outputs)]

        counts = self._counts[np.ix_(self.groups, tried)]
        strength = best_strength(seen, held, *start(tried), counts, free, self._allowed(tried))
        if strength is None:
            return count, None
        total, dense = seen.absorb(held), self._allowed(tried) is None
        del seen, held
        equations = NormalEquations(total, strength, free, dense=dense, in_place=True)
        delta = np.zeros_like(self.bias)
        for block in blocks:
            here, place = start(block), np.ix_(self.groups, block)
            seen, held = self._moments(block, gram=False)
            solved, moved = equations.solve(seen.absorb(held), *here, self._allowed(block))
            target[np.ix_(self.groups, block, self.columns)] = solved / self.layer.factor
            delta[place] = moved - here[1]
        self.stage.pair.replace(self.layer.weight, values)
        self._move(delta)
        return count, strength

    def _moments(self, outputs: Array, *, gram: bool = True) -> tuple[Moments, Moments]:
        """Return the moments of the inputs and of some outputs, and those of rows that are held back."""
        stage, axes = self.stage, (self.groups, outputs, self.columns)
        batches, seed = len(stage.sparse.batches), (stage.seed, stage.index)
        return gather(self.layer, stage.arrivals(), axes, batches, seed, gram=gram)

    def _allowed(self, outputs: Array) -> Array | None:
        """Return which weights of some outputs may be non-zero, where single elements are zero."""
        pair, name = self.stage.pair, self.layer.weight
        if name not in pair.elements:
            return None
        whole = np.ix_(self.groups, outputs, self.columns)
        return np.asarray(self.layer.matrices(pair.allowed(name))[whole])

    @cached_property
    def _counts(self) -> Array:
        """The outputs that count, ``[maps, outputs]``."""
        return np.asarray(self.stage.kept.reshape(self.bias.shape))

    def _move(self, delta: Array) -> None:
        """Add to the bias."""
        if self.shift is not None:
            self.shift.add(self.stage.pair.sparse, np.where(self.stage.kept, delta.ravel(), 0))


def present_bias(stage: RepairSite, shift: Shift) -> Array | float:
    """Return the present bias, as the difference to the bias contained in the original's result."""
    if shift.inside:
        return shift.value(stage.pair.sparse)
    return shift.outside(stage.pair.sparse, stage.pair.original)


def _fixed_bias(stage: RepairSite) -> Array | float:
    """Return a bias that must not change: it has other consumers, or one element for all channels."""
    node, view = stage.node, stage.linear.view
    name = node.input[view.bias] if view.bias is not None and view.bias < len(node.input) else ""
    if not name:
        return 0.0
    tensor = stage.pair.sparse.constants.get(name)
    if tensor is None or math.prod(tensor.dims) not in (1, len(stage.kept)):
        raise NotRepairableError("its bias is computed, or differs from row to row")
    return np.asarray(stage.pair.sparse.array(name).astype(np.float64).ravel() * view.beta)
