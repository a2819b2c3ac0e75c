"""Fusions of onnxruntime before a cut are found after it, and are right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import Net, half_of_each
from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.certify import certify
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.hints import kept_elements
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.scales import with_scales_in_place
from onnxprune.ir import Model
from onnxprune.passes import PassResult, Prune, Transform

WIDTH, HEADS, EACH = 32, 4, 8


def joined(net: Net, like: str, *sizes: int) -> str:
    """Batch and length of a tensor, and constants, each an operand of its own as exporters write them."""
    open_sizes = [net.op("Gather", net.op("Shape", like), net.ints(axis)) for axis in (0, 1)]
    return net.op("Concat", *open_sizes, *map(net.ints, sizes), axis=0)


def attention(
    heads: int = -1, scale: str = "behind", product: bool = False, one_list: bool = True, bias: bool = True
) -> Model:
    """A residual layer of attention as PyTorch exports it.

    Args:
        heads: The number of heads in the list of sizes; -1 where it is left to be inferred.
        scale: Where the products are scaled: ``behind`` them, at the ``query``, half at query and key
            (``both``).
        product: Whether by a factor instead of a divisor.
        one_list: Whether query, key and value are reshaped by one list.
        bias: Whether the projections add one.
    """
    net = Net()
    x = net.layer_norm(net.input("x", ("N", "T", WIDTH)), spelled_out=False)
    share = joined(net, x, heads, EACH)

    def scaled(name: str, power: float) -> str:
        number = EACH ** (-power if product else power)
        return net.op("Mul" if product else "Div", name, net.const(np.asarray(number)))

    def split() -> str:
        sizes = share if one_list else joined(net, x, heads, EACH)
        return net.transpose(net.op("Reshape", net.linear(x, WIDTH, bias=bias), sizes), 0, 2, 1, 3)

    q, k, v = split(), split(), split()
    powers = {"behind": (0, 0, 0.5), "query": (0.5, 0, 0), "both": (0.25, 0.25, 0)}[scale]
    q, k = (scaled(t, p) if p else t for t, p in zip((q, k), powers[:2], strict=True))
    scores = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2))
    scores = scaled(scores, powers[2]) if powers[2] else scores
    y = net.transpose(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    y = net.op("Reshape", y, joined(net, y, -1 if heads < 0 else WIDTH))
    y = net.linear(net.sized(y, ("N", "T", WIDTH)), WIDTH)
    return net.model(net.layer_norm(net.add(y, x), spelled_out=False))


def dense(model: Model, *only: str, **how: object) -> PassResult:
    chosen = {"reduce_params": 0.15, "strategy": "uniform", "round_to": 1, "only": only} | how
    return Transform()(Prune(**chosen)(model))  # type: ignore[arg-type]


def by_transformers(model: Model) -> onnx.ModelProto:
    """The output of onnxruntime's transformer optimizer, told the heads and width of the original."""
    optimizer = BertOnnxModel(model.copy().proto, HEADS, WIDTH)
    optimizer.fuse_attention()
    optimizer.prune_graph()
    found: onnx.ModelProto = optimizer.model
    return found


def by_sessions(model: Model, folder: object) -> Counter[str]:
    """Count the operators after onnxruntime's own fusions."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{folder}/optimised.onnx"
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.proto.SerializeToString(), options)
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def difference(one: onnx.ModelProto, other: onnx.ModelProto) -> float:
    feed = {"x": np.random.default_rng(3).normal(size=(2, 5, WIDTH)).astype(np.float32)}
    a, b = (
        onnxruntime.InferenceSession(p.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feed
        )[0]
        for p in (one, other)
    )
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("one_list", [True, False])
@pytest.mark.parametrize("heads", [-1, HEADS])
@pytest.mark.parametrize("which", ["heads", "width of queries", "width of values", "all"])
def test_attention_is_fused_as_before_and_rightly(which: str, heads: int, one_list: bool) -> None:
    model = attention(heads, one_list=one_list)
    count, query, value = (g.name for g in find_channels(model).groups)
    only = {"heads": [count], "width of queries": [query], "width of values": [value]}
    result = dense(model, *only.get(which, [count, query, value]))
    fused = by_transformers(result.model)
    assert [n.op_type for n in by_transformers(model).graph.node].count("Attention") == 1
    assert [n.op_type for n in fused.graph.node].count("Attention") == 1
    assert difference(result.model.proto, fused) < 1e-5
    assert "unfused" not in result.facts
    assert all(width["after"] < width["before"] for width in result.facts["groups"].values())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("product", [True, False])
@pytest.mark.parametrize("scale", ["behind", "query", "both"])
def test_the_scale_follows_the_width_of_heads(scale: str, product: bool, bias: bool) -> None:
    """Constants of any exporter's scale become those of the new width, and results are equal."""
    model = attention(scale=scale, product=product, bias=bias)
    width = find_channels(model).groups[1]
    channels, removed = find_channels(model), {width.name: [1, 2, 5, 6]}
    cut = shrunk(channels, removed)
    moved, left = with_scales_in_place(cut, channels, removed)
    numbers = [float(moved.array(n).item()) for n, t in moved.constants.items() if not t.dims]
    power = 0.25 if scale == "both" else 0.5
    assert numbers == pytest.approx([4 ** (-power if product else power)] * (2 if scale == "both" else 1))
    assert difference(cut.proto, moved.proto) < 1e-5
    assert not left


def test_a_scale_of_another_kind_stays() -> None:
    """A scale other than the root of the width belongs to the network and stays."""
    model = attention()
    name = next(n for n, t in model.constants.items() if not t.dims)
    model.set_array(name, np.asarray(7.0, np.float32))
    width = find_channels(model).groups[1]
    result = dense(model, width.name)
    assert [float(result.model.array(n)) for n, t in result.model.constants.items() if not t.dims] == [7.0]


def test_operators_that_cannot_take_a_factor_are_named() -> None:
    """Queries and keys behind a saturation cannot be scaled by their weights."""
    net = Net()
    x = net.input("x", ("N", 5, WIDTH))

    def split() -> str:
        return net.transpose(net.reshape(net.linear(x, WIDTH), 0, 0, HEADS, EACH), 0, 2, 1, 3)

    q, k, v = net.op("Tanh", split()), net.op("Tanh", split()), split()
    scores = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2))
    scores = net.op("Div", scores, net.const(np.asarray(EACH**0.5)))
    y = net.transpose(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    model = net.model(net.linear(net.reshape(y, 0, 0, WIDTH), WIDTH))
    result = dense(model, find_channels(model).groups[1].name)
    assert len(result.facts["unfused"]) == 1
    assert "wide and scaled for 8" in result.facts["unfused"][0]


def root_mean_square(net: Net, x: str, kind: str) -> str:
    """RMSNorm as exporters spell it."""
    square = net.op("Pow", x, net.const(np.asarray(2.0)))
    mean = net.add(net.reduce("ReduceMean", square, [-1]), net.const(np.asarray(1e-5)))
    if kind == "quotient":
        return net.mul(net.op("Div", x, net.op("Sqrt", mean)), net.vector(WIDTH, 0.5, 1.5))
    inverse = {
        "reciprocal": lambda: net.op("Reciprocal", net.op("Sqrt", mean)),
        "division": lambda: net.op("Div", net.const(np.asarray(1.0)), net.op("Sqrt", mean)),
        "power": lambda: net.op("Pow", mean, net.const(np.asarray(-0.5))),
    }[kind]()
    return net.mul(net.vector(WIDTH, 0.5, 1.5), net.mul(x, inverse))


@pytest.mark.parametrize("kind", ["quotient", "reciprocal", "division", "power"])
def test_a_root_mean_square_keeps_its_form(kind: str, tmp_path: object) -> None:
    net = Net()
    x = net.linear(net.input("x", ("N", "T", WIDTH)), WIDTH)
    x = net.add(x, net.linear(net.relu(net.linear(root_mean_square(net, x, kind), 48)), WIDTH))
    model = net.model(net.linear(root_mean_square(net, x, kind), 8))
    channels = find_channels(model)
    removed = half_of_each(channels)
    cut, left = with_scales_in_place(shrunk(channels, removed), channels, removed)
    assert Counter(n.op_type for n in model.nodes) == Counter(n.op_type for n in cut.nodes)
    before, after = by_sessions(model, tmp_path), by_sessions(cut, tmp_path)
    assert before == after
    assert before["SimplifiedLayerNormalization"] == (2 if kind in ("quotient", "division") else 0)
    assert difference(shrunk(channels, removed).proto, cut.proto) < 1e-5
    assert not left


def normalised_by_root_mean_square(kind: str) -> Model:
    net = Net()
    x = net.linear(net.input("x", ("N", "T", WIDTH)), WIDTH)
    x = net.add(x, net.linear(net.relu(net.linear(root_mean_square(net, x, kind), 48)), WIDTH))
    return net.model(net.linear(root_mean_square(net, x, kind), 8))


@pytest.mark.parametrize("kind", ["quotient", "reciprocal", "division", "power"])
def test_the_form_that_is_fused_is_certified(kind: str) -> None:
    """Factors in constants are followed through roots, quotients and powers to where they cancel."""
    model = normalised_by_root_mean_square(kind)
    result = dense(model)
    assert result.facts["certificate"]["certified"], result.facts["certificate"]
    assert "unfused" not in result.facts
    assert not [n for n in result.model.nodes if n.name.endswith("__rescaled")]


@pytest.mark.parametrize("changed", ["epsilon", "weight", "both"])
@pytest.mark.parametrize("kind", ["quotient", "power"])
def test_factors_that_do_not_cancel_are_refused(kind: str, changed: str) -> None:
    """Scales of a normalisation, and the number below its root, one thousandth off."""
    channels = find_channels(normalised_by_root_mean_square(kind))
    removed = half_of_each(channels)
    sparse = masked(channels, removed)
    cut, _ = with_scales_in_place(shrunk(channels, removed), channels, removed)
    hints = kept_elements(channels, removed)
    assert certify(sparse.proto, cut.proto, hints).certified
    scales = {"epsilon": [()], "weight": [(16,)], "both": [(), (16,)]}[changed]
    for name, tensor in cut.constants.items():
        near = cut.array(name).size > 1 or 0 < abs(cut.array(name)) < 1e-3
        if tuple(tensor.dims) in scales and near and "bias" not in name:
            cut.set_array(name, (cut.array(name) * 1.001).astype(np.float32))
    assert not certify(sparse.proto, cut.proto, hints).certified


def test_a_factor_that_others_read_stays_a_node() -> None:
    """A mean that is a result, too, has to be the right one."""
    net = Net()
    x = net.linear(net.input("x", ("N", "T", WIDTH)), WIDTH)
    mean = net.reduce("ReduceMean", net.op("Mul", x, x), [-1])
    root = net.op("Sqrt", net.add(mean, net.const(np.asarray(1e-5))))
    y = net.linear(net.mul(net.op("Div", x, root), net.vector(WIDTH, 0.5, 1.5)), 8)
    result = dense(net.model(y, mean))
    assert len(result.facts["unfused"]) == 1


def test_a_tied_matrix_is_not_written_twice() -> None:
    """Two layers that share their projections share them afterwards."""
    net = Net()
    x = net.input("x", ("N", 5, WIDTH * 4))
    wide, each = WIDTH * 4, EACH * 4
    projections = [net.weight(wide, wide, fan=wide) for _ in range(3)]
    for _ in range(2):
        q, k, v = (
            net.transpose(net.reshape(net.op("MatMul", x, w), 0, 0, HEADS, each), 0, 2, 1, 3)
            for w in projections
        )
        scores = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2))
        weights = net.op("Softmax", net.op("Div", scores, net.const(np.asarray(each**0.5))), axis=-1)
        y = net.reshape(net.transpose(net.op("MatMul", weights, v), 0, 2, 1, 3), 0, 0, wide)
        x = net.add(x, net.linear(y, wide))
    model = net.model(x)
    query = find_channels(model).groups[1]
    result = dense(model, query.name)
    matrices = [n for n, t in result.model.constants.items() if len(t.dims) == 2]
    assert len(matrices) == 5
    numbers = [float(result.model.array(n)) for n, t in result.model.constants.items() if not t.dims]
    assert numbers == pytest.approx([result.facts["groups"][query.name]["after"] ** 0.5] * 2)
