"""Pairs of models that differ in one thing, and pairs that compute the same in another way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from helpers import Net
from onnx import TensorProto, helper, numpy_helper

Proto = onnx.ModelProto
FEATURES, CLASSES, ROWS = 8, 6, 50


def picture_net() -> Proto:
    """Convolutions with normalisation, a skip, a squeeze-and-excite gate, a classifier."""
    net = Net(seed=1)
    x = net.input("x", ["n", 3, "h", "w"])
    a = net.cbr(net.sized(x, [1, 3, 16, 16]), 8)
    b = net.add(net.cbr(a, 8), a)
    gate = net.op("HardSigmoid", net.conv(net.gap(b), 8, 1))
    y = net.head(net.mul(b, gate), CLASSES)
    return net.proto(y, net.op("Softmax", y))


def attention_net() -> Proto:
    """Tokens, a padding mask, one head of attention, a feed-forward part."""
    net = Net(seed=2)
    ids = net.input("ids", ["n", "t"], TensorProto.INT64)
    mask = net.input("mask", ["n", "t"], TensorProto.INT64)
    x = net.op("Gather", net.weight(ROWS, FEATURES, fan=1), ids)
    q, k, v = (net.linear(x, FEATURES) for _ in range(3))
    scores = net.op("MatMul", q, net.transpose(k, 0, 2, 1))
    hidden = net.op("Sub", net.const(1.0), net.op("Cast", net.unsqueeze(mask, 1), to=TensorProto.FLOAT))
    scores = net.add(net.mul(scores, net.const(0.3)), net.mul(hidden, net.const(-10.0)))
    x = net.add(x, net.op("MatMul", net.op("Softmax", scores, axis=-1), v))
    x = net.layer_norm(net.add(x, net.linear(net.op("Tanh", net.linear(x, 16)), FEATURES)), spelled_out=False)
    return net.proto(net.linear(x, CLASSES))


def detector_net() -> Proto:
    """Boxes and scores, the best of them picked."""
    net = Net(seed=3)
    x = net.cbr(net.sized(net.input("x", ["n", 3, "h", "w"]), [1, 3, 8, 8]), 8)
    scores = net.op("Sigmoid", net.op("Flatten", net.conv(x, 1, 1)))
    best, places = net.ops("TopK", scores, net.ints(3), outputs=2, axis=1)
    return net.proto(best, places, net.op("ArgMax", net.op("Flatten", net.gap(x)), axis=1))


def recurrent_net() -> Proto:
    """An LSTM with a projection before and behind."""
    net = Net(seed=4)
    x = net.relu(net.linear(net.input("x", ["t", "n", FEATURES]), 12))
    w, r, b = net.weight(1, 32, 12, fan=12), net.weight(1, 32, 8, fan=8), net.vector(64)
    y = net.ops("LSTM", x, w, r, net.reshape(b, 1, 64), outputs=3, hidden_size=8)[0]
    return net.proto(net.linear(net.squeeze(y, 1), CLASSES))


def quantised_net() -> Proto:
    """Activations of a small perceptron in eight bits."""
    net = Net(seed=5)
    x = net.linear(net.input("x", ["n", FEATURES]), 16)
    scale, zero = net.const(0.05), net.const(np.uint8(128))
    x = net.relu(net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero))
    return net.proto(net.linear(x, CLASSES))


NETWORKS = {
    "picture": picture_net,
    "attention": attention_net,
    "detector": detector_net,
    "recurrent": recurrent_net,
    "quantised": quantised_net,
}
OTHER_OPERATORS = {
    "Relu": "Tanh",
    "Tanh": "Sigmoid",
    "Sigmoid": "Tanh",
    "HardSigmoid": "Sigmoid",
    "Softmax": "LogSoftmax",
    "ArgMax": "ArgMin",
    "Add": "Sub",
    "Mul": "Add",
    "Sub": "Add",
    "GlobalAveragePool": "GlobalMaxPool",
}
OTHER_ATTRIBUTES = {
    "axis": 0,
    "transB": None,
    "largest": 0,
    "alpha": 0.1,
    "epsilon": 0.5,
    "hidden_size": None,
}


def copied(proto: Proto) -> Proto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def mutants(proto: Proto, seed: int = 0) -> Iterator[tuple[str, Proto]]:
    """Yield copies of a model each of which differs in one thing."""
    yield from _weights(proto, seed)
    yield from _operators(proto)
    yield from _outputs(proto)


def _weights(proto: Proto, seed: int) -> Iterator[tuple[str, Proto]]:
    """One element by one per cent and a little; a whole tensor by one per cent; a row swapped."""
    random = np.random.default_rng(seed)
    for index, tensor in enumerate(proto.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f":
            continue
        place = tuple(random.integers(0, n) for n in values.shape)
        for part, made in (("element", values.copy()), ("tensor", values * np.float32(1.01))):
            if part == "element":
                made[place] = made[place] * 1.01 + 0.01
            copy = copied(proto)
            copy.graph.initializer[index].CopyFrom(
                numpy_helper.from_array(np.asarray(made, values.dtype), tensor.name)
            )
            yield f"{part} of {tensor.name}", copy


def _operators(proto: Proto) -> Iterator[tuple[str, Proto]]:
    for index, node in enumerate(proto.graph.node):
        if node.op_type in OTHER_OPERATORS:
            copy = copied(proto)
            changed = copy.graph.node[index]
            changed.op_type = OTHER_OPERATORS[node.op_type]
            if node.op_type == "HardSigmoid":
                del changed.attribute[:]
            yield f"{node.name} as {changed.op_type}", copy
        if node.op_type in ("MatMul", "Sub") and node.input[0] != node.input[1]:
            copy = copied(proto)
            copy.graph.node[index].input[:] = node.input[::-1]
            yield f"operands of {node.name} swapped", copy
        for number, attribute in enumerate(node.attribute):
            value = OTHER_ATTRIBUTES.get(attribute.name)
            if value is not None and helper.get_attribute_value(attribute) != value:
                copy = copied(proto)
                copy.graph.node[index].attribute[number].CopyFrom(
                    helper.make_attribute(attribute.name, value)
                )
                yield f"{attribute.name} of {node.name}", copy


def _outputs(proto: Proto) -> Iterator[tuple[str, Proto]]:
    """An output dropped, renamed, of another type, of another shape, twice as large."""
    for index, output in enumerate(proto.graph.output):
        if len(proto.graph.output) > 1:
            copy = copied(proto)
            del copy.graph.output[index]
            yield f"{output.name} dropped", copy
        renamed = _with_last(proto, index, "Identity", name=f"{output.name}_2")
        yield f"{output.name} renamed", renamed
        double = TensorProto.DOUBLE
        yield f"{output.name} as double", _with_last(proto, index, "Cast", kind=double, to=double)
        yield f"{output.name} with another axis", _with_last(proto, index, "Unsqueeze", axes=[0])
        yield f"{output.name} negated", _with_last(proto, index, "Neg")


def _with_last(
    proto: Proto,
    index: int,
    operator: str,
    *,
    name: str = "",
    kind: int = 0,
    axes: Sequence[int] = (),
    **how: Any,
) -> Proto:
    """Return a copy with one more node before an output."""
    copy = copied(proto)
    output = copy.graph.output[index]
    made = output.name
    inner = f"{made}_inner"
    for node in copy.graph.node:
        node.output[:] = [inner if o == made else o for o in node.output]
        node.input[:] = [inner if i == made else i for i in node.input]
    operands = [inner]
    if axes:
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(axes, np.int64), "last_axes"))
        operands.append("last_axes")
        sizes = [d.dim_value or d.dim_param or None for d in output.type.tensor_type.shape.dim]
        element = output.type.tensor_type.elem_type
        output.CopyFrom(helper.make_tensor_value_info(made, element, [1, *sizes]))
    output.name = name or made
    if kind:
        output.type.tensor_type.elem_type = kind
    copy.graph.node.append(helper.make_node(operator, operands, [output.name], **how))
    return copy


def permuted(proto: Proto, seed: int = 0) -> Proto:
    """Return the same network with the hidden channels between two of its weights in another order."""
    random = np.random.default_rng(seed)
    copy = copied(proto)
    tensors = {t.name: t for t in copy.graph.initializer}
    nodes = list(copy.graph.node)
    for node, after in itertools.pairwise(nodes):
        chain = node.op_type == "MatMul" and after.op_type == "Add" and after.input[1] in tensors
        readers = [n for n in nodes if set(_results(nodes, after.output[0])) & set(n.input)]
        weighted = [n for n in readers if n.op_type in ("MatMul", "LSTM") and n.input[1] in tensors]
        plain = all(n in weighted or n.op_type in _ELEMENTWISE for n in readers)
        if not (chain and weighted and plain):
            continue
        order = random.permutation(tensors[node.input[1]].dims[1])
        _reorder(tensors[node.input[1]], order, 1)
        _reorder(tensors[after.input[1]], order, 0)
        for reader in weighted:
            _reorder(tensors[reader.input[1]], order, 0 if reader.op_type == "MatMul" else 2)
    return copy


_ELEMENTWISE = {"Relu", "Tanh", "QuantizeLinear", "DequantizeLinear"}


def _results(nodes: Sequence[onnx.NodeProto], name: str) -> list[str]:
    """Return a tensor and all that elementwise nodes make of it."""
    found = [name]
    for node in nodes:
        if node.op_type in _ELEMENTWISE and node.input[0] in found:
            found += node.output
    return found


def _reorder(tensor: onnx.TensorProto, order: np.ndarray, axis: int) -> None:
    values = np.take(numpy_helper.to_array(tensor), order, axis)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
