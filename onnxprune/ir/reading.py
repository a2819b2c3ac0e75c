"""A model file as a message in memory, all its weights included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from onnxprune.errors import ModelError
from onnxprune.ir.damage import EXPORT_AGAIN, stored_bytes
from onnxprune.support.external import external_tensors
from onnxprune.support.mapped import can_map, refer
from onnxprune.support.memory import in_words, need
from onnxprune.support.progress import tell
from onnxprune.support.regions import Region

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes a protobuf message can have."""
MAP_ABOVE = 1 << 25
"""Bytes of external data from which they are mapped; fewer are read."""
_COPIES = 4
"""Private bytes for each byte of the largest mapped tensor: its float32 copy and its successor."""
_ALIGNMENT = 8
"""Multiple of bytes at which a mapped tensor begins."""


@dataclass(frozen=True)
class _Piece:
    """The location of the values of a tensor.

    Attributes:
        tensor: The tensor, of the model's main graph, of a body or of a local function.
        file: The file.
        offset: The first byte.
        length: Bytes that the tensor's shape and type need.
    """

    tensor: onnx.TensorProto
    file: Path
    offset: int
    length: int


def read(path: Path, *, mapped: bool = False) -> tuple[onnx.ModelProto, bool, tuple[Region, ...]]:
    """Read a model file and the external data it refers to.

    Args:
        path: The file.
        mapped: True to map large external data of the main graph, where there are many in all.

    Returns:
        The model, whether weights of it lay in other files, and the mapped files.

    Raises:
        ModelError: A file is missing, is not ONNX, is damaged, is larger than the memory allowed, or lies
            outside the model's folder.
    """
    proto = _parse(path)
    return proto, *_load_external_data(proto, path, mapped)


def _parse(path: Path) -> onnx.ModelProto:
    content = _content(path)
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


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is not a regular file", "copy it into one")
        if size > LARGEST_MESSAGE:
            hint = "ONNX files are below 2 GB and keep larger weights in files of their own"
            raise ModelError(f"{path} has {size} bytes and is no ONNX file", hint)
        need(2 * size, f"{path}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"no such file: {path}", "is the path right, seen from the current folder?"
        ) from error
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder", _of_folder(path)) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "name a file that may be read") from error


def _of_folder(path: Path) -> str:
    """Return a hint that names a model of a folder."""
    found = sorted(path.glob("*.onnx"))
    return f"name the model in it, such as {found[0]}" if found else "it holds no .onnx file; name a model"


def _load_external_data(proto: onnx.ModelProto, path: Path, mapped: bool) -> tuple[bool, tuple[Region, ...]]:
    """Bring weights of other files into memory, or map them; return whether there were any, and the regions.

    Where they lie and how long they are is compared with their shapes before the first byte is read.
    """
    outside = external_tensors(proto)
    pieces = [_piece(tensor, path) for tensor in outside]
    large = _large(proto, pieces) if mapped else []
    regions = _map(large)
    aside = {id(piece) for piece in large} if regions else set()
    _state_need(path, pieces, large if regions else [])
    for piece in pieces:
        if id(piece) in aside:
            continue
        try:
            with piece.file.open("rb") as stream:
                stream.seek(piece.offset)
                piece.tensor.raw_data = stream.read(piece.length)
        except OSError as error:
            what = f"{path}: external data of '{piece.tensor.name}' cannot be read: {error}"
            raise ModelError(what, "name a file that may be read") from error
        piece.tensor.data_location = onnx.TensorProto.DEFAULT
        del piece.tensor.external_data[:]
    return bool(outside), regions


def _state_need(path: Path, pieces: Sequence[_Piece], mapped: Sequence[_Piece]) -> None:
    """Refuse weights that need more private memory than is allowed; tell the need of mapped ones."""
    held = sum(piece.length for piece in pieces) - sum(piece.length for piece in mapped)
    if not mapped:
        need(held, f"{path}: the external data of {len(pieces)} tensors")
        return
    held += _COPIES * max(piece.length for piece in mapped)
    need(held, f"{path}: the work on {len(pieces)} tensors, one at a time,")
    size = in_words(sum(piece.length for piece in mapped))
    tell(f"{path}: {size} of weights are mapped; the work on them needs about {in_words(held)} of memory")


def _large(proto: onnx.ModelProto, pieces: Sequence[_Piece]) -> list[_Piece]:
    """Return the pieces worth mapping: large initializers, if they are many megabytes together."""
    own = sum(map(external_data_helper.uses_external_data, proto.graph.initializer))  # they come first
    found = [p for p in pieces[:own] if can_map(p.tensor) and not p.offset % _ALIGNMENT]
    return found if sum(piece.length for piece in found) >= MAP_ABOVE else []


def _map(pieces: Sequence[_Piece]) -> tuple[Region, ...]:
    """Let tensors refer to mapped files; map none where one of them cannot be."""
    try:
        regions = {file: Region.of_file(file) for file in {piece.file: None for piece in pieces}}
    except (OSError, ValueError):
        return ()
    for piece in pieces:
        refer(piece.tensor, regions[piece.file], piece.offset, piece.length)
    return tuple(regions.values())


def _piece(tensor: onnx.TensorProto, path: Path) -> _Piece:
    """Return where the values of a tensor lie: in or below the model's own folder, and as many as it needs.

    Raises:
        ModelError: They lie elsewhere, are missing, or are of another length.
    """
    what = f"{path}: external data of '{tensor.name}'"
    entries = {e.key: e.value for e in tensor.external_data}
    try:
        folder, location = path.resolve().parent, entries.get("location", "")
        target = (folder / location).resolve()
        inside = bool(location) and not Path(location).is_absolute() and target.is_relative_to(folder)
        offset = _number(entries, "offset") or 0
        length = _number(entries, "length")
        size = target.stat().st_size if inside and target.is_file() else None
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{what} cannot be read: {error}", EXPORT_AGAIN) from error
    if not inside:
        raise ModelError(
            f"{path}: weights of '{tensor.name}' point outside the model's folder: '{location}'",
            "external data is read from the model's own folder only",
        )
    if size is None:
        raise ModelError(f"{path}: external data file '{location}' is missing", "copy it beside the model")
    needed = stored_bytes(tensor, str(path))
    if length is not None and length != needed:
        raise ModelError(f"{what} has {length} bytes, and its shape needs {needed}", EXPORT_AGAIN)
    if size < offset + needed:
        fault = f"external data file '{target.name}' is cut short at '{tensor.name}'"
        raise ModelError(f"{path}: {fault}", "copy the whole file beside the model")
    return _Piece(tensor, target, offset, needed)


def _number(entries: Mapping[str, str], key: str) -> int | None:
    """Return a number of a tensor's entries, ``None`` where it is not there."""
    if key not in entries:
        return None
    number = int(entries[key])
    if number < 0:
        raise ValueError(f"its {key} is {number}")
    return number
