"""Norms of the activations at each weight, accumulated by the runtime in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.errors import DataError
from onnxprune.ir import Model
from onnxprune.ops.views import INNER, LinearView
from onnxprune.runtime import Array, Feeds
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.readers import reading_places
from onnxprune.scoring.criteria.shares import Scores, share
from onnxprune.scoring.layerwise.segments import Segments

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def weighted(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Weights times the norm of their other operand, (|w| · ‖x‖)², of which the root is taken in the end.

    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR 2024, summed
    over all weights that read a channel. Without statistics of the other operand its norm is taken as 1.
    """

    def magnitude(name: str, values: Scores) -> Scores:
        return np.asarray(np.square(values * evidence.norms.get(name, 1.0)))

    return [share(channels, group, p, magnitude) for p in reading_places(channels, group)]


@dataclass(frozen=True)
class _Tap:
    """An activation operand of a weight.

    Attributes:
        view: Layout of the weight.
        weight: The name of the constant operand.
        flow: The name of the other.
        axis: The axis of the other that is contracted with the weight, from the front.
        total: The name of the sum of squares along that axis, once it is in the graph.
        place: The number of the node that reads the weight, among those of the main graph.
    """

    view: LinearView
    weight: str
    flow: str
    axis: int
    total: str
    place: int


def observe(channels: Channels, feeds: Iterable[Feeds], threads: int | None = None) -> CalibrationStatistics:
    """Run samples once and sum the squares of the other operand of every weight.

    The sums of squares are made inside the runtime, so nothing larger than a vector leaves it.

    Args:
        channels: The network.
        feeds: Its inputs, batch by batch.
        threads: Threads of the sessions.

    Raises:
        DataError: There are no samples, or an activation is NaN or infinite.
    """
    taps = list(_taps(channels))
    if not taps:
        return CalibrationStatistics()
    model = _tapped(channels, taps)
    session = Segments(model, channels.typing.shapes.types, threads)
    sums = {t.total: np.zeros(()) for t in taps}
    counts = {t.total: 0.0 for t in taps}
    for fed in feeds:
        made = session.run(fed)
        for tap in taps:
            sums[tap.total] = sums[tap.total] + made[tap.total].astype(np.float64)
            counts[tap.total] += float(made[f"{tap.total}_size"]) / len(made[tap.total])
    norms: dict[str, Array] = {}
    for tap in taps:
        if not counts[tap.total]:
            raise DataError("there are no samples to look at", "give at least one")
        means = sums[tap.total] / counts[tap.total]
        if not np.isfinite(means).all():
            raise DataError(f"the activation read by '{tap.weight}' is NaN or infinite on these samples")
        here = _spread(channels.model, tap, np.sqrt(means))
        norms[tap.weight] = np.maximum(norms[tap.weight], here) if tap.weight in norms else here
    return CalibrationStatistics(norms=norms)


def _taps(channels: Channels) -> Iterable[_Tap]:
    typing, main = channels.typing, channels.model.main.producers
    for index, views in typing.linear.items():
        node = typing.nodes[index]
        place = main.get(node.output[0])
        if place is not None:
            for view in views:
                total = f"onnxprune_squares_{index}_{view.weights}"
                tap = _tap(channels, view, list(node.input), total, place)
                if tap is not None:
                    yield tap


def _tap(
    channels: Channels, view: LinearView, operands: Sequence[str], total: str, place: int
) -> _Tap | None:
    """Return the place where real numbers meet constant weights; ``None`` where they do not."""
    constants, shapes = channels.model.constants, channels.typing.shapes
    if view.data == INNER or view.integers or operands[view.weights] not in constants:
        return None
    weight, flow = operands[view.weights], operands[view.data]
    rank = len(shapes.sizes.get(flow, ()))
    if flow in constants or shapes.types.get(flow) not in _FLOATS:
        return None
    if rank < 2 or len(constants[weight].dims) < 2:
        return None
    return _Tap(view, weight, flow, view.axis % rank, total, place)


def _tapped(channels: Channels, taps: Iterable[_Tap]) -> Model:
    """Return the network with the sums of squares as its only outputs, each made where its weight is read."""
    model = channels.model.copy()
    graph, made = model.proto.graph, dict[int, list[onnx.NodeProto]]()
    nodes = model.nodes
    del graph.output[:]
    for tap in taps:
        made.setdefault(tap.place, []).extend(_sum_of_squares(channels, model, tap))
        graph.output.append(helper.make_tensor_value_info(tap.total, TensorProto.FLOAT, [None]))
        graph.output.append(helper.make_tensor_value_info(f"{tap.total}_size", TensorProto.INT64, []))
    ordered = [one for k, node in enumerate(nodes) for one in (*made.get(k, ()), node)]
    del graph.node[:]
    graph.node.extend(ordered)
    model.edited()
    return model


def _sum_of_squares(channels: Channels, model: Model, tap: _Tap) -> list[onnx.NodeProto]:
    """Return the nodes that sum the squares of an activation and count its elements."""
    rank = len(channels.typing.shapes.sizes[tap.flow])
    others = [a for a in range(rank) if a != tap.axis]
    wide = f"{tap.total}_wide"
    if model.opset() >= 18:
        axes = model.add_constant(f"{tap.total}_axes", np.asarray(others, np.int64))
        summed = helper.make_node("ReduceSumSquare", [wide, axes], [tap.total], keepdims=0)
    else:
        summed = helper.make_node("ReduceSumSquare", [wide], [tap.total], axes=others, keepdims=0)
    return [
        helper.make_node("Cast", [tap.flow], [wide], to=TensorProto.FLOAT),
        summed,
        helper.make_node("Size", [tap.flow], [f"{tap.total}_size"]),
    ]


def _spread(model: Model, tap: _Tap, norms: Array) -> Array:
    """Lay norms, one for each input of a weight, along its axes so that they broadcast against it."""
    return np.asarray(tap.view.along_inputs(norms, list(model.constants[tap.weight].dims)))
