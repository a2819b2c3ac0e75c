"""Tensors whose values lie in mapped files, not in the message.

Such a tensor is marked as external, with a location that names a region of this process. The system reads
pages of a region when they are touched. `release` gives them back; arrays stay valid, for a page is read
again when it is touched again. After every ``WINDOW`` bytes handed out all pages are given back, so that the
pages in memory are those of the last few tensors.

The values of `changed` tensors are computed part by part when they are read.

A region lives as long as a holder of it (see `regions_of`) or an array in it. A protobuf message holds
no region; `Model` does.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import EllipsisType
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.support.regions import REGIONS, Array, ComputedRegion, Region

Change: TypeAlias = "Callable[[slice | EllipsisType, Array], Array]"

WINDOW = 1 << 26
"""Bytes handed out after which the pages of all regions are given back."""
SMALLEST = 1 << 16
"""Bytes from which a tensor is mapped; shape inference needs smaller constants in the message."""
BLOCK = 1 << 22
"""Bytes of a tensor that are worked on at a time."""
HALF_INFINITY = 0x7C00
"""Bits of infinity in float16; those of NaN are larger."""
_RELEASE_S = 0.02
"""Seconds after which pages are given back while native code reads them: some 50 MB are read meanwhile."""
_PREFIX = "mapped by onnxprune:"


class _Window:
    """The bytes handed out since pages were given back last."""

    handed = 0


def refer(tensor: onnx.TensorProto, region: Region, offset: int, length: int) -> None:
    """Let a tensor's values be a part of a region.

    Args:
        tensor: The tensor; its name, type and shape stay.
        region: The region.
        offset: First byte.
        length: Number of bytes.
    """
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": f"{_PREFIX}{region.number}", "offset": offset, "length": length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def can_map(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor of raw values may be mapped: large, and of a type that numpy has."""
    if sys.byteorder != "little" or tensor.data_type == onnx.TensorProto.STRING:
        return False
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return bool(dtype.isbuiltin) and math.prod(tensor.dims) * dtype.itemsize >= SMALLEST


def is_mapped(tensor: onnx.TensorProto) -> bool:
    """Return whether the values of a tensor lie in a region."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL or not tensor.external_data:
        return False
    return bool(tensor.external_data[0].value.startswith(_PREFIX))


def regions_of(proto: onnx.ModelProto) -> tuple[Region, ...]:
    """Return the regions that the initializers of a model lie in; they keep the values."""
    external = onnx.TensorProto.EXTERNAL
    marked = (t for t in proto.graph.initializer if t.data_location == external)
    numbers = dict.fromkeys(_number(t) for t in marked if is_mapped(t))
    return tuple(REGIONS[number] for number in numbers if number in REGIONS)


def array_of(tensor: onnx.TensorProto) -> Array:
    """Return the values of a tensor, wherever they lie: a read-only view, or a copy."""
    if not is_mapped(tensor):
        return numpy_helper.to_array(tensor)
    offset, length = (int(tensor.external_data[k].value) for k in (1, 2))
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    _hand_out(length)
    found: Array = np.frombuffer(_region(tensor).pages, dtype, length // dtype.itemsize, offset)
    return found.reshape(tuple(tensor.dims))


def blocks_of(tensor: onnx.TensorProto) -> Iterator[Array]:
    """Yield the values of a tensor in parts, as `blocks` divides them; changed values need no file for it."""
    computed = _region(tensor).computed() if is_mapped(tensor) else None
    yield from blocks(array_of(tensor)) if computed is None else computed


def placed_blocks(tensor: onnx.TensorProto) -> Iterator[tuple[slice | EllipsisType, Array]]:
    """Yield the places of `parts` in a tensor, and its values there; see `blocks_of`."""
    return zip(parts_of(tuple(tensor.dims), byte_count(tensor)), blocks_of(tensor), strict=True)


def _hand_out(length: int) -> None:
    """Count bytes that are handed out, and give the pages of those before back in time."""
    _Window.handed += length
    if _Window.handed > WINDOW:
        release()


def byte_count(tensor: onnx.TensorProto) -> int:
    """Return how many bytes the values of a tensor take as they are stored; 0 for strings."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    if is_mapped(tensor):
        return int(tensor.external_data[2].value)
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def same_values(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    """Return whether two tensors are equal: names, types, shapes, and values bit for bit."""
    if not is_mapped(one) and not is_mapped(other):
        return bool(one == other)
    heads = [(t.name, t.data_type, tuple(t.dims), t.doc_string) for t in (one, other)]
    if heads[0] != heads[1]:
        return False
    return bool(one == other) or same_bits(array_of(one), array_of(other))


def same_bits(one: Array, other: Array) -> bool:
    """Return whether two arrays of one type and shape are equal bit for bit; they are compared in parts."""
    one, other = one.reshape(-1), other.reshape(-1)
    return all(one[part].tobytes() == other[part].tobytes() for part in parts(one))


def blocks(values: Array) -> Iterator[Array]:
    """Yield an array in parts along its first axis, each of about ``BLOCK`` bytes, and at least one line."""
    yield from (values[part] for part in parts(values))


def parts(values: Array) -> Iterator[slice | EllipsisType]:
    """Yield where those parts lie on the first axis."""
    return parts_of(values.shape, values.nbytes)


def placed(values: Array) -> Iterator[tuple[slice | EllipsisType, Array]]:
    """Yield the places of the parts of an array, and the parts."""
    yield from ((part, values[part]) for part in parts(values))


def parts_of(shape: tuple[int, ...], size: int) -> Iterator[slice | EllipsisType]:
    """Yield where the parts lie of an array of a shape and a size in bytes."""
    if size <= BLOCK or not shape:
        yield ...
        return
    step = max(1, BLOCK * shape[0] // size)
    yield from (slice(start, start + step) for start in range(0, shape[0], step))


def has_nan(values: Array) -> bool:
    """Return whether floating-point numbers hold NaN; float16 is read by its bits, which is faster."""
    if values.dtype != np.float16:
        return bool(np.isnan(values).any())
    return bool(values.size) and int(magnitude_bits(values).max()) > HALF_INFINITY


def has_nonzero(values: Array) -> bool:
    """Return whether any number is other than zero."""
    return bool(magnitude_bits(values).any() if values.dtype == np.float16 else values.any())


def magnitude_bits(values: Array) -> Array:
    """Return the bits of float16 numbers without their signs, as uint16."""
    return np.ascontiguousarray(values).view(np.uint16) & np.uint16(0x7FFF)


def spilled(values: Array, name: str) -> tuple[onnx.TensorProto, Region | None]:
    """Return a tensor of values that lie in a file without a name, and its region.

    Where there is no room for that, and for types that cannot be mapped, the values lie in the tensor.
    """
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=values.shape)
    if can_map(tensor):
        try:
            region = Region.of_blocks(blocks(values))
        except OSError:
            pass
        else:
            refer(tensor, region, 0, values.nbytes)
            return tensor, region
    return numpy_helper.from_array(values, name), None


def changed(tensor: onnx.TensorProto, change: Change) -> tuple[onnx.TensorProto, Region | None]:
    """Return a tensor with changed values; those of a mapped tensor are computed when they are read.

    Args:
        tensor: The tensor.
        change: Function from a place (of `parts`) and the values there, which it must not write to, to as
            many new values; it returns the same ones at each call.

    Returns:
        The tensor, and the region of its values if they are mapped.
    """
    before, found = onnx.TensorProto(), onnx.TensorProto()
    before.CopyFrom(tensor)
    if not is_mapped(tensor):
        made = list(_changed(before, None, change))
        joined = np.asarray(made[0] if len(made) == 1 else np.concatenate(made), order="C")
        return numpy_helper.from_array(joined, tensor.name), None
    region = ComputedRegion(partial(_changed, before, _region(before), change))
    found.CopyFrom(tensor)
    refer(found, region, 0, byte_count(tensor))
    return found, region


def _changed(tensor: onnx.TensorProto, held: Region | None, change: Change) -> Iterator[Array]:
    """Yield changed values of a tensor in parts; its region is held, so that it remains."""
    yield from (change(place, block) for place, block in placed_blocks(tensor))


def loaded(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor with its values in the message; itself where they lie there."""
    if not is_mapped(tensor):
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    del copy.external_data[:]
    copy.raw_data = array_of(tensor).tobytes()
    copy.data_location = onnx.TensorProto.DEFAULT
    return copy


def load_all(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with all values in the message; itself where they lie there."""
    if not any(map(is_mapped, proto.graph.initializer)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if is_mapped(tensor):
            tensor.CopyFrom(loaded(tensor))
    return copy


def message_bytes(proto: onnx.ModelProto) -> int:
    """Return the size of a model's message with all values in it, in bytes."""
    mapped = [tensor for tensor in proto.graph.initializer if is_mapped(tensor)]
    if not mapped:
        return int(proto.ByteSize())
    bare, inside = onnx.ModelProto(), 0
    bare.CopyFrom(proto)
    others = [tensor for tensor in proto.graph.initializer if not is_mapped(tensor)]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(others)
    for tensor in mapped:
        head, length = onnx.TensorProto(), byte_count(tensor)
        head.CopyFrom(tensor)
        del head.external_data[:]
        head.data_location, head.raw_data = onnx.TensorProto.DEFAULT, b""
        inside += _field_bytes(head.ByteSize() - 1 + _length_bytes(length) + length)
    graph = int(bare.graph.ByteSize()) + inside
    bare.ClearField("graph")
    return int(bare.ByteSize()) + _field_bytes(graph)


def _field_bytes(length: int) -> int:
    """Return the bytes of a field below number 16 that holds so many."""
    return 1 + _length_bytes(length) + length


def _length_bytes(length: int) -> int:
    """Return the bytes of a length as protobuf writes it, seven bits a byte."""
    return max(1, -(-length.bit_length() // 7))


def release() -> None:
    """Give the pages of all regions back to the system, and freed memory; arrays stay valid."""
    _Window.handed = 0
    if REGIONS:
        _trim()
    _give_pages_back()


@contextmanager
def released_meanwhile() -> Iterator[None]:
    """Give the pages back at the end of the block, and time and again while native code reads them in it."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(_RELEASE_S):
            _give_pages_back()

    worker = threading.Thread(target=work, name="release of mapped pages", daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()
        release()


def _give_pages_back() -> None:
    for region in list(REGIONS.values()):
        region.give_back()


@cache
def _trimmer() -> Callable[[int], int] | None:
    """Return the function of the C library that gives freed memory back; ``None`` where there is none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another library than glibc, or another system
        return None
    return found


def _trim() -> None:
    """Give freed memory back: after large arrays of many sizes it would stay with the process."""
    trim = _trimmer()
    if trim is not None:
        trim(0)


def _region(tensor: onnx.TensorProto) -> Region:
    found = REGIONS.get(_number(tensor))
    if found is None:
        raise ValueError(f"the values of tensor '{tensor.name}' are gone: their model was deleted")
    return found


def _number(tensor: onnx.TensorProto) -> int:
    return int(tensor.external_data[0].value.removeprefix(_PREFIX))
