"""Matrices that an exporter merged, split again: each part of a product becomes a product of its own.

Queries, keys and values are often one matrix whose result is laid out as ``[…, parts, heads, width]`` and
then picked apart. One layout means one width for all parts. Where each part has a matrix of its own, each may
lose channels of its own. Matrix products are split by columns, so each element is the same sum as before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import GraphIndex, Model, attributes, label
from onnxprune.ops.spec import STANDARD_DOMAINS


@dataclass(frozen=True)
class Pick:
    """One part of a layout that is read alone.

    Attributes:
        number: Number of the part.
        output: The tensor it becomes.
        keeps: True if the axis of parts stays, with one element.
    """

    number: int
    output: str
    keeps: bool


@dataclass(frozen=True)
class MergedProduct:
    """A product whose result is laid out in parts that are read one by one.

    Attributes:
        product: The number of the MatMul or Gemm among the nodes of the main graph.
        addition: The Add of a bias, or ``None``.
        reshape: The Reshape that lays out.
        transpose: The Transpose behind it, or ``None``.
        axis: The axis of parts, as the Reshape makes it.
        rest: The sizes of the axes after it.
        parts: Number of parts.
        picks: Those that are read.
    """

    product: int
    addition: int | None
    reshape: int
    transpose: int | None
    axis: int
    rest: tuple[int, ...]
    parts: int
    picks: tuple[Pick, ...]


def merged_products(model: Model, shapes: Shapes) -> list[MergedProduct]:
    """Find the products that can be split.

    Args:
        model: A checked model.
        shapes: Its shapes.
    """
    index = GraphIndex.of(model.proto.graph)
    found = (_merged(model, shapes, index, number) for number in range(len(model.nodes)))
    return [product for product in found if product is not None]


def separated(model: Model, found: Sequence[MergedProduct]) -> Model:
    """Return the model with a product for each part; nothing reads the results of the old nodes any more.

    Args:
        model: The model; it stays as it is.
        found: Products of it that are split.
    """
    model = model.copy()
    nodes = model.nodes
    makers = {output: number for number, node in enumerate(nodes) for output in node.output}
    before: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    for product in found:
        for pick in product.picks:
            number = makers[pick.output]
            before[number] += _made(model, nodes, product, pick)
            place = list(nodes[number].output).index(pick.output)
            nodes[number].output[place] = model.fresh(f"{pick.output}__merged")
    arranged = [part for number, node in enumerate(nodes) for part in (*before[number], node)]
    del model.proto.graph.node[:]
    model.proto.graph.node.extend(arranged)
    model.edited()
    return model


def _merged(model: Model, shapes: Shapes, index: GraphIndex, number: int) -> MergedProduct | None:
    node = index.nodes[number]
    columns = _columns(model, node)
    if columns is None:
        return None
    current, addition = number, None
    following = _only_reader(index, node.output[0])
    if following is not None and index.nodes[following].op_type == "Add":
        if _bias(model, index.nodes[following], columns) is None:
            return None
        current = addition = following
        following = _only_reader(index, index.nodes[current].output[0])
    if (
        following is None
        or index.nodes[following].op_type != "Reshape"
        or len(index.nodes[following].input) < 2
    ):
        return None
    reshape = index.nodes[following]
    laid = _layout(shapes, reshape, columns) if reshape.input[0] == index.nodes[current].output[0] else None
    if laid is None:
        return None
    axis, parts, rest = laid
    reshaped, transpose, last, place = following, None, reshape.output[0], axis
    following = _only_reader(index, last)
    if following is not None and index.nodes[following].op_type == "Transpose":
        transpose, last = following, index.nodes[following].output[0]
        rank = axis + 1 + len(rest)
        order = attributes(index.nodes[following]).get("perm", list(range(rank))[::-1])
        place = list(order).index(axis)
    picks = _picks(model, shapes, index, last, place, parts)
    if not picks:
        return None
    return MergedProduct(number, addition, reshaped, transpose, axis, rest, parts, tuple(picks))


def _columns(model: Model, node: onnx.NodeProto) -> int | None:
    """Return the number of columns of the constant matrix of a product, ``None`` for other nodes."""
    if node.domain not in STANDARD_DOMAINS or node.op_type not in ("MatMul", "Gemm"):
        return None
    weight = model.constants.get(node.input[1])
    if weight is None or len(weight.dims) != 2:
        return None
    if node.op_type == "MatMul":
        return int(weight.dims[1])
    columns = int(weight.dims[0 if attributes(node).get("transB", 0) else 1])
    if len(node.input) > 2 and node.input[2] and _along(model, node.input[2], columns) is None:
        return None
    return columns


def _along(model: Model, name: str, columns: int) -> np.ndarray | None:
    """Return a constant that is added to each row: one number, or one for each column."""
    if name not in model.constants:
        return None
    dims = list(model.constants[name].dims)
    fits = math.prod(dims) == 1 or (dims[-1] == columns and math.prod(dims) == columns)
    return model.array(name) if fits else None


def _bias(model: Model, node: onnx.NodeProto, columns: int) -> int | None:
    """Return the operand of an Add that is a constant of that kind."""
    found = [k for k in (0, 1) if _along(model, node.input[k], columns) is not None]
    return found[0] if len(found) == 1 else None


def _only_reader(index: GraphIndex, name: str) -> int | None:
    readers = index.readers(name)
    return readers[0] if len(readers) == 1 and index.count(name) == 1 else None


def _layout(shapes: Shapes, node: onnx.NodeProto, columns: int) -> tuple[int, int, tuple[int, ...]] | None:
    """Return the axis of parts of a Reshape, how many there are, and the sizes of the axes after it."""
    sizes = shapes.sizes.get(node.output[0])
    if sizes is None or attributes(node).get("allowzero", 0) or not _ends_with(shapes, node, columns):
        return None
    for axis in range(1, len(sizes) - 1):
        rest = [size for size in sizes[axis:] if isinstance(size, int)]
        if len(rest) == len(sizes) - axis and math.prod(rest) == columns and rest[0] > 1:
            return axis, rest[0], tuple(rest[1:])
    return None


def _ends_with(shapes: Shapes, node: onnx.NodeProto, columns: int) -> bool:
    given = shapes.sizes.get(node.input[0])
    return given is not None and len(given) > 0 and given[-1] == columns


def _picks(model: Model, shapes: Shapes, index: GraphIndex, name: str, axis: int, parts: int) -> list[Pick]:
    """Return the parts that are read of a layout; none where it is read in another way."""
    readers = index.readers(name)
    if len(readers) != index.count(name):
        return []
    found: list[Pick] = []
    for number in readers:
        picked = list(_picked(model, shapes, index.nodes[number], axis, parts))
        if not picked:
            return []
        found += picked
    return found


def _picked(model: Model, shapes: Shapes, node: onnx.NodeProto, axis: int, parts: int) -> Iterator[Pick]:
    """Yield the parts that a Gather or a Split reads."""
    given = attributes(node)
    rank = len(shapes.sizes.get(node.input[0], ()))
    if not rank or given.get("axis", 0) % rank != axis:
        return
    if node.op_type == "Gather" and node.input[1] in model.constants:
        numbers = model.array(node.input[1])
        if numbers.ndim == 0 and -parts <= numbers < parts:
            yield Pick(int(numbers) % parts, node.output[0], keeps=False)
    if node.op_type == "Split" and len(node.output) == parts:
        sizes = [shapes.sizes.get(o, ()) for o in node.output]
        if all(len(s) == rank and s[axis] == 1 for s in sizes):
            yield from (Pick(k, o, keeps=True) for k, o in enumerate(node.output))


def _made(
    model: Model, nodes: Sequence[onnx.NodeProto], found: MergedProduct, pick: Pick
) -> list[onnx.NodeProto]:
    """Return the nodes that make one part under the name that it was picked with."""
    width = math.prod(found.rest)
    made = list(_part(model, nodes, found, pick, slice(pick.number * width, (pick.number + 1) * width)))
    made[-1].output[0] = pick.output
    return made


def _part(
    model: Model, nodes: Sequence[onnx.NodeProto], found: MergedProduct, pick: Pick, columns: slice
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of one part, in their order."""
    suffix = f"__part{pick.number}"

    def copied(number: int, operands: Sequence[str]) -> onnx.NodeProto:
        node = onnx.NodeProto()
        node.CopyFrom(nodes[number])
        node.name = f"{label(nodes[number])}{suffix}"
        del node.input[:], node.output[:]
        node.input.extend(operands)
        node.output.append(model.fresh(f"{nodes[number].output[0]}{suffix}"))
        return node

    product = nodes[found.product]
    operands = list(product.input)
    rows = product.op_type == "Gemm" and attributes(product).get("transB", 0)
    weight = model.array(operands[1])
    cut = weight[columns] if rows else weight[:, columns]
    operands[1] = model.add_constant(f"{operands[1]}{suffix}", cut)
    if len(operands) > 2 and operands[2]:
        operands[2] = _cut(model, operands[2], suffix, columns)
    made = copied(found.product, operands)
    yield made
    if found.addition is not None:
        added = nodes[found.addition]
        bias = next(k for k in (0, 1) if added.input[k] in model.constants)
        own = [_cut(model, added.input[bias], suffix, columns), made.output[0]]
        made = copied(found.addition, own if bias == 0 else own[::-1])
        yield made
    target, computed = _target(model, nodes[found.reshape], found, pick.keeps, suffix)
    yield from computed
    made = copied(found.reshape, [made.output[0], target])
    yield made
    if found.transpose is not None:
        turned = copied(found.transpose, [made.output[0]])
        rank = found.axis + 1 + len(found.rest)
        order = list(attributes(nodes[found.transpose]).get("perm", list(range(rank))[::-1]))
        if not pick.keeps:
            order = [k - (k > found.axis) for k in order if k != found.axis]
        del turned.attribute[:]
        turned.attribute.append(helper.make_attribute("perm", order))
        yield turned


def _cut(model: Model, name: str, suffix: str, columns: slice) -> str:
    """Return the columns of the operand that is added to each row."""
    values = model.array(name)
    return name if values.size == 1 else model.add_constant(f"{name}{suffix}", values[..., columns])


def _target(
    model: Model, node: onnx.NodeProto, found: MergedProduct, keeps: bool, suffix: str
) -> tuple[str, list[onnx.NodeProto]]:
    """Return the target of a part and the nodes that compute it: leading sizes, then those of one part."""
    given, name = node.input[1], f"{node.output[0]}{suffix}"
    rest = np.asarray([*([1] if keeps else []), *found.rest], np.int64)
    if given in model.constants:
        lead = model.array(given)[: found.axis]
        return model.add_constant(f"{name}__target", np.concatenate([lead, rest])), []
    before = model.add_constant(f"{name}__lead", np.arange(found.axis, dtype=np.int64))
    after = model.add_constant(f"{name}__sizes", rest)
    picked, whole = model.fresh(f"{name}__before"), model.fresh(f"{name}__target")
    return whole, [
        helper.make_node("Gather", [given, before], [picked], name=picked, axis=0),
        helper.make_node("Concat", [picked, after], [whole], name=whole, axis=0),
    ]
