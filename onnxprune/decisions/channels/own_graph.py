"""Weights that were changed in canonical form, put back into the graph of the user's file.

The canonical form has constants where the file computes them, and copies of constants that the file shares.
The parts that a change of weights does not need stay as they were: nodes, names, sizes computed at run time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping

import onnx

from onnxprune.ir import GraphIndex, Model
from onnxprune.ir.canonical.canonical_bodies import distinct
from onnxprune.ir.canonical.canonicalise import without_dead_nodes
from onnxprune.ir.canonical.unchanged_states import carried_along
from onnxprune.support.mapped import same_values

Site = tuple[str, int]
"""One operand of a node: the node's first result, and which of its operands."""


def in_own_graph(original: Model, canonical: Model, changed: Model) -> Model | None:
    """Return the user's model with the constants that were changed in its canonical form.

    Args:
        original: The model as it was given.
        canonical: Its canonical form.
        changed: The same, some of its constants with other numbers.

    Returns:
        The original, those constants changed; only constants that it computes or shares are written out, for
        the nodes that read them. Tensors of bodies that have one name get names of their own. `None` where a
        node that reads one is not in the original.
    """
    if canonical is original:
        return changed
    apart = distinct(original)
    if apart is not original and without_dead_nodes(original) is not original:
        return None  # names were made distinct among fewer nodes
    model = apart.copy()
    nodes = {n.output[0]: n for n in model.all_nodes if n.output}
    known = canonical.constants
    names = [n for n, t in changed.constants.items() if n not in known or not same_values(t, known[n])]
    sites = _with_siblings(changed, model, _sites(changed, names))
    makers = {n.output[0]: n for n in changed.all_nodes if n.output}
    touched = {out for places in sites.values() for out, _ in places}
    if any(out not in nodes or not _is_same(nodes[out], makers[out]) for out in touched):
        return None
    readers, replaced = _readers(model), set()
    sources, handing = carried_along(model)
    written: dict[str, str] = {}
    for name in sorted(
        sites, key=lambda n: n in model.constants
    ):  # new names first: they free shared constants
        before = [_operand(nodes[out], k) for out, k in sites[name]]
        whole = before == [name] * readers[name] or _is_carried(model, name, sites[name], sources, handing)
        if name in model.constants and whole:
            model.set_array(name, changed.array(name))
            continue
        own = model.add_constant(name, changed.array(name)) if before else name
        written[own] = name
        for (out, operand), old in zip(sites[name], before, strict=True):
            nodes[out].input.extend([""] * (operand + 1 - len(nodes[out].input)))
            nodes[out].input[operand] = own
            readers[old] -= 1
            replaced.add(old)
    _drop(model, replaced)
    _rename(model, {own: name for own, name in written.items() if own != name and name not in model.names})
    return model


def _is_carried(
    model: Model, name: str, sites: Iterable[Site], sources: Mapping[str, str], handing: Container[Site]
) -> bool:
    """Return whether loops carry a constant unchanged to just these places, and no other node reads it."""
    if name not in sources.values():
        return False
    carried = {name} | {inner for inner in sources if _source(inner, sources) == name}
    returned = {o.name for o in model.proto.graph.output}
    found = [s for places in _sites(model, carried).values() for s in places if s not in handing]
    return not carried & returned and sorted(found) == sorted(sites)


def _source(name: str, sources: Mapping[str, str]) -> str:
    while name in sources:
        name = sources[name]
    return name


def _with_siblings(changed: Model, original: Model, sites: dict[str, list[Site]]) -> dict[str, list[Site]]:
    """Add the constants of all other readers of the original's shared ones, so that all keep their names."""
    shared = _sites(original, original.constants)
    of = {site: name for name, places in shared.items() for site in places}
    beside = {s for places in sites.values() for site in places if site in of for s in shared[of[site]]}
    known = _sites(changed, changed.constants)
    return sites | {name: places for name, places in known.items() if beside.intersection(places)}


def _is_same(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Return true if two nodes are of one operator; their constants may differ, and their bodies."""
    return (one.op_type, one.domain, list(one.output)) == (other.op_type, other.domain, list(other.output))


def _operand(node: onnx.NodeProto, number: int) -> str:
    return str(node.input[number]) if number < len(node.input) else ""


def _sites(model: Model, names: Iterable[str]) -> dict[str, list[Site]]:
    """Return where each of some constants is read."""
    sites: dict[str, list[Site]] = {name: [] for name in names}
    for node in model.all_nodes:
        for operand, name in enumerate(node.input):
            if name in sites:
                sites[name].append((node.output[0], operand))
    return sites


def _readers(model: Model) -> Counter[str]:
    """Count the places that read each tensor, in graphs that the analysis does not look into too."""
    index = GraphIndex.flat(model.proto.graph, model.graphs)
    return Counter({name: index.count(name) for name in (*index.uses, *index.returned)})


def _drop(model: Model, names: set[str]) -> None:
    """Remove the nodes of the main graph that only compute some tensors that no node reads any more."""
    readers = _readers(model)
    values = GraphIndex.of(model.proto.graph)
    gone, waiting = set[str](), [n for n in names if not readers[n]]
    dead: set[str] = set()
    while waiting:
        name = waiting.pop()
        gone.add(name)
        node = values.producer(name)
        if node is None or any(readers[o] for o in node.output) or node.output[0] in dead:
            continue
        dead.add(node.output[0])
        for operand in values.reads(values.producers[name]):
            readers[operand] -= 1
            if operand and not readers[operand]:
                waiting.append(operand)
    nodes = model.proto.graph.node
    for index in reversed([k for k, n in enumerate(nodes) if n.output and n.output[0] in dead]):
        del nodes[index]
    gone &= {tensor.name for tensor in model.proto.graph.initializer}  # no input of the caller
    for listed in (model.proto.graph.initializer, model.proto.graph.input):
        for index in reversed([k for k, value in enumerate(listed) if value.name in gone]):
            del listed[index]
    model.edited()


def _rename(model: Model, names: Mapping[str, str]) -> None:
    """Give initializers of the main graph names that have become free."""
    for value in (*model.proto.graph.initializer, *model.proto.graph.input):
        value.name = names.get(value.name, value.name)
    for node in model.all_nodes:
        node.input[:] = [names.get(i, i) for i in node.input]
    model.edited()
