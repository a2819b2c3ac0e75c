"""The definitions of the verifier compute the results of onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from wide_nodes import EMPTY, Array, floats, integers, positive, scalar

from onnxprune.certify.reading import known_elements
from onnxprune.certify.reading.definitions import DEFINITIONS, defined
from onnxprune.certify.reading.graph import Graph
from onnxprune.certify.reading.quantised_definitions import ROUNDED_STATES
from onnxprune.ops.spec import MICROSOFT
from onnxprune.runtime import Session

OPSET = 24


MOVING = {
    "x",
    "z",
    "q",
    "k",
    "v",
    "a",
    "s",
    "ids",
    "kinds",
    "places",
    "packed",
    "past",
    "pk",
    "pv",
    "at",
    "mask",
}
"""Names of operands that are inputs of the model rather than constants."""


def spelled_out(node: onnx.NodeProto, operands: Mapping[str, Array], given: list[Array]) -> onnx.ModelProto:
    """Return a model of the nodes that define a node.

    Args:
        node: The node.
        operands: Its operands by name.
        given: Values of the tensors of which a definition states only from which operands they follow.
    """
    model = network(node, operands)
    read = Graph(model, "sparse")
    parts = defined(read, node)
    assert parts is not None, node.op_type
    values = dict(zip((p.output[0] for p in parts if p.op_type.startswith("part ")), given, strict=True))
    nodes = [p for p in parts if p.output[0] not in values]
    for part in nodes:
        for attribute in [a for a in part.attribute if a.name == ROUNDED_STATES]:
            part.attribute.remove(attribute)
    made = {o for p in nodes for o in p.output}
    values |= {name: value for name, value in read.constants.items() if name not in made}
    needed = {i for p in nodes for i in p.input} - values.keys()
    values |= {name: read.values[name].astype(np.int64) for name in needed & read.values.keys() - made}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    return model


def network(node: onnx.NodeProto, operands: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a model of one node."""
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in operands.items()
        if k in MOVING
    ]
    outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
    initializers = [numpy_helper.from_array(v, k) for k, v in operands.items() if k not in MOVING]
    graph = helper.make_graph([node], "node", infos, outputs, initializers)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


CASES: dict[str, tuple[Any, ...]] = {}


def case(name: str, kind: str, operands: Mapping[str, Array], *given: Array, **how: Any) -> None:
    """Enter a node, with the values of masks and the like; ``room`` is for states that are rounded."""
    CASES[name] = (kind, operands, list(given), how)


X, SKIP, GAMMA, BETA = floats(2, 3, 6), floats(2, 3, 6) * 0.5, positive(6), floats(6)
OWN = {"domain": MICROSOFT}
PICTURE = {"x": floats(2, 8, 4, 6)}
for _mode in ("DCR", "CRD"):
    case(f"depth_to_space_{_mode}", "DepthToSpace", PICTURE, blocksize=2, mode=_mode)
case("space_to_depth", "SpaceToDepth", PICTURE, blocksize=2)
case("gelu", "Gelu", {"x": X}, **OWN)
case("fast_gelu", "FastGelu", {"x": X, "b": BETA}, **OWN)
case("fast_gelu_alone", "FastGelu", {"x": X}, **OWN)
case("bias_gelu", "BiasGelu", {"x": X, "b": BETA}, **OWN)
case("quick_gelu", "QuickGelu", {"x": X}, **OWN)
case("quick_gelu_of_a_factor", "QuickGelu", {"x": X}, alpha=0.7, **OWN)
for _a in (0, 1):
    for _b in (0, 1):
        _pair = {"a": floats(2, *((4, 3) if _a else (3, 4))), "b": floats(2, *((5, 4) if _b else (4, 5)))}
        case(f"fused_product_{_a}{_b}", "FusedMatMul", _pair, transA=_a, transB=_b, alpha=0.3, **OWN)
case(
    "fused_gemm",
    "FusedGemm",
    {"a": floats(3, 4), "b": floats(4, 5), "c": floats(5)},
    activation="Relu",
    **OWN,
)
case(
    "fused_conv", "FusedConv",
    {"x": floats(2, 4, 5, 5), "w": floats(3, 4, 3, 3), "b": floats(3), "z": floats(2, 3, 3, 3)},
    activation="Tanh", **OWN,
)  # fmt: skip
case("skip", "SkipLayerNormalization", {"x": X, "s": SKIP, "g": GAMMA, "b": BETA}, **OWN)
case("skip_without_shift", "SkipLayerNormalization", {"x": X, "s": SKIP, "g": GAMMA}, epsilon=0.1, **OWN)
case(
    "skip_with_bias_and_sum", "SkipLayerNormalization",
    {"x": X, "s": SKIP, "g": GAMMA, "b": BETA, "c": BETA * 2}, results=("y", "", "", "sum"), **OWN,
)  # fmt: skip
case(
    "skip_rms", "SkipSimplifiedLayerNormalization", {"x": X, "s": SKIP, "g": GAMMA},
    results=("y", "", "", "sum"), epsilon=0.1, **OWN,
)  # fmt: skip
case("simplified", "SimplifiedLayerNormalization", {"x": X, "g": GAMMA}, epsilon=0.1)
IDS = integers(2, 4, low=0, high=7, kind=np.int32)
TABLES = {"words": floats(7, 6), "at": floats(5, 6)}
case(
    "embedded", "EmbedLayerNormalization",
    {"ids": IDS, "kinds": IDS % 3, **TABLES, "k": floats(3, 6), "g": GAMMA, "b": BETA},
    np.zeros(2, np.int32), results=("y", "lengths", "sum"), **OWN,
)  # fmt: skip
case(
    "embedded_at_places", "EmbedLayerNormalization",
    {"ids": IDS, "": EMPTY, **TABLES, " ": EMPTY, "g": GAMMA, "b": BETA, "  ": EMPTY,
     "places": IDS % 5}, np.zeros(2, np.int32), results=("y", "lengths"), **OWN,
)  # fmt: skip

# --- attention ---------------------------------------------------------------------------------------------


def causal(batch: int, queries: int, keys: int) -> Array:
    """Return a mask ``[batch 1 queries keys]``: a query sees the keys up to its own."""
    later = np.arange(keys)[None] > np.arange(queries)[:, None] + keys - queries
    return np.broadcast_to(
        np.where(later, np.float32(-1e30), np.float32(0)), (batch, 1, queries, keys)
    ).copy()


PADDED = np.asarray([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32)
HIDDEN = np.where(PADDED > 0, 0, -10000).astype(np.float32)[:, None, None]
PROJECTED = {"x": floats(2, 4, 5), "w": floats(5, 18), "b": floats(18)}
case("projected", "Attention", PROJECTED, num_heads=2, **OWN)
case("projected_of_widths", "Attention", {**PROJECTED, "w": floats(5, 20), "b": floats(20)},
     num_heads=2, qkv_hidden_sizes=[6, 6, 8], scale=0.3, **OWN)  # fmt: skip
case(
    "projected_masked",
    "Attention",
    {**PROJECTED, "mask": PADDED},
    np.tile(HIDDEN, (1, 1, 4, 1)),
    num_heads=2,
    **OWN,
)
case("projected_causal", "Attention", PROJECTED, causal(2, 4, 4), num_heads=2, unidirectional=1, **OWN)
case(
    "projected_with_past", "Attention",
    {**PROJECTED, "": EMPTY, "past": floats(2, 2, 2, 3, 3)},
    results=("y", "present"), num_heads=2, **OWN,
)  # fmt: skip
case("projected_with_bias", "Attention", {**PROJECTED, "": EMPTY, " ": EMPTY, "bias": floats(1, 2, 4, 4)},
     num_heads=2, **OWN)  # fmt: skip
QKV = {"q": floats(2, 4, 6), "k": floats(2, 5, 6), "v": floats(2, 5, 8)}
case(
    "apart",
    "MultiHeadAttention",
    {**QKV, "b": floats(20), "": EMPTY, "bias": floats(2, 2, 4, 5)},
    num_heads=2,
    **OWN,
)
case(
    "apart_with_past", "MultiHeadAttention",
    {"q": floats(2, 4, 6), "k": floats(2, 4, 6), "v": floats(2, 4, 6), "": EMPTY, " ": EMPTY, "  ": EMPTY,
     "pk": floats(2, 2, 3, 3), "pv": floats(2, 2, 3, 3)},
    causal(2, 4, 7), results=("y", "pk2", "pv2"), num_heads=2, unidirectional=1, **OWN,
)  # fmt: skip
case("across", "MultiHeadAttention", {"q": floats(2, 4, 6), "k": floats(2, 2, 5, 3), "v": floats(2, 2, 5, 3)},
     num_heads=2, **OWN)  # fmt: skip
TURNED = {
    "x": floats(2, 4, 16),
    "at": np.tile(np.arange(4), (2, 1))[:, ::-1].copy(),
    "cos": floats(5, 4),
    "sin": floats(5, 4),
}
case("turned", "RotaryEmbedding", TURNED, num_heads=2, **OWN)
case("turned_pairs", "RotaryEmbedding", TURNED, interleaved=1, **OWN)
case("turned_from_a_place", "RotaryEmbedding", {**TURNED, "at": np.asarray([1])},
     np.tile(np.arange(1, 5), (2, 1)), **OWN)  # fmt: skip
PARTLY = {"cos": floats(5, 2), "sin": floats(5, 2)}
case("partly_turned", "RotaryEmbedding", {**TURNED, **PARTLY}, num_heads=2, rotary_embedding_dim=4, **OWN)
case("turned_heads", "RotaryEmbedding", {**TURNED, "x": floats(2, 3, 4, 8)}, **OWN)
ALONE = {"x": floats(2, 4, 16), "cos": floats(5, 4), "sin": floats(5, 4), "at": TURNED["at"]}
case("turned_of_onnx", "RotaryEmbedding", ALONE, num_heads=2)
case(
    "turned_of_onnx_each",
    "RotaryEmbedding",
    {"x": floats(2, 3, 4, 8), "cos": floats(2, 4, 4), "sin": floats(2, 4, 4)},
    interleaved=1,
)
KEPT = {"pk": floats(2, 2, 3, 3), "pv": floats(2, 2, 3, 5)}
GROUPED = {"q": floats(2, 4, 12), "k": floats(2, 6, 6), "v": floats(2, 6, 10)}
MASK = floats(2, 1, 4, 9)
case("of_onnx", "Attention", {**GROUPED, "mask": MASK, **KEPT}, MASK,
     results=("y", "k2", "v2"), q_num_heads=4, kv_num_heads=2)  # fmt: skip
case(
    "of_onnx_heads",
    "Attention",
    {"q": floats(2, 4, 4, 3), "k": floats(2, 2, 6, 3), "v": floats(2, 2, 6, 5)},
    scale=0.4,
)
SCORED = {
    "q": floats(2, 4, 4, 3),
    "k": floats(2, 2, 6, 3),
    "v": floats(2, 2, 6, 5),
    "mask": floats(2, 4, 4, 6),
}
case("of_onnx_limited", "Attention", {n: floats(1, 2, 3, 4) for n in "qkv"}, softcap=0.3)
case("of_onnx_with_scores", "Attention", SCORED, SCORED["mask"])
SQUARE = {"q": floats(2, 2, 4, 3), "k": floats(2, 2, 4, 3), "v": floats(2, 2, 4, 5)}
case("of_onnx_causal", "Attention", SQUARE, causal(2, 4, 4), is_causal=1)
SHARED = {"q": floats(2, 4, 32), "k": floats(2, 4, 16), "v": floats(2, 4, 16)}
LENGTHS = {"lengths": np.full(2, 3, np.int32), "total": scalar(4, np.int32)}
EVERY = np.broadcast_to(np.arange(4).reshape(1, 4, 1), (2, 4, 1)).copy()
ONES = np.ones((2, 4, 1, 1), np.float32)
case(
    "shared_keys", "GroupQueryAttention", {**SHARED, "": EMPTY, " ": EMPTY, **LENGTHS},
    EVERY, ONES, EVERY, ONES, causal(2, 4, 4),
    results=("y", "k2", "v2"), num_heads=4, kv_num_heads=2, **OWN,
)  # fmt: skip
case(
    "shared_keys_limited", "GroupQueryAttention", {**SHARED, "": EMPTY, " ": EMPTY, **LENGTHS},
    EVERY, ONES, EVERY, ONES, causal(2, 4, 4),
    results=("y", "k2", "v2"), num_heads=4, kv_num_heads=2, softcap=0.3, **OWN,
)  # fmt: skip
case(
    "shared_keys_turned", "GroupQueryAttention",
    {"packed": floats(2, 4, 128), "": EMPTY, " ": EMPTY, "  ": EMPTY, "   ": EMPTY, **LENGTHS,
     "cos": floats(5, 8), "sin": floats(5, 8)},
    EVERY[:, :, 0], EVERY, ONES, EVERY, ONES, causal(2, 4, 4),
    results=("y", "k2", "v2"), num_heads=4, kv_num_heads=2, do_rotary=1, **OWN,
)  # fmt: skip
NEXT = {"q": floats(2, 1, 32), "k": floats(2, 1, 16), "v": floats(2, 1, 16)}
case(
    "shared_keys_with_past", "GroupQueryAttention",
    {**NEXT, "pk": floats(2, 2, 3, 8), "pv": floats(2, 2, 3, 8), **LENGTHS},
    EVERY, ONES, EVERY, ONES, np.zeros((2, 1, 1, 4), np.float32),
    results=("y", "k2", "v2"), num_heads=4, kv_num_heads=2, **OWN,
)  # fmt: skip

# --- integers ----------------------------------------------------------------------------------------------

BIAS = integers(6, low=100, high=900, kind=np.int32)
READ = {"xs": scalar(0.02), "xz": scalar(120, np.uint8)}
WRITTEN = {"ys": scalar(0.03), "yz": scalar(110, np.uint8)}
OTHER = {"z": integers(3, 4), "zs": scalar(0.03), "zz": scalar(125, np.uint8)}
FILTERS = {
    "w": integers(4, 2, 3, 3, low=-40, high=40, kind=np.int8),
    "ws": positive(4) * 0.02,
    "wz": np.zeros(4, np.int8),
}
case(
    "qlinear_conv", "QLinearConv",
    {"x": integers(2, 4, 5, 5), **READ, **FILTERS, **WRITTEN, "b": BIAS[:4]},
    group=2, pads=[1, 1, 1, 1],
)  # fmt: skip
POINTS = {"xz": scalar(120, np.uint8), "wz": integers(6)}
case("product_of_integers", "MatMulInteger", {"x": integers(3, 4), "w": integers(4, 6), **POINTS})
case("product_of_numbers", "MatMulInteger", {"x": integers(3, 4), "z": integers(4, 6)})
KERNELS = {"w": integers(4, 2, 3, 3), "xz": scalar(120, np.uint8), "wz": scalar(99, np.uint8)}
case("conv_of_integers", "ConvInteger", {"x": integers(2, 4, 5, 5), **KERNELS}, group=2, pads=[1, 1, 1, 1])
COLUMNS = {"w": integers(4, 6), "ws": positive(6) * 0.02, "wz": integers(6)}
case("qlinear_product", "QLinearMatMul", {"x": integers(3, 4), **READ, **COLUMNS, **WRITTEN})
WHOLE = {"w": integers(4, 6), "ws": scalar(0.02), "wz": scalar(128, np.uint8)}
case("qgemm", "QGemm", {"x": integers(3, 4), **READ, **WHOLE, "b": BIAS}, alpha=0.5, **OWN)
case("qgemm_rounded", "QGemm", {"x": integers(3, 4), **READ, **WHOLE, "": EMPTY, **WRITTEN}, **OWN)
for _kind in ("QLinearAdd", "QLinearMul"):
    case(_kind.lower(), _kind, {"x": integers(3, 4), **READ, **OTHER, **WRITTEN}, **OWN)
case("qlinear_concat", "QLinearConcat", {**WRITTEN, "x": integers(3, 4), **READ, **OTHER}, axis=1, **OWN)
for _kind in ("Sigmoid", "LeakyRelu"):
    case(f"qlinear_{_kind}", f"QLinear{_kind}", {"x": integers(3, 4), **READ, **WRITTEN}, **OWN)
case("qlinear_mean", "QLinearGlobalAveragePool", {"x": integers(2, 3, 4, 4), **READ, **WRITTEN}, **OWN)
case("qlinear_means", "QLinearAveragePool", {"x": integers(2, 3, 4, 4), **READ, **WRITTEN},
     kernel_shape=[2, 2], **OWN)  # fmt: skip
for _bits, _bytes in ((4, 16), (8, 32), (2, 8)):
    _packed = {"x": floats(3, 64), "w": integers(6, 2, _bytes, low=0, high=255), "ws": positive(6, 2) * 0.05}
    case(f"packed_{_bits}", "MatMulNBits", _packed, K=64, N=6, bits=_bits, block_size=32, **OWN)
case(
    "packed_with_zero_points", "MatMulNBits",
    {"x": floats(3, 60), "w": integers(6, 4, 8, low=0, high=255), "ws": positive(24) * 0.05,
     "points": integers(12, low=0, high=255), " ": EMPTY, "b": floats(6)},
    K=60, N=6, bits=4, block_size=16, **OWN,
)  # fmt: skip
PRODUCT = {"x": integers(3, 4), "w": integers(4, 6)}
SCALES = {"xs": scalar(0.02), "ws": positive(6) * 0.02, "xz": scalar(120, np.uint8), "wz": integers(6)}
case("product_of_integers_scaled", "MatMulIntegerToFloat", {**PRODUCT, **SCALES, "b": floats(6)}, **OWN)
case("product_of_integers_without_points", "MatMulIntegerToFloat",
     {**PRODUCT, "xs": scalar(0.02), "ws": scalar(0.03)}, **OWN)  # fmt: skip
RANGED = {"x": floats(3, 4), "w": integers(4, 6)}
case("product_of_ranges", "DynamicQuantizeMatMul",
     {**RANGED, "ws": positive(6) * 0.02, "wz": integers(6), "b": floats(6)}, **OWN)  # fmt: skip
case("product_of_ranges_alone", "DynamicQuantizeMatMul", {**RANGED, "ws": scalar(0.02)}, **OWN)
case("qlinear_softmax", "QLinearSoftmax",
     {"x": integers(3, 4), **READ, "ys": scalar(1 / 256), "yz": scalar(0, np.uint8)},
     opset=13, axis=-1, **OWN)  # fmt: skip
case("qlinear_where", "QLinearWhere",
     {"mask": integers(3, 4) > 128, "x": integers(3, 4), **READ, **OTHER, **WRITTEN}, **OWN)  # fmt: skip
for _name in ("of_onnxruntime", "each_of_onnxruntime"):
    _scale = {"ys": positive(4) * 0.05, "yz": integers(4)} if "each" in _name else WRITTEN
    case(f"quantised_{_name}", "QuantizeLinear", {"x": floats(3, 4), **_scale}, axis=1, **OWN)
    case(f"numbers_{_name}", "DequantizeLinear", {"x": integers(3, 4), **_scale}, axis=1, **OWN)

BLOCKS = {"ids": integers(2, 3, low=0, high=5, kind=np.int64), "ws": positive(6, 2) * 0.1}
case("rows_of_few_bits", "GatherBlockQuantized", {"t": integers(6, 16, low=0, high=255), **BLOCKS},
     block_size=16, bits=4, quantize_axis=1, **OWN)  # fmt: skip
case("rows_with_points", "GatherBlockQuantized",
     {"t": integers(6, 32), **BLOCKS, "points": integers(6, 2)}, block_size=16, bits=8, **OWN)  # fmt: skip
case(
    "rows_with_packed_points",
    "GatherBlockQuantized",
    {"t": integers(6, 16, low=0, high=255), **BLOCKS, "points": integers(6, 1)},
    block_size=16,
    bits=4,
    **OWN,
)
QUANTISED = {
    "x": integers(2, 4, 5),
    "w": integers(5, 18),
    "b": floats(18),
    "xs": scalar(0.02),
    "ws": scalar(0.02),
}
case(
    "projected_integers",
    "QAttention",
    {**QUANTISED, "": EMPTY, "xz": scalar(120, np.uint8), "wz": scalar(128, np.uint8)},
    num_heads=2,
    **OWN,
)
case("projected_integers_masked", "QAttention",
     {**QUANTISED, "mask": PADDED, "xz": scalar(120, np.uint8), "wz": scalar(128, np.uint8)},
     np.tile(HIDDEN, (1, 1, 4, 1)), num_heads=2, **OWN)  # fmt: skip
case("projected_integers_with_past", "QAttention",
     {**QUANTISED, "": EMPTY, "xz": scalar(120, np.uint8), "wz": scalar(128, np.uint8),
      "past": floats(2, 2, 2, 3, 3)}, results=("y", "present"), num_heads=2, **OWN)  # fmt: skip

for _name, _scales in (("each", (1, 24)), ("all", (1,))):
    case(f"recurrence_{_name}", "DynamicQuantizeLSTM",
         {"x": floats(4, 2, 5), "w": integers(1, 5, 24), "r": integers(1, 6, 24), "b": floats(1, 48) * 0.1,
          "": EMPTY, "h0": floats(1, 2, 6), "  ": EMPTY, "   ": EMPTY,
          "ws": np.full(_scales, 0.01, np.float32), "wz": np.full(_scales, 128, np.uint8),
          "rs": np.full(_scales, 0.01, np.float32), "rz": np.full(_scales, 125, np.uint8)},
         results=("y", "h", "c"), hidden_size=6, room=0.02, **OWN)  # fmt: skip

# --- operators of onnx under the name of onnxruntime -------------------------------------------------------

case("picked", "GatherND", {"x": floats(3, 4, 5), "at": integers(2, 2, low=0, high=3, kind=np.int64)}, **OWN)
case("sampled", "GridSample", {"x": floats(2, 3, 5, 6), "z": floats(2, 4, 3, 2)}, mode="bilinear", **OWN)
case("padded", "Pad", {"x": floats(2, 3), "pads": np.asarray([1, 0, 0, 2])}, mode="constant", **OWN)
case(
    "padded_with_a_number",
    "Pad",
    {"x": floats(2, 3), "pads": np.asarray([1, 0, -1, 2]), "v": scalar(3)},
    **OWN,
)
case("triangle", "Trilu", {"x": floats(2, 4, 4), "k": np.asarray(1)}, upper=0, **OWN)
case("pooled_channels_last", "NhwcMaxPool", {"x": integers(2, 6, 5, 4)}, kernel_shape=[2, 3], strides=[2, 1],
     pads=[0, 1, 1, 0], **OWN)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_definition_computes_what_the_runtime_does(name: str) -> None:
    kind, operands, given, how = CASES[name]
    present = {k: v for k, v in operands.items() if v is not EMPTY}
    feed = {k: v for k, v in present.items() if k in MOVING}
    results, room = how.get("results", ("y",)), how.get("room", 2e-5)
    how = {k: v for k, v in how.items() if k not in ("results", "room")}
    node = helper.make_node(kind, [k if k in present else "" for k in operands], results, **how)
    wanted = Session(network(node, present), optimize=False).run(feed)
    found = Session(spelled_out(node, present, given), optimize=False).run(feed)
    for result in filter(None, results):
        want, got = np.asarray(wanted[result], np.float64), np.asarray(found[result], np.float64)
        step = 1 if np.asarray(wanted[result]).dtype == np.uint8 else room * np.abs(want).max()
        assert want.shape == got.shape, result
        assert np.abs(got - want).max() <= step, result


NARROW = {"q": floats(2, 3, 16), "k": floats(2, 3, 8), "v": floats(2, 3, 8)}
UNDEFINED = {
    "angles_of_a_part": ("GroupQueryAttention", {**NARROW, "pk": EMPTY, "pv": EMPTY, **LENGTHS,
                         "cos": floats(8, 1), "sin": floats(8, 1)},
                         {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, **OWN}),
    "a_scale_of_zero": ("Attention", {n: floats(1, 2, 3, 4) for n in "qkv"}, {"scale": 0.0}),
    "masks_of_limited_scores": ("Attention", SQUARE, {"softcap": 2.0, "is_causal": 1}),
    "a_limit_below_zero": ("Attention", SQUARE, {"softcap": -2.0}),
}  # fmt: skip
"""Nodes that compute something other than the definition of their operator would."""


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_node_that_its_definition_does_not_cover_stays_as_it_is(name: str) -> None:
    kind, operands, how = UNDEFINED[name]
    present = {k: v for k, v in operands.items() if v is not EMPTY}
    node = helper.make_node(kind, [k if k in present else "" for k in operands], ["y"], **how)
    assert defined(Graph(network(node, present), "sparse"), node) is None


def test_names_of_parts_are_names_that_no_tensor_has() -> None:
    node = helper.make_node("BiasGelu", ["x", "b"], ["y"], domain=MICROSOFT)
    model = network(node, {"x": X, "b": BETA})
    taken = "part 1 of BiasGelu y"
    model.graph.node.insert(0, helper.make_node("Neg", ["x"], [taken]))
    found = defined(Graph(model, "sparse"), node)
    assert found is not None
    assert taken not in {o for part in found for o in part.output}


def test_every_definition_has_a_case() -> None:
    tried = {("" if "domain" not in how else MICROSOFT, kind) for kind, _, _, how in CASES.values()}
    own = {key for key in DEFINITIONS if key[0] == MICROSOFT and ("", key[1]) in tried}
    same = {
        (MICROSOFT, "TransposeMatMul"),
        (MICROSOFT, "SimplifiedLayerNormalization"),
        ("", "DequantizeLinear"),
    }
    elsewhere = {key for key, how in DEFINITIONS.items() if how.__module__ == known_elements.__name__}
    assert set(DEFINITIONS) - tried - own - same - elsewhere == set()
