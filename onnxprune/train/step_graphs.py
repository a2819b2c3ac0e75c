"""The graphs of a training's steps: one for each size of a batch, sent when the worker first needs it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxprune.train.step import step_graph
from onnxprune.train.stock import GRAPH, KEPT_GRAPHS, Signature, signature_of
from onnxprune.train.wire import Array


class StepGraphs:
    """Graphs of steps by the shapes of their batches; the worker keeps the same number of them.

    Args:
        model: The training copy with its loss; the axis of the samples has a symbol in all inputs.
        trained: Names of the trained tensors.
        statistics: Names of the running statistics.
        sent: The graphs that the worker has, the last used one last; of copies for several shapes of samples
            one and the same.

    Attributes:
        sent: The same.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        trained: Sequence[str],
        statistics: Sequence[str],
        sent: OrderedDict[Signature, None],
    ) -> None:
        self._model, self._trained, self._statistics = model, trained, statistics
        self.sent = sent
        self._ready: dict[Signature, Array] = {}

    def prepare(self, samples: int) -> None:
        """Write the graph for a size of batches.

        Raises:
            TrainingError: A node has no gradient.
        """
        sizes = {
            info.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else samples
                for dim in info.type.tensor_type.shape.dim
            )
            for info in self._model.graph.input
        }
        self._write(tuple(sizes.items()))

    def new(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph for a batch, if the worker does not have it."""
        signature = signature_of(arrays)
        known = signature in self.sent
        self.sent[signature] = None
        self.sent.move_to_end(signature)
        if len(self.sent) > KEPT_GRAPHS:
            self.sent.popitem(last=False)
        if known:
            return {}
        if signature not in self._ready:
            self._write(signature)
        return {GRAPH: self._ready.pop(signature)}

    def _write(self, signature: Signature) -> None:
        graph = step_graph(self._model, self._trained, self._statistics, dict(signature))
        self._ready[signature] = np.frombuffer(graph.SerializeToString(), np.uint8)
