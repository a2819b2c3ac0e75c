"""The noise of a network: how far its results move when inputs and weights change by one last place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnxprune.ir import Model, every_graph
from onnxprune.ops.spec import spec_of
from onnxprune.support.mapped import array_of, is_mapped, parts, spilled

Array = np.ndarray
LAST_PLACE = {2: 2.0**-10, 4: 2.0**-23, 8: 2.0**-52}
"""The spacing of numbers at 1.0 by the size, in bytes, of the type."""
ROUNDS = 3
_AT_ONCE = 1 << 16
"""Numbers that are moved at once."""


def shaken(proto: onnx.ModelProto, seed: int) -> Model:
    """Return a model whose weights are off by one last place, up or down at random.

    Dequantised numbers are too, each by itself. Single numbers stay as they are: they are mostly settings,
    such as an exponent.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    random = np.random.default_rng(seed)
    graphs = list(every_graph(copy.graph))
    read = {i for g in graphs for n in g.node for i in _weights(n)}
    regions = []
    for name, tensor in _tensors(graphs):
        if name not in read:
            continue
        values = array_of(tensor)
        if values.dtype.kind != "f" or values.size == 1:
            continue
        if is_mapped(tensor):
            made, region = spilled(_moved_in_parts(random, values), name)
            tensor.CopyFrom(made)
            regions.append(region)
        else:
            _store(tensor, moved(random, values))
    _move_dequantised(graphs, seed)
    return Model(copy)  # it keeps the regions


def _move_dequantised(graphs: Sequence[onnx.GraphProto], seed: int) -> None:
    """Multiply the results of DequantizeLinear by numbers drawn from one last place around 1.

    Results of types other than float32 stay: the runtime draws no numbers of all of them.
    """
    scales = {name for name, t in _tensors(graphs) if t.data_type == onnx.TensorProto.FLOAT}
    for graph in graphs:
        nodes = []
        for node in graph.node:
            nodes.append(node)
            if spec_of(node).quantises == "to floats" and node.input[1] in scales:
                nodes += _moving(node, seed + len(nodes))
        if len(nodes) > len(graph.node):
            del graph.node[:]
            graph.node.extend(nodes)


def _moving(node: onnx.NodeProto, seed: int) -> list[onnx.NodeProto]:
    """Return nodes that move the result of a node; the result they move gets another name."""
    step, result = LAST_PLACE[4], node.output[0]
    exact, factors = f"{result}//exact", f"{result}//factors"
    node.output[0] = exact
    make, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
    low, high = 1 - step, 1 + step
    return [
        make("RandomUniformLike", [exact], [factors], low=low, high=high, seed=float(seed), dtype=kind),
        make("Mul", [exact, factors], [result]),
    ]


def _moved_in_parts(random: np.random.Generator, values: Array) -> Array:
    """Return the numbers that `moved` returns, computed in parts."""
    made = np.empty_like(values)
    for part in parts(values):
        made[part] = moved(random, values[part])
    return made


def _store(tensor: onnx.TensorProto, values: Array) -> None:
    """Give a tensor other values, without a copy of them in a tensor of its own."""
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = name, onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor.dims.extend(values.shape)
    tensor.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _weights(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the operands that may hold weights: parameters, statistics, operands of arithmetic."""
    spec = spec_of(node)
    if spec.arithmetic:
        yield from node.input
    yield from (node.input[k] for k in (*spec.parameters, *spec.statistics) if k < len(node.input))


def moved(random: np.random.Generator, values: Array) -> Array:
    """Return numbers that are off by one last place, up or down at random."""
    kind, step = values.dtype.type, LAST_PLACE[values.dtype.itemsize]
    made = np.empty(values.shape, values.dtype)
    given, result = values.reshape(-1), made.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, given.size, _AT_ONCE):  # the numbers in between stay in the cache
            part = slice(start, start + _AT_ONCE)
            factors = random.integers(0, 2, given[part].shape, dtype=np.uint8) * kind(2 * step)
            factors += kind(1 - step)  # both sums are exact
            np.multiply(given[part], factors, out=result[part])
    return made


def shaken_feed(feed: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Return inputs whose floats are off by one last place."""
    random = np.random.default_rng(seed)
    return {n: moved(random, a) if a.dtype.kind == "f" else a for n, a in feed.items()}


def _tensors(graphs: Sequence[onnx.GraphProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield the constants, each with the name that nodes read it by."""
    for graph in graphs:
        yield from ((t.name, t) for t in graph.initializer)
        for node in graph.node:
            if node.op_type == "Constant":
                yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")
