"""Samples in files of their own: a folder of pictures or sounds, with a folder for each class or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data.input_schema import LABELS, Schema, class_axis
from onnxprune.evaluate.data.pictures import PictureReader
from onnxprune.evaluate.data.sources import DataPart, Source
from onnxprune.evaluate.data.waves import WaveReader
from onnxprune.runtime import Array
from onnxprune.support.progress import tell_once
from onnxprune.support.sample_files import PICTURES, WAVES, label_lists, sample_files

Reader: TypeAlias = "Callable[[Path], Array]"
_AT_ONCE = 64
"""Files in memory at a time."""


class FileSource(Source):
    """One sample a file.

    Args:
        name: The folder as the user gave it.
        paths: The files.
        labels: The class of each; ``None`` without classes.
        read: Makes the array of one sample, without an axis of samples, of a file.
        schema: Schema that the arrays must fit.
    """

    def __init__(
        self, name: str, paths: list[Path], labels: list[int] | None, read: Reader, schema: Schema
    ) -> None:
        self.name = name
        self.samples = len(paths)
        self._paths, self._labels, self._read, self._schema = paths, labels, read, schema

    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield the samples in parts of equal shape, in the order of the files or shuffled."""
        order = np.arange(self.samples or 0)[:limit]
        if rng is not None:
            order = rng.permutation(order)
        for start in range(0, len(order), _AT_ONCE):
            read = [(int(k), self._read(self._paths[k])) for k in order[start : start + _AT_ONCE]]
            while read:
                shape = read[0][1].shape
                alike = [(k, a) for k, a in read if a.shape == shape]
                read = [(k, a) for k, a in read if a.shape != shape]
                yield self._part([k for k, _ in alike], np.stack([a for _, a in alike]))

    def _part(self, numbers: list[int], samples: Array) -> DataPart:
        arrays = {self._schema.inputs[0].name: samples}
        if self._labels is not None:
            arrays[LABELS] = np.asarray([self._labels[k] for k in numbers], np.int64)
        where = str(self._paths[numbers[0]])
        rows = self._schema.check(arrays, where)
        return DataPart.of(where, arrays, self._schema.axes(arrays), rows)


def open_files(folder: Path, schema: Schema) -> FileSource:
    """Open a folder of pictures or of ``.wav`` files.

    A file in a folder of its own belongs to the class of that folder. Folders named by numbers are those
    classes; others are the classes in the order of their names, as torchvision's ``ImageFolder`` has them,
    where there are as many as the model has.

    Raises:
        DataError: The folder holds both or files of both levels, or the model does not take such samples.
    """
    paths = sample_files(folder)
    kinds = {"pictures" if p.suffix.lower() in PICTURES else "sounds" for p in paths}
    if len(kinds) > 1:
        raise DataError(f"{folder} holds pictures and sounds", "give a folder of one kind")
    if len(schema.inputs) != 1:
        raise DataError(
            f"{folder} holds {kinds.pop()} for one input; {schema}",
            "write .npz files with an array for each input, or give module:callable",
        )
    if lists := label_lists(folder):
        names = ", ".join(p.name for p in lists)
        tell_once(f"{folder}: {names} is not read; classes are folders named by their numbers")
    (spec,) = schema.inputs
    sounds = paths[0].suffix.lower() in WAVES
    reader: Reader = WaveReader.of(folder, paths, spec) if sounds else PictureReader.of(folder, paths, spec)
    return FileSource(str(folder), paths, _labels(folder, paths, schema), reader, schema)


def _labels(folder: Path, paths: list[Path], schema: Schema) -> list[int] | None:
    """Return the class of each file, ``None`` where there are no classes or not those of the model."""
    places = {p.parent for p in paths}
    if places == {folder}:
        return None
    if folder in places:
        raise DataError(
            f"{folder} holds samples beside folders of samples",
            "put all of them into the folder, or into one folder for each class",
        )
    names = sorted(p.name for p in places)
    if all(name.isdecimal() and name.isascii() for name in names):
        return [int(p.parent.name) for p in paths]
    classes = {_classes(schema, k) for k in range(len(schema.outputs))} - {None}
    if classes != {len(names)}:
        found = (
            " or ".join(str(c) for c in sorted(c for c in classes if c is not None)) or "no known number of"
        )
        tell_once(
            f"{folder} has {len(names)} folders and the model {found} classes: the samples are used without "
            "labels; name the folders by the numbers of the classes to have them used"
        )
        return None
    return [names.index(p.parent.name) for p in paths]


def _classes(schema: Schema, output: int) -> int | None:
    """Return the number of classes of an output, where one label a sample fits it."""
    shape = schema.outputs[output].shape
    axis = class_axis(shape, (1,))
    size = None if axis is None else shape[axis]
    return size if isinstance(size, int) else None
