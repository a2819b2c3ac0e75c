"""BatchNormalization statistics estimated anew, all layers at once, as training would have them.

Every normalisation of one pass uses the mean and variance of its own batch, so the operands of each layer are
those under the new statistics of the layers before it. The averages over all batches then take the place of
those in the file. EagleEye (Li et al., "Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV
2020, section 3.3) found the accuracy after that to foretell the accuracy after finetuning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.errors import DataError
from onnxprune.ir import Model
from onnxprune.ops.spec import spec_of
from onnxprune.runtime import Array, Feeds, Session


@dataclass
class _Norm:
    """A BatchNormalization with statistics of its own: their names, and the sums over the samples.

    Attributes:
        index: Number of the node.
        mean: The tensor of its mean.
        variance: The tensor of its variance.
        rows: Number of elements that each was taken over, in all.
        sums: The sums over the batches of mean, and of variance plus squared mean, by those numbers.
    """

    index: int
    mean: str
    variance: str
    rows: float = 0.0
    sums: tuple[Array, Array] | None = None


def renewed(model: Model, feeds: Iterable[Feeds], threads: int | None = None) -> Model:
    """Return the model with statistics estimated from samples.

    Channels that do not vary at all (those that are removed, above all) keep the statistics they have.

    Args:
        model: Any model; one without BatchNormalization is returned as it is.
        feeds: Its inputs, batch by batch; large batches estimate better.
        threads: Threads of the session.

    Raises:
        DataError: There are no samples, or an operand of a normalisation is NaN or infinite.
    """
    norms = list(_norms(model))
    if not norms:
        return model
    session = Session(_estimating(model, norms), threads=threads)
    for fed in feeds:
        made = session.run(fed)
        for norm in norms:
            _add(norm, made)
    after = model.copy()
    for norm in norms:
        _write(after, norm)
    return after


def _norms(model: Model) -> Iterable[_Norm]:
    for index, node in enumerate(model.nodes):
        if (statistics := spec_of(node).statistics) and len(node.output) == 1:
            mean, variance = (node.input[k] for k in statistics)
            if all(n in model.constants and model.main.count(n) == 1 for n in (mean, variance)):
                yield _Norm(index, mean, variance)


def _estimating(model: Model, norms: Iterable[_Norm]) -> onnx.ModelProto:
    """Return the model whose normalisations read the moments of their own batch, and give them out."""
    copy = model.copy()
    del copy.proto.graph.output[:]
    nodes, chosen = copy.nodes, {n.index: n for n in norms}
    made: list[onnx.NodeProto] = []
    for index, node in enumerate(nodes):
        if index in chosen:
            made += _moments(copy, node, f"onnxprune_{index}")
            for part in ("mean", "variance", "size"):
                kind = TensorProto.INT64 if part == "size" else TensorProto.FLOAT
                info = helper.make_tensor_value_info(f"onnxprune_{index}_{part}", kind, None)
                copy.proto.graph.output.append(info)
        made.append(node)
    copied = [onnx.NodeProto.FromString(n.SerializeToString()) for n in made]
    del copy.proto.graph.node[:]
    copy.proto.graph.node.extend(copied)
    return copy.proto


def _moments(model: Model, node: onnx.NodeProto, stem: str) -> list[onnx.NodeProto]:
    """Return the nodes that compute mean and variance over all axes but the second, and let one read them.

    The number of axes is not needed: a Reshape merges all axes behind the second into one.
    """
    shape = model.add_constant(f"{stem}_shape", np.asarray([0, 0, -1], np.int64))
    line = model.add_constant(f"{stem}_line", np.asarray([-1], np.int64))
    listed = [model.add_constant(f"{stem}_axes", np.asarray([0, 2], np.int64))] if model.opset() >= 18 else []
    axes: dict[str, Any] = {} if listed else {"axes": [0, 2]}
    flat, level, apart, square = (f"{stem}_{part}" for part in ("flat", "level", "apart", "square"))
    mean, variance, size = (f"{stem}_{part}" for part in ("mean", "variance", "size"))
    made = [
        helper.make_node("Reshape", [node.input[0], shape], [flat]),
        helper.make_node("Size", [flat], [size]),
        helper.make_node("ReduceMean", [flat, *listed], [level], keepdims=1, **axes),
        helper.make_node("Reshape", [level, line], [mean]),
        helper.make_node("Sub", [flat, level], [apart]),
        helper.make_node("Mul", [apart, apart], [square]),
        helper.make_node("ReduceMean", [square, *listed], [variance], keepdims=0, **axes),
    ]
    node.input[3], node.input[4] = mean, variance
    return made


def _add(norm: _Norm, made: dict[str, Array]) -> None:
    mean, variance = (made[f"onnxprune_{norm.index}_{p}"].astype(np.float64) for p in ("mean", "variance"))
    if not np.isfinite(mean).all() or not np.isfinite(variance).all():
        raise DataError(f"the operand of the normalisation of '{norm.mean}' is NaN or infinite")
    rows = float(made[f"onnxprune_{norm.index}_size"]) / len(mean)
    parts = rows * mean, rows * (variance + np.square(mean))
    norm.sums = parts if norm.sums is None else (norm.sums[0] + parts[0], norm.sums[1] + parts[1])
    norm.rows += rows


def _write(model: Model, norm: _Norm) -> None:
    if norm.sums is None:
        raise DataError("there are no samples to estimate statistics from", "give at least one whole batch")
    mean = norm.sums[0] / norm.rows
    variance = np.maximum(norm.sums[1] / norm.rows - np.square(mean), 0)
    varies = variance > 0
    for name, values in ((norm.mean, mean), (norm.variance, variance)):
        before = model.array(name)
        model.set_array(name, np.where(varies, values, before).astype(before.dtype))
