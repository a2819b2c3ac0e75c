"""Networks written down node by node, and the question whether pruning one of them is exact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import Model, check
from onnxprune.passes.base import check_valid
from onnxprune.runtime import Session, compare, sample_feeds
from onnxprune.runtime.agreement import difference

Size = int | str
Array = np.ndarray[Any, np.dtype[Any]]
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class Net:
    """A network being written down: a method adds nodes and returns the name of the tensor they make.

    Weights are random with a scale that keeps activations near one; biases are not zero.

    Args:
        opset: Operator set; sizes, axes and the like are attributes or operands by its specification.
        dtype: The floating-point type.
        seed: Of the weights.
        constants: Where constants go: ``initializer``, ``node``, or ``input`` (an initializer that is listed
            among the inputs, as older files have it).
        ir: The version of the file format.
    """

    def __init__(
        self,
        opset: int = 17,
        dtype: type = np.float32,
        seed: int = 0,
        constants: str = "initializer",
        ir: int = 8,
    ) -> None:
        self.opset, self.dtype, self.constants, self.ir = opset, np.dtype(dtype), constants, ir
        self.kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.random = np.random.default_rng(seed)
        self.types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self._count = 0

    # --- the parts of a graph ---------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[Size], kind: int | None = None) -> str:
        """Declare an input; a name as size makes that axis symbolic."""
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, shape))
        self.types[name] = self.inputs[-1].type
        return name

    def const(self, values: Any, name: str = "") -> str:
        """Add a constant; floats take the network's type."""
        array = np.asarray(values)
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array
        name = name or self._fresh("const")
        tensor = numpy_helper.from_array(array, name)
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, array.shape)
        self.values[name] = tensor
        if self.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def ints(self, *values: int) -> str:
        """Add a list of integers."""
        return self.const(np.asarray(values, np.int64))

    def weight(self, *shape: int, fan: int | None = None, name: str = "") -> str:
        """Add random weights for sums of ``fan`` terms."""
        fan = fan or math.prod(shape[1:])
        return self.const(self.random.normal(size=shape) * math.sqrt(1.6 / fan), name)

    def vector(self, size: int, low: float = -0.5, high: float = 0.5) -> str:
        """Add a bias or a scale."""
        return self.const(self.random.uniform(low, high, size))

    def ops(
        self, kind: str, *operands: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node and return all its results."""
        made = [self._fresh(kind.lower()) for _ in range(outputs)]
        node = helper.make_node(
            kind, list(operands), made, name=self._fresh(kind), domain=domain, **attributes
        )
        self.nodes.append(node)
        if not domain:
            schema = defs.get_schema(kind, self.opset, "")
            known = {i: self.types[i] for i in operands if i in self.types}
            values = {i: self.values[i] for i in operands if i in self.values}
            imports = [helper.make_opsetid("", self.opset)]
            self.types.update(
                shape_inference.infer_node_outputs(schema, node, known, values, None, imports, self.ir)
            )
        return made

    def op(self, kind: str, *operands: str, **attributes: Any) -> str:
        """Add a node and return its only result."""
        return self.ops(kind, *operands, **attributes)[0]

    def sized(self, name: str, sizes: Sequence[Size]) -> str:
        """Write down the shape of a tensor, where inference does not find it."""
        self.types[name] = helper.make_tensor_type_proto(self.kind, sizes)
        return name

    def shape(self, name: str) -> list[int]:
        """Return the sizes of a tensor, 0 where they are symbolic."""
        return [d.dim_value for d in self.types[name].tensor_type.shape.dim]

    def proto(self, *outputs: str) -> onnx.ModelProto:
        """Return the network as a message."""
        listed = list(self.inputs)
        if self.constants == "input":
            listed += [onnx.ValueInfoProto(name=n, type=self.types[n]) for n in self.values]
        made = [onnx.ValueInfoProto(name=o, type=self.types[o]) for o in outputs]
        inits = [] if self.constants == "node" else list(self.values.values())
        graph = helper.make_graph(self.nodes, "net", listed, made, inits)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(d, 1) for d in sorted({n.domain for n in self.nodes} - {""})]
        return helper.make_model(graph, opset_imports=imports, ir_version=self.ir)

    def model(self, *outputs: str) -> Model:
        """Return the network as the program reads it."""
        return check(Model(self.proto(*outputs)))

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    # --- layers --------------------------------------------------------------------------------------------

    def conv(
        self, x: str, out: int, k: int = 3, *, group: int = 1, stride: int = 1, bias: bool = True, w: str = ""
    ) -> str:
        """A convolution of any number of spatial axes, padded to keep their size (odd ``k``)."""
        shape = self.shape(x)
        spatial, ci = len(shape) - 2, shape[1] // group
        w = w or self.weight(out, ci, *[k] * spatial)
        operands = [x, w, self.vector(out)] if bias else [x, w]
        sizes = {"kernel_shape": [k] * spatial, "strides": [stride] * spatial, "pads": [k // 2] * 2 * spatial}
        return self.op("Conv", *operands, group=group, **sizes)

    def depthwise(self, x: str, k: int = 3, multiplier: int = 1, **how: Any) -> str:
        """One filter, or ``multiplier`` of them, for each channel."""
        channels = self.shape(x)[1]
        return self.conv(x, channels * multiplier, k, group=channels, **how)

    def up(self, x: str, out: int, k: int = 2, group: int = 1) -> str:
        """A transposed convolution that doubles the picture (``k`` = 2)."""
        ci, spatial = self.shape(x)[1], len(self.shape(x)) - 2
        w = self.weight(ci, out // group, *[k] * spatial, fan=ci // group)
        bias = self.vector(out)
        return self.op("ConvTranspose", x, w, bias, group=group, strides=[2] * spatial)

    def bn(self, x: str) -> str:
        """BatchNormalization with random statistics."""
        c = self.shape(x)[1]
        scale, shift = self.vector(c, 0.7, 1.3), self.vector(c)
        return self.op("BatchNormalization", x, scale, shift, self.vector(c), self.vector(c, 0.5, 1.5))

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def cbr(self, x: str, out: int, k: int = 3, **how: Any) -> str:
        """Convolution, BatchNormalization, ReLU."""
        return self.relu(self.bn(self.conv(x, out, k, bias=False, **how)))

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def gap(self, x: str) -> str:
        return self.op("GlobalAveragePool", x)

    def pool(self, x: str, kind: str = "MaxPool", k: int = 2, stride: int = 2, pad: int = 0) -> str:
        n = len(self.shape(x)) - 2
        return self.op(kind, x, kernel_shape=[k] * n, strides=[stride] * n, pads=[pad] * 2 * n)

    def linear(self, x: str, out: int, bias: bool = True) -> str:
        """A matrix product over the last axis."""
        width = self.shape(x)[-1]
        y = self.op("MatMul", x, self.weight(width, out, fan=width))
        return self.op("Add", y, self.vector(out)) if bias else y

    def gemm(self, x: str, out: int) -> str:
        """A fully connected layer on rows."""
        return self.op("Gemm", x, self.weight(out, self.shape(x)[1]), self.vector(out), transB=1)

    def head(self, x: str, classes: int = 10) -> str:
        """Global pooling and a classifier."""
        return self.gemm(self.op("Flatten", self.gap(x)), classes)

    def layer_norm(self, x: str, spelled_out: bool = True) -> str:
        """Normalise over the last axis, by one node or many."""
        c = self.shape(x)[-1]
        scale, shift = self.vector(c, 0.7, 1.3), self.vector(c)
        if not spelled_out:
            return self.op("LayerNormalization", x, scale, shift, axis=-1)
        centred = self.op("Sub", x, self.reduce("ReduceMean", x, [-1]))
        variance = self.reduce("ReduceMean", self.op("Pow", centred, self.const(2.0)), [-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.const(1e-5)))
        return self.op("Add", self.op("Mul", self.op("Div", centred, deviation), scale), shift)

    # --- numbers that moved from attributes to operands ----------------------------------------------------

    def reshape(self, x: str, *target: int, **attributes: Any) -> str:
        return self.op("Reshape", x, self.ints(*target), **attributes)

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=list(perm))

    def concat(self, *xs: str, axis: int = 1) -> str:
        return self.op("Concat", *xs, axis=axis)

    def add(self, a: str, b: str) -> str:
        return self.op("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.op("Mul", a, b)

    def split(self, x: str, sizes: Sequence[int] | int, axis: int = 1) -> list[str]:
        """Cut into pieces of given sizes, or into so many equal ones."""
        if isinstance(sizes, int):
            count = {"num_outputs": sizes} if self.opset >= 18 else {}
            return self.ops("Split", x, outputs=sizes, axis=axis, **count)
        if self.opset >= 13:
            return self.ops("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)
        return self.ops("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))

    def slice(self, x: str, start: int, end: int, axis: int = 1, step: int = 1) -> str:
        if self.opset >= 10:
            return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))
        return self.op("Slice", x, starts=[start], ends=[end], axes=[axis])

    def pad(self, x: str, pads: Sequence[int], **attributes: Any) -> str:
        if self.opset >= 11:
            return self.op("Pad", x, self.ints(*pads), **attributes)
        return self.op("Pad", x, pads=list(pads), **attributes)

    def squeeze(self, x: str, *axes: int) -> str:
        return self._axes("Squeeze", x, axes)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self._axes("Unsqueeze", x, axes)

    def _axes(self, kind: str, x: str, axes: Sequence[int]) -> str:
        return self.op(kind, x, self.ints(*axes)) if self.opset >= 13 else self.op(kind, x, axes=list(axes))

    def reduce(self, kind: str, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
        if self.opset >= (13 if kind == "ReduceSum" else 18):
            return self.op(kind, x, self.ints(*axes), keepdims=keepdims)
        return self.op(kind, x, axes=list(axes), keepdims=keepdims)

    def double(self, x: str) -> str:
        """Nearest-neighbour upsampling by two along all spatial axes."""
        scales = self.const(np.asarray([1, 1, *[2] * (len(self.shape(x)) - 2)], np.float32))
        if self.opset < 10:
            return self.op("Upsample", x, scales, mode="nearest")
        if self.opset < 11:
            return self.op("Resize", x, scales, mode="nearest")
        roi = "" if self.opset >= 13 else self.const(np.zeros(0, np.float32))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", x, roi, scales, mode="nearest", **how)


@dataclass(frozen=True)
class Outcome:
    """The effect of pruning some channels.

    Attributes:
        error: Largest relative difference between sparse and dense outputs.
        change: Largest relative difference between original and sparse outputs.
        noise: Largest relative difference that the sparse outputs have when the inputs change in their last
            digits: the network's own amplification of rounding.
        sparse: The masked model.
        dense: The model without the channels.
    """

    error: float
    change: float
    noise: float
    sparse: Model
    dense: Model


def prune_exactly(
    model: Model,
    removed: Mapping[str, Sequence[int]],
    channels: Channels | None = None,
    seed: int = 0,
    feeds: list[dict[str, Array]] | None = None,
) -> Outcome:
    """Remove channels of a model in both ways and compare the results, by default on random inputs."""
    channels = channels or find_channels(model)
    sparse, dense = masked(channels, removed), shrunk(channels, removed)
    check_valid(sparse, "mask", model)
    check_valid(dense, "shrink", model)
    feeds = feeds or feeds_for(model, channels, seed)
    before, middle, after = (Session(m.proto, optimize=False) for m in (model, sparse, dense))
    same = compare(before, Session(channels.model.proto, optimize=False), feeds)
    assert same.max_rel_error <= 1e-6, f"the canonical form computes something else: {same}"
    error = compare(middle, after, feeds).max_rel_error
    change = compare(before, middle, feeds).max_rel_error
    return Outcome(error, change, _noise(middle, feeds, seed), sparse, dense)


def _noise(session: Session, feeds: list[dict[str, Array]], seed: int) -> float:
    """Run with inputs that differ in their last digits."""
    random = np.random.default_rng(seed)
    worst = 0.0
    for feed in feeds:
        shaken = {
            n: (a * random.uniform(1 - 1e-6, 1 + 1e-6, a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a
            for n, a in feed.items()
        }
        one, two = session.run(feed), session.run(shaken)
        worst = max(worst, *(difference(one[n], two[n]).max_rel_error for n in one))
    return worst


def feeds_for(model: Model, channels: Channels, seed: int = 0) -> list[dict[str, Array]]:
    """Draw random inputs of the probed shapes."""
    session = Session(model.proto, optimize=False)
    shapes = {i.name: channels.typing.shapes.inputs[i.name] for i in session.inputs}
    return sample_feeds(session.inputs, shapes=shapes, samples=1, seed=seed)


def half_of_each(channels: Channels, seed: int = 0, optional: bool = False) -> dict[str, list[int]]:
    """Choose half the channels of every group at random."""
    random = np.random.default_rng(seed)
    return {
        g.name: sorted(random.permutation(g.size)[: g.size // 2].tolist())
        for g in channels.groups
        if optional or not g.optional
    }


def chosen_apart(
    channels: Channels, removed: Mapping[str, Sequence[int]], seed: int = 0
) -> tuple[Channels, dict[str, Sequence[int]]]:
    """Remove as many channels, but other ones in each independent part of a group."""
    random = np.random.default_rng(seed)
    sizes = {g.name: g.size for g in channels.groups}
    rows = {
        name: [
            sorted(random.permutation(sizes[name])[: len(removed[name])].tolist())
            for _ in range(math.prod(f.size for f in outer))
        ]
        for name, outer in channels.freedoms.items()
        if removed.get(name)
    }
    return channels.without(rows), {**removed, **{name: lines[0] for name, lines in rows.items()}}


def params(model: Model, names: Iterable[str] | None = None) -> int:
    """Count the elements of the floating-point constants."""
    chosen = model.constants if names is None else {n: model.constants[n] for n in names}
    return sum(math.prod(t.dims) for t in chosen.values() if t.data_type in FLOATS)
