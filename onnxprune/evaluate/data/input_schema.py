"""The schema of a model: names, types and shapes that arrays must match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime import Array, TensorSpec
from onnxprune.runtime.batch_axes import Axes, sample_axes

LABELS = "labels"
_SLIP = 0.8
"""Similarity of names, 0 to 1, from which one is taken for a slip of the other."""
_FIRST_AXIS = "the first axis of every array counts the samples"
_COUNTS = "the first axis counts the samples, the others must be the model's"


class ArrayLayout(Protocol):
    """Shape and type of an array that need not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of every axis, samples first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""


@dataclass(frozen=True)
class Schema:
    """The arrays that may come with a sample, and their rules.

    An array is named like an input (all inputs must be there), like an output (the target of that output),
    or ``labels`` (class indices); arrays of other names are targets for metrics of the user's own, unless the
    name is a slip of a known one. The first axis of every array counts the samples, even if the file fixes a
    batch, unless the model has its batch on another axis; and arrays of inputs that have none, such as
    settings, are the same for all samples.

    Types must be the model's own but for conversions that cannot change a meaning: between floating types
    (values must stay finite), and from an integer type to one that holds all its values. Integers are not
    taken for floating inputs: a division of a ``uint8`` picture by 255 is not guessed.
    Labels may be of any integer type; those of several positions a sample may be negative where a position
    does not count. Arrays of other names are not looked at.

    Attributes:
        inputs: The inputs of the model.
        outputs: Its outputs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        inputs, outputs = ("; ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"the model's inputs are {inputs or 'none'}; its outputs are {outputs or 'none'}"

    def check(self, arrays: Mapping[str, ArrayLayout], where: str) -> int:
        """Check names, shapes, types and lengths without reading a value.

        Args:
            arrays: The arrays, or their headers.
            where: Their origin, for the message.

        Returns:
            The number of samples.

        Raises:
            DataError: Something does not fit; the message names the array.
        """
        self._check_names(arrays, where)
        specs = {s.name: s for s in (*self.outputs, *self.inputs)}
        axes = self.axes(arrays)
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise DataError(
                    f"array {name!r} in {where} holds Python objects, which are not read",
                    "save plain arrays of numbers; pickled objects can run any code when they are loaded",
                )
            if name == LABELS and name not in specs:
                _check_labels_layout(array, where)
            elif name in specs:
                self._check_layout(specs[name], array, axes[name], where)
            elif not array.shape:
                raise DataError(
                    f"array {name!r} in {where} is a single value, without an axis of samples", _FIRST_AXIS
                )
        lengths = {name: array.shape[a] for name, array in arrays.items() if (a := axes[name]) is not None}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{n}: {length}" for n, length in lengths.items())
            raise DataError(f"the arrays in {where} differ in their number of samples ({found})", _FIRST_AXIS)
        if not lengths:
            raise DataError(f"no array in {where} has an axis of samples", _FIRST_AXIS)
        return next(iter(lengths.values()))

    def axes(self, arrays: Mapping[str, ArrayLayout]) -> Axes:
        """Return the axis of each array that counts the samples, ``None`` where all samples have the same."""
        return sample_axes(self.inputs, self.outputs, {name: a.shape for name, a in arrays.items()})

    def convert(self, arrays: Mapping[str, Array], where: str) -> dict[str, Array]:
        """Bring checked arrays to the model's types and look at their values.

        Args:
            arrays: Arrays that `check` has accepted.
            where: Their origin, for the message.

        Returns:
            The arrays in the types the model takes; labels as ``int64``.

        Raises:
            DataError: A value is NaN or infinite, or a label is not a class.
        """
        types = {s.name: s.dtype for s in (*self.outputs, *self.inputs)}
        own = {n: a for n, a in arrays.items() if n not in types and n != LABELS}
        converted: dict[str, Array] = {}
        for name, array in arrays.items():
            if name in own:
                continue
            with np.errstate(over="ignore"):  # the check below has a better message
                converted[name] = array.astype(types.get(name, np.dtype(np.int64)), copy=False)
            if converted[name].dtype.kind in "fc" and not np.isfinite(converted[name]).all():
                became = f" once converted to {types[name]}" if np.isfinite(array).all() else ""
                raise DataError(
                    f"array {name!r} in {where} has values that are NaN or infinite{became}",
                    "leave those samples out, or put numbers in their place",
                )
        if LABELS in converted and LABELS not in types:
            self._check_label_values(converted[LABELS], where)
        return {name: own[name] if name in own else converted[name] for name in arrays}

    def _check_names(self, arrays: Mapping[str, ArrayLayout], where: str) -> None:
        known = {s.name for s in (*self.inputs, *self.outputs)} | {LABELS}
        missing = sorted({s.name for s in self.inputs} - set(arrays))
        unknown = sorted(set(arrays) - known)
        if not missing:
            unknown = [name for name in unknown if get_close_matches(name, known - set(arrays), 1, _SLIP)]
        faults = [
            f"{verb} {', '.join(map(repr, n))}" for verb, n in (("lacks", missing), ("has", unknown)) if n
        ]
        if faults:
            hint = f"{self}; class indices are called {LABELS!r}"
            unclear = ", which the model does not know" if unknown else ""
            raise DataError(f"{where} {' and '.join(faults)}{unclear}", hint)
        if not self.inputs:
            raise DataError("the model has no inputs that data could be fed to", "leave the data out")

    def _check_layout(self, spec: TensorSpec, array: ArrayLayout, axis: int | None, where: str) -> None:
        expected = [None if a == axis else size for a, size in enumerate(spec.shape)]
        if spec.shape and not _matches(array.shape, expected, len(array.shape) == len(spec.shape)):
            counts = (
                _COUNTS if not axis else f"axis {axis} counts the samples, the others must be the model's"
            )
            raise DataError(
                f"array {spec.name!r} in {where} has shape {list(array.shape)}, the model has {spec}",
                _transposition(array.shape, spec.shape, axis) or counts,
            )
        if not array.shape and spec not in self.inputs:
            raise DataError(
                f"array {spec.name!r} in {where} is a single value, without an axis of samples", _FIRST_AXIS
            )
        if not _converts(array.dtype, spec.dtype):
            raise DataError(
                f"array {spec.name!r} in {where} is of type {array.dtype}, the model has {spec}",
                f"convert it the way the model was trained, then .astype({str(spec.dtype)!r})",
            )

    def _check_label_values(self, labels: Array, where: str) -> None:
        sizes = [size for size in (_classes(o, labels.shape) for o in self.outputs) if size != 0]
        if not labels.size or not sizes:  # labels in a form of the user's own metric
            return
        limit = None if None in sizes else max(size for size in sizes if size is not None)
        if labels.ndim > 1:
            labels = np.maximum(labels, 0)  # a negative number marks a position that does not count
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or (limit is not None and high >= limit):
            wrong = low if low < 0 else high
            allowed = f"0 to {limit - 1}" if limit is not None else "0 and above"
            raise DataError(
                f"label {wrong} in {where} is no class of the model, which has {allowed}", str(self)
            )


def class_axis(output: Sequence[int | str | None], labels: Sequence[int]) -> int | None:
    """Return the axis of an output that counts the classes of the labels.

    That is axis 1 as in ``SoftmaxCrossEntropyLoss`` of the ONNX operators (``[N, C]`` with ``[N]``,
    ``[N, C, H, W]`` with ``[N, H, W]``), also if axes of size 1 follow; else the last axis, as in sequence
    models (``[N, T, C]`` with ``[N, T]``).

    Args:
        output: The shape of the output; names and ``None`` for open sizes.
        labels: The shape of the labels.

    Returns:
        The axis, or ``None`` where labels of this shape do not fit.
    """
    if len(output) < 2:
        return None
    rest = tuple(labels[1:])
    if _matches(rest, output[2:], len(labels) == len(output) - 1):
        return 1
    if not rest and all(size == 1 for size in output[2:]):
        return 1
    return len(output) - 1 if _matches(rest, output[1:-1], len(labels) == len(output) - 1) else None


def _classes(output: TensorSpec, labels: tuple[int, ...]) -> int | None:
    """Return how many classes labels of a shape may name: 0 if they do not fit, ``None`` if not known."""
    axis = class_axis(output.shape, labels)
    if axis is None:
        return 0
    size = output.shape[axis]
    return None if not isinstance(size, int) else max(size, 2)  # a single value means yes or no


def _transposition(shape: Sequence[int], wanted: Sequence[int | str | None], axis: int | None) -> str:
    """Return a hint where exactly the place of the channels differs; empty where something else does."""
    if len(shape) != 4 or axis != 0:
        return ""
    for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
        moved = [shape[k] for k in order]
        if all(isinstance(size, int) for size in wanted[1:]) and moved[1:] == list(wanted[1:]):
            return f"the channels are on another axis: .transpose{order}"
    return ""


def _matches(shape: Sequence[int], expected: Sequence[int | str | None], same_rank: bool) -> bool:
    fits = (not isinstance(w, int) or s == w for s, w in zip(shape, expected, strict=False))
    return same_rank and all(fits)


def _converts(given: np.dtype[Any], expected: np.dtype[Any]) -> bool:
    """Return whether a conversion is one of those `Schema` allows."""
    if given == expected or (given.kind == "U" and expected.kind == "O"):
        return True
    if given.kind == expected.kind and given.kind in "fc":
        return True
    return given.kind in "iu" and expected.kind in "iu" and np.can_cast(given, expected, "safe")


def _class_indices(shape: Sequence[int], dtype: np.dtype[Any]) -> str:
    """Return a hint how labels of another form become class indices."""
    if len(shape) == 2 and shape[1] > 1 and dtype.kind in "fb":
        return "labels are class indices: of one-hot rows .argmax(1); other targets are named like the output"
    if dtype.kind in "fb":
        return "labels are class indices: .astype('int64'); other targets are named like the model's output"
    return "labels are class indices, counted from 0; other targets are named like the model's output"


def _check_labels_layout(labels: ArrayLayout, where: str) -> None:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"the labels in {where} are of type {labels.dtype}, not integers",
            _class_indices(labels.shape, labels.dtype),
        )
    if not labels.shape:
        raise DataError(f"the labels in {where} are a single value, without an axis of samples", _FIRST_AXIS)
