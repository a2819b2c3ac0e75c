"""Single elements of weights set to zero by a pattern, layer by layer, each repaired before the next.

A layer is thinned by its operands in the network under repair: the layers before it are sparse and repaired
already. Weights without a computable Gram matrix are thinned by magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from onnxprune.analysis.groups.weight_values import real_values, zero_value
from onnxprune.decisions.pattern import Pattern
from onnxprune.ops.axes import Typing
from onnxprune.repair.model_pair import ModelPair
from onnxprune.repair.stage import NotRepairableError, RepairSite
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.elements import surgeon, wanda_scores
from onnxprune.scoring.layerwise.layer_recognition import linear_of
from onnxprune.scoring.layerwise.linear_views import Linear
from onnxprune.scoring.layerwise.moments import centred
from onnxprune.scoring.layerwise.row_moments import GRAM_BYTES, gather, gram_bytes

Score: TypeAlias = Literal["magnitude", "wanda", "sparsegpt"]


@dataclass
class Thinning:
    """The weights of a network that are thinned, and the scores that chose their elements.

    Attributes:
        typing: The axes of the network before.
        pair: The network that is thinned beside the one before.
        numbers: For each weight the number of the block of each element, from 1; 0 where channels are gone.
        pattern: Pattern of the elements that stay.
        score: Score that chooses the elements.
        scored: The score that chose the elements of each weight that is done.
        reasons: The reason for each weight that was thinned by magnitude instead.
    """

    typing: Typing
    pair: ModelPair
    numbers: Mapping[str, Array]
    pattern: Pattern
    score: Score
    scored: dict[str, Score] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def by_magnitude(self) -> None:
        """Thin by magnitude all weights whose layers are not seen on samples: all, if magnitude decides."""
        seen: dict[str, str | Linear] = {}
        if self.score != "magnitude":
            for node in self.pair.sparse.nodes:
                found = linear_of(self.pair.sparse, node, before=True)
                for name in self.numbers.keys() & set(node.input):
                    seen[name] = found
        for name in self.numbers:
            found = seen.get(name, "its layer is not seen on samples")
            if isinstance(found, str):
                if self.score != "magnitude":
                    self.reasons[name] = found
                self._thin_by_magnitude(name)

    def prepare(self, stage: RepairSite) -> None:
        """Thin the weight of a node, if it is chosen and not thinned yet."""
        layer = linear_of(stage.pair.sparse, stage.node, before=True)
        if isinstance(layer, str) or layer.weight not in self.numbers or layer.weight in self.scored:
            return
        try:
            self._thin(stage, layer)
        except NotRepairableError as reason:
            self.reasons[layer.weight] = str(reason)
            self._thin_by_magnitude(layer.weight)

    def _thin_by_magnitude(self, name: str) -> None:
        numbers = self.numbers[name]
        scores = np.abs(real_values(self.typing, name).astype(np.float64))
        self._write(name, self._chosen(scores, numbers), self.pair.sparse.array(name))
        self.scored[name] = "magnitude"

    def _write(self, name: str, mask: Array, values: Array) -> None:
        """Set the removed elements of a weight to the value that stands for zero."""
        kept = mask | (self.numbers[name] == 0)
        self.pair.elements[name] = kept
        before = self.pair.sparse.array(name)
        self.pair.sparse.set_array(
            name, np.where(kept, values, zero_value(self.typing, name)).astype(before.dtype)
        )

    def _chosen(self, scores: Array, numbers: Array) -> Array:
        """Return which elements stay, block by block; all blocks have the same length."""
        flat, own = numbers.ravel(), np.zeros(numbers.size, bool)
        order = np.argsort(flat, kind="stable")[int((flat == 0).sum()) :]
        blocks = order.reshape(len(np.unique(flat[order])), -1)
        own[blocks] = self.pattern.largest(scores.ravel()[blocks])
        return own.reshape(numbers.shape)

    def _thin(self, stage: RepairSite, layer: Linear) -> None:
        """Choose the elements of a layer by the Gram matrix of its operands."""
        numbers = layer.matrices(self.numbers[layer.weight])
        present = numbers != 0
        groups, outputs, columns = (np.flatnonzero(present.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
        if gram_bytes(len(groups), len(columns)) > GRAM_BYTES:
            raise NotRepairableError("its Gram matrix takes too much memory")
        arrivals, batches = self._arrivals(stage, layer), len(stage.sparse.batches)
        axes = (groups, outputs[:1], columns)
        seen, held = gather(layer, arrivals, axes, batches, (stage.seed, stage.index))
        moments = seen + held
        weights = layer.matrices(stage.pair.sparse.array(layer.weight).astype(np.float64))
        made, mask = weights.copy(), np.zeros(weights.shape, bool)
        for number, group in enumerate(groups):
            gram = moments.xx[number]
            if self._is_centred(stage):
                gram, _ = centred(gram, moments.x[number], moments.count)
            found = self._matrix(weights[group], gram, numbers[group], columns)
            made[group], mask[group] = found
        self._write(layer.weight, layer.tensor(mask), layer.tensor(made))
        self.scored[layer.weight] = self.score

    def _is_centred(self, stage: RepairSite) -> bool:
        """Return whether a bias can compensate for the mean contribution of the removed elements."""
        try:
            return stage.shift is not None
        except NotRepairableError:
            return False

    def _arrivals(self, stage: RepairSite, layer: Linear) -> list[tuple[Array, Array]]:
        names = [layer.flow, stage.node.output[0]]
        return [(m[names[0]], m[names[1]]) for m in stage.sparse.tensors(stage.index + 1, names)]

    def _matrix(self, weights: Array, gram: Array, numbers: Array, columns: Array) -> tuple[Array, Array]:
        """Choose in one matrix, ``[outputs, inputs]``; its Gram matrix is of some of the inputs."""
        made, mask = weights.copy(), np.zeros(weights.shape, bool)
        rows = np.flatnonzero(numbers.any(1))
        place = np.full(weights.shape[1], -1)
        place[columns] = np.arange(len(columns))
        order = _in_blocks(numbers[rows])
        taken = gram[np.ix_(place[order], place[order])]
        part = np.ix_(rows, order)
        if not self.pattern.stay(len(order)):
            raise NotRepairableError("nothing would stay of its short rows")
        if self.score == "sparsegpt":
            made[part], mask[part] = surgeon(weights[part], taken, self.pattern.block, self.pattern.largest)
            return made, mask
        scores = wanda_scores(weights[part], taken)
        length = self.pattern.block or scores.shape[1]
        mask[part] = self.pattern.largest(scores.reshape(-1, length)).reshape(scores.shape)
        return made, mask


def _in_blocks(numbers: Array) -> Array:
    """Return the columns of a matrix such that those of a block are neighbours.

    Args:
        numbers: The block of each element, ``[outputs, inputs]``, 0 for inputs that are gone.

    Raises:
        NotRepairableError: The blocks of its rows lie in other columns.
    """
    order = np.argsort(numbers[0], kind="stable")[int((numbers[0] == 0).sum()) :]
    moved = numbers[:, order]
    starts = np.diff(moved, axis=1) != 0
    if not moved.all() or (starts != starts[0]).any() or (numbers != 0).sum() != moved.size:
        raise NotRepairableError("the blocks of its outputs lie in different columns")
    return np.asarray(order)
