"""Tensors that a network makes in the same size in every run, compared with the memory allowed.

A small file can describe a list of 2⁴⁰ numbers (Range, Expand, a chain of Concat). Runtimes make such a list
while they load the file, and take memory up to the limit before they fail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import helper

from onnxprune.algebra.sizes.algebra import Value
from onnxprune.analysis.shapes.shape_inference import sizes_of
from onnxprune.errors import LimitError, OnnxpruneError
from onnxprune.ir import Model, label
from onnxprune.support.memory import need

_UNKNOWN_BYTES = 4
"""Bytes of an element whose type is not known."""


def check_fixed_tensors(model: Model) -> None:
    """Refuse a network that makes a tensor beyond the memory allowed, on any input.

    Args:
        model: The model. Its sizes are derived (`sizes_of`); tensors whose size follows the inputs, or is
            not known, are not counted.

    Raises:
        LimitError: A tensor needs more memory; the message names the node of the largest one, and its size.
    """
    try:
        inferred = sizes_of(model)
    except OnnxpruneError:  # contradictions are reported by the analyses that need the sizes
        return
    largest, subject = 0, ""
    for node in model.all_nodes:
        size = sum(_bytes(inferred.shapes.get(o), inferred.types.get(o)) for o in node.output if o)
        if size > largest:
            largest, subject = size, f"the result of node '{label(node)}' ({node.op_type})"
    need(largest, f"{model.name}: {subject}", LimitError)


def _bytes(shape: Sequence[Value] | None, kind: int | None) -> int:
    """Return the bytes of a tensor; 0 where its size is not known or follows the inputs."""
    sizes = [size for size in shape or () if isinstance(size, int)]
    if shape is None or len(sizes) != len(shape):
        return 0
    width = _UNKNOWN_BYTES
    if kind and kind != onnx.TensorProto.STRING:
        width = helper.tensor_dtype_to_np_dtype(kind).itemsize
    return width * math.prod(sizes)
