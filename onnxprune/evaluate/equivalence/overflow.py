"""Tensors that are no numbers, or next to infinity: the order of a sum decides which results are finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence.measure import is_near_infinity
from onnxprune.evaluate.equivalence.tensor_comparison import ReferenceRun
from onnxprune.ir import with_outputs
from onnxprune.runtime import Session


def overflowing(proto: onnx.ModelProto, runs: Sequence[ReferenceRun]) -> str | None:
    """Return the first tensor of a main graph with NaN in it, or with finite numbers next to infinity.

    Tensors with infinite numbers alone do not count: a division by zero makes them too.

    Args:
        proto: The model.
        runs: Inputs that it takes.

    Returns:
        The name of the tensor; ``None`` where there is none, or where the model cannot be run with all
        its tensors as outputs.
    """
    names: list[str] = [o for node in proto.graph.node for o in node.output if o]
    try:
        session = Session(with_outputs(proto, names), optimize=False)
        for run in runs:
            results = session.run(run.feed)
            for name in names:
                values = np.asarray(results[name])
                if values.dtype.kind == "f" and np.any(is_near_infinity(values) & ~np.isinf(values)):
                    return name
    except OnnxpruneError:
        return None
    return None
