"""The canonical form of a network: known values are constants, and accidental sharing is undone.

Exporters leave nodes without readers and chains of nodes that compute shapes which never change, make
weights with ConstantOfShape, and merge constants that happen to be equal. Here the known values become
constants, and vectors that several nodes read get a copy for each reader. Matrices stay shared: that is a
decision of the author of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.shapes import Shapes, infer
from onnxprune.ir import Model, analysis, attributes, captured, dead_nodes, label, over_all_channels
from onnxprune.ir.canonical.canonical_bodies import distinct, known_branches, take_branches
from onnxprune.ir.canonical.computed_weights import with_computed_weights
from onnxprune.ir.canonical.copied_constants import without_copies
from onnxprune.ir.canonical.joined_parts import read_in_parts
from onnxprune.ir.canonical.optionals import with_known_elements
from onnxprune.ir.canonical.own_fills import with_own_fills
from onnxprune.ir.canonical.rejoined_parts import read_whole
from onnxprune.ir.canonical.routers import with_biases
from onnxprune.ir.canonical.sequences import without_sequences
from onnxprune.ir.canonical.sharing import shared_places, unshare
from onnxprune.ir.canonical.unchanged_states import without_fixed_states
from onnxprune.ir.compact import SMALLEST, fill_bytes
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.support.memory import need


@analysis("canonical form")
def canonicalise(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> tuple[Model, Shapes]:
    """Return the model in canonical form, and its shapes; the model given stays as it is.

    Args:
        model: A checked model.
        given: Full input shapes to analyse with, by input name.
    """
    original, model = model, without_dead_nodes(over_all_channels(model))
    model = with_known_elements(distinct(model))
    model = with_biases(without_fixed_states(without_copies(model)))
    model = without_dead_nodes(with_computed_weights(model))
    shapes = infer(model, given)
    for rewrite in (without_sequences, read_whole, read_in_parts, with_own_fills):
        plain = rewrite(model, shapes)
        if plain is not model:
            model = without_dead_nodes(plain)
            shapes = infer(model, given)
    folds, branches = known_before_the_run(model, shapes), known_branches(model, shapes)
    if not (folds or branches or shared_places(model) or _splits_by_number(model, shapes)):
        return model, shapes
    model = model.copy() if model is original else model
    take_branches(model, branches)
    _fold(model, folds)
    model.reserve(shapes.sizes)
    for node, sizes in _splits_by_number(model, shapes):
        _write_out_sizes(model, node, sizes)
    unshare(model)
    model.edited()
    return model, shapes.with_constants(model)


def without_dead_nodes(model: Model) -> Model:
    """Return the model without nodes and constants that are not read; itself where there are none.

    The nodes would block axes, or form groups, without need; the constants would count as parameters.
    """
    if not (any(any(_dead(graph)) for graph in model.graphs) or _unread_constants(model)):
        return model
    model = model.copy()
    for graph in reversed(model.graphs):  # inner graphs first
        _delete(graph.node, _dead(graph))
    model.edited()
    drop_unused_constants(model)
    return model


def known_before_the_run(model: Model, shapes: Shapes) -> dict[str, np.ndarray]:
    """Find node results that never change: static shape arithmetic, and ConstantOfShape of static shape."""
    known = {n: shapes.values[n] for n in shapes.derived if n in shapes.values}
    for node in model.all_nodes:
        if node.op_type == "ConstantOfShape" and node.output[0] not in shapes.values:
            target = node.input[0]
            if target in shapes.values:
                fill = attributes(node).get("value")
                value = onnx.numpy_helper.to_array(fill) if fill is not None else np.zeros(1, np.float32)
                filled = _filled(shapes.values[target], value, label(node))
                if filled is not None:
                    known[node.output[0]] = filled
    outputs = {o.name for graph in model.graphs for o in graph.output}
    return {n: v for n, v in known.items() if n not in outputs and n not in model.constants}


def _filled(sizes: np.ndarray, value: np.ndarray, node: str) -> np.ndarray | None:
    """Return the result of a ConstantOfShape; ``None`` where its operands are none that a runtime takes.

    Raises:
        ModelError: It is larger than the memory allowed.
    """
    if sizes.ndim != 1 or value.size != 1 or any(int(size) < 0 for size in sizes):
        return None
    shape = tuple(int(size) for size in sizes)
    need(fill_bytes(shape, value.dtype), f"node '{node}' (ConstantOfShape)")
    return np.full(shape, value.ravel()[0], value.dtype)


def _fold(model: Model, known: Mapping[str, np.ndarray]) -> None:
    """Replace the nodes that make known values by constants, and drop constants that only they used."""
    for graph in reversed(model.graphs):  # inner graphs first
        _delete(graph.node, [bool(n.output) and n.output[0] in known for n in graph.node])
        _delete(graph.node, _dead(graph))
    model.edited()
    for name in sorted(_read(model) & set(known)):
        added = model.add_constant(name, known[name])
        if known[name].nbytes >= SMALLEST:
            model.compact |= {added}
    drop_unused_constants(model)


def _dead(graph: onnx.GraphProto) -> list[bool]:
    return dead_nodes(graph.node, (o.name for o in graph.output))


def _read(model: Model) -> set[str]:
    """Return the names of all tensors that a node reads or a graph returns."""
    outputs = {o.name for graph in model.graphs for o in graph.output}
    return outputs.union(*({*n.input, *captured(n)} for n in model.all_nodes))


def _unread_constants(model: Model) -> set[str]:
    return set(model.constants) - _read(model)


def drop_unused_constants(model: Model) -> None:
    """Remove initializers and Constant nodes without readers."""
    unused = _unread_constants(model)
    _delete(model.proto.graph.input, [i.name in unused for i in model.proto.graph.input])
    for graph in model.graphs:
        _delete(graph.initializer, [t.name in unused for t in graph.initializer])
        _delete(graph.node, [n.op_type == "Constant" and n.output[0] in unused for n in graph.node])
    model.edited()


def _delete(repeated: MutableSequence[Any], doomed: list[bool]) -> None:
    """Delete in place: copying the remaining entries would copy every weight."""
    for index in reversed([k for k, gone in enumerate(doomed) if gone]):
        del repeated[index]


def _splits_by_number(model: Model, shapes: Shapes) -> list[tuple[onnx.NodeProto, list[int]]]:
    """Find nodes that split an axis of fixed size into equal parts, and the sizes of those.

    Parts whose sizes are written down may lose different numbers of channels.
    """
    found = []
    for node in model.all_nodes:
        explicit = len(node.input) > 1 or any(a.name == "split" for a in node.attribute)
        if node.op_type != "Split" or node.domain not in STANDARD_DOMAINS or explicit:
            continue
        if all(o in shapes.sizes for o in (node.input[0], *node.output)):
            axis = attributes(node).get("axis", 0)
            sizes = [s for o in node.output if isinstance(s := shapes.sizes[o][axis], int)]
            if len(sizes) == len(node.output):
                found.append((node, sizes))
    return found


def _write_out_sizes(model: Model, node: onnx.NodeProto, sizes: Sequence[int]) -> None:
    kept = [a for a in node.attribute if a.name != "num_outputs"]
    if model.opset() < 13:
        kept.append(onnx.helper.make_attribute("split", sizes))
    else:
        node.input.append(model.add_constant(f"{node.output[0]}__split", np.asarray(sizes, np.int64)))
    del node.attribute[:]
    node.attribute.extend(kept)
