"""Samples of a batch, wherever the model has them: on the first axis of an input, on another, or on none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnxprune.runtime import Array
from onnxprune.runtime.batch_axes import Axes, batch_name, described, made_axis, sample_axes


def input_axes(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> Axes:
    """Return the axis of each input that counts the samples, ``None`` for those that are the same for all."""
    known = [spec for spec in described(model.graph.input) if spec.name in inputs]
    return sample_axes(known, described(model.graph.output), {n: a.shape for n, a in inputs.items()})


def output_axes(model: onnx.ModelProto, outputs: Mapping[str, Array], rows: int) -> dict[str, int]:
    """Return the axis of each output that counts the samples.

    Args:
        model: The model; where it names the axis of the samples, in an output too, that one counts.
        outputs: The outputs of a run.
        rows: The number of samples that were fed: elsewhere the axis of that size, the first of several. An
            output without one counts along its first axis.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [spec for spec in described(model.graph.input) if spec.name not in constant]
    declared = {spec.name: spec.shape for spec in described(model.graph.output)}
    name = batch_name(inputs, described(model.graph.output))
    return {n: made_axis(declared.get(n, ()), a.shape, rows, name) or 0 for n, a in outputs.items()}


def batch_size(inputs: Mapping[str, Array], axes: Axes) -> int:
    """Return the number of samples of a batch."""
    counted = ((array, axes.get(name, 0)) for name, array in inputs.items() if array.ndim)
    return next((int(array.shape[axis]) for array, axis in counted if axis is not None), 1)


def taken(inputs: Mapping[str, Array], axes: Axes, rows: Array) -> dict[str, Array]:
    """Return the inputs of some samples, by their numbers."""
    return {
        name: array if not array.ndim or (axis := axes.get(name, 0)) is None else np.take(array, rows, axis)
        for name, array in inputs.items()
    }


def sample_shape(array: Array, axis: int | None) -> tuple[int, ...]:
    """Return the shape of one sample of an input."""
    return tuple(n for a, n in enumerate(array.shape) if a != axis)
