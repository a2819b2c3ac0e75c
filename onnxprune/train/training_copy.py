"""The training copy: the function of the user's model, in operators that can be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import TrainingError
from onnxprune.train.channel_major import lay_out_by_channel
from onnxprune.train.dialect import IR_VERSION, constants_of, to_dialect
from onnxprune.train.emit import Emitter, Untrainable
from onnxprune.train.pullbacks.tensor_facts import StaticFacts
from onnxprune.train.rewrites import REWRITES, Rewrite
from onnxprune.train.rewrites.normalization import frozen_batch_normalization
from onnxprune.train.rewrites.registry import qualified
from onnxprune.train.trainables import running_statistics_of, trainables_of
from onnxprune.train.wire import Array


@dataclass(frozen=True)
class TrainingCopy:
    """A model ready for a loss.

    Attributes:
        graph: Topologically sorted, node names unique, shapes known where they can be.
        trainables: Names of the tensors to train, as in the model.
        statistics: Names of the running statistics that follow the training, as in the model.
    """

    graph: gs.Graph
    trainables: tuple[str, ...]
    statistics: tuple[str, ...]

    def model(self) -> onnx.ModelProto:
        """Export the graph."""
        with G_LOGGER.suppress():  # it prints on standard output, which is not ours to write on
            model: onnx.ModelProto = gs.export_onnx(self.graph, ir_version=IR_VERSION)
        return model


def make_training_copy(
    model: onnx.ModelProto,
    sample: Mapping[str, Array],
    frozen_statistics: bool = False,
    rewrites: Mapping[str, Rewrite] = REWRITES,
) -> TrainingCopy:
    """Make the training copy of a model.

    Args:
        model: Any valid model with its weights in memory; it is not changed.
        sample: One batch of inputs.
        frozen_statistics: True if BatchNormalization is to use its running statistics, as in inference,
            instead of those of the batch.
        rewrites: Replacements of operators that the engine does not differentiate.

    Raises:
        TrainingError: Something in it cannot be trained; the message names the node and the reason.
    """
    converted = to_dialect(model, sample)
    known = _known_of(converted, sample)
    graph = _import(converted)
    _hoist_constants(graph)
    _name_nodes(graph)
    graph.cleanup().toposort()
    try:
        trainables, statistics = tuple(trainables_of(graph)), running_statistics_of(graph)
    except Untrainable as verdict:
        raise TrainingError(f"this model cannot be trained: {verdict}") from verdict
    lay_out_by_channel(graph, max((len(array) for array in sample.values() if array.ndim), default=1))
    graph.cleanup().toposort()
    for node in list(graph.nodes):
        if frozen_statistics and node.op == "BatchNormalization":
            emit = Emitter(graph, node.name)
            _replace(node, frozen_batch_normalization(node, emit), emit)
        _rewrite(graph, node, rewrites, known)
        _separate_repeated_parameters(graph, node)
    graph.cleanup().toposort()
    # Constants from a function's body have no name in the model to be written back to.
    writable = constants_of(model) - set(statistics)
    trained = tuple(name for name in trainables if name in writable)
    return TrainingCopy(graph, trained, () if frozen_statistics else statistics)


def _import(model: onnx.ModelProto) -> gs.Graph:
    with G_LOGGER.suppress():
        return gs.import_onnx(shape_inference.infer_shapes(model, data_prop=True))


def _hoist_constants(graph: gs.Graph) -> None:
    """Turn Constant nodes into initializers: a weight in a node is silently not trained."""
    for node in graph.nodes:
        if node.op != "Constant":
            continue
        value = next(iter(node.attrs.values()))
        array = np.asarray(value.values) if isinstance(value, gs.Tensor) else np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(array)


def _name_nodes(graph: gs.Graph) -> None:
    """Make the names of all nodes unique; names that are unique already stay."""
    taken: set[str] = set()
    for index, node in enumerate(graph.nodes):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op}_{index}"
        taken.add(node.name)


def _known_of(model: onnx.ModelProto, sample: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the values of all tensors that follow from the sizes of a sample."""
    if not any(node.op_type == "Resize" for node in model.graph.node):
        return {}
    weights = [
        tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    ]
    return StaticFacts.of(model, {name: a.shape for name, a in sample.items()}, weights).values


def _rewrite(
    graph: gs.Graph, node: gs.Node, rewrites: Mapping[str, Rewrite], known: Mapping[str, Array]
) -> None:
    """Replace a node by its entry of the table."""
    rewrite = rewrites.get(qualified(node.op, node.domain))
    if rewrite is None:
        return
    emit = Emitter(graph, node.name, known)
    try:
        replacement = rewrite(node, emit)
    except Untrainable as verdict:
        raise TrainingError(f"node {node.name!r} ({node.op}) cannot be trained: {verdict}") from verdict
    if replacement is not None:
        _replace(node, replacement, emit)


def _replace(node: gs.Node, replacement: gs.Tensor | Sequence[gs.Tensor], emit: Emitter) -> None:
    """Let other tensors stand for the outputs of a node."""
    results = [replacement] if isinstance(replacement, gs.Tensor) else replacement
    outputs = list(node.outputs)
    node.outputs.clear()
    for value, output in zip(results, outputs, strict=False):
        emit.assign(value, output)


def _separate_repeated_parameters(graph: gs.Graph, node: gs.Node) -> None:
    """A constant that one node reads twice would get two gradients of the same name: copy it in between."""
    for index, operand in enumerate(node.inputs):
        if isinstance(operand, gs.Constant) and any(operand is other for other in node.inputs[:index]):
            node.inputs[index] = Emitter(graph, node.name)("Identity", operand)
