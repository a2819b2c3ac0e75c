"""An ONNX model in memory: read with suspicion, edited in place, written whole or not at all.

The file's own protobuf message is the graph: the parts that pruning does not change stay byte for byte the
user's (names, doc strings, metadata, custom domains). Round trips through other graph libraries lose some.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.ir.analyses import AnalysisManager
from onnxprune.ir.index import GraphIndex
from onnxprune.ir.local_calls import LocalCalls
from onnxprune.ir.nested_graphs import flat, subgraphs, with_bodies
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.support.mapped import (
    Change,
    array_of,
    byte_count,
    changed,
    is_mapped,
    load_all,
    placed_blocks,
    regions_of,
    spilled,
)
from onnxprune.support.memory import need
from onnxprune.support.regions import Region

FLOAT_TYPES = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
"""Types of numbers that weights and activations are computed in."""


@dataclass
class Model:
    """A trained network: the message, where it came from, and quick ways to its parts.

    Attributes:
        proto: The whole model, weights included.
        path: The file it was read from; ``None`` for a model made in memory.
        external: True if its weights lay in a file of their own, and are to be written so again.
        compact: Names of constants whose values the file made of much less, and is to again.
        sizes: Sizes that inputs are analysed and run with, by name, -1 for an axis of which none is given.
        sample_shapes: Shapes of samples, by the name of the input, -1 for the axis that counts them: work is
            counted at these sizes, and open axes stay open.
        analyses: Results of analyses of this version.
        calls: The local functions of the file and their calls, which were inlined.
    """

    verified: ClassVar[bool] = False
    """True if cached results are compared with the graph at every use, as the tests do."""

    proto: onnx.ModelProto
    path: Path | None = None
    external: bool = False
    compact: frozenset[str] = frozenset()
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sample_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    analyses: AnalysisManager = field(default_factory=AnalysisManager, repr=False, compare=False)
    calls: LocalCalls | None = field(default=None, repr=False, compare=False)
    _constants: dict[str, onnx.TensorProto] | None = field(default=None, repr=False)
    _names: set[str] | None = field(default=None, repr=False)
    _labels: set[str] | None = field(default=None, repr=False)
    _nested: bool | None = field(default=None, repr=False)
    _index: GraphIndex | None = field(default=None, repr=False)
    _main: GraphIndex | None = field(default=None, repr=False)
    _regions: tuple[Region, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Keep the mapped files that weights lie in."""
        self._regions = tuple(dict.fromkeys((*self._regions, *regions_of(self.proto))))

    @property
    def name(self) -> str:
        """The name of the model in messages."""
        return str(self.path) if self.path else (self.proto.graph.name or "the model")

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes of the main graph, in the order of execution."""
        return list(self.proto.graph.node)

    @property
    def graphs(self) -> list[onnx.GraphProto]:
        """The main graph, and the bodies inside it that the analysis reads."""
        return list(with_bodies(self.proto.graph))

    @property
    def nested(self) -> bool:
        """Return whether there are bodies at all."""
        if self._nested is None:
            self._nested = len(self.graphs) > 1
        return self._nested

    @property
    def all_nodes(self) -> list[onnx.NodeProto]:
        """All nodes in execution order, those of a body right before the node that holds it."""
        return list(flat(self.proto.graph))

    @property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Tensors fixed in the file, by name: initializers and outputs of Constant nodes, in bodies too.

        Of a name that several bodies have, one of them counts (see `bodies.distinct`).
        """
        if self._constants is None:
            self._constants = {t.name: t for graph in self.graphs for t in graph.initializer}
            for node in self.all_nodes:
                if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
                    tensor = _constant_tensor(node)
                    if tensor is not None:
                        self._constants[node.output[0]] = tensor
        return self._constants

    @property
    def index(self) -> GraphIndex:
        """Producer and uses of every value, by the numbers of `all_nodes`; built once until `edited`."""
        if self._index is None or self.verified:
            found = GraphIndex.flat(self.proto.graph, self.graphs)
            assert self._index is None or self._index == found, "edited without `Model.edited`"
            self._index = found
        return self._index

    @property
    def main(self) -> GraphIndex:
        """Producer and uses by the numbers of `nodes`: a node with bodies reads the captures of those."""
        if not self.nested:
            return self.index
        if self._main is None or self.verified:
            found = GraphIndex.of(self.proto.graph)
            assert self._main is None or self._main == found, "edited without `Model.edited`"
            self._main = found
        return self._main

    @property
    def main_values(self) -> frozenset[str]:
        """Names of the inputs and of the results of all nodes of the main graph."""
        return frozenset(self.main.producers).union(i.name for i in self.inputs)

    def rewire(self, number: int, operands: Iterable[str]) -> None:
        """Give a node of the main graph, by its number in `nodes`, other operands."""
        self.main.rewire(number, operands)
        self.analyses.invalidate()
        if self.nested:
            self._index = None

    def node(self, number: int) -> onnx.NodeProto:
        """Return a node by its number in `all_nodes`."""
        if not self.nested:
            only: onnx.NodeProto = self.proto.graph.node[number]
            return only
        found: onnx.NodeProto = next(itertools.islice(flat(self.proto.graph), number, None))
        return found

    def insert(self, number: int, node: onnx.NodeProto, *, after: bool = False) -> None:
        """Put a node before, or after, the one with a number in `all_nodes`, into the same graph."""
        if not self.nested:
            self.proto.graph.node.insert(number + after, node)
            self._index = self._main = None
            self.analyses.invalidate()
            return
        anchor = self.node(number)
        for graph in self.graphs:
            for place, other in enumerate(graph.node):
                if other is anchor:
                    graph.node.insert(place + after, node)
                    self._index = self._main = None
                    self.analyses.invalidate()
                    return

    @property
    def names(self) -> set[str]:
        """Names of tensors in use, those inside subgraphs included."""
        if self._names is None:
            self._names = set(self.constants) | {i.name for i in self.proto.graph.input}
            self._names |= _made_names(self.proto.graph)
        return self._names

    def edited(self) -> None:
        """State that nodes or initializers were added or removed from outside: cached results are dropped."""
        self._constants = self._names = self._labels = self._nested = self._index = self._main = None
        self.analyses.invalidate()

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Required inputs: graph inputs without a default value."""
        return [i for i in self.proto.graph.input if i.name not in self.constants]

    @property
    def outputs(self) -> list[onnx.ValueInfoProto]:
        """The outputs of the network."""
        return list(self.proto.graph.output)

    def opset(self, domain: str = "") -> int:
        """Return the version of an operator domain, 1 where the file states none."""
        names = STANDARD_DOMAINS if domain in STANDARD_DOMAINS else (domain,)
        return next((int(o.version) for o in self.proto.opset_import if o.domain in names), 1)

    def array(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the values of a constant tensor (a read-only view or a copy)."""
        return array_of(self.constants[name])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of the elements of a constant tensor."""
        return helper.tensor_dtype_to_np_dtype(self.constants[name].data_type)

    def blocks(self, name: str) -> Iterator[tuple[slice | EllipsisType, np.ndarray[Any, np.dtype[Any]]]]:
        """Yield the places of `onnxprune.support.mapped.parts` in a constant tensor, and its values there."""
        return placed_blocks(self.constants[name])

    def set_array(self, name: str, values: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Replace the values, and with them the shape, of a constant tensor."""
        old = self.constants[name]
        tensor = self._replace(name, *_stored(values, old.name, is_mapped(old)))
        for declared in (*self.proto.graph.input, *self.proto.graph.value_info):
            if declared.name == name and declared.type.tensor_type.HasField("shape"):
                declared.CopyFrom(helper.make_tensor_value_info(name, tensor.data_type, values.shape))

    def change_array(self, name: str, change: Change) -> None:
        """Replace values of a constant tensor a part at a time; its shape remains.

        Args:
            name: Name of the tensor.
            change: Function from a place (of `onnxprune.support.mapped.parts`) and the values there, which
                it must not write to, to as many new values.
        """
        self._replace(name, *changed(self.constants[name], change))

    def _replace(self, name: str, made: onnx.TensorProto, region: Region | None) -> onnx.TensorProto:
        self.analyses.invalidate()
        self._hold(region)
        tensor = self.constants[name]
        doc = tensor.doc_string
        tensor.CopyFrom(made)
        tensor.doc_string = doc
        return tensor

    def _hold(self, region: Region | None) -> None:
        """Hold the region of new values, so that they remain."""
        if region is not None:
            self._regions += (region,)

    def fresh(self, name: str) -> str:
        """Return a name for a new tensor and its node: one that no tensor and no node has."""
        if self._labels is None:
            self._labels = {node.name for node in self.all_nodes}
        return self._unique(name, self._labels)

    def reserve(self, names: Iterable[str]) -> None:
        """Give no new tensor one of these names until `edited`: analyses use them for removed tensors."""
        self.names.update(names)

    def _unique(self, name: str, others: Container[str] = ()) -> str:
        """Return a name not in use yet, which is from now on: the given one, or that and a number."""
        unique, suffix = name, 2
        while unique in self.names or unique in others:
            unique, suffix = f"{name}__{suffix}", suffix + 1
        self.names.add(unique)
        return unique

    def add_constant(self, name: str, values: np.ndarray[Any, np.dtype[Any]]) -> str:
        """Add an initializer under a name not in use yet; return that name."""
        unique = self._unique(name)
        self.analyses.invalidate()
        tensor = self.proto.graph.initializer.add()
        made, region = _stored(values, unique, self.mapped)
        tensor.MergeFrom(made)
        self._hold(region)
        self.constants[unique] = tensor
        if self.proto.ir_version < 4:  # older files list every initializer among the inputs
            info = helper.make_tensor_value_info(unique, tensor.data_type, values.shape)
            self.proto.graph.input.append(info)
        return unique

    @property
    def mapped(self) -> bool:
        """True if weights lie in mapped files, not in the message."""
        return bool(self._regions)

    def in_memory(self) -> Model:
        """Return the model with all weights in the message; itself where they lie there."""
        mapped = [t for t in self.proto.graph.initializer if is_mapped(t)]
        need(sum(map(byte_count, mapped)), f"{self.name}: the weights of {len(mapped)} tensors")
        proto = load_all(self.proto)
        if proto is self.proto:
            return self
        return self._around(proto)

    def _around(self, proto: onnx.ModelProto) -> Model:
        """Return a model of another message of the same graph."""
        how = (self.external, self.compact, dict(self.sizes), self.sample_shapes)
        return Model(proto, self.path, *how, calls=self.calls)

    def metadata(self) -> dict[str, str]:
        """Return the model's own key/value notes."""
        return {p.key: p.value for p in self.proto.metadata_props}

    def set_metadata(self, key: str, value: str | None) -> None:
        """Write a note into the model, or remove it with ``None``."""
        self.analyses.invalidate()
        kept = [(p.key, p.value) for p in self.proto.metadata_props if p.key != key]
        del self.proto.metadata_props[:]
        for k, v in [*kept, *([(key, value)] if value is not None else [])]:
            self.proto.metadata_props.add(key=k, value=v)

    def copy(self) -> Model:
        """Return a model with a message of its own."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return self._around(proto)


def _stored(values: Any, name: str, maps: bool) -> tuple[onnx.TensorProto, Region | None]:
    """Return values as a tensor; large ones of a mapped model lie in a file without a name, their region."""
    if not maps:
        return numpy_helper.from_array(np.asarray(values, order="C"), name), None
    return spilled(np.asarray(values), name)


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return a Constant node's tensor, rewriting its short forms to the long one; ``None`` if not dense."""
    attribute = node.attribute[0]
    if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
        dtype = np.float32 if "float" in attribute.name else np.int64
        values = np.asarray(helper.get_attribute_value(attribute), dtype)
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
    if attribute.name != "value":
        return None
    tensor: onnx.TensorProto = attribute.t
    tensor.name = tensor.name or node.output[0]
    return tensor


def _made_names(graph: onnx.GraphProto) -> set[str]:
    names = {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}
    return names.union(*(_made_names(g) for n in graph.node for g in subgraphs(n)))
