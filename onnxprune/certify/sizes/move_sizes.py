"""Sizes of rearranged, cut, joined and repeated tensors, and of tensors made from sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from onnxprune.certify.sizes.size_monomials import (
    Monomial,
    Size,
    computed,
    is_natural,
    is_number,
    over,
    product,
    size_of,
    times,
)
from onnxprune.certify.sizes.size_rules import Sizes, broadcast, operands, placed, rule, slices

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph


@rule("Transpose")
def transpose(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Axes in another order."""
    x = graph.sizes[node.input[0]]
    return [[x[p] for p in graph.attributes(node).get("perm", range(len(x))[::-1])]]


@rule("Concat")
def concat(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Sizes along the axis add up."""
    parts = operands(graph, node)
    axis = placed(graph.attributes(node)["axis"], len(parts[0]))
    made = list(parts[0])
    for other in parts[1:]:
        made[axis] = computed("Add", made[axis], other[axis])
    return [made]


@rule("Reshape")
def reshape(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The target, with 0 for a size of the operand and −1 for the rest."""
    x, target = graph.sizes[node.input[0]], graph.integers(node.input[1])
    copied = not graph.attributes(node).get("allowzero")
    made: Sizes = [x[k] if copied and t == 0 else t for k, t in enumerate(target)]
    if -1 in made:
        place = made.index(-1)
        others = product(made[:place] + made[place + 1 :])
        left = over(product(x), others)
        made[place] = left if left is not None else size_of(f"left({product(x)}, {others})")
    return [made]


@rule("Flatten")
def flatten(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Two axes: the product of those before, and of the others."""
    x = graph.sizes[node.input[0]]
    axis = graph.attributes(node).get("axis", 1)
    axis = axis + len(x) if axis < 0 else axis
    return [[product(x[:axis]), product(x[axis:])]]


@rule("Unsqueeze")
def unsqueeze(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """New axes of length one."""
    x, axes = graph.sizes[node.input[0]], graph.listed(node, "axes", 1) or []
    rank, left = len(x) + len(axes), iter(x)
    new = {placed(a, rank) for a in axes}
    return [[1 if k in new else next(left) for k in range(rank)]]


@rule("Squeeze")
def squeeze(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Axes of length one dropped; without a list all of them, where all sizes are known."""
    x, axes = graph.sizes[node.input[0]], graph.listed(node, "axes", 1)
    if axes is None and any(isinstance(s, Monomial) for s in x):
        return []
    gone = {k for k, s in enumerate(x) if s == 1} if axes is None else {placed(a, len(x)) for a in axes}
    return [[s for k, s in enumerate(x) if k not in gone]]


@rule("Expand")
def expand(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The operand and the target broadcast."""
    return [broadcast([graph.sizes[node.input[0]], graph.integers(node.input[1])])]


@rule("Slice")
def cut(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The part between the ends."""
    made = list(graph.sizes[node.input[0]])
    for axis, start, end, step in slices(graph, node):
        made[axis] = _between(made[axis], start, end, step)
    return [made]


def _between(size: Size, start: Any, end: Any, step: Any) -> Size:
    if not any(isinstance(v, Monomial) for v in (size, start, end, step)):
        return len(range(int(size))[start:end:step])  # type: ignore[arg-type]
    endless = not isinstance(end, Monomial) and end >= 2**31 - 1
    if step == 1 and start == 0 and (endless or end == size):
        return size
    if step == 1 and start == 0 and is_natural(end):
        return computed("Min", size, end)  # type: ignore[no-any-return]
    return size_of(f"slice({size}, {start}, {end}, {step})")


@rule("Split")
def split(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes given, or equal parts."""
    x, parts = graph.sizes[node.input[0]], graph.listed(node, "split", 1)
    axis = placed(graph.attributes(node).get("axis", 0), len(x))
    if parts is None:
        part = over(x[axis], len(node.output))
        if part is None:
            raise KeyError(axis)
        parts = [part] * len(node.output)
    return [[*x[:axis], s, *x[axis + 1 :]] for s in parts]


@rule("Gather")
def gather(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the indices in the place of the axis."""
    x, at = (graph.sizes[i] for i in node.input)
    axis = placed(graph.attributes(node).get("axis", 0), len(x))
    return [[*x[:axis], *at, *x[axis + 1 :]]]


@rule("GatherND")
def gather_nd(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the indices but for the last axis, then those of the data that are not indexed."""
    x, at = (graph.sizes[i] for i in node.input)
    count = at[-1]
    if isinstance(count, Monomial):
        raise KeyError("places of unknown rank")
    return [[*at[:-1], *x[graph.attributes(node).get("batch_dims", 0) + count :]]]


@rule("Shape")
def shape(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """One number for each axis."""
    given, rank = graph.attributes(node), len(graph.sizes[node.input[0]])
    return [[len(range(rank)[given.get("start", 0) : given.get("end")])]]


@rule("Size")
def size(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """One number."""
    return [[]]


@rule("GatherElements")
def gather_elements(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the indices."""
    return [graph.sizes[node.input[1]]]


@rule("Tile")
def tile(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Sizes times repeats."""
    return [
        [times(s, r) for s, r in zip(graph.sizes[node.input[0]], graph.integers(node.input[1]), strict=True)]
    ]


@rule("ConstantOfShape")
def filled(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The operand lists the sizes."""
    return [graph.integers(node.input[0])]


@rule("Range")
def counted(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The numbers from one size up to another."""
    start, limit, step = (graph.integers(i)[0] for i in node.input)
    if step != 1 or not all(isinstance(x, Monomial) or is_number(x) for x in (start, limit)):
        raise KeyError("a range that does not count one by one")
    count = computed("Sub", limit, start)
    if not isinstance(count, Monomial):
        return [[max(count, 0)]]
    return [[count if count.natural else size_of(f"Max(0, {count})")]]


@rule("OneHot")
def one_hot(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """A new axis, the last by default."""
    at, depth = graph.sizes[node.input[0]], graph.integers(node.input[1])[0]
    axis = placed(graph.attributes(node).get("axis", -1), len(at) + 1)
    return [[*at[:axis], depth, *at[axis:]]]


@rule("TopK")
def top(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Take the length of the axis from the operand ``k``."""
    x, count = list(graph.sizes[node.input[0]]), graph.listed(node, "k", 1)
    if count is None:
        raise KeyError("k")
    x[placed(graph.attributes(node).get("axis", -1), len(x))] = count[0]
    return [x, x]


@rule("Compress")
def compressed(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """An unknown number of elements along the axis."""
    x, axis = list(graph.sizes[node.input[0]]), graph.attributes(node).get("axis")
    made = size_of(f"{graph.side} true of {node.output[0]}")
    if axis is None:
        return [[made]]
    x[placed(axis, len(x))] = made
    return [x]
