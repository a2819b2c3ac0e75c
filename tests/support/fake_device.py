"""A device that does not exist: its milliseconds follow from the shapes in a model file.

Channels are computed sixteen at a time, so 24 take as long as 32 do; a convolution in groups costs ten times
as much for a multiply-accumulate as others; every node has a fixed cost.

    python tests/support/fake_device.py MODEL      prints milliseconds
    fake_device:device                     the same as a callable
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import shape_inference

LANES = 16


def padded(size: int) -> int:
    """Return a number of channels, rounded up to whole lanes; one channel is one."""
    return size if size == 1 else math.ceil(size / LANES) * LANES


def device(path: str, inputs: Mapping[str, Any] | None = None) -> float:
    """Return the milliseconds of one run of a model file."""
    return device_ms(onnx.load(path))


def device_ms(model: onnx.ModelProto) -> float:
    """Return the milliseconds of one run."""
    graph = shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output)
    }
    weights = {t.name: list(t.dims) for t in graph.initializer}
    total = 0.01 * len(graph.node)
    for node in graph.node:
        if node.op_type == "Conv":
            out, taken, *kernel = weights[node.input[1]]
            grouped = any(a.name == "group" and a.i > 1 for a in node.attribute)
            work = padded(out) * padded(taken) * math.prod(kernel) * math.prod(shapes[node.output[0]][2:])
            total += work * (1e-5 if grouped else 1e-6)
        elif node.op_type in ("Gemm", "MatMul"):
            total += math.prod(map(padded, weights[node.input[1]])) * 1e-6
    return total


if __name__ == "__main__":
    print(f"{device(sys.argv[1]):.6f} ms")
