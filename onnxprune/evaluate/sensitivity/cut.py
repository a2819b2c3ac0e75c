"""A network cut in two at the nodes that some of its weights reach: the part before, and the rest.

The part before those weights does not depend on their values. For many values of them it runs once; the
tensors at the cut are kept, and only the rest runs again and again.

The cuts for all groups are found in two passes over the nodes: every value carries the set of cuts that reach
it, as the bits of an integer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, bodies, captured, extracted, flat

Tensors = Mapping[str, onnx.TensorProto]
Bits = dict[str, int]
"""A set of cuts for each value: bit k stands for cut k."""


@dataclass(frozen=True)
class Cut:
    """A cut of a network.

    Attributes:
        carried: Tensors that the rest reads: made before it, or inputs of the network.
        reached: Outputs of the network that the rest makes.
        unreached: Outputs of the network that are made before.
        begin: The place of the first node of the rest.
    """

    carried: tuple[str, ...]
    reached: tuple[str, ...]
    unreached: tuple[str, ...]
    begin: int


def cut(model: Model, shapes: Shapes, changing: Collection[str]) -> Cut:
    """Cut a network as early as anything that changes is read or made (see `cuts`)."""
    return cuts(model, shapes, [changing])[0]


def cuts(model: Model, shapes: Shapes, changing: Sequence[Collection[str]]) -> list[Cut]:
    """Cut a network before the first node that reads or makes a changed tensor, once for each set of them.

    Nodes that depend on neither changed tensors nor inputs (arithmetic on other weights) go with the rest, so
    that the runtime still has constants there.

    Args:
        model: The network.
        shapes: Its shapes: a tensor whose type or rank is unknown is not cut at.
        changing: For each cut the names of changed constants, and of other changed tensors.
    """
    reads = [_reads(node) for node in model.main.nodes]
    reached, begins = _reached(model, reads, changing)
    fixed = _fixed(model, shapes, reads, reached, (1 << len(changing)) - 1)
    outputs = [o.name for o in model.outputs]
    needed = _needed(model, reads, {o: reached.get(o, 0) for o in outputs}, fixed)
    carried: list[list[str]] = [[] for _ in changing]
    for name in needed.keys() & fixed.keys():
        for k in _places(needed[name] & fixed[name]):
            carried[k].append(name)
    found = []
    for k, names in enumerate(carried):
        ends = [bool(reached.get(o, 0) >> k & 1) for o in outputs]
        behind, before = (
            tuple(o for o, e in zip(outputs, ends, strict=True) if e == side) for side in (True, False)
        )
        found.append(Cut(tuple(sorted(names)), behind, before, begins.get(k, len(reads))))
    return found


def stations(model: Model, shapes: Shapes, cuts: Sequence[Cut]) -> list[tuple[str, ...]]:
    """Return the tensors needed at each of several cuts so that samples can go on to the next.

    Args:
        model: The network.
        shapes: Its shapes.
        cuts: The cuts, in the order in which they begin.
    """
    index, found = model.main, list[tuple[str, ...]]()
    inputs, needed = {i.name for i in model.inputs}, set[str]()
    reads = [_reads(node) for node in index.nodes]
    declarable = inputs | _declarable(model, shapes, _downstream(model, reads, inputs))
    passing = _passing(model, {at.begin for at in cuts}, inputs)
    for at in reversed(cuts):
        known = {*at.carried, *at.unreached, *(passing[at.begin] & declarable)}
        stops = known | inputs
        read = set(needed).union(*(index.reads(number) for number in index.needed(needed, stops)))
        known |= inputs & read
        found.append(tuple(sorted(known)))
        needed = known
    return found[::-1]


def extract(
    model: Model,
    shapes: Shapes,
    outputs: Collection[str],
    known: Collection[str],
    weights: Tensors | None = None,
) -> Model:
    """Return the part of a network that makes some tensors.

    Args:
        model: The network.
        shapes: Shapes of the tensors at both ends.
        outputs: Tensors that the part makes.
        known: Tensors it may be fed; its inputs are those of them that it reads.
        weights: Constants to take instead of the network's own, by name.
    """
    index, graph = model.main, model.proto.graph
    numbers = index.needed(outputs, known)
    read = dict.fromkeys(outputs) | dict.fromkeys(name for number in numbers for name in index.reads(number))
    declared = {v.name: v for v in (*graph.input, *graph.output)}
    constants = [n for n in read if n in model.constants and n not in index.producers and n not in known]
    part = extracted(
        model,
        [index.nodes[number] for number in numbers],
        constants,
        [declared.get(n) or _declaration(n, shapes) for n in sorted(read.keys() & set(known))],
        [declared.get(n) or _declaration(n, shapes) for n in outputs],
        weights,
    )
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in read)
    return Model(part, model.path)


def _reads(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the tensors a node reads, constants and all else inside its bodies included."""
    if not node.attribute:
        return tuple(filter(None, node.input))
    inside = {name for body in bodies(node) for n in flat(body) for name in n.input}
    return tuple({*node.input, *captured(node), *inside} - {""})


def _reached(
    model: Model, reads: Sequence[Sequence[str]], changing: Sequence[Collection[str]]
) -> tuple[Bits, dict[int, int]]:
    """Return the cuts whose changes reach each value, and for each cut the first node that they reach."""
    found: Bits = defaultdict(int)
    for k, names in enumerate(changing):
        for name in names:
            found[name] |= 1 << k
    begins: dict[int, int] = {}
    seen = 0
    for number, node in enumerate(model.main.nodes):
        bits = _union(found, reads[number])
        made = [o for o in node.output if o]
        for name in made if bits else ():
            found[name] |= bits
        fresh = _union(found, made) & ~seen
        seen |= fresh
        begins.update((k, number) for k in _places(fresh))
    return dict(found), begins


def _fixed(model: Model, shapes: Shapes, reads: Sequence[Sequence[str]], reached: Bits, every: int) -> Bits:
    """Return the cuts at which each value is known: inputs, and results of inputs that no change reaches."""
    inputs = {i.name for i in model.inputs}
    known = _known(shapes, _downstream(model, reads, inputs))
    found = dict.fromkeys(inputs, every)
    for node in model.main.nodes:
        made = [o for o in node.output if o]
        if made and known.issuperset(made):
            bits = every & ~_union(reached, made)
            found.update((name, found.get(name, 0) | bits) for name in made)
    return found


def _needed(model: Model, reads: Sequence[Sequence[str]], outputs: Bits, fixed: Bits) -> Bits:
    """Return the cuts behind which each value is read on the way from the values known there to outputs."""
    found: Bits = defaultdict(int, outputs)
    nodes = model.main.nodes
    for number in range(len(nodes) - 1, -1, -1):
        bits = 0
        for name in nodes[number].output:
            if found.get(name):
                bits |= found[name] & ~fixed.get(name, 0)
        for name in reads[number] if bits else ():
            found[name] |= bits
    return dict(found)


def _union(bits: Bits, names: Collection[str]) -> int:
    found = 0
    for name in names:
        found |= bits.get(name, 0)
    return found


def _places(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def _downstream(model: Model, reads: Sequence[Sequence[str]], names: Collection[str]) -> set[str]:
    """Return the names, and all tensors computed from them."""
    found = set(names)
    for number, node in enumerate(model.main.nodes):
        if not found.isdisjoint(reads[number]):
            found.update(o for o in node.output if o)
    return found


def _known(shapes: Shapes, names: set[str]) -> set[str]:
    """Return the subset of some tensors with known type and rank."""
    return {name for name in shapes.sizes if shapes.types.get(name)} & names


def _declarable(model: Model, shapes: Shapes, names: set[str]) -> set[str]:
    """Return the subset of some tensors that can be model inputs: all results of a node, or none of them."""
    known = _known(shapes, names)
    made = (set(node.output) - {""} for node in model.main.nodes)
    return set[str]().union(*(outputs for outputs in made if outputs <= known))


def _passing(model: Model, begins: Collection[int], inputs: set[str]) -> dict[int, set[str]]:
    """Return, for some places, the inputs and earlier results that the nodes from there on read."""
    index, found, live = model.main, dict[int, set[str]](), set(inputs)
    ends: dict[int, list[str]] = defaultdict(list)
    for name in live:
        ends[index.last_read(name)].append(name)
    done = 0
    for begin in sorted(begins):
        for number in range(done, begin):
            for name in filter(None, index.nodes[number].output):
                live.add(name)
                ends[index.last_read(name)].append(name)
            live.difference_update(ends.pop(number, ()))
        live.difference_update(ends.pop(-1, ()))
        done = begin
        found[begin] = set(live)
    return found


def _declaration(name: str, shapes: Shapes) -> onnx.ValueInfoProto:
    """Declare a tensor by type and rank; its sizes may differ from those it was analysed with."""
    return helper.make_tensor_value_info(name, shapes.types[name], [None] * len(shapes.sizes[name]))
