"""The products that can be split into a chain of smaller ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.algebra.kept_axes import at_numbers
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.cost import batch_of
from onnxprune.ir import Model, attributes, label
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import WINDOWS, LinearView
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.layer_recognition import linear_of, views_of
from onnxprune.scoring.layerwise.linear_views import Linear
from onnxprune.scoring.layerwise.shifts import Shift, find_shift

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_PASSING = ("Identity", "Transpose")


@dataclass(frozen=True)
class WholeLayer:
    """A node with weights that stays whole.

    Attributes:
        node: Its name.
        operator: Its operator.
        reason: The reason, in words.
    """

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class RankLayer:
    """A node that multiplies by a constant, and its cost.

    Attributes:
        index: Its number in the main graph.
        linear: The node as a linear map.
        shape: Shape of its kernel, ``[groups, outputs, inputs, *kernel]``.
        before: Sizes of the spatial axes of its operand, of one sample; none for a matrix.
        after: Those of its result.
        rows: Number of rows of the result of one sample beside those.
        shift: The parameter that moves the mean of its result.
        is_sized: True if the node states the sizes of its result, which parts along one axis would not have.
    """

    index: int
    linear: Linear
    shape: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    rows: float
    shift: Shift | None = field(repr=False)
    is_sized: bool = False

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.linear.name

    @property
    def linear_inputs(self) -> int:
        """The number of inputs of each group, at all places of the kernel."""
        return math.prod(self.shape[2:])

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The sizes of the kernel; none for a matrix."""
        return self.shape[3:]

    @property
    def view(self) -> LinearView:
        """The place and the layout of the weights."""
        return self.linear.view

    @property
    def is_transposed(self) -> bool:
        """Return whether the node is a transposed convolution."""
        return self.view.layout == "transposed windows"

    def kernel(self, weights: Array) -> Array:
        """Return the weights as a kernel, ``[groups, outputs, inputs, *kernel]``, in 64-bit floats."""
        return self.linear.matrices(weights.astype(np.float64)).reshape(self.shape)

    def weights(self, kernel: Array) -> Array:
        """Return a kernel of any shape, laid out as the node reads it, without the factor of a Gemm."""
        groups, outputs, inputs, *places = kernel.shape
        if self.view.layout == "matrix":
            return np.asarray(kernel[0].T if self.view.inputs_first else kernel[0])
        if self.view.layout == "stack":
            return np.asarray(kernel.swapaxes(1, 2).reshape(*self.linear.shape[:-2], inputs, outputs))
        if self.is_transposed:
            turned = np.flip(kernel, tuple(range(3, kernel.ndim))).swapaxes(1, 2)
            return np.asarray(turned.reshape(groups * inputs, outputs, *places))
        return kernel.reshape(groups * outputs, inputs, *places)

    def macs(self, shapes: Sequence[Sequence[int]]) -> float:
        """Return the multiply-accumulates of a chain for one sample.

        Args:
            shapes: The shapes of its kernels, ``[groups, outputs, inputs, *kernel]``, the first to run first.
        """
        total, done = 0.0, [False] * len(self.kernel_shape)
        for number, shape in enumerate(shapes):
            own = self.own_axes(shapes, number)
            met = [d or k in own for k, d in enumerate(done)]
            done, moved = met, done if self.is_transposed else met
            sizes = zip(moved, self.before, self.after, strict=True)
            total += self.rows * math.prod(a if m else b for m, b, a in sizes) * math.prod(shape)
        return total

    def own_axes(self, shapes: Sequence[Sequence[int]], number: int) -> list[int]:
        """Return the axes of the kernel whose stride and padding a product of a chain has.

        Those are the axes along which its kernel is larger than 1; the first product with any, or the first
        one if none has any, has those along which the whole kernel has the size 1, too.

        Args:
            shapes: The shapes of the kernels of the chain.
            number: The number of the product.
        """
        wide = [[k for k, size in enumerate(shape[3:]) if size > 1] for shape in shapes]
        first = next((n for n, axes in enumerate(wide) if axes), 0)
        narrow = [k for k, size in enumerate(self.kernel_shape) if size == 1] if number == first else []
        return sorted(wide[number] + narrow)


def with_written_weights(model: Model) -> Model:
    """Return the model with weights that are only transposed written as constants; itself without any.

    Args:
        model: A model in canonical form.
    """
    found = {}
    for node in model.nodes:
        for name in node.input if spec_of(node).splits else ():
            values = _transposed(model, name)
            if values is not None:
                found[node.output[0], name] = values
    if not found:
        return model
    model, made = model.copy(), dict[str, str]()
    for number, node in enumerate(model.nodes):
        names = list(node.input)
        for place, name in enumerate(names):
            if (node.output[0] if node.output else "", name) in found:
                if name not in made:
                    made[name] = model.add_constant(f"{name}__written", found[node.output[0], name])
                names[place] = made[name]
        model.rewire(number, names)
    return model


def _transposed(model: Model, name: str) -> Array | None:
    """Return the value of an operand that is a constant behind transpositions, ``None`` if it is none."""
    node = model.main.producer(name)
    if name in model.constants or node is None or node.op_type not in _PASSING or node.domain:
        return None
    first = node.input[0]
    values = model.array(first) if first in model.constants else _transposed(model, first)
    if values is None or node.op_type == "Identity":
        return values
    return np.transpose(values, attributes(node).get("perm"))


def find_layers(channels: Channels, model: Model) -> tuple[list[RankLayer], list[WholeLayer]]:
    """Return the nodes that can be split, in order of execution, and the others with weights.

    Args:
        channels: The analysis of the network, for sizes and costs.
        model: The network in canonical form, weights written as constants (`with_written_weights`).
    """
    found, whole = list[RankLayer](), list[WholeLayer]()
    work = macs_of_nodes(channels)
    for index, node in enumerate(model.nodes):
        layer = _layer(channels, model, index, work)
        if isinstance(layer, RankLayer):
            found.append(layer)
        elif layer:
            whole.append(WholeLayer(label(node), node.op_type, layer))
    inside = {id(node) for node in model.nodes}
    for node in model.all_nodes:
        if id(node) not in inside and views_of(model, node) and not isinstance(linear_of(model, node), str):
            whole.append(WholeLayer(label(node), node.op_type, "it lies in the body of an If, Loop or Scan"))
    return found, whole


def macs_of_nodes(channels: Channels) -> dict[str, float]:
    """Return the multiply-accumulates of each node for one sample, by the name of its first result."""
    typing, batch, found = channels.typing, batch_of(channels), dict[str, float]()
    for work in typing.work:
        node = typing.nodes[work.node]
        dims = [at_numbers(d, typing.shapes.number) for d in work.dims]
        found[node.output[0]] = found.get(node.output[0], 0.0) + math.prod(d.count for d in dims) / batch
    return found


def _layer(channels: Channels, model: Model, index: int, work: Mapping[str, float]) -> RankLayer | str:
    """Return a node as a layer, or the reason why it is none; empty where it has no weights."""
    node = model.main.nodes[index]
    if not spec_of(node).mixes:
        return ""
    linear = linear_of(model, node)
    if isinstance(linear, str):
        return _reason(model, node, linear)
    if not spec_of(node).splits:
        return f"{node.op_type} has no form in several products"
    if model.constants[linear.weight].data_type not in _FLOATS:
        return "its weights are not floating-point numbers"
    sizes, result = channels.typing.shapes.sizes, node.output[0]
    macs = work.get(result)
    is_window = linear.view.layout in WINDOWS
    if macs is None or (is_window and not {linear.flow, result} <= sizes.keys()):
        return "its multiply-accumulates are not known"
    places = linear.shape[2:] if is_window else ()
    groups, outputs, inputs = linear.matrices(np.broadcast_to(np.float32(0), linear.shape)).shape
    shape = (groups, outputs, inputs // max(math.prod(places), 1), *places)
    if not all(shape):
        return "its weights have no elements"
    before, after = (
        channels.typing.shapes.numbers(name)[2:] if is_window else () for name in (linear.flow, result)
    )
    moved = before if linear.view.layout == "transposed windows" else after
    rows = macs / max(math.prod(moved) * math.prod(shape), 1)
    shift, is_sized = find_shift(model, node, groups * outputs), "output_shape" in attributes(node)
    return RankLayer(index, linear, shape, before, after, rows, shift, is_sized)


def _reason(model: Model, node: onnx.NodeProto, reason: str) -> str:
    """Return why a node is no linear map with weights of its own; empty where both operands are data."""
    if reason != "its weights are not a constant":
        return reason
    makers = [model.main.producer(i) for i in node.input]
    if any(maker is not None and spec_of(maker).quantises for maker in makers):
        return "its weights are quantised"
    return "" if node.op_type in ("MatMul", "Gemm") else reason
