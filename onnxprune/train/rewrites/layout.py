"""Operators that move data, rewritten where their gradients are wrong or missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, Untrainable, optional_input, rank_of, sizes_of, values_of
from onnxprune.train.rewrites.registry import rewrites


@rewrites("Split")
def split(node: gs.Node, emit: Emitter) -> Any:
    """With an unread output the gradient is wrong: each of the others becomes a Slice instead."""
    used = [bool(output.outputs) or any(output is o for o in emit.graph.outputs) for output in node.outputs]
    if all(used):
        return None
    x, axis = node.inputs[0], node.attrs.get("axis", 0)
    ends = np.cumsum(_split_sizes(node, x, axis % rank_of(x))).tolist()
    return [
        emit("Slice", x, emit.ints([begin]), emit.ints([end]), emit.ints([axis])) if is_used else x
        for begin, end, is_used in zip([0, *ends[:-1]], ends, used, strict=True)
    ]


def _split_sizes(node: gs.Node, x: gs.Tensor, axis: int) -> list[int]:
    """Sizes as given, or equal ones with a smaller last."""
    given = optional_input(node, 1)
    if given is not None:
        return [int(part) for part in values_of(given)]
    parts, size = len(node.outputs), sizes_of(x, axis)[0]
    chunk = -(-size // parts)
    return [min(chunk, size - index * chunk) for index in range(parts)]


@rewrites("Slice")
def slices(node: gs.Node, emit: Emitter) -> Any:
    """The gradient of steps back along several axes, or to far beyond the end, fails: gather the elements."""
    x, starts, ends = node.inputs[:3]
    steps = optional_input(node, 4)
    if steps is None or not isinstance(steps, gs.Constant) or (values_of(steps) > 0).all():
        return None
    axes = optional_input(node, 3)
    along = range(len(values_of(steps))) if axes is None else values_of(axes).tolist()
    sizes = x.shape
    bounds = zip(*(values_of(each).tolist() for each in (starts, ends, steps)), strict=True)
    for axis, (begin, end, step) in zip(along, bounds, strict=True):
        size = sizes[axis] if sizes is not None else None
        if not isinstance(size, int):
            raise Untrainable("it goes back along an axis whose size is not known")
        picked = emit.ints(list(range(size))[begin:end:step])
        x = emit("Gather", x, picked, axis=axis)
    return x


@rewrites("Where")
def where(node: gs.Node, emit: Emitter) -> Any:
    """The gradient of a broadcast branch is not summed back: broadcast it with Expand before."""
    condition, *branches = node.inputs
    result = node.outputs[0]
    if result.dtype is not None and np.dtype(result.dtype).kind != "f":
        return None
    if all(branch.shape is not None and branch.shape == result.shape for branch in branches):
        return None
    shape = emit("Shape", emit("Where", condition, *branches))
    return emit("Where", condition, *(emit("Expand", branch, shape) for branch in branches))


@rewrites("Transpose", form=True)
def transpose(node: gs.Node, emit: Emitter) -> None:
    """Spell out the default permutation, the axes in reverse."""
    if "perm" not in node.attrs:
        node.attrs["perm"] = list(range(rank_of(node.inputs[0])))[::-1]


@rewrites("Pad", form=True)
def pad(node: gs.Node, emit: Emitter) -> Any:
    """Only the constant mode over all axes has a gradient: gather the others from their own indices."""
    x = node.inputs[0]
    mode = node.attrs.get("mode", "constant")
    given = optional_input(node, 3)
    if mode == "constant" and given is None:
        return None
    rank = rank_of(x)
    axes = [int(axis) % rank for axis in (range(rank) if given is None else values_of(given))]
    pads = values_of(node.inputs[1]).tolist()
    amounts = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if mode == "constant":
        everywhere = [amounts.get(axis, (0, 0)) for axis in range(rank)]
        full = emit.ints([begin for begin, _ in everywhere] + [end for _, end in everywhere])
        value = optional_input(node, 2)
        return emit("Pad", x, full) if value is None else emit("Pad", x, full, value)
    return _pad_by_gathering(x, emit, amounts, mode)


def _pad_by_gathering(x: gs.Tensor, emit: Emitter, amounts: dict[int, tuple[int, int]], mode: str) -> Any:
    sizes = sizes_of(x, 1)
    for axis, (begin, end) in amounts.items():
        if not (begin or end):
            continue
        if axis == 0:
            raise Untrainable("it pads the batch")
        size = sizes[axis - 1]
        indices = np.arange(size)[max(-begin, 0) : size - max(-end, 0)]
        padding = (max(begin, 0), max(end, 0))
        x = emit("Gather", x, emit.ints(np.pad(indices, padding, mode=_NUMPY_MODE[mode]).tolist()), axis=axis)
    return x


_NUMPY_MODE: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@rewrites("CastLike")
def cast_like(node: gs.Node, emit: Emitter) -> Any:
    """Floats all have 32 bits here, so that a cast between equal types is the identity."""
    given, like = (tensor.dtype for tensor in node.inputs)
    if given is None or like is None or np.dtype(given) != np.dtype(like):
        return None
    return emit("Identity", node.inputs[0])


@rewrites("ReverseSequence")
def reverse_sequence(node: gs.Node, emit: Emitter) -> Any:
    """Turn an axis around, if all of it is."""
    x, axis = node.inputs[0], node.attrs.get("time_axis", 0)
    size = x.shape[axis] if x.shape is not None else None
    if not isinstance(size, int) or not (values_of(node.inputs[1]) == size).all():
        raise Untrainable("its sequences differ in length")
    return emit("Gather", x, emit.ints(list(range(size))[::-1]), axis=axis)


@rewrites("DepthToSpace")
def depth_to_space(node: gs.Node, emit: Emitter) -> Any:
    """Move blocks of channels into squares of pixels."""
    block = node.attrs["blocksize"]
    channels, height, width = sizes_of(node.inputs[0], 1)
    depth = channels // block**2
    if node.attrs.get("mode", "DCR") == "DCR":
        order, target = [0, 3, 4, 1, 5, 2], [0, block, block, depth, height, width]
    else:
        order, target = [0, 1, 4, 2, 5, 3], [0, depth, block, block, height, width]
    moved = emit("Transpose", emit("Reshape", node.inputs[0], _target(emit, target)), perm=order)
    return emit("Reshape", moved, _target(emit, [0, depth, height * block, width * block]))


@rewrites("SpaceToDepth")
def space_to_depth(node: gs.Node, emit: Emitter) -> Any:
    """Move squares of pixels into blocks of channels."""
    block = node.attrs["blocksize"]
    channels, height, width = sizes_of(node.inputs[0], 1)
    apart = _target(emit, [0, channels, height // block, block, width // block, block])
    moved = emit("Transpose", emit("Reshape", node.inputs[0], apart), perm=[0, 3, 5, 1, 2, 4])
    return emit("Reshape", moved, _target(emit, [0, channels * block**2, height // block, width // block]))


def _target(emit: Emitter, shape: list[int]) -> gs.Constant:
    """A Reshape target whose leading 0 keeps the batch."""
    return emit.ints(shape)


@rewrites("MatMul")
def matmul(node: gs.Node, emit: Emitter) -> Any:
    """With a vector on the right there is no gradient: make it a column."""
    a, b = node.inputs
    if b.shape is None or len(b.shape) != 1:
        return None
    column = emit("Unsqueeze", b, emit.ints([1]))
    return emit("Squeeze", emit("MatMul", a, column), emit.ints([-1]))


@rewrites("Pow")
def power(node: gs.Node, emit: Emitter) -> Any:
    """The gradient needs an exponent of the type of the base."""
    base, exponent = node.inputs
    if not isinstance(exponent, gs.Constant) or exponent.dtype == np.float32:
        return None
    return emit("Pow", base, np.asarray(exponent.values))
