"""Sources of arrays: shards on disk, a callable, memory."""

from __future__ import annotations

import contextlib
import math
import struct
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data.input_schema import LABELS, Schema
from onnxprune.runtime import Array
from onnxprune.runtime.batch_axes import Axes
from onnxprune.support.callables import load_callable, user_code
from onnxprune.support.memory import need
from onnxprune.support.progress import tell
from onnxprune.support.sample_files import PICTURES, WAVES, shards

BooleanArray: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

_PIECE = 64 << 20
"""Bytes that compressed arrays are unpacked to at a time."""
_MOST = 10_000_000
"""Samples of a callable in one pass: one that gives more has no end."""
_MOST_EMPTY = 10_000
_LONG_S = 20.0
"""Seconds of a pass through a callable after which a message states that it goes on."""
_BOUND = (
    "if it has no end, bound it in the callable itself, by a number of samples, or by data.limit of a recipe"
)
GIVE_DATA = (
    "give an .npz file, a folder of them, of pictures or .wav files, a .jsonl file, or module:callable"
)
_WRITE = "write one with numpy.savez(path, name=array, …), one array an input"


class DataPart(NamedTuple):
    """Some samples.

    Attributes:
        where: Name in messages.
        arrays: Arrays by name, the samples on the first axis of all of them.
        axes: The axis that counts the samples in the model's own layout, by name; ``None`` where it has none,
            and all samples are alike.
    """

    where: str
    arrays: dict[str, Array]
    axes: Axes

    @classmethod
    def of(cls, where: str, arrays: Mapping[str, Array], axes: Axes, rows: int) -> DataPart:
        """Put the samples on the first axis of arrays in the model's own layout."""
        return cls(where, {n: samples_first(a, axes[n], rows) for n, a in arrays.items()}, axes)

    def chosen(self, rows: Any) -> DataPart:
        """Return some of the samples, by their indices or as a slice."""
        return self._replace(arrays={n: a[rows] for n, a in self.arrays.items()})


def samples_first(array: Array, axis: int | None, rows: int) -> Array:
    """Return an array with the samples on its first axis; an array without such an axis is broadcast."""
    if axis is None:
        return np.broadcast_to(array, (rows, *array.shape))
    return np.moveaxis(array, axis, 0)


class Source(ABC):
    """An origin of samples, the same ones in every pass.

    Attributes:
        name: Name in messages.
        samples: Number of samples; ``None`` if it shows only on the way through.
    """

    name: str
    samples: int | None

    @abstractmethod
    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield the samples in parts, one part in memory at a time.

        Args:
            limit: Stop after the first so many samples.
            rng: Shuffle the order of the parts with this, where there is a choice.

        Yields:
            Parts, their arrays checked for everything but their values.
        """


class MemorySource(Source):
    """Arrays that are in memory already."""

    def __init__(self, arrays: Mapping[str, Array], schema: Schema) -> None:
        self.name = "the arrays"
        self._arrays = {name: np.asarray(a) for name, a in arrays.items()}
        self.samples = schema.check(self._arrays, self.name)
        self._axes = schema.axes(self._arrays)

    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield the arrays as one part."""
        del rng
        assert self.samples is not None
        yield DataPart.of(self.name, self._arrays, self._axes, self.samples).chosen(slice(limit))


class ChosenSource(Source):
    """Some of the samples of another source.

    Args:
        source: The other one.
        chosen: For each of its samples whether it is one of them; none beyond is.
    """

    def __init__(self, source: Source, chosen: BooleanArray) -> None:
        self.name = source.name
        self.samples = self._count = int(chosen.sum())
        self._source, self._chosen = source, chosen

    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield the rest of each part."""
        del rng
        start, left = 0, self._count if limit is None else limit
        for part in self._source.parts(len(self._chosen), None):
            rows = len(next(iter(part.arrays.values())))
            chosen = np.flatnonzero(self._chosen[start : start + rows])[:left]
            start, left = start + rows, left - len(chosen)
            if len(chosen):
                yield part.chosen(chosen)


class ShardSource(Source):
    """One or more ``.npz`` files, read one after the other.

    Headers are read and checked at once. Arrays stored without compression (``np.savez``) are mapped into
    memory, not read; compressed ones are unpacked piece by piece, and no further than needed.
    Only to be shuffled must a compressed shard be unpacked as a whole.

    Args:
        name: The path the user gave.
        paths: The files, in order.
        schema: Schema that the arrays must fit.
    """

    def __init__(self, name: str, paths: list[Path], schema: Schema) -> None:
        self.name = name
        self._shards: list[tuple[Path, int]] = []
        self._axes: dict[Path, Axes] = {}
        names: set[str] = set()
        for path in paths:
            headers = {m.name: m for m in _members(path)}
            self._shards.append((path, schema.check(headers, path.name)))
            self._axes[path] = schema.axes(headers)
            names = names or set(headers)
            if set(headers) != names:
                raise DataError(
                    f"{path} holds the arrays {sorted(headers)}, but {paths[0].name} holds {sorted(names)}",
                    "all shards of a folder must hold arrays of the same names",
                )
        self.samples = sum(rows for _, rows in self._shards)

    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield one part a shard."""
        portions = self._within(limit)
        order = range(len(portions)) if rng is None else rng.permutation(len(portions))
        for index in order:
            path, rows = portions[index]
            axes, whole = self._axes[path], dict(self._shards)[path]
            for arrays in _unpacked(path, axes, whole, rows, rows if rng is not None else None):
                yield DataPart(path.name, arrays, axes)

    def _within(self, limit: int | None) -> list[tuple[Path, int]]:
        """Return the shards, and of each the rows, that hold the first samples."""
        if limit is None:
            return self._shards
        portions = []
        for path, rows in self._shards:
            if limit > 0:
                portions.append((path, min(rows, limit)))
            limit -= rows
        return portions


class CallableSource(Source):
    """A function that returns batches, called anew for every pass over the data.

    Args:
        function: The callable, or ``module:callable`` to be imported when it is needed.
        schema: Schema that the batches must fit.
    """

    def __init__(self, function: str | Callable[[], Any], schema: Schema) -> None:
        self.name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        self.samples = None
        self._function = function
        self._schema = schema
        self._told = False

    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield one part a batch, in the callable's own order."""
        del rng
        count, empty, begin = 0, 0, time.monotonic()
        for number, batch in enumerate(self._batches()):
            where = f"batch {number} of {self.name}"
            arrays = _named_arrays(batch, self._schema, where)
            rows = self._schema.check(arrays, where)
            part = DataPart.of(where, arrays, self._schema.axes(arrays), rows)
            yield part.chosen(slice(None if limit is None else limit - count))
            count, empty = count + rows, 0 if rows else empty + 1
            if limit is not None and count >= limit:
                return
            if empty == _MOST_EMPTY or count > _MOST:
                excess = f"{empty} batches without a sample" if empty else f"more than {_MOST} samples"
                raise DataError(f"{self.name} gives {excess}, one after the other", _BOUND)
            if limit is None and not self._told and time.monotonic() - begin > _LONG_S:
                self._told = True
                tell(f"{self.name} has given {count} samples, and goes on; {_BOUND}")

    def _batches(self) -> Iterator[object]:
        function = load_callable(self._function) if isinstance(self._function, str) else self._function
        with user_code(self.name):
            batches = function()
        if not isinstance(batches, Iterable) or isinstance(batches, Mapping | str | bytes):
            raise DataError(
                f"{self.name} returned {_kind(batches)}, not batches",
                "return an iterable of (inputs, targets)",
            )
        iterator, end = iter(batches), object()
        while True:
            with user_code(self.name):
                batch = next(iterator, end)
            if batch is end:
                return
            yield batch


def open_shards(path: Path, schema: Schema) -> ShardSource:
    """Open an ``.npz`` file or a folder of them, which are taken in the order of their names.

    Raises:
        DataError: There is no such file or no shard in the folder, or an array does not fit the model.
    """
    if path.is_dir():
        paths = shards(path)
        if not paths:
            endings = ", ".join(sorted(PICTURES))
            hint = f"pictures are {endings}; arrays: numpy.savez(path, name=array, …), one array an input"
            raise DataError(f"there are no .npz files, pictures or .wav files in the folder {path}", hint)
        return ShardSource(str(path), paths, schema)
    if not path.is_file():
        raise DataError(f"there is no data at {path}", GIVE_DATA)
    return ShardSource(str(path), [path], schema)


@dataclass(frozen=True)
class _Member:
    """One array inside an ``.npz`` file, of which only the header has been read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int | None  # of the values in the file, if they are stored as they are

    @property
    def all_bytes(self) -> int:
        """The size of all values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def sample_bytes(self) -> int:
        """The size of one sample in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def mapped(self) -> Array:
        """Map the values of an array that is stored as it is."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        order: Literal["F", "C"] = "F" if self.fortran else "C"
        with _reading(self.path):
            values: Array = np.memmap(self.path, self.dtype, "r", self.offset or 0, self.shape, order)
        return values

    def whole(self) -> Array:
        """Return all values, mapped into memory if they are stored without compression."""
        if self.shape and self.offset is not None:
            return self.mapped()
        with _reading(self.path), np.load(self.path, allow_pickle=False) as archive:
            return np.asarray(archive[self.name])

    def unpacked(self, stream: IO[bytes], rows: int) -> Array:
        """Unpack the next samples of a compressed array, or all of them if it is in Fortran order.

        Args:
            stream: The member of the archive, at the first of them.
            rows: Number of samples.
        """
        shape = self.shape if self.fortran else (rows, *self.shape[1:])
        content = stream.read(math.prod(shape) * self.dtype.itemsize)
        values = np.frombuffer(content, self.dtype, math.prod(shape)) if content else np.empty(0, self.dtype)
        return values.reshape(shape, order="F" if self.fortran else "C")[:rows]


def _unpacked(
    path: Path, axes: Axes, whole: int, rows: int, at_once: int | None
) -> Iterator[dict[str, Array]]:
    """Yield the first samples of a shard in pieces, the samples on the first axis.

    Args:
        path: The shard.
        axes: The axis of each array that counts the samples.
        whole: Number of samples in the shard.
        rows: Number of samples to yield.
        at_once: Samples a piece; by default limited by the size of a piece.

    Raises:
        DataError: The file is broken, or a piece needs more memory than is allowed.
    """
    members = _members(path)
    packed = [m for m in members if m.offset is None and axes[m.name] == 0]
    if at_once is None:
        crosswise = any(m.fortran for m in packed)
        sample = sum(m.sample_bytes for m in packed)
        at_once = rows if crosswise or not packed else max(1, min(rows, _PIECE // max(1, sample)))
    sizes = (m.sample_bytes * (m.shape[0] if m.fortran else at_once) for m in packed)
    need(sum(sizes), f"{path}: unpacking {at_once} samples", DataError)
    aside = [m for m in members if m not in packed]
    need(sum(m.all_bytes for m in aside if m.offset is None), f"{path}: unpacking", DataError)
    mapped = {m.name: samples_first(m.whole(), axes[m.name], whole) for m in aside}
    with contextlib.ExitStack() as stack:
        with _reading(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            streams = {m.name: stack.enter_context(archive.open(f"{m.name}.npy")) for m in packed}
            for stream in streams.values():
                _header(stream)
        for start in range(0, rows, max(1, at_once)):
            stop = min(start + at_once, rows)
            with _reading(path):
                found = {m.name: m.unpacked(streams[m.name], stop - start) for m in packed}
            yield {m.name: found[m.name] if m in packed else mapped[m.name][start:stop] for m in members}


def _members(path: Path) -> list[_Member]:
    """Read the headers of all arrays in an ``.npz`` file."""
    with _reading(path), zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        return [_member(path, archive, raw, info) for info in archive.infolist()]


def _member(path: Path, archive: zipfile.ZipFile, raw: IO[bytes], info: zipfile.ZipInfo) -> _Member:
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        length = stream.tell()
    offset = None
    if info.compress_type == zipfile.ZIP_STORED:
        raw.seek(info.header_offset + 26)  # the lengths of the name and the extra field that follow
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4))) + length
    return _Member(path, info.filename.removesuffix(".npy"), shape, dtype, fortran, offset)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of the ``.npy`` format."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn all exceptions of numpy and zipfile on a broken file into a DataError."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} may not be read", "name a file that may be read") from error
    except Exception as error:  # numpy and zipfile raise more kinds than they document
        if path.suffix.lower() == ".npz" or zipfile.is_zipfile(path):
            raise DataError(f"{path} is not a readable .npz file: {error}", _WRITE) from error
        raise DataError(f"{path} is in no form of samples that is read", _form_hint(path)) from error


def _form_hint(path: Path) -> str:
    """Return the form in which a file of another kind can be given."""
    kind = path.suffix.lower()
    if kind in PICTURES | WAVES:
        return f"give the folder of the files: {path.parent}"
    if kind == ".npy":
        return f"an .npz file names its arrays: numpy.savez('data.npz', INPUT=numpy.load({path.name!r}))"
    return GIVE_DATA


def _named_arrays(batch: object, schema: Schema, where: str) -> dict[str, Array]:
    """Put the two halves of a user's batch into one mapping of arrays."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(f"{where} is {_kind(batch)}, not a pair (inputs, targets)", "targets may be None")
    inputs, targets = batch
    if not isinstance(inputs, Mapping):
        if len(schema.inputs) != 1:
            raise DataError(f"the inputs in {where} are {_kind(inputs)}, not a dict of arrays", str(schema))
        inputs = {schema.inputs[0].name: inputs}
    if targets is None:
        targets = {}
    if not isinstance(targets, Mapping):
        targets = {_target_name(targets, schema, where): targets}
    return {str(name): _array(value, str(name), where) for name, value in {**inputs, **targets}.items()}


def _target_name(targets: object, schema: Schema, where: str) -> str:
    """Name an array of targets without a name: integers are labels, others the only output."""
    if _array(targets, "targets", where).dtype.kind in "iu":
        return LABELS
    if len(schema.outputs) != 1:
        raise DataError(f"the targets in {where} are {_kind(targets)}, not a dict of arrays", str(schema))
    return schema.outputs[0].name


def _array(value: object, name: str, where: str) -> Array:
    with user_code(f"array {name!r} in {where}"):
        return np.asarray(value)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
