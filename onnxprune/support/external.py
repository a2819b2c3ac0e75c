"""Tensors of a model file, wherever in it they stand, and the files that hold their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError
from onnx import external_data_helper, serialization

_TEXT_ERRORS = (json_format.ParseError, text_format.ParseError, onnx.parser.ParseError)


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
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except _TEXT_ERRORS as error:
        raise DecodeError(str(error)) from error
    folder = Path(path).resolve().parent
    names = {name for name in map(location, external_tensors(proto)) if name and "\0" not in name}
    return {(folder / name).resolve() for name in names}


def is_text(path: Path) -> bool:
    """Return whether onnx would read a file as text, by the end of its name."""
    return serialization.registry.get_format_from_file_extension(path.suffix) not in (None, "protobuf")


def is_message(stream: BinaryIO, size: int) -> bool:
    """Return false if a file is no protobuf message of any kind: its fields do not end where it ends.

    Only the heads of the outermost fields are read, so the size of a file hardly matters.

    Args:
        stream: The file.
        size: Its number of bytes.
    """
    place, open_groups = 0, list[int]()
    while place < size:
        stream.seek(place)
        head = stream.read(20)
        tag, used = _varint(head)
        number, kind = tag >> 3, tag & 7
        length = _length_behind(kind, head[used:])
        if length is None or not (number or open_groups):  # parsers let 0 pass within a group
            return False
        if kind == 3:
            open_groups.append(number)
        elif kind == 4 and (not open_groups or open_groups.pop() != number):
            return False
        place += used + length
    return place == size and not open_groups


def _length_behind(kind: int, head: bytes) -> int | None:
    """Return the number of bytes of a field behind its tag; ``None`` for an invalid one."""
    if kind in (0, 2):
        value, used = _varint(head)
        return used + value * (kind == 2) if used else None
    return {1: 8, 3: 0, 4: 0, 5: 4}.get(kind)


def _varint(data: bytes) -> tuple[int, int]:
    """Return a number as protobuf writes it, and the number of its bytes, 0 where none ends here."""
    value = 0
    for count, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, count + 1
    return 0, 0


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
