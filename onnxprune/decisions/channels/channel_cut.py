"""The cut of removed channels: constants are cut, and every number that counts channels is rewritten."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.axes import Dim, Factor, factors
from onnxprune.algebra.kept_axes import Kept, kept_count, kept_indices, kept_size
from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.shapes.node_evaluation import evaluate
from onnxprune.decisions.blocks import without_blocks
from onnxprune.decisions.channels.dense_interface import declare
from onnxprune.decisions.channels.lists import Lists
from onnxprune.decisions.channels.masks import Mask, masked
from onnxprune.decisions.channels.rescaling import Insertion, remaining_fraction, rescale
from onnxprune.decisions.channels.size_sources import Place, SizeFlow
from onnxprune.ir import Model
from onnxprune.ir.canonical.canonicalise import drop_unused_constants
from onnxprune.ops.axes import RESULT, SizeUse

Sizes = np.ndarray[Any, np.dtype[Any]]
Change: TypeAlias = "int | Fraction"
"""A new number, or the fraction of a computed one that takes its place."""


def shrunk(channels: Channels, removed: Mapping[str, Sequence[int]], *, at_readers: bool = False) -> Model:
    """Return the dense network: without the removed channels and blocks, otherwise as it was.

    Args:
        channels: The network's groups.
        removed: Removed channels by group name.
        at_readers: Change lists of sizes where they are read, not where they are made: a part of the
            network may be cut out between the two.
    """
    channels = channels.arranged_where(removed)
    kept = channels.kept(removed)
    counts = {factor: len(indices) for factor, indices in kept.items()}
    model = channels.model.copy()
    for name, axes in channels.cuts(kept).items():
        values = channels.put_in_order(name, model.array(name))
        for axis, indices in axes.items():
            values = np.take(values, indices, axis)
        model.set_array(name, values)
    nodes = model.all_nodes
    _cap_attributes(channels, model, counts)
    _insert(model, [*_rewrite_sizes(channels, model, counts, at_readers), *rescale(channels, model, counts)])
    _renumber(channels, model, nodes, kept)
    _declare_inner_shapes(channels, model, counts)
    declare(channels, model, kept)
    drop_unused_constants(model)
    return without_blocks(model, channels.removed_blocks(removed))


def shrunk_inside(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Model:
    """Return the network with the shapes of its inputs and outputs, whose own channels are only masked."""
    inside = {name: gone for name, gone in removed.items() if name not in channels.shared}
    if len(inside) == len(removed):
        return shrunk(channels, removed)
    return shrunk(replace(channels, model=masked(channels, removed)), inside)


def _insert(model: Model, inserted: Iterable[Insertion]) -> None:
    """Put nodes beside others; those of one place stay in their order."""
    ordered = sorted(inserted, key=lambda insertion: insertion[:2])
    for number, after, node in reversed(ordered):
        model.insert(number, node, after=after)


def _rewrite_sizes(
    channels: Channels, model: Model, counts: Mapping[Factor, int], at_readers: bool
) -> list[Insertion]:
    """Rewrite attributes at once; operands are collected first, for one may hold several sizes."""
    lists = Lists.of(model, channels.typing.shapes)
    operands: dict[Place, dict[int, Change]] = defaultdict(dict)
    results: dict[int, dict[int, Change]] = defaultdict(dict)
    new_sizes: dict[Place, dict[int, Extent]] = defaultdict(dict)
    for use in channels.typing.size_uses:
        new = kept_size(use.dim, counts)
        if use.attribute is not None:
            if new != use.dim.size:
                _rewrite_attribute(model.node(use.node), use, kept_count(use.dim, counts))
        elif use.operand == RESULT and use.element is not None and new != use.dim.size:
            old = use.dim.size
            results[use.node][use.element] = (
                old if isinstance(old, int) else 1 / remaining_fraction(use.dim, counts)
            )
            new_sizes[use.node, RESULT][use.element] = new
        elif use.element is not None and _must_be_written(channels, lists, use, new, counts):
            change = new if isinstance(new, int) else remaining_fraction(use.dim, counts)
            operands[use.node, use.operand][use.element] = -change if use.backwards else change
            new_sizes[use.node, use.operand][use.element] = -new if use.backwards else new
    if not at_readers:
        _leave_to_sources(SizeFlow(model, channels.typing.shapes, lists.index, new_sizes), operands, results)
    readers = _readers(model) if results else {}
    read = [
        (k, True, n)
        for k, sizes in results.items()
        for n in _read_as_before(channels, model, k, sizes, readers)
    ]
    joined = [] if at_readers else _change_lists(lists, operands)
    chosen = [
        (k, False, n)
        for (k, o), sizes in operands.items()
        for n in _rewrite_operand(channels, model, k, o, sizes)
    ]
    return [*read, *joined, *chosen]


def _leave_to_sources(
    flow: SizeFlow, operands: dict[Place, dict[int, Change]], results: dict[int, dict[int, Change]]
) -> None:
    """Leave out the changes of numbers that are right once their sources are changed."""
    found = flow.sources()
    for node, _ in found.places & {(node, RESULT) for node in results}:
        del results[node]
    for place, element in found.done:
        operands[place].pop(element, None)
        if not operands[place]:
            del operands[place]


def _change_lists(lists: Lists, operands: dict[tuple[int, int], dict[int, Change]]) -> list[Insertion]:
    """Change the lists whose numbers are constants joined with others; they are no longer among the operands.

    Returns:
        The nodes that join lists of their own for some of the readers.
    """
    readers_of: dict[tuple[str, tuple[tuple[int, int], ...]], list[tuple[int, int]]] = defaultdict(list)
    for (index, operand), changes in operands.items():
        name = lists.model.node(index).input[operand]
        numbers = [(e, n) for e, n in changes.items() if isinstance(n, int) and lists.place(name, e)]
        if len(numbers) == len(changes):
            readers_of[name, tuple(numbers)].append((index, operand))
    inserted: list[Insertion] = []
    left = Counter(name for (name, _), readers in readers_of.items() for _ in readers)
    left = Counter({name: lists.index.count(name) - count for name, count in left.items()})
    last = {
        name: edit for name, edit in readers_of if not left[name]
    }  # where no reader needs the old numbers
    for (name, edit), readers in sorted(
        readers_of.items(), key=lambda item: last.get(item[0][0]) == item[0][1]
    ):
        new = lists.model.fresh(f"{name}__patched{readers[0][0]}_{readers[0][1]}")
        node = lists.change(name, dict(edit), None if last.get(name) == edit else new)
        for index, operand in readers:
            del operands[index, operand]
            if node is not None:
                lists.model.node(index).input[operand] = new
        if node is not None:
            inserted.append((min(readers)[0], False, node))
    return inserted


def _must_be_written(
    channels: Channels, lists: Lists, use: SizeUse, new: Extent, counts: Mapping[Factor, int]
) -> bool:
    """Return whether an operand's number changes; 0 and -1 in a Reshape target mostly adapt."""
    node = channels.typing.nodes[use.node]
    listed = channels.typing.shapes.integers(node.input[use.operand])
    written = listed[use.element or 0] if listed is not None else None
    if not isinstance(written, int) or node.op_type != "Reshape" or written > 0:
        return new != use.dim.size
    if written < 0:
        return isinstance(new, int) and _counts_parts(channels, lists, use, counts)
    copied = channels.typing.axes[node.input[0]][use.element or 0]
    kept = kept_size(copied, counts)
    return kept != new and (kept, new) != (copied.size, use.dim.size)


def _counts_parts(channels: Channels, lists: Lists, use: SizeUse, counts: Mapping[Factor, int]) -> bool:
    """Return whether a number of heads, itself or its width cut, is written as -1 and can be replaced.

    The network does not need the number, but onnxruntime's transformer optimizer reads the number of heads
    there; where it finds none, it takes that of its caller, which is the old one.
    """
    node, element = channels.typing.nodes[use.node], use.element or 0
    name, axes = node.input[use.operand], channels.typing.axes
    given, made = axes[node.input[0]], axes[node.output[0]]
    if len(given) >= len(made) or element + 1 == len(made):
        return False
    changed = any(kept_size(dim, counts) != dim.size for dim in made)
    return changed and (name in channels.typing.shapes.values or lists.place(name, element) is not None)


def _readers(model: Model) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor; an output of a graph counts as read whole."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    takers = [onnx.NodeProto(input=[o.name for o in graph.output]) for graph in model.graphs]
    for node in (*model.all_nodes, *takers):
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    return readers


def _read_as_before(
    channels: Channels,
    model: Model,
    index: int,
    changes: Mapping[int, Change],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
) -> list[onnx.NodeProto]:
    """Let a node that reads sizes off a tensor return the old ones: values computed from them stay.

    Returns:
        The nodes that put the old sizes in, unless all readers pick others.
    """
    node = model.node(index)
    name = node.output[0]
    count = channels.typing.shapes.numbers(name)[0]
    changed = np.isin(np.arange(count), list(changes))
    if not any(_reads_changed(channels, n, name, changed) for n in readers.get(name, ())):
        return []
    node.output[0] = model.fresh(f"{name}__dense")
    return _patch(model, changes, np.zeros(count, np.int64), node.output[0], name)


def _patch(
    model: Model, changes: Mapping[int, Change], like: Sizes, computed: str, result: str
) -> list[onnx.NodeProto]:
    """Return the nodes that change some elements of a list of sizes and leave the others as computed.

    Args:
        model: The model, which receives the constants.
        changes: The new number, or the fraction of the computed one, by element.
        like: An array of the shape and type of the list.
        computed: Name of the list.
        result: Name of the changed list.
    """
    fractions = {k: c for k, c in changes.items() if isinstance(c, Fraction)}
    literals = {k: c for k, c in changes.items() if not isinstance(c, Fraction)}
    nodes = []
    if fractions:
        up, down = np.ones_like(like), np.ones_like(like)
        for element, fraction in fractions.items():
            up.ravel()[element], down.ravel()[element] = fraction.numerator, fraction.denominator
        multiple, divided = (model.fresh(f"{result}__{n}") for n in ("multiple", "scaled"))
        scaled = divided if literals else result
        factors_, divisors = (
            model.add_constant(f"{result}__{n}", v) for n, v in (("up", up), ("down", down))
        )
        nodes += [
            helper.make_node("Mul", [computed, factors_], [multiple], name=multiple),
            helper.make_node("Div", [multiple, divisors], [scaled], name=divided),
        ]
        computed = scaled
    if literals:
        changed, numbers = np.zeros(like.shape, bool), np.zeros_like(like)
        for element, number in literals.items():
            changed.ravel()[element], numbers.ravel()[element] = True, number
        nodes += _choice(model, changed, numbers, computed, result)
    return nodes


def _choice(model: Model, changed: Mask, numbers: Sizes, computed: str, result: str) -> list[onnx.NodeProto]:
    """Return the nodes that take some elements from a list of numbers, the others as they are computed."""
    chosen = model.fresh(f"{result}__choice")
    if model.opset() >= 9:
        choice = model.add_constant(f"{result}__pruned", changed)
        literal = model.add_constant(f"{result}__sizes", numbers)
        return [helper.make_node("Where", [choice, literal, computed], [result], name=chosen)]
    kept = model.add_constant(f"{result}__kept", (~changed).astype(numbers.dtype))
    literal = model.add_constant(f"{result}__sizes", numbers * changed)
    product = model.fresh(f"{result}__others")
    return [
        helper.make_node("Mul", [computed, kept], [product], name=product),
        helper.make_node("Add", [product, literal], [result], name=chosen),
    ]


def _reads_changed(channels: Channels, node: onnx.NodeProto, name: str, changed: Mask) -> bool:
    """Return whether a reader of a list reads elements that have changed."""
    if node.op_type not in ("Gather", "Slice"):
        return True
    known = [channels.typing.shapes.values.get(i) for i in node.input[1:]]
    if any(v is None for v in known):
        return True
    operands = [changed.astype(np.int64), *(v for v in known if v is not None)]
    return bool(np.any(evaluate(node, operands, channels.model.opset())))


def _renumber(channels: Channels, model: Model, nodes: Sequence[onnx.NodeProto], kept: Kept) -> None:
    """Let lists of elements name those that remain by their new numbers; lists may be cut already."""
    lists: dict[tuple[int, int], Sizes] = {}
    for use in channels.typing.index_uses:
        remaining = kept_indices(use.dim, kept)
        if len(remaining) < use.dim.count:
            key, name = (use.node, use.operand), nodes[use.node].input[use.operand]
            numbers = np.full(use.dim.count, -1)
            numbers[remaining] = np.arange(len(remaining))
            listed = lists.get(key, model.array(name)).copy()
            column = ... if use.column is None else (..., use.column)
            listed[column] = numbers[listed[column]]
            lines = np.moveaxis(listed[column], use.axis, 0).reshape(listed.shape[use.axis], -1)
            lists[key] = np.compress((lines >= 0).all(axis=1), listed, use.axis)
    for (node, operand), listed in lists.items():
        nodes[node].input[operand] = model.add_constant(nodes[node].input[operand], listed)


def _cap_attributes(channels: Channels, model: Model, counts: Mapping[Factor, int]) -> None:
    """Lower the attributes that select more elements of an axis than remain."""
    for cap in channels.typing.caps:
        for attribute in model.node(cap.node).attribute:
            if attribute.name == cap.attribute:
                attribute.i = min(attribute.i, kept_size(cap.dim, counts))


def _shorten(
    kind: onnx.TypeProto.Tensor,
    dims: Sequence[Dim],
    is_shorter: Callable[[Dim], bool],
    counts: Mapping[Factor, int],
) -> None:
    """Correct the declared sizes of the axes that are shorter."""
    if not kind.HasField("shape") or len(kind.shape.dim) != len(dims):
        kind.ClearField("shape")
        return
    for declared, dim in zip(kind.shape.dim, dims, strict=True):
        if not is_shorter(dim):
            continue
        size = kept_size(dim, counts)
        if isinstance(size, int) and declared.dim_value > 0:
            declared.dim_value = size
        else:
            declared.Clear()


def _rewrite_attribute(node: onnx.NodeProto, use: SizeUse, new: int) -> None:
    attribute = next((a for a in node.attribute if a.name == use.attribute), None)
    if attribute is None:
        return
    if use.element is None:
        attribute.i = new
    else:
        attribute.ints[use.element] = -new if use.backwards else new


def _rewrite_operand(
    channels: Channels, model: Model, index: int, operand: int, changes: Mapping[int, Change]
) -> list[onnx.NodeProto]:
    """Give a node its new sizes: a constant of its own, or a choice between those and the computed ones.

    Returns:
        The nodes to be put before it, where the other sizes are known only at run time.
    """
    node = model.node(index)
    name = node.input[operand]
    shapes = channels.typing.shapes
    if (before := shapes.values.get(name)) is not None:
        after = before.copy()
        for element, size in changes.items():
            after.ravel()[element] = size
        node.input[operand] = model.add_constant(name, after)
        return []
    node.input[operand] = model.fresh(f"{name}__patched{index}_{operand}")
    like = np.zeros(shapes.numbers(name), helper.tensor_dtype_to_np_dtype(shapes.types[name]))
    return _patch(model, changes, like, name, node.input[operand])


def _declare_inner_shapes(channels: Channels, model: Model, counts: Mapping[Factor, int]) -> None:
    """Drop the declared shapes of inner tensors that have changed, and correct those at borders of bodies.

    A loop without a turn makes results of the shapes that its body declares.
    """

    def is_stale(name: str) -> bool:
        return any(map(is_shorter, channels.typing.axes.get(name, ())))

    def is_shorter(dim: Dim) -> bool:
        return any(f in counts for f in factors(dim))

    for graph in model.graphs:
        kept = [v for v in graph.value_info if not is_stale(v.name)]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    for body in model.graphs[1:]:
        for value in (*body.input, *body.output):
            if is_stale(value.name):
                kind = value.type
                if kind.HasField("sequence_type"):
                    kind = kind.sequence_type.elem_type
                _shorten(kind.tensor_type, channels.typing.axes[value.name], is_shorter, counts)
