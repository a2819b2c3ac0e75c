"""Derived sizes of onnx's own examples of each operator, with every axis of the floats open."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.algebra.sizes.algebra import number_of
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.errors import ModelError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
LEAST_KNOWN, MOST_UNKNOWN = 5000, 400
REFUSED = {"test_split_zero_size_splits_opset13", "test_split_zero_size_splits_opset18"}
"""Cases whose axes are empty, where open ones are taken to have one element at least."""


def cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    return [c for c in collect_testcases(None) if c.model is not None and c.data_sets]


def opened(case: Any) -> tuple[onnx.ModelProto, dict[str, int], dict[str, tuple[int, ...]]] | None:
    """Return a case with open axes, their numbers, and the shapes of its results."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    values = proto.graph.input
    if len(inputs) != len(values) or any(v.type.WhichOneof("value") != "tensor_type" for v in values):
        return None
    if not all(isinstance(a, np.ndarray) or np.isscalar(a) for a in inputs):
        return None
    numbers: dict[str, int] = {}
    kept = []
    for value, given in zip(values, inputs, strict=True):
        array = np.asarray(given)
        if _decides(value, array):
            proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
            continue
        kept.append(value)
        if value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.ClearField("dim")
            for axis, size in enumerate(array.shape):
                value.type.tensor_type.shape.dim.add(dim_param=f"{value.name}_{axis}")
                numbers[f"{value.name}_{axis}"] = size
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    made = zip(proto.graph.output, outputs, strict=False)
    return (
        proto,
        numbers,
        {o.name: np.shape(a) for o, a in made if isinstance(a, np.ndarray) or np.isscalar(a)},
    )


def _decides(value: onnx.ValueInfoProto, array: np.ndarray) -> bool:
    """Return whether an input is a list of sizes, axes or scales."""
    few = array.dtype.kind in "iu" and array.size <= 16 and array.ndim <= 1
    few = few and value.type.tensor_type.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return few or (value.name in ("scales", "roi") and array.ndim == 1)


def test_sizes_of_single_nodes_are_those_of_the_examples() -> None:
    counts: collections.Counter[str] = collections.Counter()
    wrong, refused, unknown = [], [], collections.Counter()
    for case in cases():
        found = opened(case)
        if found is None:
            continue
        proto, numbers, real = found
        try:
            analysis = infer_sizes(proto)
        except ModelError as error:
            refused.append(f"{case.name}: {error.message}")
            continue
        for name, shape in real.items():
            sizes = analysis.shapes.get(name)
            if sizes is None:
                counts["unknown"] += max(len(shape), 1)
                unknown[case.name] += 1
            elif len(sizes) != len(shape):
                wrong.append(f"{case.name}: {name} has {len(sizes)} axes, not {len(shape)}")
            for size, number in zip(sizes or (), shape, strict=False):
                try:
                    said = number_of(size, numbers)
                except KeyError:
                    counts["unknown"] += 1
                    unknown[case.name] += 1
                    continue
                counts["known"] += 1
                if said != number:
                    wrong.append(f"{case.name}: {name} has {size}, which is {said}, not {number}")
    assert wrong == []
    assert {r.partition(":")[0] for r in refused} <= REFUSED, refused
    assert counts["known"] >= LEAST_KNOWN, counts
    assert counts["unknown"] <= MOST_UNKNOWN, (counts, unknown.most_common(40))
