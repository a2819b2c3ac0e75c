"""Nodes of the user's file in place of folded constants that a cut left as they were.

The canonical form folds values that are known before the run, copies shared constants and writes sizes out.
The dense network is cut from it, and would have all of that. Here each constant that the user's own nodes
compute in the dense network as well is computed by them again, and each unchanged copy of a shared constant
is the shared one again. The network is then brought into canonical form once more: a node that differs from
that of the folded network keeps its constants.

Runtimes fuse by pattern, shape arithmetic included. A network whose nodes are its own keeps its fusions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx

from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.analysis.shapes import infer
from onnxprune.analysis.shapes.shape_inference import SMALL
from onnxprune.decisions.channels.assembly import Assembly, Sources, reads_of
from onnxprune.decisions.channels.graph_comparison import NetworkNodes, are_equal, differences, operator_of
from onnxprune.ir import Model, bodies, over_all_channels, skeleton
from onnxprune.ir.canonical.canonical_bodies import distinct
from onnxprune.ir.canonical.canonicalise import drop_unused_constants, known_before_the_run

Form: TypeAlias = "Callable[[Model], Model]"
"""The rewrite of a model into the form that is analysed."""
_ROUNDS = 8


def with_own_nodes(given: Model, dense: Model, form: Form, *, but: Collection[str] = ()) -> Model:
    """Return the dense network with the nodes of the given one, wherever those compute the same.

    Args:
        given: The sparse model.
        dense: The network that was cut from its canonical form.
        form: The rewrite into the form that it was cut from.
        but: Names of constants that keep their names and readers.

    Returns:
        The network; itself where nothing of it is folded, or none of that can be shown to be unchanged.
    """
    own = distinct(over_all_channels(given))
    before = form(own)
    if before is own:
        return dense
    parts = _OwnParts(own, NetworkNodes(before), NetworkNodes(dense), frozenset(but))
    parts.drop_changed()
    dense_nodes = NetworkNodes(form(dense))
    for _ in range(_ROUNDS):
        if not parts.instead and not parts.forms:
            return dense
        found = parts.put_in()
        known = parts.untouched & found.constants.keys()
        try:
            wrong = differences(NetworkNodes(form(found)), dense_nodes, known)
        except ContradictionError:  # some node computes a size that the cut has changed
            return dense
        if not wrong:
            return found
        if not parts.refuse(wrong, found):
            return dense
    return dense


@dataclass
class _OwnParts:
    """A dense network, and the parts of the user's file that may take the places of its own.

    Attributes:
        own: The user's network.
        before: Its canonical form.
        dense: The dense network.
        kept: Constants of the dense network that keep their readers.
        instead: Pairs of a constant of the dense network that the user's file does not have, and the tensor
            that the user's node reads in its place.
        forms: First results of nodes that take the attributes and operands of the user's node.
    """

    own: Model
    before: NetworkNodes
    dense: NetworkNodes
    kept: frozenset[str]
    instead: set[tuple[str, str]] = field(init=False)
    forms: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.sources = Sources.of(self.own)
        added = self.dense.model.constants.keys() - self.own.constants.keys() - self.kept
        self.instead = {(name, name) for name in added & self.sources.makers.keys()}
        self.forms = set()
        for name, node in self.dense.nodes.items():
            mine, canonical = self.sources.node(name), self.before.nodes.get(name)
            if mine is None or canonical is None or mine.op_type != node.op_type:
                continue
            if len(mine.input) == len(canonical.input) == len(node.input):
                self.instead |= {
                    pair for pair in zip(node.input, mine.input, strict=True) if pair[0] in added
                }
            if _is_written_out(mine, canonical) and self.dense.is_same(self.before, name):
                self.forms.add(name)

    @property
    def folded(self) -> set[str]:
        """The constants of the dense network that the user's nodes compute under the same name."""
        return {name for name, other in self.instead if name == other}

    @property
    def untouched(self) -> set[str]:
        """The constants of the dense network that it has with and without the user's nodes."""
        return self.dense.model.constants.keys() - self.folded

    def drop_changed(self) -> None:
        """Leave constants as they are where the user's nodes would read something else."""
        constants, work = self.dense.model.constants, Assembly(self.own, self.sources, self.dense.model)
        fixed = {pair for pair in self.instead if pair[1] in self.own.constants}
        computed = {pair for pair in self.instead - fixed if work.can_have(pair[1], self.folded)}
        weights = {pair for pair in computed if self._is_of_weights(*pair)}
        self.instead = {(c, name) for c, name in fixed if are_equal(constants[c], self.own.constants[name])}
        while waiting := computed - weights:
            known = self._computed({name for _, name in waiting})
            wrong = {(c, name) for c, name in waiting if not are_equal(known.get(name), constants[c])}
            computed -= wrong
            if not wrong:
                break
        self.instead |= computed

    def _is_of_weights(self, constant: str, name: str) -> bool:
        """Return true if a constant is computed from others alone, and the cut has changed none of them."""
        value = self.before.model.constants.get(name)
        if not are_equal(self.dense.model.constants[constant], value):
            return False
        waiting, dense = [name], self.dense.model.constants
        while waiting:
            tensor = waiting.pop()
            if tensor in self.own.constants:
                if not are_equal(dense.get(tensor, self.own.constants[tensor]), self.own.constants[tensor]):
                    return False
            elif tensor in self.sources.makers:
                waiting += reads_of(self.sources.makers[tensor][2])
            else:
                return False
        return True

    def _computed(self, names: Collection[str]) -> dict[str, onnx.TensorProto]:
        """Return the results of the user's nodes in the dense network that are known before the run.

        The nodes are put beside those of the network, none of which reads their results.
        """
        model = _without_weights(self.dense.model)
        beside = {name: model.fresh(f"{name}__own") for name in sorted(names)}
        work = Assembly(self.own, self.sources, model, beside)
        for name in beside:
            work.bring(name)
        work.finish()
        try:
            known = known_before_the_run(model, infer(model))
        except ContradictionError:  # between sizes that the cut has changed
            return {}
        found = {name: known[other] for name, other in beside.items() if other in known}
        return {name: onnx.numpy_helper.from_array(values, name) for name, values in found.items()}

    def put_in(self) -> Model:
        """Return a copy of the dense network with the parts that are not refused."""
        model = self.dense.model.copy()
        work = Assembly(self.own, self.sources, model)
        work.drop(self.folded)
        for name in sorted(self.folded):
            work.bring(name)
        shared: dict[str, str] = {}
        for node in model.all_nodes:
            mine = self.sources.node(node.output[0]) if node.output else None
            if mine is None:
                continue
            if node.output[0] in self.forms and all(work.bring(name) for name in mine.input if name):
                node.CopyFrom(mine)
            for operand, pair in enumerate(zip(node.input, mine.input, strict=False)):
                if pair in self.instead and pair[0] != pair[1]:
                    node.input[operand] = self._shared(*pair, work, shared)
        work.finish()
        drop_unused_constants(model)
        return model

    def _shared(self, constant: str, name: str, work: Assembly, shared: dict[str, str]) -> str:
        """Return the tensor read in place of a constant: the first copy, where the shared one was cut."""
        values = work.model.constants[constant]
        if work.has(name, values):
            return name
        first = shared.setdefault(name, constant)
        return first if are_equal(work.model.constants[first], values) else constant

    def refuse(self, wrong: set[str], found: Model) -> bool:
        """Leave the operands of some nodes as they are; return false if nothing is left to refuse.

        Args:
            wrong: First results of nodes that differ in canonical form.
            found: The network that was made last.
        """
        read = {name for node in found.all_nodes if wrong.intersection(node.output) for name in node.input}
        before = len(self.instead) + len(self.forms)
        self.instead = {pair for pair in self.instead if pair[1] not in read}
        self.forms -= wrong
        return len(self.instead) + len(self.forms) < before


def _is_written_out(mine: onnx.NodeProto, canonical: onnx.NodeProto) -> bool:
    """Return true if a node has other attributes or more operands in canonical form."""
    if any(bodies(mine)) or mine.op_type != canonical.op_type:
        return False
    return len(mine.input) != len(canonical.input) or operator_of(mine) != operator_of(canonical)


def _without_weights(model: Model) -> Model:
    """Return a network whose large initializers are inputs: sizes and small numbers are the same."""
    proto = skeleton(model.proto)
    small = [t for t in model.proto.graph.initializer if math.prod(t.dims) <= SMALL]
    names = {t.name for t in small}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(small)
    return Model(proto, model.path, sizes=model.sizes, sample_shapes=model.sample_shapes)
