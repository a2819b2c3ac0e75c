"""Repair methods: each adapts one node such that its result approaches the original's.

Every method works on the partly repaired sparse model: all nodes before this one have been repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx

from onnxprune.ir import label
from onnxprune.ops.spec import spec_of
from onnxprune.repair.layer_fit import LayerFit, present_bias
from onnxprune.repair.stage import NotRepairableError, RepairSite
from onnxprune.scoring.layerwise.layer_recognition import is_layer
from onnxprune.scoring.layerwise.moments import ChannelMoments
from onnxprune.scoring.layerwise.shifts import Shift


def least_squares(stage: RepairSite) -> dict[str, Any]:
    """Find the weights, and the bias, that come nearest to the original's result.

    The layer-wise reconstruction of Y. He, X. Zhang and J. Sun, "Channel pruning for accelerating very deep
    neural networks", 2017, for any linear map, and with the error of all layers before in sight. Where single
    elements are zero each output is solved for with the inputs that it still reads.
    """
    return LayerFit.of(stage).solve()


def bias(stage: RepairSite) -> dict[str, Any]:
    """Add to each channel the difference of its means: the mean contribution of the removed inputs.

    As M. Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, do
    after quantisation. Afterwards the means are the original's.
    """
    shift = _shift_of(stage)
    ours, theirs = stage.statistics()
    shift.add(stage.pair.sparse, np.where(stage.kept, theirs.mean - ours.mean, 0))
    return {}


def scale(stage: RepairSite) -> dict[str, Any]:
    """Give each channel the original's standard deviation and mean.

    The counterpart of re-estimated BatchNormalization statistics, for models that have it folded.
    """
    layer, shift = stage.linear, _shift_of(stage)
    ours, theirs = stage.statistics()
    varies = stage.kept & (ours.variance > 1e-12 * theirs.variance) & (theirs.variance > 0)
    factors = np.ones(len(stage.kept))
    np.sqrt(theirs.variance / np.where(varies, ours.variance, 1), out=factors, where=varies)
    present = (
        present_bias(stage, shift) if shift.inside else shift.outside(stage.pair.sparse, stage.pair.original)
    )
    weights = layer.matrices(stage.pair.sparse.array(layer.weight).astype(np.float64))
    stage.pair.replace(layer.weight, layer.tensor(weights * factors.reshape(*weights.shape[:2], 1)))
    delta = theirs.mean - factors * (ours.mean - present) - present
    shift.add(stage.pair.sparse, np.where(stage.kept, delta, 0))
    return {"largest_factor": float(factors.max()), "smallest_factor": float(factors.min())}


def batchnorm(stage: RepairSite) -> dict[str, Any]:
    """Set mean and variance to those of the present operand, the variance biased as in the specification.

    Where pruning has changed nothing yet the statistics of training stay: they are the better ones.

    "AdaBN": Y. Li et al., "Revisiting batch normalization for practical domain adaptation", 2016.
    """
    found, where = ChannelMoments(len(stage.kept)), f"the operand of node '{label(stage.node)}'"
    for x, _ in stage.arrivals():
        found.add(np.moveaxis(x, 1, -1), where)
    sparse = stage.pair.sparse
    for name, values in zip(stage.node.input[3:5], (found.mean, found.variance), strict=True):
        if len(sparse.main.readers(name)) != 1 or name not in sparse.constants:
            raise NotRepairableError("its statistics are shared with other nodes, or computed")
        before = sparse.array(name)
        sparse.set_array(name, np.where(stage.kept, values, before).astype(before.dtype))
    return {}


def _has_statistics(node: onnx.NodeProto) -> bool:
    return bool(spec_of(node).statistics)


RepairMethod: TypeAlias = Literal["least-squares", "bias", "scale", "batchnorm"]
METHODS: dict[
    RepairMethod, tuple[Callable[[onnx.NodeProto], bool], Callable[[RepairSite], dict[str, Any]]]
] = {
    "least-squares": (is_layer, least_squares),
    "bias": (is_layer, bias),
    "scale": (is_layer, scale),
    "batchnorm": (_has_statistics, batchnorm),
}
"""For each method, in the order in which they are applied at a node: whether a node is of its kind, and the
function."""

LOWER_ERROR = ("least-squares", "bias")
"""Methods that promise a smaller error of the result; the others promise its moments."""


def _shift_of(stage: RepairSite) -> Shift:
    shift = stage.shift
    if shift is None:
        raise NotRepairableError("it has no bias, and neither BatchNormalization nor an addition follows")
    return shift
