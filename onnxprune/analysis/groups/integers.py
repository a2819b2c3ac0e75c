"""Quantised integers: the zero point of each integer tensor.

A rule that calls an integer tensor zero means its zero point, and masking writes that. So all
nodes that make, read or move the same integers have to agree on the zero point. Where they do,
constants among those integers can be masked; where they do not, no fact about the tensors holds: no constant
is masked, and no result counts as zero. Integers that no node takes for numbers of the network, such as
indices and sizes, are never masked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnxprune.algebra.axes import resolve
from onnxprune.ir import attributes
from onnxprune.ops.axes import Quantised, Typing
from onnxprune.ops.spec import spec_of

RAW = Quantised()
_INTEGERS = {
    kind
    for name, kind in onnx.TensorProto.DataType.items()
    if name.startswith(("INT", "UINT", "BOOL", "FLOAT8", "FLOAT4"))
}


@dataclass
class _Class:
    """Tensors that hold the same integers.

    Attributes:
        tensors: Their names.
        readings: The nodes that make or read them, and how.
        zeros: Zero points of them: of one kind where all agree.
        counts: True if some node uses them as numbers of the network.
    """

    tensors: set[str] = field(default_factory=set)
    readings: list[tuple[str, int, Quantised]] = field(default_factory=list)
    zeros: set[Hashable] = field(default_factory=set)
    counts: bool = False


def settle_integers(typing: Typing) -> None:
    """Find the integer constants that can be masked, and their zero points; drop the facts about others."""
    classes = _classes(typing)
    for name, tensor in typing.model.constants.items():
        if name in classes and _is_integer(tensor.data_type):
            how = _as_constant(typing, classes[name], name)
            if how is None:
                typing.unread.add(name)
            elif classes[name].counts:
                typing.quantised[name] = how
            if name not in typing.quantised:
                typing.weight_uses.pop(name, None)
    for index, node in enumerate(typing.nodes):
        if node.op_type == "Pad" and node.output[0] in classes:  # with zeros, if all agree on the zero point
            typing.never_zero.discard(index)
    for group in {id(c): c for c in classes.values() if len(c.zeros) > 1}.values():
        _drop_statements(typing, group.tensors)


def _classes(typing: Typing) -> dict[str, _Class]:
    """Return the class of each integer tensor."""
    joined = _Joined()
    covered = defaultdict(set)
    for name, node, _ in typing.readings:
        covered[node].add(name)
    found: list[tuple[str, int, Quantised, Hashable, bool]] = [
        (name, node, how, _zero(typing, name, how), True) for name, node, how in typing.readings
    ]
    for index, node in enumerate(typing.nodes):
        moved = _moved(typing, index)
        for name in moved[1:]:
            joined.join(moved[0], name)
        for name in {*filter(None, (*node.input, *node.output))} - covered[index] - set(moved):
            if _is_integer(typing.shapes.types.get(name)):
                counts = node.op_type == "Cast" and name in node.input
                found.append((name, index, RAW, None, counts and _makes_floats(typing, node)))
        if node.op_type == "Pad" and moved and attributes(node).get("mode", "constant") == "constant":
            found.append((node.input[0], index, RAW, _padding(typing, node), False))
    classes: dict[str, _Class] = defaultdict(_Class)
    for name, index, how, zero, counts in found:
        group = classes[joined.first(name)]
        group.readings.append((name, index, how))
        group.zeros.add(zero)
        group.counts |= counts
    by_name = {name: classes[joined.first(name)] for name, *_ in found}
    by_name |= {name: classes[joined.first(name)] for name in joined.parents}
    for name, group in by_name.items():
        group.tensors.add(name)
    return by_name


def _moved(typing: Typing, index: int) -> list[str]:
    """Return the integer tensors that hold the same numbers before and after a node."""
    node = typing.nodes[index]
    operands = spec_of(node).carries
    given = [name for k, name in enumerate(node.input) if name and k in operands]
    if not given or not all(_is_integer(typing.shapes.types.get(name)) for name in given):
        return []
    kinds = {typing.shapes.types[given[0]]}
    return [*given, *(o for o in node.output if o and typing.shapes.types.get(o) in kinds)]


def _padding(typing: Typing, node: onnx.NodeProto) -> Hashable:
    """Return the padding value of a Pad, as a zero point."""
    given = len(node.input) > 2 and node.input[2]
    return _number(typing, node.input[2]) if given else None


def _zero(typing: Typing, tensor: str, how: Quantised) -> Hashable:
    """Return the identity of a reading's zero point; ``None`` where it is 0."""
    if how.zero is None:
        return None
    found = _number(typing, how.zero)
    dims = typing.axes.get(tensor, ())
    if isinstance(found, tuple) and how.axis < len(dims):
        return (*found, resolve(dims[how.axis]), how.block)
    return found


def _number(typing: Typing, name: str) -> Hashable:
    """Return the one number that a constant holds, all its numbers, or the name of any other tensor."""
    if name not in typing.model.constants:
        return name
    values = typing.model.array(name).astype(np.float64)
    if not values.any():
        return None
    return float(values.flat[0]) if np.all(values == values.flat[0]) else (values.tobytes(),)


def _as_constant(typing: Typing, group: _Class, name: str) -> Quantised | None:
    """Return the reading of a constant of a class, ``None`` where its readings differ."""
    if len(group.zeros) > 1:
        return None
    found = {_on(typing, name, tensor, how) for tensor, _, how in group.readings if how != RAW} or {RAW}
    if any(how != RAW for how in found) and any(how == RAW for _, _, how in group.readings):
        found = {how for how in found if how is None} or found
    if len(found) > 1 and None not in found:  # scales differ from node to node: only the zero is known
        found = {replace(how, scale=None) for how in found if how is not None}
    return found.pop() if len(found) == 1 else None


def _on(typing: Typing, name: str, tensor: str, how: Quantised) -> Quantised | None:
    """Return a reading of a tensor as one of the constant that it holds numbers of."""
    parameters = [p for p in (how.scale, how.zero) if p is not None]
    if any(p not in typing.model.constants for p in parameters):
        return None
    if name == tensor or all(np.prod(typing.model.constants[p].dims) == 1 for p in parameters):
        return how
    if how.block:
        return None
    axis = resolve(typing.axes[tensor][how.axis])
    places = [k for k, dim in enumerate(typing.axes.get(name, ())) if resolve(dim) == axis]
    return replace(how, axis=places[0]) if len(places) == 1 else None


def _drop_statements(typing: Typing, tensors: Iterable[str]) -> None:
    """Drop the statements about zeros in some tensors."""
    chosen = set(tensors)
    for index, node in enumerate(typing.nodes):
        if chosen.intersection(node.output):
            typing.never_zero.add(index)
        if chosen.intersection((*node.input, *node.output)):
            for name in node.output:
                typing.movers.pop(name, None)


def _makes_floats(typing: Typing, node: onnx.NodeProto) -> bool:
    kind = typing.shapes.types.get(node.output[0])
    return kind is not None and not _is_integer(kind)


def _is_integer(kind: int | None) -> bool:
    """Return whether numbers of a type may be quantised values: integers, and floats of a byte or less."""
    return kind in _INTEGERS


class _Joined:
    """Names in disjoint sets."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}

    def first(self, name: str) -> str:
        while (parent := self.parents.get(name, name)) != name:
            name = self.parents[name] = self.parents.get(parent, parent)
        return name

    def join(self, one: str, other: str) -> None:
        for name in (one, other):
            self.parents.setdefault(name, name)
        self.parents[self.first(other)] = self.first(one)
