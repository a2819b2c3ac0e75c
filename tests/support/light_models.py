"""Architectures from onnx's test data, with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx

from onnxprune.ir import Model, load
from onnxprune.ir.canonical.canonicalise import canonicalise

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"


@cache
def filled(name: str) -> Model:
    """Fold the nodes that make the weights, and draw these so that signals neither vanish nor grow."""
    folded, _ = canonicalise(load(FOLDER / f"light_{name}.onnx"))
    model, random = folded.copy(), np.random.default_rng(0)
    norms = [n for n in model.nodes if n.op_type == "BatchNormalization"]
    scales, variances = {n.input[1] for n in norms}, {n.input[4] for n in norms}
    for tensor, proto in model.constants.items():
        if proto.data_type != onnx.TensorProto.FLOAT:
            continue
        shape = tuple(proto.dims)
        if tensor in scales | variances:
            values = random.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:
            values = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = random.normal(size=shape) * 0.05
        model.set_array(tensor, values.astype(np.float32))
    _damp_residuals(model, scales)
    return model


def _damp_residuals(model: Model, scales: set[str]) -> None:
    """Scale down the residual branch of an addition, or sums would double with every block."""
    makers = {o: n for n in model.nodes for o in n.output}
    for node in model.nodes:
        branches = [makers[i] for i in node.input if i in makers] if node.op_type in ("Add", "Sum") else []
        for maker in branches[:1]:
            if maker.op_type == "BatchNormalization":
                model.set_array(maker.input[1], model.array(maker.input[1]) * np.float32(0.3))
