"""The shapes of a sample, before a model is loaded into a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import helper

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.data.dataset import DataSpec, open_data
from onnxprune.runtime import TensorSpec


def shapes_of_samples(
    data: DataSpec, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs in the first sample, -1 for the axis that counts samples.

    Args:
        data: The data.
        inputs: The inputs of the model.
        outputs: Its outputs.

    Returns:
        The shapes by name; nothing where no axis but the first ones of the inputs is open, and where the data
        does not fit, which a run reports.
    """
    specs = _specs(inputs)
    if not any(isinstance(size, str | None) for spec in specs for size in spec.shape[1:]):
        return {}
    try:
        batch = next(open_data(data, specs, _specs(outputs)).batches(1), None)
    except OnnxpruneError:
        return {}
    if batch is None:
        return {}
    found = {}
    for name, array in batch.inputs.items():
        counted = batch.axes.get(name, 0)
        found[name] = tuple(-1 if axis == counted else n for axis, n in enumerate(array.shape))
    return found


def _specs(values: Iterable[onnx.ValueInfoProto]) -> list[TensorSpec]:
    return [
        TensorSpec(v.name, helper.tensor_dtype_to_np_dtype(kind.elem_type), tuple(map(_size, kind.shape.dim)))
        for v in values
        if (kind := v.type.tensor_type).elem_type
    ]


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.dim_value > 0:
        return int(dim.dim_value)
    name = str(dim.dim_param).strip()
    return name if name.strip("?") else None
