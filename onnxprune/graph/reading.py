"""A model file as a message in memory, all its weights included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from onnxprune.errors import ModelError
from onnxprune.graph.damage import EXPORT_AGAIN, graphs, tensors


def read(path: Path) -> tuple[onnx.ModelProto, bool]:
    """Read a model file and the external data it refers to.

    Returns:
        The model, and whether weights of it lay in other files.

    Raises:
        ModelError: A file is missing, is not ONNX, is damaged, or lies outside the model's folder.
    """
    proto = _parse(path)
    return proto, _load_external_data(proto, path)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"no such file: {path}", "is the path right, seen from the current folder?"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "name a file that may be read") from error
    if not content:
        raise ModelError(f"{path} is empty", "copy or export it again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        hint = "is it whole, and is it ONNX rather than a PyTorch or TensorFlow file?"
        raise ModelError(f"{path} is not an ONNX file, or is cut short", hint) from error
    if not proto.HasField("graph"):
        raise ModelError(f"{path} holds no graph", "is it an ONNX model?")
    return proto


def _load_external_data(proto: onnx.ModelProto, path: Path) -> bool:
    """Bring weights of other files into memory; say whether there were any."""
    held = (t for graph in graphs(proto.graph) for t in tensors(graph))
    outside = [t for t in held if external_data_helper.uses_external_data(t)]
    for tensor in outside:
        entries = {e.key: e.value for e in tensor.external_data}
        try:
            _load_tensor(tensor, entries, path)
        except (OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
            what = f"{path}: external data of '{tensor.name}' cannot be read: {error}"
            raise ModelError(what, EXPORT_AGAIN) from error
    return bool(outside)


def _load_tensor(tensor: onnx.TensorProto, entries: Mapping[str, str], path: Path) -> None:
    """Read the values of one tensor, which may only lie in or below the model's own folder."""
    folder, location = path.resolve().parent, entries.get("location", "")
    target = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
        raise ModelError(
            f"{path}: weights of '{tensor.name}' point outside the model's folder: '{location}'",
            "external data is read from the model's own folder only",
        )
    if not target.is_file():
        raise ModelError(f"{path}: external data file '{location}' is missing", "copy it beside the model")
    offset, length = (int(entries.get(key, "0")) for key in ("offset", "length"))
    if target.stat().st_size < offset + length:
        said = f"external data file '{target.name}' is cut short at '{tensor.name}'"
        raise ModelError(f"{path}: {said}", "copy the whole file beside the model")
    external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
