"""Examples of single operators in which every axis has several elements, operators of onnxruntime included.

onnx's examples have one picture, one direction, one group; and operators of other domains have none. The
networks that `single_nodes` makes of these show that a rule lines up those axes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.ops.spec import MICROSOFT
from onnxprune.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
Operands = Mapping[str, Array]


@dataclass(frozen=True)
class Example:
    """An operator with operands and results.

    Attributes:
        name: The name of the example.
        model: The node, its operands as inputs.
        data_sets: Values of operands and results, once.
        plain: Operands that are constants of the network rather than sums of weights.
        quantised: Scale and zero point of operands and results that are integers and stand for floats.
    """

    name: str
    model: onnx.ModelProto
    data_sets: Sequence[tuple[Sequence[Array], Sequence[Array]]]
    plain: frozenset[str] = frozenset()
    quantised: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def floats(*shape: int, low: float = 0.2, high: float = 1.0) -> Array:
    random = np.random.default_rng(sum(shape))
    return (random.uniform(low, high, shape) * random.choice([-1, 1], shape)).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(floats(*shape))


def integers(*shape: int, low: int = 90, high: int = 170, kind: type = np.uint8) -> Array:
    return np.random.default_rng(sum(shape)).integers(low, high, shape).astype(kind)


def scalar(value: float, kind: type = np.float32) -> Array:
    return np.asarray(value, kind)


EMPTY = np.zeros(0, np.float32)
"""An operand that is left out."""


def example(
    name: str,
    kind: str,
    operands: Operands,
    *,
    results: Sequence[str] = ("y0",),
    shapes: Sequence[Sequence[int]] = (),
    domain: str = "",
    plain: Sequence[str] = (),
    quantised: Mapping[str, tuple[float, int]] | None = None,
    **attributes: Any,
) -> Example:
    """Build an example.

    Args:
        name: The name of the example.
        kind: The operator.
        operands: Operands by name, ``EMPTY`` where one is left out.
        results: Results by name; "" is left out, nothing reads "unread".
        shapes: Shapes of the results, where the runtime cannot run the operator.
        domain: The domain of the operator.
        plain: Operands that are constants of the network.
        quantised: Scale and zero point of operands and results that are integers and stand for floats.
        **attributes: Attributes of the node.
    """
    given = {k: v for k, v in operands.items() if v is not EMPTY}
    made = [name for name in results if name not in ("", "unread")]
    names = [k if k in given else "" for k in operands]
    node = helper.make_node(kind, names, results, domain=domain, **attributes)
    inputs = [onnx.ValueInfoProto(name=k, type=_type(v)) for k, v in given.items()]
    imports = [helper.make_opsetid("", 23 if kind == "Attention" and not domain else 21)]
    imports += [helper.make_opsetid(domain, 1)] * bool(domain)
    graph = helper.make_graph([node], "example", inputs, [onnx.ValueInfoProto(name=o) for o in made])
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    found = [np.zeros(s, np.float32) for s in shapes] or _run(model, given, made)
    for info, value in zip(model.graph.output, found, strict=True):
        info.type.CopyFrom(_type(value))
    return Example(name, model, [(list(given.values()), found)], frozenset(plain), quantised or {})


def _type(value: Array) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _run(model: onnx.ModelProto, given: Operands, made: Sequence[str]) -> list[Array]:
    """Run the node with its operands as initializers, which some operators insist on."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.input[:]
    whole.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in given.items())
    found = Session(whole, optimize=False).run({})
    return [np.asarray(found[o]) for o in made]


TWO, THREE = ("y0", "y1"), ("y0", "y1", "y2")
WIDE: dict[str, Callable[[], Example]] = {}


def wide(name: str, kind: str, operands: Operands, **how: Any) -> None:
    """Enter an example, which is run at its first use."""
    assert name not in WIDE
    WIDE[name] = cache(lambda: example(name, kind, operands, **how))


# --- attention ---------------------------------------------------------------------------------------------

wide(
    "attention_3d", "Attention",
    {"q": floats(2, 4, 12), "k": floats(2, 6, 6), "v": floats(2, 6, 10), "mask": floats(2, 4, 4, 9),
     "past_k": floats(2, 2, 3, 3), "past_v": floats(2, 2, 3, 5)},
    results=THREE, q_num_heads=4, kv_num_heads=2,
)  # fmt: skip
wide(
    "multi_head_attention", "MultiHeadAttention",
    {"q": floats(2, 4, 6), "k": floats(2, 5, 6), "v": floats(2, 5, 8), "b": floats(20), "": EMPTY,
     "scores": floats(2, 2, 4, 5)},
    domain=MICROSOFT, plain=["b"], num_heads=2,
)  # fmt: skip
wide(
    "group_query_attention", "GroupQueryAttention",
    {"q": floats(2, 4, 32), "k": floats(2, 4, 16), "v": floats(2, 4, 16), "pk": EMPTY, "pv": EMPTY,
     "lengths": np.full(2, 3, np.int32), "total": scalar(4, np.int32)},
    results=THREE, domain=MICROSOFT, num_heads=4, kv_num_heads=2,
)  # fmt: skip
wide(
    "attention_with_projections", "Attention",
    {"x": floats(2, 4, 5), "w": floats(5, 18), "b": floats(18), "mask": EMPTY, "past": floats(2, 2, 2, 3, 3)},
    results=TWO, domain=MICROSOFT, plain=["b"], num_heads=2,
)  # fmt: skip
wide(
    "quantised_attention", "QAttention",
    {"x": integers(2, 4, 5), "w": integers(5, 18), "b": floats(18), "xs": scalar(0.02), "ws": scalar(0.02),
     "mask": EMPTY, "xz": scalar(128, np.uint8), "wz": scalar(128, np.uint8)},
    domain=MICROSOFT, plain=["b"], quantised={"x": (0.02, 128)}, num_heads=2,
)  # fmt: skip
wide(
    "partly_turned", "RotaryEmbedding",
    {"x": floats(2, 4, 16), "at": np.tile(np.arange(4), (2, 1)), "cos": floats(5, 2), "sin": floats(5, 2)},
    domain=MICROSOFT, num_heads=2, rotary_embedding_dim=4,
)  # fmt: skip

# --- convolutions, pooling, pixels -------------------------------------------------------------------------

wide(
    "transposed", "ConvTranspose", {"x": floats(2, 4, 3, 3), "w": floats(4, 3, 2, 2), "b": floats(6)}, group=2
)
wide(
    "deformed", "DeformConv",
    {"x": floats(2, 4, 5, 5), "w": floats(4, 2, 3, 3), "o": floats(2, 18, 3, 3), "b": floats(4),
     "m": positive(2, 9, 3, 3)},
    group=2,
)  # fmt: skip
wide("columns", "Col2Im", {"x": floats(2, 12, 5), "size": np.array([5, 2]), "block": np.array([1, 2])})
wide("depth_first", "DepthToSpace", {"x": floats(2, 8, 3, 3)}, blocksize=2, mode="DCR")
wide("columns_first", "DepthToSpace", {"x": floats(2, 8, 3, 3)}, blocksize=2, mode="CRD")
wide("average", "AveragePool", {"x": floats(2, 3, 4, 4)}, kernel_shape=[2, 2])
wide("largest", "MaxPool", {"x": floats(2, 3, 4, 4)}, kernel_shape=[2, 2])
wide("sampled", "GridSample", {"x": floats(2, 3, 4, 4), "grid": floats(2, 3, 3, 2)})

# --- integers ----------------------------------------------------------------------------------------------

INTEGERS = {"x": (0.02, 128)}
BOTH = {**INTEGERS, "y0": (0.02, 128)}
READ = {"xs": scalar(0.02), "xz": scalar(128, np.uint8)}
WRITTEN = {"ys": scalar(0.02), "yz": scalar(128, np.uint8)}
wide(
    "integer_conv", "ConvInteger",
    {"x": integers(2, 4, 5, 5), "w": integers(4, 2, 3, 3), "xz": scalar(128, np.uint8),
     "wz": scalar(128, np.uint8)},
    quantised=INTEGERS, group=2,
)  # fmt: skip


def _qlinear(scales: int, *shape: int, **how: Any) -> None:
    """A quantised convolution with one scale, or one for each filter."""
    vector = (scales,) if scales else ()
    wide(
        f"qlinear_conv{'_each' * bool(scales)}{'_last' * ('domain' in how)}", "QLinearConv",
        {"x": integers(*shape), "xs": scalar(0.02), "xz": scalar(128, np.uint8),
         "w": integers(4, 2, 3, 3, low=-40, high=40, kind=np.int8), "ws": np.full(vector, 0.02, np.float32),
         "wz": np.zeros(vector, np.int8), "ys": scalar(0.02), "yz": scalar(128, np.uint8),
         "b": integers(4, low=100, high=900, kind=np.int32)},
        quantised=BOTH, group=2, **how,
    )  # fmt: skip


_qlinear(0, 2, 4, 5, 5)
_qlinear(4, 2, 4, 5, 5)
_qlinear(4, 2, 5, 5, 4, domain=MICROSOFT, channels_last=1)
wide(
    "largest_last",
    "NhwcMaxPool",
    {"x": integers(2, 4, 4, 3)},
    quantised=BOTH,
    domain=MICROSOFT,
    kernel_shape=[2, 2],
)
wide(
    "integer_product", "MatMulIntegerToFloat",
    {"x": integers(3, 4), "w": integers(4, 6), "xs": scalar(0.02), "ws": scalar(0.02),
     "xz": scalar(128, np.uint8), "wz": scalar(128, np.uint8), "b": floats(6)},
    quantised=INTEGERS, domain=MICROSOFT, plain=["b"],
)  # fmt: skip
wide(
    "qgemm", "QGemm",
    {"x": integers(3, 4), "xs": scalar(0.02), "xz": scalar(128, np.uint8), "w": integers(4, 6), "ws":
     scalar(0.02), "wz": scalar(128, np.uint8), "b": integers(6, low=100, high=900, kind=np.int32)},
    quantised=INTEGERS, domain=MICROSOFT,
)  # fmt: skip

PAIR = {"x": integers(3, 4), **READ, "z": integers(3, 4), "zs": scalar(0.03), "zz": scalar(128, np.uint8)}
PAIRED = {**BOTH, "z": (0.03, 128)}
for _kind in ("QLinearAdd", "QLinearMul"):
    wide(_kind.lower(), _kind, PAIR | WRITTEN, quantised=PAIRED, domain=MICROSOFT)
wide("qlinearconcat", "QLinearConcat", WRITTEN | PAIR, quantised=PAIRED, domain=MICROSOFT, axis=1)
wide(
    "qlinearwhere", "QLinearWhere", {"chosen": np.arange(4) % 2 == 0, **PAIR, **WRITTEN},
    quantised=PAIRED, domain=MICROSOFT,
)  # fmt: skip
wide(
    "qlinearaverage", "QLinearGlobalAveragePool", {"x": integers(2, 3, 4, 4), **READ, **WRITTEN},
    quantised=BOTH, domain=MICROSOFT,
)  # fmt: skip
wide(
    "qlinearleakyrelu", "QLinearLeakyRelu", {"x": integers(3, 4), **READ, **WRITTEN},
    quantised=BOTH, domain=MICROSOFT,
)  # fmt: skip
wide(
    "qlinearmatmul", "QLinearMatMul",
    {"x": integers(3, 4), **READ, "w": integers(4, 6), "ws": scalar(0.02),
     "wz": scalar(128, np.uint8), **WRITTEN},
    quantised=BOTH,
)  # fmt: skip
wide(
    "ranged_product", "DynamicQuantizeMatMul",
    {"x": floats(3, 4), "w": integers(4, 6), "ws": scalar(0.02), "wz": scalar(128, np.uint8), "b": floats(6)},
    domain=MICROSOFT, plain=["b"],
)  # fmt: skip
wide(
    "packed_product", "MatMulNBits",
    {"x": floats(3, 64), "w": integers(6, 2, 16, low=0, high=255), "ws": positive(6, 2) * 0.05},
    domain=MICROSOFT, plain=["ws"], K=64, N=6, bits=4, block_size=32,
)  # fmt: skip
wide(
    "picked_rows", "GatherBlockQuantized",
    {"table": integers(7, 32, low=0, high=255), "ids": np.array([[0, 3], [6, 2]]),
     "ws": positive(7, 2) * 0.05},
    domain=MICROSOFT, bits=8, block_size=16, gather_axis=0, quantize_axis=1,
)  # fmt: skip

# --- recurrence --------------------------------------------------------------------------------------------


def _recurrent(kind: str, gates: int, states: int, *, layout: int = 0) -> None:
    """Three steps of two sequences in both directions, states given."""
    x = floats(2, 3, 4) if layout else floats(3, 2, 4)
    operands = {
        "x": x, "w": floats(2, gates * 3, 4), "r": floats(2, gates * 3, 3), "b": floats(2, gates * 6),
        "lengths": np.array([3, 2], np.int32), "h": floats(2, 2, 3),
    }  # fmt: skip
    if states == 2:
        operands |= {"c": floats(2, 2, 3) * 0.5, "p": floats(2, 9)}
    shapes = [[2, 3, 2, 3], *[[2, 2, 3]] * states] if layout else []
    how = {"shapes": shapes, "results": THREE[: 1 + states]}
    wide(f"{kind.lower()}_both_ways{'_batch_first' * layout}", kind, operands, **how,
         direction="bidirectional", hidden_size=3, layout=layout)  # fmt: skip


_recurrent("RNN", 1, 1)
_recurrent("GRU", 3, 1)
_recurrent("LSTM", 4, 2)
_recurrent("LSTM", 4, 2, layout=1)

# --- normalisation, products -------------------------------------------------------------------------------

wide(
    "embedded", "EmbedLayerNormalization",
    {"ids": integers(2, 4, low=0, high=7, kind=np.int32), "segments":
     integers(2, 4, low=0, high=3, kind=np.int32),
     "words": floats(7, 6), "at": floats(5, 6), "kinds": floats(3, 6), "gamma": positive(6), "beta":
     floats(6), "mask": np.ones((2, 4), np.int32)},
    results=TWO, domain=MICROSOFT, plain=["words", "at", "kinds", "beta"],
)  # fmt: skip
wide(
    "skipped", "SkipLayerNormalization",
    {"x": floats(2, 3, 6), "skip": floats(2, 3, 6), "gamma": positive(6), "beta": floats(6), "b": floats(6)},
    domain=MICROSOFT, plain=["gamma", "beta", "b"],
)  # fmt: skip
wide(
    "skipped_rms", "SkipSimplifiedLayerNormalization",
    {"x": floats(2, 3, 6), "skip": floats(2, 3, 6), "gamma": positive(6), "b": floats(6)},
    results=["y0", "", "", "y3"], domain=MICROSOFT, plain=["gamma", "b"],
)  # fmt: skip
wide("fused_product", "FusedMatMul", {"x": floats(3, 4), "w": floats(4, 6)}, domain=MICROSOFT, plain=["w"])
wide("quotient", "Div", {"a": floats(3, 4), "x": positive(3, 4)}, plain=["a"])
for _kind in ("Floor", "Round", "ThresholdedRelu", "Shrink"):
    wide(_kind.lower(), _kind, {"x": floats(3, 4, low=2.6, high=4.4)})
wide("largest_of_rows", "TopK", {"x": floats(3, 4), "k": np.array([2])}, results=["y0", "unread"], axis=1)
wide("triangle", "Trilu", {"x": floats(2, 3, 4)})
wide("zeroth_power", "Pow", {"x": positive(3, 4), "exponent": scalar(0.0)})
wide(
    "simplified",
    "SimplifiedLayerNormalization",
    {"x": floats(2, 3, 6), "gamma": positive(6)},
    plain=["gamma"],
)
wide(
    "attention_of_widths", "Attention",
    {"x": floats(2, 4, 5), "w": floats(5, 20), "b": floats(20)},
    domain=MICROSOFT, plain=["b"], num_heads=2, qkv_hidden_sizes=[6, 6, 8],
)  # fmt: skip
wide(
    "attention_of_equal_widths", "Attention",
    {"x": floats(2, 4, 5), "w": floats(5, 18), "b": floats(18), "mask": EMPTY, "past": floats(2, 2, 2, 3, 3)},
    results=TWO, domain=MICROSOFT, plain=["b"], num_heads=2, qkv_hidden_sizes=[6, 6, 6],
)  # fmt: skip
