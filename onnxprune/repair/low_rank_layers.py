"""Layers of low rank, from front to back, each split on its operands in the network split so far.

The weights of a layer are first fitted to the original's result (least squares), then split: together that is
reduced-rank regression (A. J. Izenman, "Reduced-rank regression for the multivariate linear model", 1975).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxprune.decisions.ranks.split_forms import RankOption, factors_of
from onnxprune.decisions.ranks.splittable_layers import RankLayer
from onnxprune.ir import Model
from onnxprune.repair.methods import least_squares
from onnxprune.repair.stage import NotRepairableError, RepairSite
from onnxprune.scoring.layerwise.low_rank_kernels import Kernels, composed, power
from onnxprune.scoring.rank_scores import InputMoments, is_seen, moments_of, unseen


@dataclass
class Lowering:
    """The layers of a network that are split, and their kernels.

    Attributes:
        chosen: The layer and its split by the number of the node.
        fit: True to fit the weights before they are split.
        kernels: The kernels of each layer that is done, by the number of the node.
        errors: The squared error of its result, divided by its variance.
    """

    chosen: Mapping[int, tuple[RankLayer, RankOption]]
    fit: bool = True
    kernels: dict[int, Kernels] = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)

    def unseen(self, model: Model) -> None:
        """Split all layers by their weights alone; the model gets the composed weights."""
        for number, (layer, option) in self.chosen.items():
            self._split(model, number, layer, option, unseen(layer))

    def prepare(self, stage: RepairSite) -> bool:
        """Split the layer of a node, if it is among the chosen ones.

        Returns:
            True if the node is done: no repair of its weights may follow.
        """
        if stage.index not in self.chosen:
            return False
        layer, option = self.chosen[stage.index]
        if self.fit:
            _fit(stage)
        moments = unseen(layer)
        if is_seen(layer):
            batches = len(stage.sparse.batches)
            moments = moments_of(layer, stage.arrivals(), batches, (stage.seed, stage.index))
        self._split(stage.pair.sparse, stage.index, layer, option, moments, stage)
        return True

    def _split(
        self,
        model: Model,
        number: int,
        layer: RankLayer,
        option: RankOption,
        moments: InputMoments,
        stage: RepairSite | None = None,
    ) -> None:
        weights = model.array(layer.linear.weight)
        kernel = layer.kernel(weights)
        found = factors_of(kernel, moments.gram, option)
        kernels = tuple(part.astype(weights.dtype) for part in found.kernels)
        low = composed(tuple(part.astype(np.float64) for part in kernels))
        lost = (kernel - low).reshape(*kernel.shape[:2], -1)
        shift = stage.shift if stage is not None else None
        if shift is not None and moments.mean.any():
            shift.add(model, np.einsum("goi,gi->go", lost, moments.mean).ravel())
        groups, outputs = kernel.shape[:2]
        matrices = low.reshape(groups, outputs, -1)
        model.set_array(layer.linear.weight, layer.linear.tensor(matrices).astype(weights.dtype))
        variance = power(kernel, moments.apart)
        self.kernels[number] = kernels
        self.errors[number] = power(kernel - low, moments.gram) / variance if variance else 0.0


def _fit(stage: RepairSite) -> None:
    """Fit the weights of a layer to the original's result, where its inputs are not the original's."""
    try:
        before = stage.error()
        if not before:
            return
        memory = stage.memory()
        least_squares(stage)
        if stage.error() > before:
            stage.go_back(memory)
    except NotRepairableError:
        return
