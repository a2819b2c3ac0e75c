"""The wire format between the trainer and its worker: frames of JSON and raw arrays.

A frame is a little-endian 32-bit length, that many bytes of JSON, and the bytes of its arrays in C order,
one after the other. The JSON holds the kind of the frame, its fields, and name, type and shape of each array:

    <length> {"kind": "step", "fields": {…}, "arrays": [["image", "<f4", [64, 1, 28, 28]], …]} <bytes> …

Nothing is pickled, so no received data can run as code.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

MASK_PREFIX = "mask:"  # in front of a tensor's name, its mask in a `load` frame

ALIGNMENT = 64
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class WireMessage:
    """One message.

    Attributes:
        kind: Kind of the message.
        fields: Small values, anything JSON can hold.
        arrays: Arrays by name; names keep their order.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


def write_frame(stream: IO[bytes], frame: WireMessage) -> None:
    """Write one frame and flush it.

    Raises:
        BrokenPipeError: The reading end is closed.
    """
    # ascontiguousarray turns 0-d into 1-d, so the shape is taken from the original.
    described = [[name, array.dtype.str, array.shape] for name, array in frame.arrays.items()]
    header = json.dumps({"kind": frame.kind, "fields": dict(frame.fields), "arrays": described}).encode()
    stream.write(_LENGTH.pack(len(header)) + header)
    for array in frame.arrays.values():
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> WireMessage | None:
    """Read one frame; None when the other side has closed the stream or died within a frame."""
    prefix = _read(stream, _LENGTH.size)
    header = prefix and _read(stream, _LENGTH.unpack(prefix)[0])
    if not header:
        return None
    content = json.loads(header)
    arrays = {}
    for name, type_name, shape in content["arrays"]:
        array = aligned_empty(shape, np.dtype(type_name))
        if not _fill(stream, array.reshape(-1).view(np.uint8).data):
            return None
        arrays[name] = array
    return WireMessage(content["kind"], content["fields"], arrays)


def aligned_empty(shape: Sequence[int], kind: npt.DTypeLike) -> Array:
    """Return an array whose first byte lies on a multiple of 64.

    Kernels that add up in the order of aligned packets make the same of the same numbers then, bit for bit.
    """
    kind = np.dtype(kind)
    size = math.prod(shape) * kind.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(kind).reshape(shape)


def _read(stream: IO[bytes], count: int) -> bytes | None:
    buffer = bytearray(count)
    return bytes(buffer) if _fill(stream, memoryview(buffer)) else None


def _fill(stream: IO[bytes], view: memoryview) -> bool:
    """Read until the view is full; False when the stream ends before."""
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            return False
        view = view[count:]
    return True
