"""Rows of tables that the caller names by number: the vocabulary of a language model.

Rows can be removed where the caller renumbers those that remain. Which inputs hold such numbers is noted in
the model and travels with it from command to command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.ir.attributes import attributes
from onnxprune.ir.model import Model
from onnxprune.ir.nested_graphs import label
from onnxprune.ops.spec import spec_of

VOCABULARY_KEY = "onnxprune.vocabulary"


@dataclass(frozen=True)
class Vocabulary:
    """Tables of as many rows, and the inputs that pick from them.

    Attributes:
        rows: Number of rows of each table.
        inputs: Names of the inputs that hold numbers of rows.
        lookups: The first results of the nodes that pick rows.
    """

    rows: int
    inputs: tuple[str, ...]
    lookups: frozenset[str]


def find_vocabulary(model: Model) -> Vocabulary:
    """Return the largest tables whose rows the caller picks by number.

    Raises:
        ModelError: There is none, or its numbers have other uses too.
    """
    picks = {value.name: _picks(model, value.name) for value in model.inputs}
    rows = {name: size for name, found in picks.items() for _, size in found}
    if not rows:
        hint = "rows can be kept where an integer input picks them from a constant table (Gather)"
        raise ModelError(f"{model.name} has no table whose rows the caller picks", hint)
    found = _of(model, max(rows.values()), picks)
    _refuse_two_tables(model, found)
    return found


def _refuse_two_tables(model: Model, vocabulary: Vocabulary) -> None:
    """Refuse inputs that pick from different tables of as many rows, such as words and places.

    Raises:
        ModelError: There are such inputs.
    """
    read: dict[str, set[str]] = {}
    for name in vocabulary.inputs:
        copies = _copied(model, name)
        read[name] = {
            node.input[0]
            for node in model.all_nodes
            if node.output and node.output[0] in vocabulary.lookups and node.input[1] in copies
        }
    first, *others = vocabulary.inputs
    for other in others:
        if not any(_are_equal(model, a, b) for a in read[first] for b in read[other]):
            raise ModelError(
                f"'{first}' and '{other}' pick from different tables of {vocabulary.rows} rows",
                "rows can be kept where one table is the largest, or where its copies are equal",
            )


def _are_equal(model: Model, one: str, other: str) -> bool:
    """Return whether two tables are one, or hold the same numbers."""
    if one == other:
        return True
    if one not in model.constants or other not in model.constants:
        return False
    return np.array_equal(model.array(one), model.array(other))


def noted_vocabulary(model: Model) -> Vocabulary | None:
    """Return the vocabulary that is noted in a model, ``None`` where none is."""
    text = model.metadata().get(VOCABULARY_KEY)
    if text is None:
        return None
    picks = {value.name: _picks(model, value.name) for value in model.inputs}
    return _of(model, int(json.loads(text)), picks)


def pickable_rows(model: Model) -> frozenset[str]:
    """Return the lookups of the vocabulary that `find_vocabulary` finds, none where there is none."""
    try:
        return find_vocabulary(model).lookups
    except ModelError:
        return frozenset()


def note_vocabulary(model: Model, vocabulary: Vocabulary) -> Model:
    """Return a copy of a model in which a vocabulary is noted."""
    model = model.copy()
    model.set_metadata(VOCABULARY_KEY, json.dumps(vocabulary.rows))
    return model


def renumbered(
    model: Model, inputs: Iterable[str], numbers: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Model:
    """Return a model whose inputs are read through a list: each number is replaced by an entry of the list.

    Args:
        model: The model.
        inputs: Names of inputs that hold numbers.
        numbers: The replacement of each number.
    """
    model = model.copy()
    table = model.add_constant("numbers__listed", numbers)
    names = {name: model.fresh(f"{name}__listed") for name in inputs}
    _read_instead(model.proto.graph, names)
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.inputs}
    for name, listed in names.items():
        picked = model.fresh(f"{listed}__int64")
        nodes = [
            helper.make_node("Gather", [table, name], [picked], name=picked),
            helper.make_node("Cast", [picked], [listed], name=listed, to=kinds[name]),
        ]
        for node in reversed(nodes):
            model.proto.graph.node.insert(0, node)
    model.edited()
    return model


def _of(model: Model, rows: int, picks: Mapping[str, list[tuple[str, int]]]) -> Vocabulary:
    inputs = tuple(name for name, found in picks.items() if any(size == rows for _, size in found))
    for name in inputs:
        _refuse_other_uses(model, name, {result for result, _ in picks[name]})
    lookups = frozenset(result for name in inputs for result, size in picks[name] if size == rows)
    return Vocabulary(rows, inputs, lookups)


def _copied(model: Model, name: str) -> set[str]:
    """Return an input and the tensors that hold the same numbers."""
    found = {name}
    for node in model.all_nodes:
        if _is_copy(node) and node.input and node.input[0] in found:
            found.add(node.output[0])
    return found


def _is_copy(node: onnx.NodeProto) -> bool:
    """Return whether a result holds the numbers of the first operand, in any order or type."""
    return node.op_type == "Cast" or bool(spec_of(node).rearranges)


def _picks(model: Model, name: str) -> list[tuple[str, int]]:
    """Return the nodes that pick rows from constant tables by an input, and how many rows those have."""
    tables, found = _tables(model), []
    copies = _copied(model, name)
    for node in model.all_nodes:
        if node.op_type == "Gather" and node.input[1] in copies and attributes(node).get("axis", 0) == 0:
            size = tables.get(node.input[0])
            if size is not None:
                found.append((node.output[0], size))
    return found


def _tables(model: Model) -> dict[str, int]:
    """Return the number of rows of constants of several axes, and of their copies and scaled copies."""
    found = {n: int(t.dims[0]) for n, t in model.constants.items() if len(t.dims) > 1}
    for node in model.all_nodes:
        if node.op_type in ("Cast", "DequantizeLinear", "Identity") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _refuse_other_uses(model: Model, name: str, picks: set[str]) -> None:
    """Refuse to renumber rows whose numbers the network computes with."""
    copies = _copied(model, name)
    for node in model.all_nodes:
        read = copies.intersection(node.input)
        picked = bool(node.output) and node.output[0] in picks
        harmless = picked or _is_copy(node) or spec_of(node).sizes_only
        if read and not harmless:
            raise ModelError(
                f"the rows of '{name}' cannot be counted anew: {node.op_type} '{label(node)}' computes with"
                " their numbers",
                "only inputs that do nothing but pick rows can be given other numbers",
            )


def _read_instead(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(i, i) for i in node.input]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _read_instead(attribute.g, names)
