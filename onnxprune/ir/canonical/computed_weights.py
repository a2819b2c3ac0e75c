"""Weights that a network computes from other constants, written down.

Weight normalisation left in the graph (``g · v / ‖v‖``), masks, scalars behind Cast: a value made of
initializers alone is the same in every run, so it is a weight like any other. It is written down where it
takes no more room than the constants that are then no longer read. Quantised weights stay quantised. Mapped
weights that are only transposed, reshaped or cast stay where they are: the rules look through that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.sizes import infer_sizes
from onnxprune.errors import OnnxpruneError
from onnxprune.ir import Model, bodies, captured, extracted, subgraphs
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of
from onnxprune.runtime import Session
from onnxprune.support.mapped import is_mapped

Array = np.ndarray[Any, np.dtype[Any]]

SMALL = 64
"""Elements up to which a tensor is written down, of any constants."""
LARGEST_STEP = 1 << 24
"""Bytes that a tensor on the way may take where the constants it is made of take less."""


def with_computed_weights(model: Model) -> Model:
    """Return the model with such weights as initializers; itself where it has none.

    Args:
        model: A checked model; all tensors, those of bodies included, have names of their own.
    """
    graph = _ConstantPart.of(model)
    chosen = [part for part in graph.parts() if graph.is_worth_it(part)]
    values = _evaluated(model, chosen)
    return _written_down(model, values) if values else model


@dataclass
class _Part:
    """Nodes fed by constants alone, and their results that the rest of the network reads.

    Attributes:
        nodes: The nodes, in order of execution.
        results: The tensors that are read elsewhere.
        constants: All constants the nodes read.
        freed: Those of them that no other node reads.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)


@dataclass
class _ConstantPart:
    """All nodes of a model that are fed by constants alone.

    Attributes:
        model: The model.
        nodes: Their numbers among all nodes of the model.
        makers: The number of the node that makes each of their results.
        readers: The numbers of the nodes that read each tensor.
    """

    model: Model
    nodes: dict[int, onnx.NodeProto]
    makers: dict[str, int]
    readers: dict[str, set[int]]

    @classmethod
    def of(cls, model: Model) -> _ConstantPart:
        nodes: dict[int, onnx.NodeProto] = {}
        makers: dict[str, int] = {}
        readers: dict[str, set[int]] = defaultdict(set)
        strings = {n for n, t in model.constants.items() if t.data_type == onnx.TensorProto.STRING}
        returned = {o.name for graph in model.graphs for o in graph.output}
        known = {"", *model.constants} - strings
        for number, node in enumerate(model.all_nodes):
            for name in {*node.input, *(captured(node) if not any(bodies(node)) else ())}:
                readers[name].add(number)
            if (
                _is_computed(node, model)
                and known.issuperset(node.input)
                and returned.isdisjoint(node.output)
            ):
                nodes[number] = node
                makers.update((o, number) for o in node.output if o)
                known.update(node.output)
        return cls(model, nodes, makers, readers)

    def parts(self) -> Iterator[_Part]:
        """Yield the parts, each as small as possible: nodes with a common operand or result share a part."""
        together = _Sets(self.nodes)
        for name, numbers in self.readers.items():
            inside = [n for n in (*numbers, self.makers.get(name, -1)) if n in self.nodes]
            for one, other in pairwise(inside):
                if math.prod(self._dims(name)) > SMALL or name in self.makers:
                    together.join(one, other)
        for members in together.all():
            yield self._part(sorted(members))

    def _part(self, numbers: Sequence[int]) -> _Part:
        inside, part = set(numbers), _Part([self.nodes[n] for n in numbers])
        for name in dict.fromkeys(i for node in part.nodes for i in node.input if i not in self.makers and i):
            part.constants.append(name)
            if self.readers[name] <= inside:
                part.freed.append(name)
        for name in (o for node in part.nodes for o in node.output if o):
            if not self.readers.get(name, set()) <= inside:
                part.results.append(name)
        return part

    def is_worth_it(self, part: _Part) -> bool:
        """Return whether the folding of a part does not enlarge the file, nor copies mapped weights."""
        moves = all(node.op_type == "Cast" or spec_of(node).rearranges for node in part.nodes)
        if moves and any(is_mapped(self.model.constants[name]) for name in part.constants):
            return False
        sizes = _sizes(self.model, part)
        if not part.results or any(sizes.get(o) is None for n in part.nodes for o in n.output if o):
            return False
        if not all(kind for _, kind in sizes.values()):
            return False
        if max(_bytes(kind, dims) for dims, kind in sizes.values()) > LARGEST_STEP + 4 * self._room(
            part.constants
        ):
            return False
        if all(math.prod(sizes[name][0]) <= SMALL for name in part.results):
            return True
        taken = sum(_bytes(kind, dims) for name, (dims, kind) in sizes.items() if name in part.results)
        return taken <= self._room(part.freed)

    def _room(self, constants: Iterable[str]) -> float:
        return sum(_bytes(self.model.constants[n].data_type, self._dims(n)) for n in constants)

    def _dims(self, name: str) -> Sequence[int]:
        tensor = self.model.constants.get(name)
        return tensor.dims if tensor is not None else ()


class _Sets:
    """Numbers in disjoint sets."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.parents = {n: n for n in numbers}

    def find(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, one: int, other: int) -> None:
        self.parents[self.find(one)] = self.find(other)

    def all(self) -> list[list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for number in self.parents:
            found[self.find(number)].append(number)
        return list(found.values())


def _is_computed(node: onnx.NodeProto, model: Model) -> bool:
    """Return whether a node has equal results in every run; of dequantised values only scalars."""
    spec = spec_of(node)
    plain = node.domain in STANDARD_DOMAINS and node.op_type != "Constant"
    plain = plain and not (spec.quantises or spec.random)
    if node.op_type == "DequantizeLinear" and node.input[0] in model.constants:
        plain = math.prod(model.constants[node.input[0]].dims) == 1
    return plain and bool(node.input) and not any(subgraphs(node))


def _sizes(model: Model, part: _Part) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return shape and type of the tensors that a part computes, where the size analysis finds them."""
    bare = _network(model, _Part(part.nodes), [])
    for name in part.constants:
        tensor = model.constants[name]
        if math.prod(tensor.dims) <= SMALL:
            bare.graph.initializer.append(_named(tensor, name))
        else:
            info = helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            bare.graph.input.append(info)
    try:
        inferred = infer_sizes(bare)
    except OnnxpruneError:  # the sizes are not known, and the part stays as it is
        return {}
    found = {}
    for name in (o for node in part.nodes for o in node.output):
        shape = inferred.shapes.get(name)
        if shape is not None and all(isinstance(size, int) for size in shape):
            found[name] = (
                tuple(size for size in shape if isinstance(size, int)),
                inferred.types.get(name, 0),
            )
    return found


def _evaluated(model: Model, parts: Sequence[_Part]) -> dict[str, Array]:
    """Compute the results of all parts; of parts that the runtime cannot run none."""
    whole = _Part(
        [node for part in parts for node in part.nodes],
        [name for part in parts for name in part.results],
        list(dict.fromkeys(name for part in parts for name in part.constants)),
    )
    if not parts:
        return {}
    try:
        return Session(_network(model, whole, whole.results), optimize=False, threads=1).run({})
    except OnnxpruneError:
        found: dict[str, Array] = {}
        for part in parts if len(parts) > 1 else ():
            found |= _evaluated(model, [part])
        return found


def _network(model: Model, part: _Part, results: Iterable[str]) -> onnx.ModelProto:
    """Return a part as a network of its own."""
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    return extracted(model, part.nodes, part.constants, [], outputs)


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Return a tensor under the name that nodes read it by."""
    if tensor.name == name:
        return tensor
    renamed = onnx.TensorProto()
    renamed.CopyFrom(tensor)
    renamed.name = name
    return renamed


def _bytes(kind: int, dims: Iterable[int]) -> float:
    four_bits = kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    return math.prod(dims) * (0.5 if four_bits else helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _written_down(model: Model, values: Mapping[str, Array]) -> Model:
    """Return a copy in which tensors are constants of the same names, without the nodes that made them."""
    model = model.copy()
    for node in model.all_nodes:
        node.output[:] = [model.fresh(f"{o}__computed") if o in values else o for o in node.output]
    model.edited()
    for name, value in values.items():
        model.add_constant(name, value)
    return model
