"""Products with weights in terms of others: convolutions, matrix products, tables."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from spellings.speller import Speller, is_float, spelling


@spelling("Conv")
def conv_with_bias_apart(s: Speller, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3 or not node.input[2] or (rank := s.rank(node.input[0])) is None:
        return False
    bias, result = s.array(node.input[2]), node.output[0]
    if bias is None:
        return False
    del node.input[2]
    node.output[0] = s.fresh("conv")
    s.nodes.append(node)
    s.op("Add", node.output[0], s.const(bias.reshape(-1, *[1] * (rank - 2))), into=result)
    return True


@spelling("Conv")
def conv_with_pads_apart(s: Speller, node: onnx.NodeProto) -> bool:
    pads = s.attribute(node, "pads", None)
    if s.opset < 11 or not pads or not any(pads) or s.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    spatial = len(pads) // 2
    outer = [0, 0, *pads[:spatial], 0, 0, *pads[spatial:]]
    for attribute in list(node.attribute):
        if attribute.name == "pads":
            node.attribute.remove(attribute)
    node.input[0] = s.op("Pad", node.input[0], s.ints(*outer))
    s.nodes.append(node)
    return True


@spelling("Conv")
def conv_as_product_of_matrices(s: Speller, node: onnx.NodeProto) -> bool:
    """A 1×1 convolution as a product with the channels at the end."""
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or rank is None or weight.shape[2:] != (1,) * (rank - 2):
        return False
    plain = all(set(s.attribute(node, a, [1])) == {1} for a in ("strides", "dilations"))
    plain &= not any(s.attribute(node, "pads", [])) and s.attribute(node, "group", 1) == 1
    if not plain or s.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    last = s.op("Transpose", node.input[0], perm=[0, *range(2, rank), 1])
    y = s.op("MatMul", last, s.const(weight.reshape(weight.shape[:2]).T.copy()))
    if len(node.input) > 2 and node.input[2]:
        y = s.op("Add", y, node.input[2])
    s.op("Transpose", y, perm=[0, rank - 1, *range(1, rank - 1)], into=node.output[0])
    return True


@spelling("Conv")
def conv_of_one_axis_more(s: Speller, node: onnx.NodeProto) -> bool:
    """A convolution over a line as one over a picture of height 1."""
    weight = s.array(node.input[1])
    if weight is None or weight.ndim != 3 or s.opset < 13:
        return False
    if s.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    stride, dilation = (s.attribute(node, a, [1])[0] for a in ("strides", "dilations"))
    begin, end = s.attribute(node, "pads", [0, 0])
    wide = s.op("Unsqueeze", node.input[0], s.ints(2))
    inputs = [wide, s.const(weight[:, :, None, :].copy()), *node.input[2:]]
    y = s.op(
        "Conv",
        *inputs,
        group=s.attribute(node, "group", 1),
        strides=[1, stride],
        dilations=[1, dilation],
        pads=[0, begin, 0, end],
    )
    s.op("Squeeze", y, s.ints(2), into=node.output[0])
    return True


@spelling("Gemm")
def gemm_as_product_and_sum(s: Speller, node: onnx.NodeProto) -> bool:
    if s.attribute(node, "alpha", 1.0) != 1.0 or s.attribute(node, "beta", 1.0) != 1.0:
        return False
    a, b = node.input[:2]
    a = s.op("Transpose", a, perm=[1, 0]) if s.attribute(node, "transA", 0) else a
    b = s.op("Transpose", b, perm=[1, 0]) if s.attribute(node, "transB", 0) else b
    if len(node.input) > 2 and node.input[2]:
        s.op("Add", s.op("MatMul", a, b), node.input[2], into=node.output[0])
    else:
        s.op("MatMul", a, b, into=node.output[0])
    return True


@spelling("Gemm")
def gemm_as_convolution(s: Speller, node: onnx.NodeProto) -> bool:
    weight = s.array(node.input[1])
    plain = all(s.attribute(node, a, d) == d for a, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)))
    bias = s.array(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weight is None or not plain or bias is None or s.opset < 13:
        return False
    weight = weight if s.attribute(node, "transB", 0) else weight.T
    if len(node.input) > 2 and bias.shape != (len(weight),):
        return False
    wide = s.op("Unsqueeze", node.input[0], s.ints(2, 3))
    y = s.op("Conv", wide, s.const(weight[:, :, None, None].copy()), *node.input[2:])
    s.op("Squeeze", y, s.ints(2, 3), into=node.output[0])
    return True


@spelling("MatMul")
def matmul_as_einsum(s: Speller, node: onnx.NodeProto) -> bool:
    a, b = (s.rank(i) for i in node.input)
    if a is None or b is None or min(a, b) < 2 or s.opset < 12 or not is_float(s, node):
        return False
    other = "jk" if b == 2 else "...jk"
    s.op("Einsum", *node.input, equation=f"...ij,{other}->...ik", into=node.output[0])
    return True


@spelling("MatMul")
def matmul_transposed(s: Speller, node: onnx.NodeProto) -> bool:
    """``A·B = (Bᵀ·Aᵀ)ᵀ``."""
    ranks = [s.rank(i) for i in node.input]
    if None in ranks or min(r for r in ranks if r is not None) < 2:
        return False
    one, two = (
        s.op("Transpose", i, perm=[*range(r - 2), r - 1, r - 2])
        for i, r in zip(node.input, ranks, strict=True)
        if r is not None
    )
    last = max(r for r in ranks if r is not None)
    s.op(
        "Transpose",
        s.op("MatMul", two, one),
        perm=[*range(last - 2), last - 1, last - 2],
        into=node.output[0],
    )
    return True


@spelling("MatMul")
def matmul_of_rows(s: Speller, node: onnx.NodeProto) -> bool:
    """A product with a matrix, the other axes merged into one."""
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or weight.ndim != 2 or rank is None or rank < 3:
        return False
    flat = s.op("Reshape", node.input[0], s.ints(-1, weight.shape[0]))
    y = s.op("Gemm", flat, node.input[1])
    head = s.op("Slice", s.op("Shape", node.input[0]), s.ints(0), s.ints(-1))
    s.op("Reshape", y, s.op("Concat", head, s.ints(weight.shape[1]), axis=0), into=node.output[0])
    return True


@spelling("Conv")
def groups_apart(s: Speller, node: onnx.NodeProto) -> bool:
    """A convolution in groups as one for each group."""
    group, weight = s.attribute(node, "group", 1), s.array(node.input[1])
    bias = s.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weight is None or not 1 < group < 5 or (bias is None and len(node.input) > 2) or s.opset < 13:
        return False
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "group"}
    parts = [s.fresh("part") for _ in range(group)]
    lengths = s.ints(*[weight.shape[1]] * group)
    s.nodes.append(helper.make_node("Split", [node.input[0], lengths], parts, axis=1, name=parts[0]))
    made = []
    for part, w, b in zip(
        parts,
        np.split(weight, group),
        np.split(bias, group) if bias is not None else [None] * group,
        strict=True,
    ):
        more = [s.const(b.copy())] if b is not None else []
        made.append(s.op("Conv", part, s.const(w.copy()), *more, **given))
    s.op("Concat", *made, axis=1, into=node.output[0])
    return True


@spelling("MatMul")
def matmul_as_convolution(s: Speller, node: onnx.NodeProto) -> bool:
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or weight.ndim != 2 or rank != 3:
        return False
    x = s.op("Transpose", node.input[0], perm=[0, 2, 1])
    y = s.op("Conv", x, s.const(weight.T[:, :, None].copy()))
    s.op("Transpose", y, perm=[0, 2, 1], into=node.output[0])
    return True


@spelling("MatMul")
def matmul_as_broadcast_sum(s: Speller, node: onnx.NodeProto) -> bool:
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or weight.ndim != 2 or rank is None or weight.size > 4096 or s.opset < 13:
        return False
    product = s.op("Mul", s.op("Unsqueeze", node.input[0], s.ints(rank)), node.input[1])
    s.op("ReduceSum", product, s.ints(-2), keepdims=0, into=node.output[0])
    return True


@spelling("Gather")
def gather_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    """Rows of a table as the product with positions in the form of zeros and ones."""
    table = s.array(node.input[0])
    if table is None or table.ndim != 2 or table.dtype != np.float32 or s.attribute(node, "axis", 0) != 0:
        return False
    if (s.rank(node.input[1]) or 0) < 1:
        return False
    ones = s.op("OneHot", node.input[1], s.ints(len(table)), s.const(np.asarray([0, 1], np.float32)))
    s.op("MatMul", ones, node.input[0], into=node.output[0])
    return True
