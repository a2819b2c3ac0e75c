"""Reshapes, joins, slices and means in terms of others."""

from __future__ import annotations

import numpy as np
import onnx

from spellings.speller import Speller, is_float, spelling


@spelling("GlobalAveragePool")
def mean_of_pixels(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    if rank is None:
        return False
    axes = list(range(2, rank))
    if s.opset < 18:
        s.op("ReduceMean", node.input[0], axes=axes, keepdims=1, into=node.output[0])
    else:
        s.op("ReduceMean", node.input[0], s.ints(*axes), keepdims=1, into=node.output[0])
    return True


@spelling("GlobalAveragePool")
def mean_of_one_line(s: Speller, node: onnx.NodeProto) -> bool:
    """The pixels merged into one axis."""
    rank = s.rank(node.input[0])
    if rank is None or rank < 3:
        return False
    line = s.op("Reshape", node.input[0], s.ints(0, 0, -1))
    y = (
        s.op("ReduceMean", line, axes=[2], keepdims=1)
        if s.opset < 18
        else s.op("ReduceMean", line, s.ints(2), keepdims=1)
    )
    s.op("Reshape", y, s.ints(0, 0, *[1] * (rank - 2)), into=node.output[0])
    return True


@spelling("Flatten")
def flatten_as_reshape(s: Speller, node: onnx.NodeProto) -> bool:
    if s.attribute(node, "axis", 1) != 1:
        return False
    s.op("Reshape", node.input[0], s.ints(0, -1), into=node.output[0])
    return True


@spelling("Flatten")
def flatten_by_sizes(s: Speller, node: onnx.NodeProto) -> bool:
    if s.attribute(node, "axis", 1) != 1:
        return False
    batch = s.op("Gather", s.op("Shape", node.input[0]), s.ints(0), axis=0)
    s.op("Reshape", node.input[0], s.op("Concat", batch, s.ints(-1), axis=0), into=node.output[0])
    return True


@spelling("Concat")
def concat_in_two_steps(s: Speller, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3:
        return False
    axis = s.attribute(node, "axis", 0)
    first = s.op("Concat", *node.input[:2], axis=axis)
    s.op("Concat", first, *node.input[2:], axis=axis, into=node.output[0])
    return True


@spelling("Concat")
def concat_as_sum(s: Speller, node: onnx.NodeProto) -> bool:
    """Two parts, each padded with zeros to the whole."""
    rank = s.rank(node.output[0])
    if len(node.input) != 2 or rank is None or not is_float(s, node):
        return False
    axis = s.attribute(node, "axis", 0) % rank
    sizes = [s.size(i, axis) for i in node.input]
    if None in sizes:
        return False
    parts = []
    for place, name in enumerate(node.input):
        pads = [0] * (2 * rank)
        pads[axis + (0 if place else rank)] = sizes[1 - place]  # type: ignore[call-overload]
        parts.append(s.op("Pad", name, s.ints(*pads)))
    s.op("Add", *parts, into=node.output[0])
    return True


@spelling("Split")
def split_as_slices(s: Speller, node: onnx.NodeProto) -> bool:
    axis = s.attribute(node, "axis", 0)
    sizes = [s.size(o, axis) for o in node.output]
    if None in sizes:
        return False
    ends = np.cumsum([size for size in sizes if size is not None])
    for size, end, result in zip(sizes, ends, node.output, strict=True):
        begin = int(end) - (size or 0)
        s.op("Slice", node.input[0], s.ints(begin), s.ints(int(end)), s.ints(axis), into=result)
    return True


@spelling("Split")
def split_as_gathers(s: Speller, node: onnx.NodeProto) -> bool:
    axis = s.attribute(node, "axis", 0)
    sizes = [s.size(o, axis) for o in node.output]
    if None in sizes:
        return False
    begin = 0
    for size, result in zip(sizes, node.output, strict=True):
        s.op("Gather", node.input[0], s.ints(*range(begin, begin + (size or 0))), axis=axis, into=result)
        begin += size or 0
    return True


@spelling("ReduceMean")
def mean_as_quotient(s: Speller, node: onnx.NodeProto) -> bool:
    """The sum over the size, which is computed."""
    x, rank = node.input[0], s.rank(node.input[0])
    axes = s.attribute(node, "axes", None)
    if axes is None and len(node.input) > 1:
        found = s.array(node.input[1])
        axes = None if found is None else found.tolist()
    if axes is None or len(axes) != 1 or rank is None or s.opset < 13 or not is_float(s, node):
        return False
    size = s.op("Cast", s.op("Gather", s.op("Shape", x), s.const(np.asarray(axes[0] % rank))), to=1)
    total = s.op("ReduceSum", x, s.ints(*axes), keepdims=s.attribute(node, "keepdims", 1))
    s.op("Div", total, size, into=node.output[0])
    return True


@spelling("Slice")
def slice_as_gather(s: Speller, node: onnx.NodeProto) -> bool:
    values = [s.array(i) for i in node.input[1:]]
    rank = s.rank(node.input[0])
    if len(values) < 3 or any(v is None or v.size != 1 for v in values) or rank is None:
        return False
    begin, end, axis, *steps = (int(v.item()) for v in values if v is not None)
    size = s.size(node.input[0], axis)
    if size is None:
        return False
    chosen = range(size)[slice(begin, end, steps[0] if steps else 1)]
    if not chosen:
        return False
    s.op("Gather", node.input[0], s.ints(*chosen), axis=axis, into=node.output[0])
    return True


@spelling("Transpose")
def transposed_in_two_steps(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    order = s.attribute(node, "perm", None)
    if rank is None or order is None:
        return False
    first = s.random.permutation(rank)
    second = [first.tolist().index(axis) for axis in order]
    s.op("Transpose", s.op("Transpose", node.input[0], perm=first.tolist()), perm=second, into=node.output[0])
    return True


@spelling("DepthToSpace")
def pixels_shuffled(s: Speller, node: onnx.NodeProto) -> bool:
    block, x = s.attribute(node, "blocksize", 1), node.input[0]
    channels = s.size(x, 1)
    if channels is None:
        return False
    first = s.attribute(node, "mode", b"DCR") == b"DCR"
    left = channels // block**2
    shape = s.op("Shape", x)
    n, h, w = (s.op("Gather", shape, s.ints(k), axis=0) for k in (0, 2, 3))
    parts = [s.ints(block, block, left) if first else s.ints(left, block, block)]
    y = s.op("Reshape", x, s.op("Concat", n, *parts, h, w, axis=0))
    y = s.op("Transpose", y, perm=[0, 3, 4, 1, 5, 2] if first else [0, 1, 4, 2, 5, 3])
    wide = [s.op("Mul", side, s.ints(block)) for side in (h, w)]
    s.op("Reshape", y, s.op("Concat", n, s.ints(left), *wide, axis=0), into=node.output[0])
    return True
