"""Layers fitted anew, in closed form, to their results before some of their inputs were removed.

Plans are used with a repair after them, so the loss of a group is measured with one: the layers that read
its channels are given the weights and biases that come nearest to their former results. The kept channels
have the values of the original, so that the moments gathered there once serve every variant. The
method is ridge regression, as in the repair (see `scoring.layerwise.solve`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.channels.masks import Mask, keep_masks
from onnxprune.ir import Model
from onnxprune.runtime import Array
from onnxprune.scoring.criteria.eliminations import Reader
from onnxprune.scoring.layerwise.linear_views import Linear
from onnxprune.scoring.layerwise.moments import Moments
from onnxprune.scoring.layerwise.ridge import USUAL_STRENGTH, scipy_linalg
from onnxprune.scoring.layerwise.shifts import find_shift


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """A layer that reads channels, and second moments of its operand.

    Attributes:
        index: Number of the node.
        layer: The node as a linear map.
        grams: Mean products of its inputs, ``[matrices, inputs, inputs]``; about the mean where that can be
            moved.
        means: Mean inputs, ``[matrices, inputs]``.
        shift: The tensor that moves the mean of its result; empty where there is none.
    """

    index: int
    layer: Linear
    grams: Array
    means: Array
    shift: str

    @classmethod
    def of(cls, model: Model, reader: Reader, moments: Moments) -> LayerMoments:
        """Reduce a layer's moments to the Gram matrices and means that refitting needs."""
        layer, node = reader.layer, model.main.nodes[reader.index]
        groups, outputs, _ = layer.matrices(model.array(layer.weight)).shape
        found = find_shift(model, node, groups * outputs)
        means = moments.x / moments.count
        grams = moments.xx / moments.count
        if found is not None and found.tensor:
            grams = grams - means[:, :, None] * means[:, None, :]
        return cls(reader.index, layer, grams, means, found.tensor if found is not None else "")

    def fitted(self, weights: Array, mask: Mask) -> tuple[Array, Array]:
        """Return weights without the removed inputs, and by how much the mean of the result moves.

        Args:
            weights: Those of the original, ``[matrices, outputs, inputs]``.
            mask: Mask of their elements that remain, likewise.

        Returns:
            Weights shaped like the ones given, and ``[matrices, outputs]``.
        """
        linalg, new, moved = scipy_linalg(), weights.copy(), np.zeros(weights.shape[:2])
        for k, gram in enumerate(self.grams):
            keep, scale = mask[k].any(axis=0), np.trace(gram) / len(gram)
            if keep.all() or not keep.any() or scale <= 0:
                continue
            damped = gram[np.ix_(keep, keep)]
            damped[np.diag_indices_from(damped)] += USUAL_STRENGTH * scale
            factor = linalg.cho_factor(damped, overwrite_a=True, check_finite=False)
            missing = gram[np.ix_(keep, ~keep)] @ weights[k][:, ~keep].T
            new[k][:, keep] += linalg.cho_solve(factor, missing, check_finite=False).T
            new[k][:, ~keep] = 0
            moved[k] = (weights[k] - new[k]) @ self.means[k]
        return new, moved


@dataclass(frozen=True, eq=False)
class Refit:
    """All layers that can be fitted anew.

    Attributes:
        layers: The layers with their moments, in order of execution.
    """

    layers: Sequence[LayerMoments]

    @classmethod
    def of(cls, channels: Channels, seen: Iterable[tuple[Reader, Moments]]) -> Refit:
        """Keep the moments of the layers whose weights have no other consumers."""
        model = channels.model
        own = ((r, m) for r, m in seen if len(model.main.readers(r.layer.weight)) == 1 and m.count)
        return cls([LayerMoments.of(model, reader, moments) for reader, moments in own])

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Everything that refitting may change."""
        return frozenset(n for f in self.layers for n in (f.layer.weight, f.shift) if n)

    def apply(self, channels: Channels, removed: Mapping[str, Sequence[int]], made: Model) -> None:
        """Fit the layers that read removed channels.

        Args:
            channels: The network, in the arrangement of the removed channels, with the original's weights.
            removed: Removed channels by group name.
            made: The same network, masked; it is changed.
        """
        masks = keep_masks(channels, removed)
        for found in self.layers:
            weight, layer = found.layer.weight, found.layer
            if weight not in masks:
                continue
            mask = layer.matrices(masks[weight])
            old = layer.matrices(channels.model.array(weight).astype(np.float64))
            new, moved = found.fitted(old, mask)
            if (new == old).all():
                continue
            before = made.array(weight)
            made.set_array(weight, np.where(masks[weight], layer.tensor(new), before).astype(before.dtype))
            shift = find_shift(made, made.main.nodes[found.index], moved.size) if found.shift else None
            if shift is not None and shift.tensor:
                shift.add(made, np.where(mask.any(axis=2).ravel(), moved.ravel(), 0))
