"""Batches of samples, in their own order or shuffled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data.input_schema import Schema
from onnxprune.evaluate.data.sample_folders import open_files
from onnxprune.evaluate.data.sources import (
    BooleanArray,
    CallableSource,
    ChosenSource,
    DataPart,
    MemorySource,
    Source,
    open_shards,
    samples_first,
)
from onnxprune.evaluate.data.texts import TextSource
from onnxprune.runtime import Array, TensorSpec
from onnxprune.runtime.batch_axes import Axes
from onnxprune.support.callables import is_reference
from onnxprune.support.sample_files import TEXTS, sample_files, shards


@dataclass(frozen=True)
class Batch:
    """A few samples.

    Attributes:
        inputs: An array for every input of the model, those with the samples on the first axis first.
        targets: Targets of the model: ``labels`` (``int64``), arrays named like outputs, or nothing.
        axes: The axis of an array that counts the samples, by name, ``None`` where the array is the same for
            all; the first axis of those that are not named.
    """

    inputs: dict[str, Array]
    targets: dict[str, Array]
    axes: Axes = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of samples."""
        axes = ((name, self.axes.get(name, 0)) for name in self.inputs)
        return next(int(self.inputs[name].shape[axis]) for name, axis in axes if axis is not None)

    def filled(self, rows: int) -> dict[str, Array]:
        """Return the inputs with copies of the last sample behind, so that there are so many rows."""
        return self.chosen(np.minimum(np.arange(rows), self.size - 1)) if rows != self.size else self.inputs

    def chosen(self, rows: Array) -> dict[str, Array]:
        """Return the inputs of some samples, by their numbers."""
        return {
            name: array if (axis := self.axes.get(name, 0)) is None else np.take(array, rows, axis)
            for name, array in self.inputs.items()
        }

    def by_sample(self, name: str) -> Array:
        """Return an input or target with the samples on its first axis."""
        array = self.inputs[name] if name in self.inputs else self.targets[name]
        return samples_first(array, self.axes.get(name, 0), self.size)


class Dataset:
    """Samples that can be gone through any number of times.

    It holds no samples itself and can be sent to other processes as long as its source can: files and
    ``module:callable`` always.

    Args:
        source: Source of the arrays.
        schema: Schema that the arrays must fit.
        limit: Only the first so many samples.
    """

    def __init__(self, source: Source, schema: Schema, limit: int | None = None) -> None:
        self._source = source
        self._schema = schema
        self._limit = limit
        self._digest = ""

    @property
    def name(self) -> str:
        """The name of the data in messages."""
        return self._source.name

    @property
    def samples(self) -> int | None:
        """The number of samples; ``None`` for a callable, of which it is not known before the end."""
        if self._source.samples is None:
            return None
        return self._source.samples if self._limit is None else min(self._source.samples, self._limit)

    def __len__(self) -> int:
        if self.samples is None:
            raise TypeError(f"the number of samples in {self.name} is not known beforehand")
        return self.samples

    def count(self) -> int:
        """Return the number of samples, going through all of them where it is not known beforehand."""
        return sum(b.size for b in self.batches(256)) if self.samples is None else self.samples

    def take(self, samples: int) -> Dataset:
        """Return the first so many samples as a dataset of their own (all of them, if there are fewer).

        Raises:
            UsageError: The number is less than one.
        """
        if samples < 1:
            raise UsageError(f"{samples} samples are not enough to go on", "take at least one")
        limit = samples if self._limit is None else min(samples, self._limit)
        return Dataset(self._source, self._schema, limit)

    def chosen(self, rows: Sequence[bool] | BooleanArray) -> Dataset:
        """Return some of the samples, in their order, as a dataset of their own.

        Args:
            rows: For each sample whether it is one of them; samples beyond are not.
        """
        return Dataset(ChosenSource(self._source, np.asarray(rows, bool)), self._schema)

    def batches(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
    ) -> Iterator[Batch]:
        """Go through the samples once.

        Every batch has `batch_size` samples but for the last, which has the remainder; and samples whose
        symbolic axes differ in size never share a batch. Shuffling permutes the shards, and the samples
        within each; of a callable's batches it permutes only the samples within each batch, as the callable
        decides the order. So a callable that returns everything as one batch is shuffled entirely.

        Args:
            batch_size: Samples a batch.
            shuffle: True to shuffle.
            seed: The seed of the order.
            epoch: Another epoch has another order; seed and epoch together decide it.

        Yields:
            Batches, their arrays of the model's own types and free of NaN and infinity.

        Raises:
            DataError: The data does not fit the model, cannot be read, or has no samples.
        """
        if batch_size < 1:
            raise UsageError(f"a batch of {batch_size} samples is none", "give a batch size of at least one")
        rng = np.random.default_rng([seed, epoch]) if shuffle else None
        empty = True
        for part in _regrouped(self._source.parts(self._limit, rng), batch_size, rng):
            empty = False
            yield self._batch(self._schema.convert(part.arrays, part.where), part.axes)
        if empty:
            raise DataError(f"there are no samples in {self.name}", "give data of one sample or more")

    def digest(self) -> str:
        """Return the SHA-256 of the content: names, types, shapes and values, however they are sharded.

        Raises:
            DataError: As for `batches`: going through everything also checks everything.
        """
        if not self._digest:
            hashes: dict[str, _RowHash] = {}
            for batch in self.batches(256):
                for name in (*batch.inputs, *batch.targets):
                    hashes.setdefault(name, _RowHash()).update(batch.by_sample(name))
            lines = [f"{name} {h.hexdigest()}\n" for name, h in sorted(hashes.items())]
            self._digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return self._digest

    def _batch(self, arrays: Mapping[str, Array], axes: Axes) -> Batch:
        """Return samples in the model's own layout."""
        own = {name: _as_the_model(array, axes[name]) for name, array in arrays.items()}
        names = sorted((spec.name for spec in self._schema.inputs), key=lambda name: axes[name] != 0)
        inputs = {name: own[name] for name in names}
        other = {name: axis for name, axis in axes.items() if axis != 0}
        return Batch(inputs, {name: a for name, a in own.items() if name not in inputs}, other)


DataSpec: TypeAlias = str | Path | Dataset | Mapping[str, Array] | Callable[[], Iterable[Any]]


def open_data(spec: DataSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Dataset:
    """Open data for a model.

    Args:
        spec: An ``.npz`` file; a folder of such shards, of pictures or of ``.wav`` files; a ``.jsonl`` file
            of texts; ``module:callable`` or a callable, which is called
            without arguments and returns batches ``(inputs, targets)``; arrays by name; or a dataset, which
            is returned as it is. In a callable's batches both halves are dicts of arrays; a single array
            will do for the only input, and for targets: integers are labels, others belong to the only
            output; ``None`` stands for no targets.
        inputs: The inputs of the model.
        outputs: Its outputs.

    Returns:
        The dataset. Files have been checked for names, shapes, types and lengths; values are checked as they
        are read, and so is everything that comes from a callable.

    Raises:
        DataError: The data is not there or does not fit the model.
    """
    if isinstance(spec, Dataset):
        return spec
    schema = Schema(tuple(inputs), tuple(outputs))
    return Dataset(_source(spec, schema), schema)


def _source(spec: str | Path | Mapping[str, Array] | Callable[[], Iterable[Any]], schema: Schema) -> Source:
    if isinstance(spec, Mapping):
        return MemorySource(spec, schema)
    if callable(spec):
        return CallableSource(spec, schema)
    if isinstance(spec, str) and is_reference(spec) and not Path(spec).exists():
        return CallableSource(spec, schema)
    path = Path(spec)
    if path.suffix.lower() in TEXTS and path.is_file():
        return TextSource(path, schema)
    if path.is_dir() and not shards(path) and sample_files(path):
        return open_files(path, schema)
    return open_shards(path, schema)


def _regrouped(parts: Iterable[DataPart], size: int, rng: np.random.Generator | None) -> Iterator[DataPart]:
    """Cut and join parts into groups of `size` samples, together with where (the last of) them came from."""
    pieces: list[DataPart] = []
    missing = size
    for part in parts:
        rows = len(next(iter(part.arrays.values())))
        order = None if rng is None else rng.permutation(rows)
        if pieces and rows and not _same_form(pieces[0], part):
            yield _joined(pieces)
            pieces, missing = [], size
        start = 0
        while start < rows:
            stop = min(start + missing, rows)
            chosen = slice(start, stop) if order is None else order[start:stop]
            pieces.append(part.chosen(chosen))
            missing, start = missing - (stop - start), stop
            if not missing:
                yield _joined(pieces)
                pieces, missing = [], size
    if pieces:
        yield _joined(pieces)


def _same_form(one: DataPart, other: DataPart) -> bool:
    """Return whether two groups of samples can be joined: equal form, equal shared arrays."""
    a, b = one.arrays, other.arrays
    if set(a) != set(b) or one.axes != other.axes:
        return False
    constant = [n for n, axis in one.axes.items() if axis is None]
    same = all(np.array_equal(a[n][0], b[n][0]) for n in constant)
    return same and all(a[n].shape[1:] == b[n].shape[1:] for n in a)


def _joined(pieces: list[DataPart]) -> DataPart:
    if len(pieces) == 1:
        return pieces[0]._replace(arrays={n: np.asarray(a) for n, a in pieces[0].arrays.items()})
    joined = {n: np.concatenate([p.arrays[n] for p in pieces]) for n in pieces[0].arrays}
    return pieces[-1]._replace(arrays=joined)


def _as_the_model(array: Array, axis: int | None) -> Array:
    """Return an array in the model's own layout; its samples lie on the first axis."""
    return array[0] if axis is None else np.ascontiguousarray(np.moveaxis(array, 0, axis)) if axis else array


class _RowHash:
    """A running SHA-256 over samples that does not depend on how they are batched."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._form = ""

    def update(self, rows: Array) -> None:
        """Add samples."""
        form = f"{rows.dtype.str}{rows.shape[1:]}"
        if form != self._form:
            self._sha.update(form.encode())
            self._form = form
        for row in rows if rows.dtype == object else ():
            self._sha.update(f"{row!r}\n".encode())
        if rows.dtype != object:
            self._sha.update(np.ascontiguousarray(rows).data)

    def hexdigest(self) -> str:
        """Return the hash so far."""
        return self._sha.hexdigest()
