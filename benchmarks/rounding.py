"""Latency of onnxruntime by channel count: the reason for the default of ``--round-to``.

    python benchmarks/rounding.py

Times stacks of 3×3 (or 1×1, or depthwise) convolutions of many widths side by side, and prints the time per
multiply-accumulate relative to width 64, by the largest power of two that divides the width.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.runtime import measure_latency

WIDTHS = (40, 44, 46, 47, 48, 50, 52, 53, 54, 56, 58, 60, 61, 62, 63, 64)
LAYERS, SIZE = 4, 28


def stack(width: int, kernel: int, depthwise: bool) -> onnx.ModelProto:
    """Build `LAYERS` convolutions with Relu between, all of one width."""
    rng = np.random.default_rng(width)
    nodes, weights, previous = [], [], "x"
    for layer in range(LAYERS):
        shape = (width, 1 if depthwise else width, kernel, kernel)
        weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{layer}"))
        group = width if depthwise else 1
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [previous, f"w{layer}"], [f"c{layer}"], pads=pads, group=group))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        previous = f"r{layer}"
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width, SIZE, SIZE])
    result = helper.make_tensor_value_info(previous, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "stack", [image], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def per_mac(kernel: int, depthwise: bool) -> dict[int, float]:
    """Return the time per multiply-accumulate of each width, relative to the last."""
    models = [stack(w, kernel, depthwise) for w in WIDTHS]
    feeds = [{"x": np.ones((1, w, SIZE, SIZE), np.float32)} for w in WIDTHS]
    times = [t.median_ms for t in measure_latency(models, feeds, rounds=15, threads=1)]
    cost = [t / (w if depthwise else w * w) for t, w in zip(times, WIDTHS, strict=True)]
    return {w: c / cost[-1] for w, c in zip(WIDTHS, cost, strict=True)}


def main() -> None:
    for name, kernel, depthwise in (("3×3", 3, False), ("1×1", 1, False), ("depthwise 3×3", 3, True)):
        classes: dict[int, list[float]] = defaultdict(list)
        for width, cost in per_mac(kernel, depthwise).items():
            classes[min(width & -width, 16)].append(cost)
        row = "  ".join(f"{d:2d}: {statistics.median(classes[d]):.2f}" for d in sorted(classes))
        print(f"{name:14s} time per MAC by largest power of two in the width   {row}")


if __name__ == "__main__":
    main()
