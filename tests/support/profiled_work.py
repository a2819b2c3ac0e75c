"""The multiply-accumulates of a run, counted from the shapes that onnxruntime's profiler notes.

The count is independent of the package: each kernel that ran is in the profile with the shapes of its
operands and results, those in bodies once a turn.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

Shape = tuple[int, ...]


def profiled_work(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Counter[str]:
    """Return the multiply-accumulates of one run, by the name of the node.

    Args:
        proto: The model.
        feeds: An array for every input.
    """
    named = onnx.ModelProto()
    named.CopyFrom(proto)
    nodes: dict[str, onnx.NodeProto] = {}
    constants: dict[str, Shape] = {}
    _enter(named.graph, nodes, constants)
    found: Counter[str] = Counter()
    for event in _events(named, feeds):
        node = nodes.get(event["name"].removesuffix("_kernel_time"))
        if node is not None and node.op_type not in ("If", "Loop", "Scan"):
            read, made = (_shapes(event["args"][f"{k}_type_shape"]) for k in ("input", "output"))
            found[node.name] += work_of(node, _operands(node, read, constants), made)
    return +found


def _enter(graph: onnx.GraphProto, nodes: dict[str, onnx.NodeProto], constants: dict[str, Shape]) -> None:
    """Give each node, those of bodies too, a name of its own, and note the shapes of constants."""
    constants |= {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = next(
                (tuple(a.t.dims) for a in node.attribute if a.name == "value"), ()
            )
        node.name = f"node{len(nodes)}"
        nodes[node.name] = node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _enter(attribute.g, nodes, constants)


def _events(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.log_severity_level = True, 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]


def _operands(
    node: onnx.NodeProto, read: Sequence[Shape], constants: Mapping[str, Shape]
) -> dict[int, Shape]:
    """Return the shapes of operands by their places: of constants that were packed the profile has none."""
    given = [k for k, name in enumerate(node.input) if name]
    if len(read) < len(given):
        given = [k for k in given if node.input[k] not in constants]
    known = {k: constants[name] for k, name in enumerate(node.input) if name in constants}
    return dict(zip(given, read, strict=False)) | known


def _shapes(listed: Sequence[Mapping[str, Sequence[int]]]) -> list[Shape]:
    """Return the shapes in a profile; those of operands that are left out are missing there."""
    return [tuple(shape) for entry in listed for shape in entry.values()]


@dataclass(frozen=True)
class Kernel:
    """A kernel that has run.

    Attributes:
        node: The node.
        read: The shapes of the operands that are given, by their places.
        made: The shapes of the results.
        given: The attributes.
    """

    node: onnx.NodeProto
    read: Mapping[int, Shape]
    made: Sequence[Shape]
    given: Mapping[str, Any]

    def operand(self, place: int) -> Shape:
        """Return the shape of an operand, ``()`` for one that is left out."""
        return self.read.get(place, ())


def work_of(node: onnx.NodeProto, read: Mapping[int, Shape], made: Sequence[Shape]) -> int:
    """Return the multiply-accumulates of a kernel, 0 for operators that do not multiply matrices."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    formula = FORMULAS.get(node.op_type)
    return formula(Kernel(node, read, made, given)) if formula else 0


def _convolution(k: Kernel) -> int:
    weight = k.operand(3 if k.node.op_type == "QLinearConv" else 1)
    return math.prod(k.made[0]) * math.prod(weight[1:])


def _transposed_convolution(k: Kernel) -> int:
    return math.prod(k.operand(0)) * math.prod(k.operand(1)[1:])


def _product(k: Kernel) -> int:
    turned = k.given.get("transA")
    return math.prod(k.made[0]) * k.operand(0)[-2 if turned else -1]


def _packed_product(k: Kernel) -> int:
    return math.prod(k.operand(0)[:-1]) * k.given["K"] * k.given["N"]


def _recurrence(k: Kernel) -> int:
    steps, samples = k.operand(0)[1::-1] if k.given.get("layout") else k.operand(0)[:2]
    directions = 2 if k.given.get("direction") == b"bidirectional" else 1
    gates, hidden = {"GRU": 3, "RNN": 1}.get(k.node.op_type, 4), k.given["hidden_size"]
    return steps * samples * directions * gates * hidden * (k.operand(0)[-1] + hidden)


def _experts(k: Kernel) -> int:
    rows = math.prod(k.operand(0)[:-1]) * k.given.get("k", 1)
    return rows * sum(math.prod(k.operand(layer)[1:]) for layer in (2, 4, 6) if k.operand(layer))


def _einsum(k: Kernel) -> int:
    """Return the product of all sizes, for each product of two operands."""
    equation, read = k.given["equation"].decode(), [k.read[place] for place in sorted(k.read)]
    if len(read) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), read, strict=True):
        letters, size = term.replace("...", "."), list(shape)
        if "." in letters:
            at, extra = letters.index("."), len(shape) - (len(letters) - 1)
            letters = letters[:at] + "".join(map(str, range(9, 9 - extra, -1)))[::-1] + letters[at + 1 :]
        sizes |= {s: max(n, sizes.get(s, 1)) for s, n in zip(letters, size, strict=True)}
    return math.prod(sizes.values()) * (len(read) - 1)


def _attention(k: Kernel) -> int:
    """Return the products of queries and keys, of scores and values, and of the projections inside."""
    node, given, operand, made = k.node, k.given, k.operand, k.made
    query, key = operand(0), operand(1)
    if node.op_type == "Attention" and node.domain:  # data, weights of three projections
        samples, rows, width = query
        past = operand(4)[3] if operand(4) else 0
        inner = made[0][-1]
        keys = key[1] - inner
        return samples * rows * width * key[1] + samples * rows * (rows + past) * (keys // 2 + inner)
    if node.op_type == "Attention" and len(query) == 4:
        total = key[2] + (operand(4)[2] if operand(4) else 0)
        return query[0] * query[1] * query[2] * total * (query[3] + operand(2)[3])
    heads = given.get("q_num_heads") or given["num_heads"]
    groups = given.get("kv_num_heads") or heads
    samples, rows = query[:2]
    past = operand({"Attention": 4, "MultiHeadAttention": 6}.get(node.op_type, 3))
    if node.op_type == "GroupQueryAttention":
        width = past[3] if past else query[2] // (heads if key else heads + 2 * groups)
        total = made[1][2] if len(made) > 1 else rows
        return samples * heads * rows * total * 2 * width
    if len(query) == 5:  # n t g 3 k
        return samples * query[2] * rows * rows * 2 * query[4]
    if len(key) == 5:  # n s g 2 k
        return samples * heads * rows * key[1] * 2 * key[4]
    value = operand(2)
    length = key[1] if len(key) == 3 else key[2]
    widths = query[2] // heads + (value[3] if len(value) == 4 else value[2] // groups)
    total = length + (past[2] if past and len(key) == 3 else 0)
    return samples * heads * rows * total * widths


_PRODUCTS = (
    "DynamicQuantizeMatMul FusedMatMul Gemm MatMul MatMulInteger MatMulIntegerToFloat QGemm QLinearMatMul"
    " TransposeMatMul"
)
FORMULAS: dict[str, Callable[[Kernel], int]] = {
    **dict.fromkeys("Conv ConvInteger DeformConv FusedConv QLinearConv".split(), _convolution),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(_PRODUCTS.split(), _product),
    "MatMulNBits": _packed_product,
    **dict.fromkeys("DynamicQuantizeLSTM GRU LSTM RNN".split(), _recurrence),
    "Einsum": _einsum,
    "MoE": _experts,
    **dict.fromkeys("Attention GroupQueryAttention MultiHeadAttention".split(), _attention),
}
"""The operands of each operator that multiplies matrices."""
