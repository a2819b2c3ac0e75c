"""Tensors of a model file, wherever in it they stand, and the files that hold their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: of its graphs, functions and training information, inner graphs too."""
    yield from _of_graph(proto.graph)
    for training in proto.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)
    for function in proto.functions:
        yield from _of_attributes(function.attribute_proto)
        yield from _of_nodes(function.node)


def external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the tensors whose values lie in other files."""
    return [t for t in all_tensors(proto) if external_data_helper.uses_external_data(t)]


def location(tensor: onnx.TensorProto) -> str:
    """Return the file an external tensor names, as it stands there; empty where it names none."""
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def data_files(path: str | Path) -> set[Path]:
    """Return the external data files a model file refers to, whether they are there or not.

    Raises:
        OSError: The file cannot be read.
        google.protobuf.message.DecodeError: It is no model.
    """
    proto = onnx.load(str(path), load_external_data=False)
    folder = Path(path).resolve().parent
    names = {name for name in map(location, external_tensors(proto)) if name and "\0" not in name}
    return {(folder / name).resolve() for name in names}


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_sparse(graph.sparse_initializer)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse([attribute.sparse_tensor])
        yield from _of_sparse(attribute.sparse_tensors)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)


def _of_sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices
