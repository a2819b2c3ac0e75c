"""Widths that a device computes in whole steps: 24 channels take as long as 32 where kernels are 16 wide.

The step is found by measuring. For each kind of layer of a network its largest layer is rebuilt as a stack of
layers of one width, and stacks of several widths are timed side by side. The step is the one whose rounded-up
widths explain the times best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.algebra.axes import Factor, factors
from onnxprune.analysis.groups.channels import Channels
from onnxprune.ops.views import WINDOWS as WINDOW_LAYOUTS
from onnxprune.ops.views import LinearView
from onnxprune.runtime import Array, Feeds
from onnxprune.scoring.layerwise.layer_recognition import views_of
from onnxprune.search.limits import multiple_for

WIDTHS = (16, 20, 24, 32, 36, 40, 48, 64)
"""Widths that are timed, in channels."""
STEPS = (1, 8, 16, 32)
"""Steps that are distinguished, in channels."""
LAYERS = 3
"""Layers of a stack."""
_MOST_ELEMENTS = 1 << 12
"""Elements of a channel in a stack, at most: the step does not depend on them, the time does."""
_CLEAR = 0.7
"""A step counts if it leaves less than this part of the error that no step leaves."""


def kind_of(channels: Channels, node: onnx.NodeProto) -> str:
    """Return which of the kinds a node is of whose multiply-accumulates take different times."""
    view = _window(channels, node)
    if view is None:
        return node.op_type
    weight = channels.model.constants.get(node.input[view.weights])
    small = weight is not None and all(size == 1 for size in weight.dims[2:])
    return f"{node.op_type} {'in groups' if view.groups > 1 else '1×1' if small else 'k×k'}"


@dataclass(frozen=True)
class Probe:
    """A layer that is timed at several widths.

    Attributes:
        kind: The kind of layer it stands for.
        kernel: Sizes of the kernel; empty for a matrix product.
        size: Sizes of the result beside its channels: places of a convolution, rows of a matrix product.
        grouped: Each channel by itself.
    """

    kind: str
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    grouped: bool = False

    def shape(self, width: int) -> tuple[int, ...]:
        """Return the shape of a stack's input, one sample."""
        return (1, width, *self.size) if self.kernel else (*self.size, width)

    def feeds(self, width: int) -> Feeds:
        """Return the input of a stack."""
        return {"x": np.ones(self.shape(width), np.float32)}

    def model(self, width: int) -> onnx.ModelProto:
        """Return a stack of layers of one width, each with a Relu."""
        random, name = np.random.default_rng(width), "x"
        nodes, weights = [], []
        for layer in range(LAYERS):
            weights.append(numpy_helper.from_array(self._weights(random, width), f"w{layer}"))
            nodes.append(self._node(name, layer, width))
            nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"r{layer}"]))
            name = f"r{layer}"
        kind, shape = onnx.TensorProto.FLOAT, self.shape(width)
        ends = [helper.make_tensor_value_info(end, kind, shape) for end in ("x", name)]
        graph = helper.make_graph(nodes, f"{self.kind} {width}", ends[:1], ends[1:], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    def _weights(self, random: np.random.Generator, width: int) -> Array:
        shape = (width, 1 if self.grouped else width, *self.kernel)
        scale = math.sqrt(2 / math.prod(shape[1:]))
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def _node(self, name: str, layer: int, width: int) -> onnx.NodeProto:
        operands, made = [name, f"w{layer}"], [f"y{layer}"]
        if not self.kernel:
            return helper.make_node("MatMul", operands, made)
        pads = [(k - 1) // 2 for k in self.kernel] + [k // 2 for k in self.kernel]
        group = width if self.grouped else 1
        return helper.make_node("Conv", operands, made, pads=pads, group=group)

    def describe(self, width: int, ms: float) -> dict[str, object]:
        """Return the time of one layer, ready for JSON."""
        weight = [width, 1 if self.grouped else width, *self.kernel]
        return {"kind": self.kind, "input": list(self.shape(width)), "weight": weight, "ms": ms / LAYERS}


def probes_of(channels: Channels) -> list[Probe]:
    """Return a probe for each kind of convolution and matrix product of a network: its largest layer."""
    largest: dict[str, tuple[int, Probe]] = {}
    number = channels.typing.shapes.number
    for work in channels.typing.work:
        probe = _probe(channels, channels.typing.nodes[work.node])
        if probe is not None:
            macs = math.prod(max(number(dim.size), 1) for dim in work.dims)
            largest[probe.kind] = max(largest.get(probe.kind, (0, probe)), (macs, probe), key=lambda p: p[0])
    return [probe for _, probe in largest.values()]


def find_step(widths: Sequence[int], times: Sequence[float], *, grouped: bool) -> int:
    """Return the step in which a device computes channels.

    Args:
        widths: Channels of each stack.
        times: Milliseconds of each.
        grouped: Each channel by itself: the time rises with the width, and not with its square.

    Returns:
        The step that explains the times best; 1 where none is clearly better than no step.
    """
    errors = {step: _unexplained(widths, times, step, grouped) for step in STEPS}
    best = min(STEPS, key=lambda step: errors[step])
    return best if errors[best] < _CLEAR * errors[1] else 1


def steps_of_groups(channels: Channels, steps: Mapping[str, int]) -> dict[Factor, int]:
    """Return the step of each group: the largest of those of the layers that it passes.

    Args:
        channels: The network.
        steps: Steps by the kind of layer.

    Returns:
        By the group's factor, in channels of the group; groups with the step 1 are left out.
    """
    found: dict[Factor, int] = {}
    for work in channels.typing.work:
        step = steps.get(kind_of(channels, channels.typing.nodes[work.node]), 1)
        for factor in {f for dim in work.dims for f in factors(dim)} if step > 1 else ():
            found[factor] = max(found.get(factor, 1), step)
    groups = [g for g in channels.groups if g.factor in found]
    needed = {g.factor: multiple_for(channels, g, found[g.factor]) for g in groups}
    return {factor: step for factor, step in needed.items() if step > 1}


def rounded_up(width: int, step: int) -> int:
    """Return the channels that a device computes for a width."""
    return math.ceil(width / step) * step


def _unexplained(widths: Sequence[int], times: Sequence[float], step: int, grouped: bool) -> float:
    """Return the relative error (root mean square) of the times as a constant and a power of the width."""
    computed = np.asarray([rounded_up(w, step) for w in widths], np.float64)
    rows = np.stack([np.ones(len(computed)), computed if grouped else computed**2], axis=1)
    scaled = rows / np.asarray(times)[:, None]
    shares = np.linalg.lstsq(scaled, np.ones(len(computed)), rcond=None)[0]
    return float(np.sqrt(np.mean((scaled @ shares - 1) ** 2)))


def _probe(channels: Channels, node: onnx.NodeProto) -> Probe | None:
    kind, view = kind_of(channels, node), _window(channels, node)
    axes = channels.typing.axes.get(node.output[0])
    if axes is None:
        return None
    sizes = [max(channels.typing.shapes.number(dim.size), 1) for dim in axes]
    if view is not None and view.layout == "windows" and len(sizes) > 2:
        kernel = channels.model.constants[node.input[view.weights]].dims[2:]
        return Probe(kind, tuple(kernel), tuple(_limited(sizes[2:])), view.groups > 1)
    if kind in ("MatMul", "Gemm") and len(sizes) > 1:
        return Probe(kind, (), (min(math.prod(sizes[:-1]), _MOST_ELEMENTS),))
    return None


def _limited(sizes: Sequence[int]) -> Iterator[int]:
    """Yield the places of a convolution, fewer where there are very many."""
    side = math.floor(_MOST_ELEMENTS ** (1 / len(sizes)))
    for size in sizes:
        yield size if math.prod(sizes) <= _MOST_ELEMENTS else min(size, side)


def _window(channels: Channels, node: onnx.NodeProto) -> LinearView | None:
    return next((v for v in views_of(channels.model, node) if v.layout in WINDOW_LAYOUTS), None)
